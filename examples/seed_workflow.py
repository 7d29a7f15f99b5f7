# SPDX-License-Identifier: Apache-2.0
"""The loop that the kernel's working-set tracking was designed for, from Python.

A VMM lets its guest run, finds cold pages and moves them out.  The steps carry the numbers and
names of the documentation patch that proposed it (April 2026); ARCHITECTURE.md says what became of
each name.  Who does not want the loop itself calls ``engine.run()`` and is done.

usage: python examples/seed_workflow.py anon|memfd
"""

from __future__ import annotations

import sys
import threading

from tierstore import Engine, GuestMemory, Region

PAGE, NR_PAGES, NR_HOT, ROUNDS = 4096, 2048, 256, 3

# storage_fd of the proposal is a ladder of tiers; one is enough here.
TIERS = {
    "tier": [{"name": "storage", "store": "ram", "size": "32MiB", "codec": "lz4"}],
    "region": {"probation": "20ms"},
}


def contents(page: int) -> bytes:
    """What the guest has in a page: its number, over and over."""
    return page.to_bytes(8, "little") * 2


class Guest(threading.Thread):
    """A vCPU: it goes round its hot pages, and now and then needs a cold one.

    Nothing tells it that a page is away, or on its way out; it waits, and gets its bytes.
    """

    def __init__(self, region: Region) -> None:
        super().__init__()
        self.region = region
        self.nr_wrong = 0
        self._rounds = threading.Semaphore(0)
        self._stopping = threading.Event()

    def check(self, page: int) -> None:
        """One touch."""
        self.nr_wrong += self.region.read(page * PAGE, 16) != contents(page)

    def run(self) -> None:
        """Until it is stopped."""
        cold = NR_HOT
        while not self._stopping.is_set():
            for page in range(NR_HOT):
                self.check(page)
                # Before Linux 7.3 nobody sees the reads of anonymous memory.
                self.region.write(page * PAGE, contents(page))
            self.check(cold)
            cold = cold + 97 if cold + 97 < NR_PAGES else NR_HOT
            self._rounds.release()

    def interval(self) -> None:
        """sleep(tracking_interval) of a guest that says how far it is: twice round, from now."""
        while self._rounds.acquire(blocking=False):
            pass
        self._rounds.acquire()
        self._rounds.acquire()

    def stop(self) -> None:
        """Waits for the end."""
        self._stopping.set()
        self.join()


def tracking_loop(region: Region, guest: Guest) -> None:
    """The loop itself."""
    for number in range(ROUNDS):
        # 1. Detection: UFFDIO_DEACTIVATE(full_range).  The guest runs on; a touch costs it a minor
        #    fault and no message.
        region.deactivate()
        guest.interval()

        # 2. Find cold pages: PAGEMAP_SCAN.  Every page that was not touched gets a scan older.
        scan = region.scan()

        # 3. to 5. UFFDIO_SET_MODE(sync), pwrite + MADV_DONTNEED, UFFDIO_SET_MODE(async): one call.
        #    How a page is made safe to take depends on memory and kernel; what can be relied on
        #    is that a touch meanwhile waits or calls the eviction off.
        done = region.evict(scan.nr_cold * PAGE, age_min=1)
        print(f"round {number}: {scan.nr_resident} resident, {scan.nr_touched} touched, "
              f"{scan.nr_cold} cold; {done.nr_evicted + done.nr_probation} left")  # fmt: skip


def main(kind: str) -> int:
    """The whole life of a VMM."""
    memory = GuestMemory.memfd if kind == "memfd" else GuestMemory.anon
    # One-time set-up: userfaultfd(), UFFDIO_API and UFFDIO_REGISTER(MINOR | MISSING) are in
    # attach(), which takes what the running kernel has.
    with (
        Engine(TIERS) as engine,
        memory(NR_PAGES * PAGE) as guest_mem,
        engine.attach(guest_mem, name="guest") as region,
    ):
        for page in range(NR_PAGES):
            region.write(page * PAGE, contents(page))
        guest = Guest(region)
        guest.start()
        try:
            tracking_loop(region, guest)
        finally:
            guest.stop()
        for page in range(NR_PAGES):
            guest.check(page)
        print(f"{region.tracker}: {region.statistics().evictions.evicted} pages left, "
              f"{guest.nr_wrong} pages wrong")  # fmt: skip
    # Cleanup: leaving the block brings everything back and unregisters.
    return 1 if guest.nr_wrong else 0


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in ("anon", "memfd"):
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
