# SPDX-License-Identifier: Apache-2.0
"""The control plane's loop: every interval scan, ask the policy, evict, deactivate.

It runs on one thread for an engine.  All it does per tick is constant in the number of pages; the
pages are C's business.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from tierstore import _training
from tierstore.abc import Decision, Policy, Tick
from tierstore.errors import RegionGone, TierstoreError
from tierstore.policy import policy_for_region
from tierstore.region import Region, ScanResult

if TYPE_CHECKING:
    from tierstore.engine import Engine

__all__ = ["Controller"]

logger = logging.getLogger("tierstore")

RATE_STEP_S = 0.1
"""A rate limit is kept by evicting the share of this much time, then waiting it out."""


class Controller:
    """One engine's cycle.  ``start``, ``stop`` and ``tick`` may be called from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._interval_s = engine.config.engine.interval
        self._life = threading.Lock()  # guards _thread; outermost
        self._tick_lock = threading.Lock()  # one tick at a time
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._policies: dict[Region, Policy] = {}
        self._last_tick_s: dict[Region, float] = {}
        self._trainer = _training.Trainer(engine)

    def start(self) -> None:
        """Start the thread; nothing happens if it runs already."""
        with self._life:
            if self._thread is not None:
                return
            # Policies are built here so that a wrong name is the caller's exception.
            for region in self._regions():
                self._policy(region)
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, name="tierstore-cycle", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop the thread and wait for it."""
        with self._life:
            if self._thread is None:
                return
            self._stopping.set()
            self._thread.join()
            self._thread = None
            self._stopping.clear()
            self._trainer.join()

    def tick(self) -> None:
        """Scan, decide, evict and deactivate, once for every region.

        A region that fails holds up no other; the first failure is raised in the end.
        """
        failed: TierstoreError | None = None
        with self._tick_lock:
            for region in self._regions():
                try:
                    self._tick_region(region)
                except RegionGone:
                    self._policies.pop(region, None)
                    self._last_tick_s.pop(region, None)
                except TierstoreError as error:
                    failed = failed or error
            self._trainer.tick()
        if failed is not None:
            raise failed

    def _regions(self) -> tuple[Region, ...]:
        """Those that this cycle is for: of the others nothing can leave, so nothing is asked."""
        return tuple(r for r in self._engine.regions if r.can_evict)

    def _run(self) -> None:
        due_s = time.monotonic()
        self._deactivate_all()
        while True:
            due_s = max(due_s + self._interval_s, time.monotonic())
            if self._stopping.wait(due_s - time.monotonic()):
                return
            try:
                self.tick()
            except TierstoreError as error:
                # A tick that failed is tried again: memory stays resident meanwhile.
                logger.error("cycle: %s", error)

    def _deactivate_all(self) -> None:
        for region in self._regions():
            try:
                region.deactivate()
            except TierstoreError as error:
                logger.error("cycle: %s", error)

    def _policy(self, region: Region) -> Policy:
        if region not in self._policies:
            self._policies[region] = policy_for_region(region.config, self._interval_s)
        return self._policies[region]

    def _tick_region(self, region: Region) -> None:
        scan = region.scan()
        decision = self._decide(region, scan)
        try:
            self._evict(region, decision)
        finally:
            region.deactivate()

    def _decide(self, region: Region, scan: ScanResult) -> Decision:
        now_s = time.monotonic()
        passed_s = now_s - self._last_tick_s.get(region, now_s - self._interval_s)
        self._last_tick_s[region] = now_s
        statistics = self._engine.statistics()
        own = region.statistics()
        tick = Tick(
            region_name=region.name,
            region_bytes=region.length_bytes,
            # Pages on their way out count as gone, or a slow store makes a policy repeat itself.
            resident_bytes=(own.pages.resident + own.pages.coming) * statistics.page_bytes,
            page_bytes=statistics.page_bytes,
            nr_by_age=scan.nr_by_age,
            nr_guarded=scan.nr_guarded,
            interval_s=self._interval_s,
            passed_s=passed_s,
            evicted_bytes=own.evictions.evicted * statistics.page_bytes,
            nr_refaults=own.faults.refaults,
            statistics=statistics,
        )
        try:
            return self._policy(region).decide(tick)
        except Exception:
            logger.exception("the policy of region %s failed; nothing leaves", region.name)
            return Decision(bytes_max=0)

    def _evict(self, region: Region, decision: Decision) -> None:
        """Evict what was decided, in steps if there is a rate, until the next tick is due."""
        left_bytes = decision.bytes_max
        step_bytes = left_bytes
        if decision.bytes_per_s_max < float("inf"):
            step_bytes = max(int(decision.bytes_per_s_max * RATE_STEP_S), 4096)
        end_s = time.monotonic() + self._interval_s * 0.9
        while left_bytes >= 4096:
            wanted = min(step_bytes, left_bytes)
            result = region.evict(wanted, age_min=decision.age_min)
            left_bytes -= wanted
            found_bytes = result.nr_claimed * 4096
            if left_bytes < 4096 or found_bytes < wanted // 2 or time.monotonic() > end_s:
                return
            if self._stopping.wait(RATE_STEP_S):
                return
