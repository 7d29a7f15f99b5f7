# SPDX-License-Identifier: Apache-2.0
"""The manager's parts alone: settings, records, and what the kernel says of a real VMM."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.manager.support import MIB, Vmm
from tierstore.errors import ConfigError
from tierstore.manager import addresses, handover
from tierstore.manager.cloud_hypervisor import CloudHypervisor
from tierstore.manager.config import ServeConfig
from tierstore.manager.connection import Connection
from tierstore.manager.loop import Loop
from tierstore.manager.peer import Peer, start_time
from tierstore.manager.protocol import Handoff, MessageError, Piece
from tierstore.manager.restore import STEP_PAGES, WorkingSet, runs
from tierstore.manager.state import StateFile, VmRecord, boot_id, take_userfaultfd
from tierstore.manager.vm import same_file

# ---- Settings -------------------------------------------------------------------------------

TIER = '[[tier]]\nname = "warm"\nstore = "ram"\nsize = "64MiB"\n'


def test_entries_are_laid_over_each_other() -> None:
    config = ServeConfig.from_text(
        TIER
        + '[[vm]]\nbudget = "40%"\nweight = 2\n'
        + '[[vm]]\nname = "web-*"\nbudget = "1GiB"\n'
        + '[[vm]]\nsocket = "gold.sock"\nmin_age = "1min"\n'
        + "[[vm]]\npid = 7\nweight = 9\n"
    )
    plain = config.vm_for("db-1", "/run/a.sock", 1)
    assert (str(plain.budget), plain.weight, plain.min_age) == ("40%", 2, None)
    web = config.vm_for("web-7", "/run/gold.sock", 7)
    assert (web.budget, web.weight, web.min_age) == (1 << 30, 9, 60)
    assert web.region("web-7").budget == 1 << 30


def test_one_entry_is_for_all() -> None:
    config = ServeConfig.from_text(TIER + '[vm]\nbudget = "1MiB"\n[manager]\nlisten = "/run/a"\n')
    assert config.vm_for("x-1", "s", 1).budget == MIB
    assert config.manager.listen == (Path("/run/a"),)
    assert ServeConfig.from_text(config.to_toml()) == config


def test_the_example_is_right() -> None:
    config = ServeConfig.load(ROOT / "examples" / "manager.toml")
    assert config.manager.listen and config.vm


def test_a_manager_that_is_late_itself_reads_before_it_refuses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What was sent in time lies in the socket when the time is over."""
    loop = Loop()
    ours, theirs = socket.socketpair()

    def busy() -> None:
        theirs.sendall(b"nonsense")
        time.sleep(0.05)

    with ours, theirs, contextlib.closing(Peer.of(ours)) as peer:
        connection = Connection(
            loop,
            ours,
            peer,
            Path("vmm.sock"),
            deliver=lambda *_: None,
            left=lambda _: None,
            patience_s=0.02,
        )
        loop.post(busy)
        loop.step()
        assert not connection.is_open
    loop.close()
    [record] = caplog.records
    assert "which is none of" in record.getMessage()


@pytest.mark.parametrize("limit", [0, "10ms", "2h"])
def test_a_handshake_takes_a_while(limit: object) -> None:
    with pytest.raises(ConfigError, match=r"manager\.handshake_timeout"):
        ServeConfig.from_dict({"tier": [], "manager": {"handshake_timeout": limit}})


@pytest.mark.parametrize("line", ['budget = "many"', "weight = 0", "collapse = true", "pid = 0"])
def test_what_makes_no_sense_for_a_vm(line: str) -> None:
    with pytest.raises(ConfigError, match=r"vm"):
        ServeConfig.from_text(TIER + f"[vm]\n{line}\n")


# ---- Records --------------------------------------------------------------------------------


def test_a_working_set_is_what_was_saved(tmp_path: Path) -> None:
    record = WorkingSet(tmp_path / "image.ws")
    assert record.load() is None
    for pages in ([], [5, 6, 1 << 40, 0]):
        record.save(pages)
        assert record.load() == pages
    assert [path.name for path in tmp_path.iterdir()] == ["image.ws"]


@pytest.mark.parametrize("spoil", [b"", b"tswset1", b"tswset1\n1234567", b"garbage!" * 4])
def test_a_spoiled_working_set_counts_as_none(spoil: bytes, tmp_path: Path) -> None:
    path = tmp_path / "image.ws"
    path.write_bytes(spoil)
    assert WorkingSet(path).load() is None


def test_neighbours_come_in_together() -> None:
    assert list(runs([4, 5, 6, 9, 8, 7, 99, 0, 1], 50)) == [(4, 3), (9, 1), (8, 1), (7, 1), (0, 2)]
    assert list(runs([], 50)) == []
    assert list(runs(range(STEP_PAGES + 1), 1 << 20)) == [(0, STEP_PAGES), (STEP_PAGES, 1)]


def record(**changes: object) -> VmRecord:
    """A VM that a manager wrote down."""
    plain = {
        "name": "vm-1", "pid": 1, "uid": 0, "start_time": 5, "boot_id": boot_id(), "vmm": "x",
        "socket": "/s", "modes": ("WP",), "pieces": ((8192, 4096, 0), (4096, 4096, 4096)),
        "is_snapshot": False, "is_resumable": True, "is_persistent": True,
    }  # fmt: skip
    return VmRecord.model_validate(plain | changes)


