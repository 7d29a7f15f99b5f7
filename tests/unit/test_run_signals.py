# SPDX-License-Identifier: Apache-2.0
"""``tierstore run`` around a program's life: signals that come too early, sessions that end while
they begin."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tierstore._native import ffi, lib
from tierstore.config import Config
from tierstore.control import runtime_folder
from tierstore.errors import UsageError
from tierstore.preload import launch, session
from tierstore.preload.remote import RemoteEngine
from tierstore.preload.session import Session
from tierstore.preload.wire import Channel, receive, send, to_bytes


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets of the test's own."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def hangups_ignored() -> Iterator[None]:
    """As nohup has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_signal_before_the_program_has_started_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    start = launch._start

    def late(command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        os.kill(os.getpid(), signal.SIGTERM)
        return start(command, environment)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(launch, "_start", late)
    assert launch.run_command(["sleep", "600"]).exit_code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_program_that_dies_while_a_signal_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end is noticed although it comes between two looks, while other threads run."""

    class Slow(subprocess.Popen[bytes]):
        def send_signal(self, sig: int) -> None:
            super().send_signal(sig)
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            # Whoever of our threads gets SIGCHLD has it by then.
            time.sleep(0.1)

    def start(command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        process = Slow(command, env=environment)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return process

    monkeypatch.setattr(launch, "_start", start)
    # Ends the test should the death go unnoticed.
    reminder = threading.Timer(60, os.kill, (os.getpid(), signal.SIGCHLD))
    reminder.start()
    assert launch.run_command(["sleep", "600"]).exit_code == 128 + signal.SIGTERM
    assert reminder.is_alive()
    reminder.cancel()


@pytest.mark.usefixtures("hangups_ignored")
def test_what_is_ignored_the_program_ignores_as_well() -> None:
    assert launch.run_command(["sh", "-c", "kill -HUP $$; exit 3"]).exit_code == 3
    assert launch.run_command(["sh", "-c", "kill -USR1 $$; exit 3"]).exit_code == 128 + 10


def test_a_file_that_is_no_program(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"\x7fno program")
    path.chmod(0o755)
    with pytest.raises(UsageError, match=r"text can't be run: Exec format error"):
        launch.run_command([str(path)])


def test_a_session_that_ends_while_it_begins_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pairs = [socket.socketpair() for _ in range(3)]
    config = Config.from_dict({"tier": [{"name": "warm", "store": "ram", "size": "1MiB"}]})
    ours = Session(os.getpid(), "program", config, [pair[0] for pair in pairs], lambda *_: None)

    def program() -> None:
        receive(pairs[0][1])
        send(pairs[0][1], lib.TSP_READY)

    def late(config: Config, control: Channel, watch: Channel) -> RemoteEngine:
        ours.close()
        return RemoteEngine(config, control, watch)

    monkeypatch.setattr(session, "RemoteEngine", late)
    thread = threading.Thread(target=program)
    thread.start()
    with pytest.raises(ConnectionAbortedError):
        ours.start()
    thread.join()
    assert not list(runtime_folder().glob("*.sock"))
    assert "tierstore-cycle" not in [thread.name for thread in threading.enumerate()]
    ours.close()
    for _, theirs in pairs:
        theirs.close()


def test_a_hello_that_makes_no_sense_ends_no_listener(tmp_path: Path) -> None:
    config = Config.from_dict({"tier": [{"name": "warm", "store": "ram", "size": "1MiB"}]})
    said: list[str] = []
    path = tmp_path / "run.socket"
    listener = session.Listener(path, config, lambda _, line: said.append(line))
    for channel in (0, 1, 9):
        hello = ffi.new("struct tsp_hello *")
        hello.version, hello.channel = lib.TSP_WIRE_VERSION, channel
        hello.stats_bytes = ffi.sizeof("struct ts_stats")
        hello.config_bytes = ffi.sizeof("struct tsp_config")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as program:
            program.settimeout(60)
            program.connect(str(path))
            send(program, lib.TSP_HELLO, to_bytes(hello))
            if channel == 9:
                assert program.recv(1) == b""
    # It is closed first, and said then, by the listener's thread.
    end_s = time.monotonic() + 60
    while not said and time.monotonic() < end_s:
        time.sleep(0.005)
    assert len(said) == 1 and "channel 9" in said[0]
    assert listener._thread.is_alive()
    listener.close()
