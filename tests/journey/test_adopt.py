# SPDX-License-Identifier: Apache-2.0
"""Memory of another process, from Python: ``Engine.adopt`` and what a region of that kind says.

The other process is vmm_double, which hands its memory over as a VMM does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vmm.double import Double
from tests.vmm.handler import Handler
from tierstore import (
    Ability,
    ConfigError,
    Engine,
    HostError,
    Mode,
    Region,
    RegionError,
    RegionGone,
    RemoteRange,
    UsageError,
)

MIB = 1 << 20
WP = Mode.MISSING | Mode.WP


@pytest.fixture
def engine() -> Iterator[Engine]:
    """One with a tier that has room for everything."""
    tier = {"name": "warm", "store": "ram", "size": "64MiB"}
    with Engine({"tier": [tier], "region": {"guard_scans": 1}}) as engine:
        yield engine


def ranges_of(handler: Handler) -> list[RemoteRange]:
    """What the VMM said, in our words; its memfds follow the userfaultfd."""
    return [
        RemoteRange(region["host_virt_addr"], region["size"], fd, region["backing_file_offset"])
        for region, fd in zip(handler.message["regions"], handler.fds[1:], strict=True)
    ]


def adopt(engine: Engine, handler: Handler, modes: Mode = WP) -> Region:
    """And lets the VMM boot."""
    region = engine.adopt(handler.fds[0], ranges_of(handler), modes=modes, name="vm1")
    handler.link.sendall(b"k")
    return region


def cloud(path: Path, mode: str) -> Double:
    """A guest of 3 MiB in two memfds."""
    return Double(
        *("--protocol", "cloud-hypervisor", "--socket", path, "--mode", mode),
        *("--ranges", "2M,1M", "--memfds"),
    )


def test_another_process_is_served_and_evicted(tmp_path: Path, engine: Engine) -> None:
    """All of it leaves and comes back, by the engine's own cycle, while its guest runs."""
    path = tmp_path / "socket"
    with Handler(path) as handler, cloud(path, "MISSING|WP") as vmm:
        handler.take(framed=True)
        region = adopt(engine, handler)
        assert region.abilities == Ability.SERVE | Ability.TRACK | Ability.EVICT
        assert (region.limits, region.tracker, region.can_evict) == ("", "wp-sync", True)
        assert region.length_bytes == 3 * MIB
        with pytest.raises(RegionError, match="another process"):
            region.read(0, 10)
        with pytest.raises(RegionError, match="another process"):
            _ = region.memory.buffer
        vmm.expect("handoff", result="ready")
        vmm.ask("run")
        for _ in range(5):
            region.evict(age_min=0)
            engine.tick()
        assert region.statistics().evictions.evicted >= 3 * MIB // 4096
        vmm.ask("pause")
        assert vmm.ask("verify")["mismatches"] == 0
        region.evict(age_min=0)
        region.detach()
        assert vmm.ask("verify")["mismatches"] == 0
        with pytest.raises(RegionGone):
            _ = region.abilities
        assert vmm.quit() == 0


def test_what_cannot_be_done_is_said(tmp_path: Path, engine: Engine) -> None:
    """MISSING alone is served; the cycle leaves such a region alone; its end is a drop."""
    path = tmp_path / "socket"
    with Handler(path) as handler, cloud(path, "MISSING") as vmm:
        handler.take(framed=True)
        region = adopt(engine, handler, Mode.MISSING)
        assert (region.abilities, region.tracker) == (Ability.SERVE, "none")
        assert "register for WP" in region.limits
        with pytest.raises(HostError, match="register for WP"):
            region.evict()
        engine.tick()
        vmm.expect("handoff", result="ready")
        assert vmm.ask("verify")["mismatches"] == 0
        vmm.kill()
        region.drop()
        region.drop()
        assert engine.regions == ()


def test_nonsense_is_refused(tmp_path: Path, engine: Engine) -> None:
    """In words, and nothing of it stays."""
    path = tmp_path / "socket"
    with Handler(path) as handler, cloud(path, "MISSING|WP"):
        handler.take(framed=True)
        ranges = ranges_of(handler)
        with pytest.raises(ConfigError, match="not a userfaultfd"):
            engine.adopt(handler.fds[1], ranges, modes=WP)
        with pytest.raises(RegionError, match="not registered"):
            engine.adopt(handler.fds[0], [RemoteRange(1 << 40, MIB)], modes=WP)
        with pytest.raises(ConfigError):
            engine.adopt(handler.fds[0], [RemoteRange(-1, MIB)], modes=WP)
        region = adopt(engine, handler)
        with pytest.raises(RegionError, match="adopted already"):
            engine.adopt(handler.fds[0], ranges, modes=WP)
        with pytest.raises(RegionError, match="overlap"):
            region.add_range(ranges[0])
        fds = len(list(Path("/proc/self/fd").iterdir()))
        with pytest.raises(UsageError, match="more pages"):
            region.add_range(RemoteRange(1 << 40, MIB, handler.fds[1]))
        assert len(list(Path("/proc/self/fd").iterdir())) == fds
        region.drop()
