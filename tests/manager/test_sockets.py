# SPDX-License-Identifier: Apache-2.0
"""The socket and who may use it: private, reclaimed from the dead, never taken from the living."""

from __future__ import annotations

import os
import signal
import socket
import stat
from pathlib import Path

import pytest

from tests.manager.support import CONFIG, Serve, Vmm, serve, until

__all__ = ["serve"]

NOBODY = 65534


def connected(path: Path) -> socket.socket:
    """A connection to the manager."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(30)
    client.connect(str(path))
    return client


def test_the_socket_is_private_and_goes_with_the_manager(serve: Serve) -> None:
    assert stat.S_IMODE(serve.socket.stat().st_mode) == 0o600
    assert serve.end() == 0
    assert not list(serve.folder.glob("vmm.sock*"))


def test_a_dead_managers_socket_is_reclaimed(serve: Serve) -> None:
    serve.end(signal.SIGKILL)
    assert serve.socket.exists()
    with Serve(serve.folder) as second:
        connected(second.socket).close()


def test_a_living_managers_socket_is_left_alone(serve: Serve) -> None:
    with Serve(serve.folder, wait=False) as second:
        assert second.process.wait(timeout=60) == 2
        assert "another manager listens there" in second.log
    connected(serve.socket).close()


def test_a_foreign_socket_is_left_alone(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "vmm.sock"))
        other.listen()
        with Serve(tmp_path, wait=False) as second:
            assert second.process.wait(timeout=60) == 2
            assert "another program listens there" in second.log


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "vmm.sock").write_text("mine", encoding="utf-8")
    with Serve(tmp_path, wait=False) as second:
        assert second.process.wait(timeout=60) == 2
        assert "is no socket" in second.log
    assert (tmp_path / "vmm.sock").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    "text, said",
    [
        ("mode = 660", 'write it in quotes, such as "0660"'),
        ('users = ["no-such-user"]', 'no user "no-such-user"'),
        ('[[vm]]\npolicy = "no-such-policy"\n', "no-such-policy"),
        ('[[vm]]\ncolour = "red"\n', "colour"),
    ],
    ids=["mode", "user", "policy", "key"],
)
def test_a_wrong_configuration_is_told_at_the_start(text: str, said: str, tmp_path: Path) -> None:
    is_table = text.startswith("[[")
    config = CONFIG + text if is_table else CONFIG.replace("[manager]", f"[manager]\n{text}")
    with Serve(tmp_path, config=config, wait=False) as manager:
        assert manager.process.wait(timeout=60) == 2
        assert said in manager.log
        assert "Traceback" not in manager.log


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_other_users_are_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o011)
    config = CONFIG.replace("[manager]", '[manager]\nmode = "0666"')
    with Serve(tmp_path, config=config) as manager:
        pid = os.fork()
        if pid == 0:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(30)
            try:
                client.connect(str(manager.socket))
                os._exit(0 if client.recv(1) == b"" else 1)
            except ConnectionResetError:
                os._exit(0)
            except BaseException:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        until(lambda: f"is of user {NOBODY}" in manager.log, "the refusal")


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("JOURNAL_STREAM", "8:12345")
        with Serve(tmp_path) as manager:
            assert notified.recv(4096).startswith(b"READY=1\n")
            assert manager.end() == 0
            assert notified.recv(4096) == b"STOPPING=1"
            assert manager.log.startswith("<6>listening on")


def test_a_signal_that_another_thread_gets_ends_it_too(serve: Serve) -> None:
    """The kernel gives a process's signal to any thread that does not block it."""
    pid = serve.process.pid

    def others() -> list[int]:
        found = []
        for task in Path(f"/proc/{pid}/task").iterdir():
            status = (task / "status").read_text(encoding="utf-8")
            blocked = int(status.partition("SigBlk:")[2].split()[0], 16)
            if int(task.name) != pid and not blocked >> (signal.SIGTERM - 1) & 1:
                found.append(int(task.name))
        return found

    # Sent to that thread's number it is the process's all the same, and that thread's first.
    os.kill(until(others, "a thread of Python's")[0], signal.SIGTERM)
    assert serve.process.wait(timeout=60) == 0


def test_whoever_says_nothing_is_closed(tmp_path: Path) -> None:
    """A slow loris and a silent one, while others come and go."""
    with Serve(tmp_path, config=CONFIG.replace("15s", "1s")) as manager:
        _say_nothing(manager)


def _say_nothing(serve: Serve) -> None:
    silent, slow = connected(serve.socket), connected(serve.socket)
    slow.sendall(b"[")
    with connected(serve.socket) as hasty:
        hasty.sendall(b"nonsense")
        assert hasty.recv(1) == b""
    with silent, slow:
        assert silent.recv(1) == b""
        assert slow.recv(1) == b""
    log = serve.log
    assert log.count("no whole message came within") == 2
    # Nobody waited for those two.
    assert log.index("which is none of") < log.index("no whole message came within")


def test_too_many_connections_of_one_process_are_closed(serve: Serve) -> None:
    held = [connected(serve.socket) for _ in range(4)]
    with connected(serve.socket) as late:
        assert late.recv(1) == b""
    until(lambda: "too many connections" in serve.log, "the refusal")
    for client in held:
        client.close()


def test_a_snapshot_that_is_not_known_is_refused(serve: Serve) -> None:
    with Vmm(serve.socket, vmm="firecracker") as vmm:
        vmm.handed_over()
        until(lambda: "it restores a snapshot" in serve.log, "the refusal")


def test_what_is_no_userfaultfd_is_refused(serve: Serve) -> None:
    with connected(serve.socket) as client, Path("/dev/null").open("rb") as null:
        text = b'[{"base_host_virt_addr": 1099511627776, "size": 4096, "offset": 0}]'
        socket.send_fds(client, [text], [null.fileno()])
        assert client.recv(1) == b""
    assert "is no userfaultfd" in serve.log


def test_too_many_descriptors_are_refused_and_closed(serve: Serve) -> None:
    def nr_open() -> int:
        return len(list(Path(f"/proc/{serve.process.pid}/fd").iterdir()))

    before = until(nr_open, "its descriptors")
    for _ in range(20):
        with connected(serve.socket) as client, Path("/dev/null").open("rb") as null:
            socket.send_fds(client, [b"[{"], [null.fileno()] * 40)
            assert client.recv(1) == b""
    until(lambda: nr_open() <= before, "descriptors to be closed")
    assert serve.log.count("more than 17 descriptors") == 20
