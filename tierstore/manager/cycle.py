# SPDX-License-Identifier: Apache-2.0
"""One VM's cycle, on a thread of its own: a VM that is slow to evict holds up no other's.

A VM whose pages can be tracked but not evicted is scanned all the same: how much of it is cold is
worth knowing before the VMM is reconfigured.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from tierstore._controller import Controller
from tierstore._training import Trainer
from tierstore.abc import Decision, Policy
from tierstore.config import RegionConfig
from tierstore.engine import Engine
from tierstore.errors import TierstoreError
from tierstore.manager.share import FairShare
from tierstore.policy import AllOf, policy_for_region
from tierstore.region import Region, ScanResult
from tierstore.remote import Ability

__all__ = ["SharedTrainer", "VmCycle", "build_policy"]

logger = logging.getLogger("tierstore.manager")


def build_policy(config: RegionConfig, interval_s: float, share: FairShare) -> Policy:
    """What the configuration says, within the VM's share.  Raises ``ConfigError``."""
    return AllOf([policy_for_region(config, interval_s), share])


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
    ) -> None:
        super().__init__(engine)
        self._is_alive = is_alive
        self._trainer = trainer
        self._region = region
        self._can_evict = Ability.EVICT in region.abilities
        self._policies[region] = build_policy(region.config, self._interval_s, share)
        self.last_scan: ScanResult | None = None
        self.last_decision: Decision | None = None

    def tick(self) -> None:
        """Of a process that has ended nothing is wanted; it goes as soon as the manager hears."""
        try:
            super().tick()
        except TierstoreError:
            if self._is_alive():
                raise

    def _regions(self) -> tuple[Region, ...]:
        return (self._region,) if self._region.is_attached and self._is_alive() else ()

    def _decide(self, region: Region, scan: ScanResult) -> Decision:
        self.last_scan = scan
        decision = super()._decide(region, scan)
        if not self._can_evict:
            decision = Decision(bytes_max=0)
        self.last_decision = decision
        return decision
