# SPDX-License-Identifier: Apache-2.0
"""The rest of a snapshot comes in behind the guest's back, what it will want first.

Faults are answered from the image as they come, by the engine.  Meanwhile this thread brings pages
in ahead of need: first those that earlier restores of the same image wanted, in their order (the
recorded working set), then all others from the start to the end, at a bounded rate.  When nothing
is missing any more the VM needs nobody; what happens then is the caller's business.

The first restore of an image has no record.  It loads nothing ahead for ``record_s`` seconds, so
that what faults in that time is what the guest really wants, and writes that down.
"""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tierstore.errors import RegionGone, TierstoreError
from tierstore.region import Region

__all__ = ["Restore", "WorkingSet", "runs"]

logger = logging.getLogger("tierstore.manager")

PAGE_BYTES = 4096
STEP_PAGES = 512
"""Brought in at a time: what a fault that comes meanwhile may have to wait for is less."""
WORKING_SET_MAX = 4 << 20
"""Pages of a record: 16 GiB."""


class WorkingSet:
    """A record: pages in the order in which they were wanted, in a file of its own."""

    _MAGIC = b"tswset1\n"

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> list[int] | None:
        """``None``: there is none.  A file that is none of ours counts as none."""
        try:
            with self.path.open("rb") as file:
                data = file.read(len(self._MAGIC) + 8 * WORKING_SET_MAX)
        except OSError:
            return None
        body = data.removeprefix(self._MAGIC)
        if body is data or len(body) == len(data) or len(body) % 8:
            logger.warning("%s: is no record of a working set, and is not used", self.path)
            return None
        return list(struct.unpack(f"<{len(body) // 8}Q", body))

    def save(self, pages: Sequence[int]) -> None:
        """Replace the record, or leave it as it was."""
        fd, name = tempfile.mkstemp(prefix=".ws-", dir=self.path.parent)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(self._MAGIC + struct.pack(f"<{len(pages)}Q", *pages))
            Path(name).replace(self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise


def runs(pages: Sequence[int], nr_pages: int) -> Iterator[tuple[int, int]]:
    """First page and number of each run of neighbours, in order; strangers to the region aside."""
    first = count = 0
    for page in pages:
        if not 0 <= page < nr_pages:
            continue
        if count and page == first + count and count < STEP_PAGES:
            count += 1
            continue
        if count:
            yield first, count
        first, count = page, 1
    if count:
        yield first, count


class Restore:
    """Loads one VM's region on a thread of its own.  ``start`` once; ``stop`` before it goes."""

    def __init__(
        self,
        region: Region,
        record: WorkingSet | None,
        *,
        record_s: float,
        rate_bytes_per_s: int | None,
        done: Callable[[], None],
    ) -> None:
        """``done`` is called on this thread, when everything is there."""
        self._region = region
        self._record = record
        self._record_s = record_s
        self._rate = rate_bytes_per_s
        self._done = done
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"tierstore-restore-{region.name}", daemon=True
        )
        self.state = "waiting"
        self.loaded_bytes = 0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Load nothing more.  Blocks for the step under way.  Idempotent."""
        self._stopping.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        try:
            if self._load():
                self.state = "done"
                self._done()
        except RegionGone:
            self.state = "stopped"
        except TierstoreError as error:
            # Faults are answered, or poisoned, one by one: this thread was only ahead of them.
            self.state = "failed"
            logger.error("%s: loading ahead stops: %s", self._region.name, error)

    def _load(self) -> bool:
        """Whether all of it was loaded."""
        nr_pages = self._region.length_bytes // PAGE_BYTES
        wanted = self._record.load() if self._record is not None else None
        if wanted is not None:
            self.state = "replaying"
            if not self._bring(runs(wanted, nr_pages)):
                return False
            logger.info("%s: %d recorded pages are in", self._region.name, len(wanted))
        elif self._record is not None:
            self.state = "recording"
            if self._stopping.wait(self._record_s):
                return False
            self._write_down(self._record)
        self.state = "loading"
        steps = range(0, nr_pages, STEP_PAGES)
        return self._bring((page, min(STEP_PAGES, nr_pages - page)) for page in steps)

    def _write_down(self, record: WorkingSet) -> None:
        pages = self._region.working_set()
        try:
            record.save(pages)
        except OSError as error:
            logger.warning("%s: the working set can't be recorded: %s", self._region.name, error)
            return
        logger.info("%s: recorded a working set of %d pages", self._region.name, len(pages))

    def _bring(self, steps: Iterator[tuple[int, int]]) -> bool:
        """Whether it came to the end."""
        started_s, brought_bytes = time.monotonic(), 0
        for page, count in steps:
            if self._stopping.is_set():
                return False
            self._region.prefetch(page * PAGE_BYTES, count * PAGE_BYTES)
            self.loaded_bytes += count * PAGE_BYTES
            brought_bytes += count * PAGE_BYTES
            if self._rate:
                ahead_s = brought_bytes / self._rate - (time.monotonic() - started_s)
                if ahead_s > 0 and self._stopping.wait(ahead_s):
                    return False
        return True