def test_state_is_what_was_saved(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    assert file.load() == ()
    file.save([record(), record(name="other", boot_id="another boot")])
    assert file.load() == (record(),)
    assert file.path.stat().st_mode & 0o777 == 0o600
    file.path.write_text('{"is": "none of ours"}', encoding="utf-8")
    assert file.load() == ()


def test_pieces_keep_their_order() -> None:
    """A VM tells its regions by guest address; the engine numbered them as they came."""
    told = [Piece(4096, 4096, 4096), Piece(8192, 4096, 0), Piece(1 << 20, 4096, 8192)]
    assert record().in_order(told) == (told[1], told[0], told[2])


# ---- What the kernel says -------------------------------------------------------------------


@dataclasses.dataclass
class Received:
    """A VMM that handed itself over to the test."""

    vmm: Vmm
    handoff: Handoff
    peer: Peer
    fds: list[int]

    def plan(self, handoff: Handoff | None = None) -> handover.Plan:
        """What the manager would do."""
        return handover.make_plan(handoff or self.handoff, self.peer, self.fds[0], self.fds[1:])


def receive(folder: Path, *options: str) -> Iterator[Received]:
    """The manager's part of a hand-over, in this process."""
    path = folder / "test.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with Vmm(path, *options) as vmm:
            connection, _ = listener.accept()
            data, fds, _, _ = socket.recv_fds(connection, 65536, 40)
            (message,) = CloudHypervisor().feed(data)
            assert isinstance(message, Handoff)
            connection.send(b"\1")
            vmm.handed_over()
            peer = Peer.of(connection)
            try:
                yield Received(vmm, message, peer, fds)
            finally:
                peer.close()
                connection.close()
                for fd in fds:
                    os.close(fd)


@pytest.fixture
def received(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Received]:
    """With the options of the test's parameter."""
    yield from receive(tmp_path, *getattr(request, "param", ()))


MODES = [
    ("MISSING", set()),
    ("MISSING|WP", {"WP"}),
    ("MISSING|WP|WP_UNPOPULATED|WP_ASYNC", {"WP", "WP_ASYNC"}),
]


@pytest.mark.parametrize(
    "received, modes",
    [(("--mode", mode), found | {"MISSING"}) for mode, found in MODES],
    indirect=["received"],
    ids=[mode for mode, _ in MODES],
)
def test_modes_are_the_kernels(received: Received, modes: set[str]) -> None:
    """Whatever the message says."""
    for claimed in ("MISSING", "MISSING|WP", "MISSING|WP|WP_ASYNC"):
        told = dataclasses.replace(received.handoff, modes=frozenset(claimed.split("|")))
        plan = received.plan(told)
        assert plan.modes == modes
        assert bool(plan.remarks) == (set(claimed.split("|")) != modes)
        plan.close()


def test_the_memfd_is_found(received: Received) -> None:
    plan = received.plan()
    assert plan.is_shared and plan.len_bytes == 8 * MIB and plan.remarks == []
    (only,) = plan.ranges
    held = os.pread(only.fd, 64, only.offset)
    assert any(held) and received.vmm.ask("stats")["pages"] == 2048
    plan.close()


@pytest.mark.parametrize("received", [("--ranges", "4M,2M", "--memfds")], indirect=True)
def test_memfds_that_were_passed_are_used(received: Received) -> None:
    assert len(received.fds) == 3
    plan = received.plan()
    inodes = [os.fstat(fd).st_ino for fd in received.fds[1:]]
    assert [each.inode for each in plan.ranges] == inodes
    plan.close()


@pytest.mark.parametrize("received", [("--ranges", "4M,2M", "--one-memfd")], indirect=True)
def test_offsets_are_the_mappings(received: Received) -> None:
    plan = received.plan()
    assert sorted(each.offset for each in plan.ranges) in ([0], [0, 4 * MIB])
    plan.close()


@pytest.mark.parametrize("received", [("--memory", "anon")], indirect=True)
def test_private_memory_has_no_file(received: Received) -> None:
    plan = received.plan()
    assert not plan.is_shared and [each.fd for each in plan.ranges] == [-1]
    plan.close()


def test_a_foreign_pid_is_refused(received: Received) -> None:
    with pytest.raises(MessageError, match="hands over itself"):
        received.plan(dataclasses.replace(received.handoff, vmm_pid=os.getpid()))


def test_memory_that_is_not_there_is_refused(received: Received) -> None:
    (piece,) = received.handoff.pieces
    beside = Piece(piece.addr, piece.len_bytes + (1 << 40), piece.offset)
    with pytest.raises(MessageError, match="nothing is mapped"):
        received.plan(dataclasses.replace(received.handoff, pieces=(beside,)))


def test_memory_that_is_not_registered_is_refused(received: Received) -> None:
    text = Path(f"/proc/{received.vmm.pid}/maps").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if "[stack]" in line)
    start, end = (int(part, 16) for part in line.split()[0].split("-"))
    stack = Piece(start, end - start, 0)
    with pytest.raises(MessageError, match="not registered"):
        received.plan(dataclasses.replace(received.handoff, pieces=(stack,)))


def test_the_identity_is_the_vms_own(received: Received) -> None:
    plan = received.plan()
    identity = handover.identity(received.peer, plan.ranges)
    again = received.plan()
    assert handover.identity(received.peer, again.ranges) == identity
    assert len(identity) == 32
    received.peer.start_time += 1
    assert handover.identity(received.peer, plan.ranges) != identity
    plan.close()
    again.close()


def test_a_userfaultfd_is_taken_from_the_living(received: Received) -> None:
    fd = take_userfaultfd(received.vmm.pid, received.peer.pidfd)
    assert addresses.is_userfaultfd(fd)
    assert same_file(fd, received.fds[0])
    assert not same_file(fd, received.peer.pidfd)
    os.close(fd)


def test_a_process_is_known_by_its_start(received: Received) -> None:
    assert received.peer.start_time == start_time(received.vmm.pid) > 0
    assert received.peer.is_alive
    received.vmm.process.kill()
    received.vmm.process.wait()
    assert not received.peer.is_alive
    with pytest.raises(ProcessLookupError):
        received.plan()
