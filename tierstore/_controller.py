# SPDX-License-Identifier: Apache-2.0
"""The control plane's loop: every interval scan, ask the policy, evict, deactivate.

It runs on one thread for an engine.  All it does per tick is constant in the number of pages; the
pages are C's business.

Whatever fails in a tick, a bug included, leaves memory as it is and is tried again at the next one.
It is said once, by name, and again only when it has changed, or comes back after it was over.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
import time
from collections.abc import Callable
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
AGE_MAX = 1 << 16
"""More scans than the engine counts: nothing is that old."""


def _checked(decision: object) -> Decision:
    """What somebody's policy has decided, in numbers that the engine takes."""
    if not isinstance(decision, Decision):
        raise TypeError(f"{decision!r} is no Decision")
    if not (isinstance(decision.bytes_max, int) and isinstance(decision.age_min, int)):
        raise TypeError(f"bytes_max and age_min are whole numbers: {decision}")
    if decision.age_min < 0 or not decision.bytes_per_s_max >= 0:
        raise ValueError(f"age_min and bytes_per_s_max are not below 0: {decision}")
    nothing_more = Decision().bytes_max
    return dataclasses.replace(
        decision,
        bytes_max=min(decision.bytes_max, nothing_more),
        age_min=min(decision.age_min, AGE_MAX),
    )


def _words(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, TierstoreError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


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
        self._said: dict[str, str] = {}  # the trouble that each name is in
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
            thread = threading.Thread(target=self._run, name="tierstore-cycle", daemon=True)
            thread.start()
            self._thread = thread

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
        failed = self._try_tick()
        if failed:
            raise next(iter(failed.values()))

    def _try_tick(self) -> dict[str, Exception]:
        """What failed, by the name of what it concerns."""
        failed: dict[str, Exception] = {}
        with self._tick_lock:
            for region in self._regions():
                name = f"region {region.name}"
                try:
                    self._tick_region(region)
                except RegionGone:
                    self._policies.pop(region, None)
                    self._last_tick_s.pop(region, None)
                except Exception as error:
                    failed[name] = error
            try:
                self._trainer.tick()
            except Exception as error:
                failed["training"] = error
        return failed

    def _regions(self) -> tuple[Region, ...]:
        """Those that this cycle is for: of the others nothing can leave, so nothing is asked."""
        return tuple(r for r in self._engine.regions if r.can_evict)

    def _run(self) -> None:
        due_s = time.monotonic()
        self._report(self._deactivate_all)
        while True:
            due_s = max(due_s + self._interval_s, time.monotonic())
            if self._stopping.wait(due_s - time.monotonic()):
                return
            self._report(self._try_tick)

    def _report(self, step: Callable[[], dict[str, Exception]]) -> None:
        """Take a step of the cycle, and say what came of it."""
        try:
            failed = step()
        except Exception as error:
            failed = {"engine": error}
        for name, cause in failed.items():
            self._trouble(f"cycle: {name}", _words(cause), cause)
        for name in [name for name in self._said if name.startswith("cycle: ")]:
            if name.removeprefix("cycle: ") not in failed:
                del self._said[name]

    def _trouble(self, name: str, words: str, error: BaseException) -> None:
        if self._said.get(name) == words:
            return
        self._said[name] = words
        is_ours = not isinstance(error, TierstoreError)
        trace = error if is_ours and os.environ.get("TIERSTORE_TRACEBACK") else None
        self._say(f"{name}: {words}", trace)

    def _say(self, line: str, trace: BaseException | None) -> None:
        logger.error("%s", line, exc_info=trace)

    def _deactivate_all(self) -> dict[str, Exception]:
        failed: dict[str, Exception] = {}
        for region in self._regions():
            try:
                region.deactivate()
            except RegionGone:
                continue
            except Exception as error:
                failed[f"region {region.name}"] = error
        return failed

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
        name = f"the policy of region {region.name} failed, and nothing leaves"
        try:
            decision = _checked(self._policy(region).decide(tick))
        except (Exception, SystemExit) as error:
            self._trouble(name, _words(error), error)
            return Decision(bytes_max=0)
        self._said.pop(name, None)
        return decision

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
