# SPDX-License-Identifier: Apache-2.0
"""One VM: its process, its region, its cycle.

What happens to it happens one at a time: handed over, added to, released, ended.  Each may block
and is called on a worker thread; ``report`` may be called at any time from any.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tierstore.engine import Engine
from tierstore.errors import TierstoreError, UsageError
from tierstore.manager.bounds import REGION_BYTES_MAX
from tierstore.manager.config import VmConfig
from tierstore.manager.cycle import SharedTrainer, VmCycle
from tierstore.manager.handover import Plan, Range, identity, make_plan, plan_range
from tierstore.manager.peer import Peer
from tierstore.manager.protocol import Handoff, Piece
from tierstore.manager.restore import Restore, WorkingSet
from tierstore.manager.share import FairShare
from tierstore.manager.state import VmRecord, boot_id
from tierstore.region import Region
from tierstore.remote import Ability, Mode, RemoteRange

__all__ = ["Vm", "VmOptions", "same_file"]

logger = logging.getLogger("tierstore.manager")

_SYS_KCMP = {"x86_64": 312, "aarch64": 272, "riscv64": 272}


@dataclasses.dataclass(frozen=True, slots=True)
class VmOptions:
    """What the manager says about a VM."""

    config: VmConfig
    share: FairShare
    trainer: SharedTrainer
    restored: Callable[[Vm], None]
    """Called when a snapshot's memory is all there, on a thread of the VM's."""
    hot_add_bytes: int | None = None
    restore_bytes_per_s: int | None = None
    state: Path | None = None
    """The manager's state folder: VMs outlive it there, and working sets are recorded."""


def same_file(one: int, other: int) -> bool:
    """Whether two descriptors of this process are of the same open file (kcmp)."""
    number = _SYS_KCMP.get(platform.machine())
    if number is None:
        return False
    pid = os.getpid()
    return int(ctypes.CDLL(None).syscall(number, pid, pid, 0, one, other)) == 0


def _remote(each: Range) -> RemoteRange:
    return RemoteRange(each.addr, each.len_bytes, each.fd, each.offset)


