# SPDX-License-Identifier: Apache-2.0
"""Failing the Nth call that the C core makes, until a run passes untouched.

Needs a core built with ``-Dhooks=true``; ``has_hooks()`` says whether it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
from collections.abc import Iterator

__all__ = ["Injection", "fail_nth", "has_hooks"]


@dataclasses.dataclass
class Injection:
    """What became of it, filled in when the ``with`` block ends."""

    nr_calls: int = 0
    nr_failed: int = 0


def has_hooks() -> bool:
    """Whether this build of the core can be made to fail."""
    try:
        from tierstore._native import lib
    except ImportError:
        return False
    return hasattr(lib, "ts_hook_inject")


@contextlib.contextmanager
def fail_nth(
    nth: int, *, error: int = errno.EIO, sites: int | None = None, sticky: bool = False
) -> Iterator[Injection]:
    """Fail the ``nth`` call (from 1) of the block that could fail; ``sticky``: all later ones, too.

    ``sites`` is a mask of ``1 << TS_SITE_...``, by default all.  One block at a time in a process.
    """
    from tierstore._native import ffi, lib

    mask = (1 << lib.TS_SITE_COUNT) - 1 if sites is None else sites
    injection = Injection()
    failed = ffi.new("uint64_t *")
    lib.ts_hook_inject(mask, nth, error, int(sticky))
    try:
        yield injection
    finally:
        injection.nr_calls = lib.ts_hook_inject_count(failed)
        injection.nr_failed = failed[0]
        lib.ts_hook_inject(0, 0, 0, 0)
