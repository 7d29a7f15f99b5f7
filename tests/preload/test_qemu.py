# SPDX-License-Identifier: Apache-2.0
"""Stock QEMU: a guest's memory leaves while it idles, and every byte of it is right after that.

The guest runs a Debian kernel and fills most of its memory; it is squeezed to less than half of
what it has touched, looks at every page, is squeezed again with a balloon inflated meanwhile, and
looks again.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.preload.guest import Guest, held_bytes
from tests.preload.support import (
    away_bytes,
    install,
    rss_bytes,
    statistics,
    wait_until,
    write_config,
)

MIB = 1 << 20


def _squeeze(guest: Guest, touched_bytes: int) -> None:
    wait_until(
        lambda: (
            away_bytes(guest.pid) >= touched_bytes // 2
            and held_bytes(guest.pid) <= touched_bytes // 2
        ),
        f"at most half of {touched_bytes} bytes on the host",
        patience_s=240,
    )


def _journey(folder: Path, memory_mib: int, fill_mib: int, memfd: bool) -> dict[str, int]:
    """Returns what was seen, for a person."""
    install("qemu-system-x86")
    config = write_config(folder, interval="1s", budget="10%", warm="8MiB")
    guest = Guest(folder, config, memory_mib=memory_mib, fill_mib=fill_mib, memfd=memfd)
    try:
        before, touched = rss_bytes(guest.pid), fill_mib * MIB
        _squeeze(guest, touched)
        seen = {"rss_before": before, "rss_squeezed": rss_bytes(guest.pid)}
        seen["held_squeezed"] = held_bytes(guest.pid)
        assert guest.count_bad() == 0
        # A balloon takes what the guest has left, evicted pages among it, and gives it back.
        _squeeze(guest, touched)
        guest.balloon((memory_mib - (memory_mib - fill_mib) // 4) * MIB)
        guest.balloon(memory_mib * MIB)
        assert guest.count_bad() == 0
        guest.send("fill")
        guest.expect("filled")
        assert guest.count_bad() == 0
        found = statistics(guest.pid)
        assert found is not None
        assert found["pages"]["gone"] == 0
        assert found["failures"]["poisoned"] == 0
        seen["faults"] = found["faults"]["total"]
        seen["engine_bytes"] = found["engine_bytes"] + found["buffer_bytes"]
        seen["removed"] = found["evictions"]["removed"]
        assert guest.power_off() == 0
        return seen
    finally:
        guest.close()


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets of the test's own."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.mark.timeout(400)
@pytest.mark.parametrize("memfd", [False, True], ids=["anon", "memfd"])
def test_a_guest_is_squeezed_and_whole(tmp_path: Path, memfd: bool) -> None:
    print(_journey(tmp_path, 256, 128, memfd))


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("memfd", [False, True], ids=["anon", "memfd"])
def test_a_guest_of_a_gibibyte(tmp_path: Path, memfd: bool) -> None:
    print(_journey(tmp_path, 1024, 750, memfd))
