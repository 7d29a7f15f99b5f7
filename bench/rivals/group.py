# SPDX-License-Identifier: Apache-2.0
"""A memory control group (v1) for as long as a `with` block lasts."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.harness import is_root
from bench.result import Skipped

ROOT = Path("/sys/fs/cgroup/memory")
NAME = "tierstore-bench"
REMOVE_SECONDS_MAX = 5


def remove(folder: Path) -> None:
    """The processes in it have ended; the kernel may need a moment to let go of them."""
    deadline = time.monotonic() + REMOVE_SECONDS_MAX
    while True:
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def is_alive(pid: str) -> bool:
    """Whether the bench that made a group still runs."""
    return Path(f"/proc/{pid}").exists()


@contextmanager
def memory_group(limit_bytes: int | None = None) -> Iterator[Path]:
    """An empty group; what a process in it may hold is at most limit_bytes."""
    if not is_root():
        raise Skipped("a control group needs root")
    if not (ROOT / "memory.limit_in_bytes").exists():
        raise Skipped("no memory controller of cgroup v1 at " + str(ROOT))
    for old in ROOT.glob(f"{NAME}-*"):
        if not is_alive(old.name.rsplit("-", 1)[1]):
            remove(old)
    folder = ROOT / f"{NAME}-{os.getpid()}"
    folder.mkdir()
    try:
        if limit_bytes is not None:
            (folder / "memory.limit_in_bytes").write_text(str(limit_bytes))
        yield folder
    finally:
        remove(folder)
