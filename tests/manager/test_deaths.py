# SPDX-License-Identifier: Apache-2.0
"""Managers are killed at random moments, again and again, while the guest is at work.

Every other one serves for a while and dies under load; the others die while they start: before they
have opened the state folder, while they take the VM over, or just after.  Half of them find nothing
that says who was served, so that the VMM's own message has to bring the VM back; to some the
message comes while they take the VM back by themselves.

TIERSTORE_TEST_DEATHS says how often; TIERSTORE_TEST_SEED repeats the moments, as far as a busy
machine lets it.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import kernel_version
from tests.manager.support import Serve, Vmm, until
from tierstore.control import Client

DEATHS = int(os.environ.get("TIERSTORE_TEST_DEATHS", "4"))
SEED = int(os.environ.get("TIERSTORE_TEST_SEED", str(random.randrange(1 << 30))))
GUEST_MIB = 24
VCPUS = ["--vcpus", "3", "--rate", "1000", "--writes", "40"]
needs_rwp = pytest.mark.skipif(kernel_version() < (7, 3), reason="RWP needs Linux 7.3")
SERVED_S = 1.2
"""Those that die under load serve at most so long."""
HANDED_S = 0.1
"""Those that are told of the VM die so soon."""
ODD = ("Traceback", "refused: ", "poison", "corrupt", "trusted", "bug of ours")

# Nearly all of the guest is to be elsewhere; frames move down while they are read and written.
CONFIG = """
[engine]
interval = "30ms"

[[tier]]
name = "warm"
store = "lmdb"
path = "{folder}/warm"
size = "4MiB"
codec = "lz4"
demote_after = "100ms"
demote_above = "50%"

[[tier]]
name = "cold"
store = "file"
path = "{folder}/cold"
size = "64MiB"
codec = "zstd"

[[vm]]
budget = "10%"
min_age = "30ms"
refault_limit = 1000000
"""


@dataclass
class Toll:
    """What has happened."""

    under_load: int = 0
    at_start: int = 0
    taken_back: int = 0
    by_message: int = 0
    by_both: int = 0
    evicted: int = 0
    faults: int = 0
    start_s_max: float = 0.0


class Deaths:
    """One guest, one manager after the other."""

    def __init__(self, start: Callable[[], Serve], vmm: Vmm, folder: Path) -> None:
        self.start = start
        self.vmm = vmm
        self.vms_file = folder / "vms.json"
        self.toll = Toll()
        self._random = random.Random(SEED)
        self._start_s = 1.0

    def is_known(self) -> bool:
        """Whether the next manager will find out by itself whom to serve."""
        return self.vms_file.exists() and f": {self.vmm.pid}," in self.vms_file.read_text()

    def nobody_sleeps(self) -> None:
        """Whoever waits now goes on within the time that anything may take."""
        since_s = time.monotonic()

        def all_awake() -> bool:
            stats = self.vmm.ask("stats")
            assert (stats["mismatches"], stats["poisoned"]) == (0, 0), stats
            return bool(stats["blocked_us"] < 1e6 * (time.monotonic() - since_s))

        until(all_awake, "every vCPU to go on")

    def told(self, manager: Serve) -> str | None:
        """What became of the VMM's message, if anybody heard it."""
        assert manager.process.poll() is None, manager.log
        result: str = self.vmm.ask("resume")["result"]
        # Where all is emulated, two seconds for an answer may be too short.
        return None if result in ("refused", "timeout") else result

    def served_by(self, manager: Serve) -> None:
        """The VM is served, by message where nothing else brings it back."""
        is_known, is_told = self.is_known(), self._random.random() < 0.5
        if is_told or not is_known:
            # As soon as anybody listens.
            answer = until(lambda: self.told(manager), "the socket")
            assert answer == "ready", f"{answer}: {manager.log}"
        else:
            until(lambda: " hands over " in manager.log, "the VM to be taken back")
        self.toll.taken_back += is_known and not is_told
        self.toll.by_both += is_known and is_told
        self.toll.by_message += not is_known
        self.nobody_sleeps()

    def under_load(self, manager: Serve) -> None:
        """It has served for a while when it dies."""
        self.nobody_sleeps()
        time.sleep(self._random.uniform(0, SERVED_S))
        with Client(manager.process.pid) as client:
            [report] = client.vms()
        self.toll.evicted += report["evicted"]
        self.toll.faults += report["faults"]
        self.toll.under_load += 1
        self.kill(manager)

    def at_start(self, manager: Serve) -> None:
        """It may not have come far when it dies."""
        if self.is_known():
            time.sleep(self._random.uniform(0, 1.2 * self._start_s))
            self.kill(manager)
        else:
            until(lambda: "listening" in manager.log, "its socket")
            self.vmm.say("resume")
            time.sleep(self._random.uniform(0, HANDED_S))
            self.kill(manager)
            self.vmm.event("resume")
        self.toll.at_start += 1

    def kill(self, manager: Serve) -> None:
        """It was well until now."""
        assert manager.process.poll() is None, manager.log
        manager.end(signal.SIGKILL)
        assert not any(word in manager.log for word in ODD), manager.log

    def next(self, n: int) -> None:
        """The n-th manager; each four have one of each kind."""
        if n % 4 in (1, 2):
            self.vms_file.unlink(missing_ok=True)
        began_s = time.monotonic()
        with self.start() as manager:
            if n % 2:
                self.at_start(manager)
                return
            self.served_by(manager)
            self._start_s = time.monotonic() - began_s
            self.toll.start_s_max = max(self.toll.start_s_max, self._start_s)
            self.under_load(manager)

    def graduate(self) -> dict[str, Any]:
        """The last one finds everything as it should be."""
        with self.start() as manager:
            self.served_by(manager)
            self.vmm.ask("pause", "paused")
            self.vmm.verify()
            stats = self.vmm.ask("stats")
            assert (stats["mismatches"], stats["poisoned"], stats["blocked"]) == (0, 0, 0), stats
            self.kill(manager)
        return stats


@pytest.mark.timeout(120 + 30 * DEATHS)
@pytest.mark.parametrize(
    "mode",
    ["MISSING|WP", pytest.param("MISSING|RWP|RWP_ASYNC", marks=needs_rwp)],
    ids=["wp", "rwp"],
)
def test_the_guest_outlives_many_managers(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    state = tmp_path / "state"
    config = CONFIG.format(folder=tmp_path)

    def start() -> Serve:
        return Serve(tmp_path, "--state", str(state), config=config, wait=False)

    began_s = time.monotonic()
    with (
        Serve(tmp_path, "--state", str(state), config=config) as first,
        Vmm(first.socket, "--mode", mode, *VCPUS, mib=GUEST_MIB).handed_over() as vmm,
    ):
        print(f"TIERSTORE_TEST_DEATHS={DEATHS} TIERSTORE_TEST_SEED={SEED}")
        deaths = Deaths(start, vmm, state)
        vmm.ask("run", "running")
        deaths.under_load(first)
        for n in range(1, DEATHS):
            deaths.next(n)
        stats = deaths.graduate()
        assert deaths.toll.evicted > 0 and deaths.toll.faults > 0, deaths.toll
        print(f"{time.monotonic() - began_s:.1f} s, {deaths.toll}, {stats}")
