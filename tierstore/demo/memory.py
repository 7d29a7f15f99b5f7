# SPDX-License-Identifier: Apache-2.0
"""The memory of the demo's guest, by kind.  Huge pages are asked of the host for the run's time.

The kernel keeps huge pages in a pool that is empty on most machines.  What the pool lacks for the
guest is added to it, where we may, and taken away again at the end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

from tierstore.demo import ladder
from tierstore.errors import ConfigError, HostError
from tierstore.memory import GuestMemory
from tierstore.probe import probe

__all__ = ["KINDS", "Kind", "guest_memory", "page_bytes"]

Kind = Literal["anon", "memfd", "hugetlb"]
KINDS: tuple[str, ...] = get_args(Kind)
HUGE_BYTES = 2 << 20
POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
COMPACT = Path("/proc/sys/vm/compact_memory")


def page_bytes(kind: Kind) -> int:
    """What comes and goes whole."""
    return HUGE_BYTES if kind == "hugetlb" else 4096


def _pool(name: str) -> int:
    return int((POOL / name).read_text(encoding="ascii"))


def _nr_free() -> int:
    """Huge pages that nobody has and nobody was promised."""
    return _pool("free_hugepages") - _pool("resv_hugepages")


def _resize_pool(nr_more: int) -> None:
    """By so many pages, or as near as the kernel comes.  Raises ``OSError``."""
    (POOL / "nr_hugepages").write_text(f"{max(_pool('nr_hugepages') + nr_more, 0)}\n")


def _grow_pool(nr_more: int) -> None:
    """The same; free memory that lies in pieces is put together for it."""
    before = _pool("nr_hugepages")
    _resize_pool(nr_more)
    nr_missing = before + nr_more - _pool("nr_hugepages")
    if nr_missing > 0:
        COMPACT.write_text("1\n")
        _resize_pool(nr_missing)


@contextlib.contextmanager
def _huge_pages(nr_needed: int) -> Iterator[None]:
    """So many free ones in the pool.  Raises ``HostError``, naming what to do."""
    before = _pool("nr_hugepages")
    nr_missing = max(nr_needed - _nr_free(), 0)
    try:
        with contextlib.suppress(OSError):  # what came of it is seen below
            if nr_missing:
                _grow_pool(nr_missing)
        nr_free = _nr_free()
        if nr_free < nr_needed:
            raise HostError(
                f"--memory hugetlb: the guest needs {nr_needed} huge pages of 2 MiB, and "
                f"{nr_free} are free",
                hint=f"as root, or after sysctl vm.nr_hugepages={before + nr_missing}, or with a "
                "smaller --size",
            )
        yield
    finally:
        with contextlib.suppress(OSError):
            _resize_pool(-max(min(_pool("nr_hugepages") - before, nr_missing), 0))


def _check_hugetlb(size_bytes: int) -> None:
    found = probe()
    if not found.flags["has_rwp_hugetlb"]:
        raise HostError(
            "--memory hugetlb needs Linux 7.3.4 or later (read-write protection of hugetlbfs); "
            f"this is {found.kernel_release}",
            hint="--memory memfd shows the same with pages of 4 KiB",
        )
    if size_bytes % HUGE_BYTES:
        raise ConfigError("--size: with --memory hugetlb, a multiple of 2MiB")


@contextlib.contextmanager
def guest_memory(kind: Kind, size_bytes: int, folder: Path) -> Iterator[GuestMemory]:
    """The guest's memory, and room for it and for its tiers in ``folder``.

    Raises ``HostError`` where memory, disk or kernel won't do.
    """
    with contextlib.ExitStack() as stack:
        if kind == "hugetlb":
            _check_hugetlb(size_bytes)
            nr_pages = size_bytes // HUGE_BYTES
            ladder.check_room(folder, size_bytes, reserved_bytes=_nr_free() * HUGE_BYTES)
            stack.enter_context(_huge_pages(nr_pages))
            yield stack.enter_context(GuestMemory.hugetlb(size_bytes))
            return
        ladder.check_room(folder, size_bytes)
        allocate = GuestMemory.anon if kind == "anon" else GuestMemory.memfd
        yield stack.enter_context(allocate(size_bytes))
