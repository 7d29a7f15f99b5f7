# SPDX-License-Identifier: Apache-2.0
"""One VM's cycle, on a thread of its own: a VM that is slow to evict holds up no other's.

A VM whose pages can be tracked but not evicted is scanned all the same: how much of it is cold is
worth knowing before the VMM is reconfigured.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from tierstore._cgroup import room_of
from tierstore._controller import Controller
from tierstore._training import Trainer
from tierstore.abc import Decision
from tierstore.config import RegionConfig
from tierstore.engine import Engine
from tierstore.errors import TierstoreError
from tierstore.manager.share import FairShare, Within
from tierstore.policy import policy_for_region
from tierstore.region import Region, ScanResult
from tierstore.remote import Ability

__all__ = ["SharedTrainer", "VmCycle", "build_policy"]

logger = logging.getLogger("tierstore.manager")

RETURN_STEP_PAGES = 512
"""Pages that return in a row, before the cycle looks whether it is to stop."""
SPARE_PART = 1 / 16
"""Of a control group's limit, is left to what the VM needs itself."""


def build_policy(config: RegionConfig, interval_s: float, share: FairShare) -> Within:
    """What the configuration says, within the VM's share.  Raises ``ConfigError``."""
    return Within(policy_for_region(config, interval_s), share)


class SharedTrainer(Trainer):
    """One for all VMs: a dictionary is a tier's, trained from all that is about to go there."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._turn = threading.Lock()

    def tick(self) -> None:
        """From any cycle's thread."""
        with self._turn:
            try:
                super().tick()
            except TierstoreError as error:
                # A VM whose memory can't be read is no reason for the others to have none.
                logger.debug("training: %s", error)

    def join(self) -> None:
        """A VM that leaves waits for nothing; see ``close``."""

    def close(self) -> None:
        """Wait for a training under way."""
        super().join()


class VmCycle(Controller):
    """Of one region."""

    def __init__(
        self,
        engine: Engine,
        region: Region,
        share: FairShare,
        trainer: SharedTrainer,
        *,
        is_alive: Callable[[], bool],
        pid: int,
    ) -> None:
        super().__init__(engine)
        self._is_alive = is_alive
        self._pid = pid
        self._is_confined = False
        self._trainer = trainer
        self._region = region
        self._can_evict = Ability.EVICT in region.abilities
        self._within = build_policy(region.config, self._interval_s, share)
        self._policies[region] = self._within
        self.last_scan: ScanResult | None = None
        self.last_decision: Decision | None = None
        self.nr_returned = 0
        """Pages whose copies have made room for other VMs."""

    def _try_tick(self) -> dict[str, Exception]:
        """Of a process that has ended nothing is wanted; it goes as soon as the manager hears."""
        failed = super()._try_tick()
        return failed if self._is_alive() else {}

    def _tick_region(self, region: Region) -> None:
        super()._tick_region(region)
        self._make_room(region)

    def _make_room(self, region: Region) -> None:
        """For VMs that have less than their share; until the next tick is due."""
        left, self._within.nr_to_return = self._within.nr_to_return, 0
        if left > 0:
            left = min(left, self._nr_that_fit(region))
        end_s = time.monotonic() + self._interval_s * 0.9
        while left > 0 and time.monotonic() < end_s and not self._stopping.is_set():
            nr = region.give_back(min(left, RETURN_STEP_PAGES) * 4096) // 4096
            if nr == 0:
                return
            left -= nr
            self.nr_returned += nr

    def _nr_that_fit(self, region: Region) -> int:
        """Pages that may come back without a control group's limit, which would end the VM."""
        rooms = [room for room in (room_of(self._pid), room_of()) if room is not None]
        nr = min(
            (int(room.free_bytes - room.limit_bytes * SPARE_PART) // 4096 for room in rooms),
            default=region.length_bytes // 4096,
        )
        if nr <= 0 and not self._is_confined:
            logger.warning(
                "VM %s holds more than its share of the tiers, and its control group's limit "
                "has no room for it: others wait; raise memory.max, or its weight",
                region.name,
            )
        self._is_confined = nr <= 0
        return max(nr, 0)

    def _regions(self) -> tuple[Region, ...]:
        return (self._region,) if self._region.is_attached and self._is_alive() else ()

    def _decide(self, region: Region, scan: ScanResult) -> Decision:
        self.last_scan = scan
        decision = super()._decide(region, scan)
        if not self._can_evict:
            decision = Decision(bytes_max=0)
            self._within.nr_to_return = 0
        self.last_decision = decision
        return decision
