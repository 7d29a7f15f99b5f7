# SPDX-License-Identifier: Apache-2.0
"""The control socket: private, answers, survives odd clients, cleans up after the dead."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tierstore import control
from tierstore.errors import HostError, UsageError


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime folder of the test's own."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "tierstore"


def test_asks_and_answers(runtime: Path) -> None:
    answers = iter([[{"n": 1}], [{"n": 2}]])
    with control.Publisher(lambda: next(answers)) as publisher:
        assert control.find_publishers() == [os.getpid()]
        assert stat.S_IMODE(publisher.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
        with control.Client(os.getpid()) as client:
            assert client.statistics() == [{"n": 1}]
            assert client.statistics() == [{"n": 2}]
    assert control.find_publishers() == []
    assert not publisher.path.exists()


def test_what_fails_while_answering_is_told(runtime: Path) -> None:
    def broken() -> list[dict[str, Any]]:
        raise RuntimeError("no engine")

    with (
        control.Publisher(broken),
        control.Client(os.getpid()) as client,
        pytest.raises(HostError, match="no engine"),
    ):
        client.statistics()


@pytest.mark.parametrize("line", [b"hello\n", b"[]\n", b'{"ask": "money"}\n', b"x" * 9000 + b"\n"])
def test_nonsense_is_answered_and_forgiven(line: bytes, runtime: Path) -> None:
    with control.Publisher(lambda: [{}]) as publisher:
        with socket.socket(socket.AF_UNIX) as raw:
            raw.settimeout(10)
            raw.connect(str(publisher.path))
            raw.sendall(line)
            assert "error" in json.loads(raw.makefile("rb").readline())
        with control.Client(os.getpid()) as client:
            assert client.statistics() == [{}]


def test_one_publisher_a_process(runtime: Path) -> None:
    with control.Publisher(list):
        with pytest.raises(UsageError, match="already"):
            control.Publisher(list)
        assert control.find_publishers() == [os.getpid()]


def test_closing_ends_its_clients(runtime: Path) -> None:
    publisher = control.Publisher(lambda: [{}])
    with control.Client(os.getpid()) as client:
        client.statistics()
        publisher.close()
        with pytest.raises(OSError):
            client.statistics()


def test_sockets_of_the_dead_are_removed(runtime: Path) -> None:
    script = "import os, tierstore.control as c; c.Publisher(lambda: []); os._exit(0)"
    child = subprocess.Popen([sys.executable, "-c", script])
    assert child.wait(timeout=30) == 0
    left = runtime / f"{child.pid}.sock"
    assert left.exists()
    assert control.find_publishers() == []
    assert not left.exists()


def test_a_leftover_of_our_own_pid_is_replaced(runtime: Path) -> None:
    runtime.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(runtime / f"{os.getpid()}.sock"))
    with control.Publisher(lambda: [{}]), control.Client(os.getpid()) as client:
        assert client.statistics() == [{}]


def test_a_foreign_folder_is_refused(runtime: Path, tmp_path: Path) -> None:
    runtime.symlink_to(tmp_path)
    with pytest.raises(HostError, match="remove it"):
        control.Publisher(list)


def test_more_clients_than_there_are_slots(runtime: Path) -> None:
    """Those above the bound are turned away; when one leaves, there is room again."""
    with control.Publisher(lambda: [{}]):
        clients = [control.Client(os.getpid()) for _ in range(control.CLIENTS_MAX)]
        for client in clients:
            client.statistics()
        with control.Client(os.getpid()) as late, pytest.raises(OSError):
            late.statistics()
        for client in clients:
            client.close()
        room = threading.Event()
        for _ in range(1000):
            try:
                with control.Client(os.getpid()) as client:
                    assert client.statistics() == [{}]
                room.set()
                break
            except OSError:
                continue
        assert room.is_set()
