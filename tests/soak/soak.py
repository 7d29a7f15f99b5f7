# SPDX-License-Identifier: Apache-2.0
"""The soak: as many page round trips as the machine gives, with a guest that checks every touch.

    ./dev shell -- python tests/soak/soak.py [--seconds 600] [--size 1GiB] [--memory memfd]

Two guest threads run through the whole region as fast as they go; ten times a second everything
above the budget is evicted again, whatever its age, so that pages leave and come back all the
time, through all three tiers.  Once a second the memory of this process is sampled; what is
neither guest memory nor the ram tier's must stay flat.  Prints one JSON object; exit code 1 on a
single wrong byte.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tierstore.config import Config
from tierstore.demo.guest import Guest, GuestOptions
from tierstore.demo.source import build_source
from tierstore.engine import Engine
from tierstore.memory import GuestMemory
from tierstore.region import Region
from tierstore.units import parse_size

EVICT_S = 0.1
SAMPLE_S = 1.0
WARM_UP = 0.5
"""Share of the run before the slope is taken.

Until then buffers and tables are touched for the first time, and the file store opens a writer
(2 MiB) whenever more puts than ever before overlap.
"""


@dataclasses.dataclass
class Samples:
    """One number a second, and its slope."""

    seconds: list[float] = dataclasses.field(default_factory=list)
    own_bytes: list[int] = dataclasses.field(default_factory=list)

    def slope_per_minute(self) -> float:
        """Bytes a minute, by least squares, after the warm-up."""
        first = int(len(self.seconds) * WARM_UP)
        if len(self.seconds) - first < 3:
            return 0.0
        fit = statistics.linear_regression(self.seconds[first:], self.own_bytes[first:])
        return fit.slope * 60

    def by_quarter(self) -> list[int]:
        """The median of each quarter of the run, in bytes: where it levels off."""
        quarter = max(len(self.own_bytes) // 4, 1)
        parts = [self.own_bytes[i * quarter : (i + 1) * quarter] for i in range(4)]
        return [round(statistics.median(part)) for part in parts if part]


def _anon_rss_bytes() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc/self/status has no RssAnon")


def _own_bytes(engine: Engine, memory: GuestMemory) -> int:
    """Anonymous memory that is neither the guest's (staged pages included) nor the ram tier's."""
    now = engine.statistics()
    guest = 0
    if memory.kind == "anon":
        guest = memory.resident_bytes() + now.pages.leaving * now.page_bytes
    ram = sum(tier.memory_bytes for tier in now.tiers if tier.store == "ram")
    return _anon_rss_bytes() - guest - ram


def _evict_above(region: Region, budget_bytes: int) -> None:
    own = region.statistics()
    above = own.pages.resident * 4096 - budget_bytes
    if above > 0:
        region.evict(above, age_min=0)


def _play(engine: Engine, region: Region, guest: Guest, seconds: float, budget: int) -> Samples:
    samples = Samples()
    start_s = next_sample_s = time.monotonic()
    guest.start()
    try:
        while (now_s := time.monotonic()) < start_s + seconds:
            _evict_above(region, budget)
            if now_s >= next_sample_s:
                samples.seconds.append(now_s - start_s)
                samples.own_bytes.append(_own_bytes(engine, region.memory))
                next_sample_s = now_s + SAMPLE_S
            time.sleep(max(0.0, EVICT_S - (time.monotonic() - now_s)))
    finally:
        guest.stop()
    return samples


def soak(seconds: float, size_bytes: int, kind: str, budget_share: float) -> dict[str, object]:
    """One run; the keys of the result say what they are."""
    allocate = GuestMemory.anon if kind == "anon" else GuestMemory.memfd
    options = GuestOptions(nr_threads=2, hot_pct=100, touches_per_s=0, cold_per_s=0)
    with tempfile.TemporaryDirectory(prefix="tierstore-soak-") as name:
        folder = Path(name)
        config = Config.default(folder, region_bytes=size_bytes)
        source_bytes = build_source(folder / "source", size_bytes, lambda _: None)
        fd = os.open(folder / "source", os.O_RDONLY | os.O_CLOEXEC)
        with (
            allocate(size_bytes) as memory,
            Guest(memory, fd, source_bytes, options) as guest,
            Engine(config) as engine,
        ):
            guest.fill()
            region = engine.attach(memory, name="guest")
            samples = _play(engine, region, guest, seconds, int(size_bytes * budget_share))
            now = engine.statistics()
            region.detach()
            nr_bad = guest.compare()
            seen = guest.statistics()
        os.close(fd)
    round_trips = now.faults.total + now.faults.restored
    return {
        "seconds": seconds,
        "memory": kind,
        "region_bytes": size_bytes,
        "mismatches": seen.nr_mismatches + nr_bad,
        "checked_pages": seen.nr_touches + size_bytes // 4096,
        "evicted_pages": now.evictions.evicted,
        "round_trips": round_trips,
        "round_trips_per_s": round(round_trips / seconds),
        "served": {tier.name: tier.nr_faults for tier in now.tiers},
        "failures": dict(now.failures),
        "engine_fault_us": dataclasses.asdict(now.stages["fault"]),
        "own_bytes": samples.own_bytes[-1] if samples.own_bytes else 0,
        "own_bytes_by_quarter": samples.by_quarter(),
        "slope_bytes_per_minute": round(samples.slope_per_minute()),
    }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--size", type=parse_size, default=1 << 30)
    parser.add_argument("--memory", choices=("anon", "memfd"), default="memfd")
    parser.add_argument("--budget", type=float, default=0.25, help="share of the region")
    args = parser.parse_args()
    result = soak(args.seconds, args.size, args.memory, args.budget)
    print(json.dumps(result))
    return 1 if result["mismatches"] else 0


if __name__ == "__main__":
    sys.exit(main())