class Vm:
    """Owns the peer, a descriptor of the userfaultfd, the region and its cycle."""

    def __init__(self, peer: Peer, path: Path, handoff: Handoff, uffd: int, options: VmOptions):
        self.peer = peer
        self.path = path
        self.handoff = handoff
        self.uffd = uffd
        self.options = options
        self.name = peer.name
        self.state = "arriving"
        self.since_s = time.time()
        self.remarks: list[str] = []
        self.region: Region | None = None
        self.is_connected = True
        self.is_persistent = False
        self._pieces = list(handoff.pieces)
        self._is_shared = False
        self._cycle: VmCycle | None = None
        self._restore: Restore | None = None
        self._life = threading.Lock()  # guards everything but report(); held while blocking

    def __str__(self) -> str:
        return self.name

    # ---- In -----------------------------------------------------------------------------

    def start(self, engine: Engine, memfds: Sequence[int]) -> None:
        """Look at the VM's memory and take its faults over.  Raises ``TierstoreError``."""
        with self._life:
            plan = make_plan(self.handoff, self.peer, self.uffd, memfds)
            # Of private memory nobody can tell later which pages the guest gave up meanwhile.
            self._is_shared = plan.is_shared
            self.is_persistent = self.options.state is not None and self._is_shared
            try:
                self.region = self._adopt(engine, plan)
            finally:
                plan.close()
            self.remarks = plan.remarks
            self.state = "serving"
            if Ability.TRACK in self.region.abilities:
                self._cycle = VmCycle(
                    engine,
                    self.region,
                    self.options.share,
                    self.options.trainer,
                    is_alive=lambda: self.peer.is_alive,
                    pid=self.peer.pid,
                )
                self._cycle.start()
            self._log_start(plan)
            if self.handoff.is_snapshot:
                self._restore = self._begin_restore(self.region)

    def _adopt(self, engine: Engine, plan: Plan) -> Region:
        options = self.options
        room = plan.len_bytes if options.hot_add_bytes is None else options.hot_add_bytes
        return engine.adopt(
            self.uffd,
            [_remote(each) for each in plan.ranges],
            modes=Mode(sum(Mode[mode] for mode in plan.modes if mode in Mode.__members__)),
            name=self.name,
            config=options.config.region(self.name),
            pagemap_fd=plan.pagemap_fd,
            length_max=min(plan.len_bytes + room, REGION_BYTES_MAX - (2 << 20)),
            image=options.config.snapshot if self.handoff.is_snapshot else None,
            is_persistent=self.is_persistent,
            identity=identity(self.peer, plan.ranges),
            share_weight=options.config.weight,
        )

    def _begin_restore(self, region: Region) -> Restore:
        config, state = self.options.config, self.options.state
        record = None
        if config.replay and state is not None:
            record = WorkingSet(state / f"{config.snapshot}.ws")
        restore = Restore(
            region,
            record,
            record_s=config.record_for,
            rate_bytes_per_s=self.options.restore_bytes_per_s,
            done=lambda: self.options.restored(self),
        )
        restore.start()
        return restore

    def _log_start(self, plan: Plan) -> None:
        assert self.region is not None
        logger.info(
            "%s: %s hands over %d MiB in %d ranges on %s: %s",
            self, self.handoff.vmm, plan.len_bytes >> 20, len(plan.ranges), self.path,
            self.abilities_text,
        )  # fmt: skip
        for text in (*self.remarks, self.region.limits):
            if text:
                logger.warning("%s: %s", self, text)

    @property
    def abilities_text(self) -> str:
        """What is done with it: ``serve, track, evict``."""
        region = self.region
        if region is None or not region.is_attached:
            return ""
        return ", ".join(str(a.name).lower() for a in Ability if a in region.abilities)

    def is_same(self, handoff: Handoff, uffd: int) -> bool:
        """Whether a later hand-over of the same process is of what is served here already."""
        is_same_memory = set(handoff.pieces) == set(self._pieces)
        return self.state == "serving" and is_same_memory and same_file(uffd, self.uffd)

    def record(self) -> VmRecord:
        """What a later manager must know of it."""
        return VmRecord(
            name=self.name,
            pid=self.peer.pid,
            uid=self.peer.uid,
            start_time=self.peer.start_time,
            boot_id=boot_id(),
            vmm=self.handoff.vmm,
            socket=str(self.path),
            modes=tuple(sorted(self.handoff.modes)),
            pieces=tuple((p.addr, p.len_bytes, p.offset) for p in self._pieces),
            is_snapshot=self.handoff.is_snapshot,
            is_resumable=self.handoff.is_resumable,
            is_persistent=self.is_persistent,
        )

    def add(self, piece: Piece, memfds: Sequence[int]) -> None:
        """Memory was plugged in.  Raises ``TierstoreError``."""
        with self._life:
            if self.state != "serving" or self.region is None:
                raise UsageError(f"{self}: is {self.state}")
            added = plan_range(piece, self.peer, self.uffd, memfds, is_shared=self._is_shared)
            try:
                self.region.add_range(_remote(added))
            finally:
                added.close()
            self._pieces.append(piece)
            logger.info("%s: %d MiB were plugged in at %#x", self, piece.len_bytes >> 20,
                        piece.addr)  # fmt: skip

    # ---- Out ----------------------------------------------------------------------------

    def stop_cycle(self) -> None:
        """Evict and load nothing more.  Blocks for the step under way."""
        if self._cycle is not None:
            self._cycle.stop()
        if self._restore is not None:
            self._restore.stop()

    def release(self) -> None:
        """Bring everything back and let go, while the guest runs.  Blocks.

        Raises ``TierstoreError`` if pages were lost; it is let go of then, too.
        """
        with self._life:
            if self.region is None or self.state not in ("serving", "releasing"):
                return
            self.state = "releasing"
            try:
                self.stop_cycle()
                self.region.detach()
            finally:
                self.state = "released" if self.peer.is_alive else "ended"
                self._close()

    def end(self) -> None:
        """The process has ended: free what is stored of it.  Blocks.  Idempotent."""
        with self._life:
            if self.state in ("ended", "released"):
                return
            try:
                self.stop_cycle()
                if self.region is not None:
                    self.region.drop()
            finally:
                self.state = "ended"
                self._close()

    def leave(self) -> None:
        """The manager ends, and the VM stays as it is, for the next one.  Idempotent."""
        with self._life:
            self.stop_cycle()
            self.state = "left"
            self._close()

    def _close(self) -> None:
        if self.uffd >= 0:
            os.close(self.uffd)
            self.uffd = -1

    # ---- What there is to say -----------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """For ``stat``, ``top`` and ``--json``."""
        answer: dict[str, Any] = {
            "name": self.name,
            "pid": self.peer.pid,
            "uid": self.peer.uid,
            "vmm": self.handoff.vmm,
            "socket": str(self.path),
            "state": self.state,
            "is_connected": self.is_connected,
            "is_persistent": self.is_persistent,
            "since_s": round(time.time() - self.since_s, 3),
            "remarks": [*self.remarks],
            "weight": self.options.config.weight,
            "snapshot": self.options.config.snapshot if self.handoff.is_snapshot else None,
        }
        with contextlib.suppress(TierstoreError):
            answer |= self._figures()
        return answer

    def _figures(self) -> dict[str, Any]:
        region = self.region
        if region is None:
            return {}
        own = region.statistics()
        page_bytes = 4096
        budget = self.options.config.budget
        scan = self._cycle.last_scan if self._cycle is not None else None
        restore = self._restore
        return {
            "restore": restore.state if restore is not None else None,
            "abilities": [str(a.name).lower() for a in Ability if a in region.abilities],
            "limits": region.limits,
            "tracker": region.tracker,
            "memory": own.memory,
            "region_bytes": own.region_bytes,
            "resident_bytes": (own.pages.resident + own.pages.coming) * page_bytes,
            "away_bytes": (own.pages.away + own.pages.filled) * page_bytes,
            "leaving_bytes": own.pages.leaving * page_bytes,
            "budget_bytes": budget if isinstance(budget, int) else budget.of(own.region_bytes),
            "cold_bytes": sum(scan.nr_by_age[1:]) * page_bytes if scan is not None else None,
            "faults": own.faults.total,
            "refaults": own.faults.refaults,
            "evicted": own.evictions.evicted,
            "returned": self._cycle.nr_returned if self._cycle is not None else 0,
        }
