# SPDX-License-Identifier: Apache-2.0
"""The control socket: private, answers, survives odd clients, cleans up after the dead."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tierstore import _publish, control
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


NONSENSE = [b"hello\n", b"[]\n", b'{"ask": "money"}\n', b"x" * 9000 + b"\n", b"[" * 4000 + b"\n"]


@pytest.mark.parametrize("line", NONSENSE, ids=range(len(NONSENSE)))
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
    assert child.wait(timeout=60) == 0
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


def test_a_folder_whose_path_is_too_long_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    with pytest.raises(HostError, match="too long a path") as caught:
        control.runtime_folder()
    assert "XDG_RUNTIME_DIR" in caught.value.hint


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
        due_s = time.monotonic() + 60
        while True:
            try:
                with control.Client(os.getpid()) as client:
                    assert client.statistics() == [{}]
                return
            except OSError:
                assert time.monotonic() < due_s
                time.sleep(0.01)


def test_out_of_descriptors_is_not_for_ever(tmp_path: Path) -> None:
    """Who connects meanwhile is served when there are some again."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    class Closing(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            return super().wait(timeout)

    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        client.connect(str(tmp_path / "socket"))
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
        try:
            with next(control.accepted(listener, Closing())) as accepted:
                accepted.sendall(b"x")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert client.recv(1) == b"x"


def test_the_next_engine_is_published_while_the_last_one_leaves(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = SimpleNamespace(), SimpleNamespace()
    leaving, goes_on = threading.Event(), threading.Event()
    close = control.Publisher.close

    def slow_close(publisher: control.Publisher) -> None:
        leaving.set()
        assert goes_on.wait(60)
        close(publisher)

    _publish.publish(one)
    monkeypatch.setattr(control.Publisher, "close", slow_close)
    last = threading.Thread(target=_publish.unpublish, args=(one,))
    following = threading.Thread(target=_publish.publish, args=(other,))
    last.start()
    assert leaving.wait(60)
    following.start()
    following.join(0.5)  # as long as it takes that does not wait
    goes_on.set()
    last.join()
    following.join()
    try:
        control.Client(os.getpid()).close()
    finally:
        _publish.unpublish(other)


def answering(path: Path, answer: bytes) -> Iterator[None]:
    """Somebody who reads a request and says that, or nothing."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            with listener.accept()[0] as connection:
                connection.recv(4096)
                if answer:
                    connection.sendall(answer)
                else:
                    connection.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [(b"", HostError, "has not answered within"), (b'{"half', ConnectionError, "has ended")],
    ids=["silent", "half"],
)
def test_who_does_not_answer_is_named(
    answer: bytes, error: type[Exception], said: str, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.mkdir(mode=0o700)
    monkeypatch.setattr(control, "TIMEOUT_S", 0.3 if error is HostError else 60.0)
    with (
        contextlib.contextmanager(answering)(runtime / f"{os.getpid()}.sock", answer),
        control.Client(os.getpid()) as client,
        pytest.raises(error, match=f"process {os.getpid()} {said}"),
    ):
        client.statistics()


def test_a_socket_has_its_name_once_it_listens(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who finds it before that would be refused."""
    seen: list[bool] = []
    listen = socket.socket.listen

    def late(self: socket.socket, *backlog: int) -> None:
        seen.append((runtime / f"{os.getpid()}.sock").exists())
        listen(self, *backlog)

    monkeypatch.setattr(socket.socket, "listen", late)
    with control.Publisher(list):
        assert control.find_publishers() == [os.getpid()]
        control.Client(os.getpid()).close()
    assert seen == [False]
    assert not list(runtime.iterdir())


def test_what_never_listened_is_removed() -> None:
    folder = control.runtime_folder(create=True)
    (folder / "4194399.new").touch()
    (folder / f"{os.getpid()}.new").touch()
    assert control.find_publishers() == []
    assert [path.name for path in folder.iterdir()] == [f"{os.getpid()}.new"]


def test_a_host_without_threads_does_not_end_the_publisher(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More often than there are slots for clients; then there are threads again."""
    start = threading.Thread.start
    nr_tries = control.CLIENTS_MAX + 2
    is_short = True

    def sometimes(thread: threading.Thread) -> None:
        if thread.name == "tierstore-client" and is_short:
            raise RuntimeError("can't start new thread")
        start(thread)

    with control.Publisher(lambda: [{"a": 1}]):
        monkeypatch.setattr(threading.Thread, "start", sometimes)
        for _ in range(nr_tries):
            with control.Client(os.getpid()) as client, pytest.raises(OSError):
                client.statistics()
        is_short = False
        with control.Client(os.getpid()) as client:
            assert client.statistics() == [{"a": 1}]
