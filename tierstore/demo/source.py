# SPDX-License-Identifier: Apache-2.0
"""What fills the guest: shared libraries, programs and Python sources of this machine.

Real contents compress like a guest's memory does, which random or repeated bytes do not.  The files
are taken in a fixed order, libraries and sources in turn, and laid out as a page cache would hold
them: each starts on a page, the rest of its last page is zeros.  They are copied to a file of our
own first, so that an upgrade during the run changes nothing.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path

from tierstore.errors import HostError

__all__ = ["build_source", "machine_files"]

PAGE_BYTES = 4096
FILE_BYTES_MAX = 64 << 20
"""No single file makes up more of the guest than this."""
_ROOTS = (
    ("/usr/lib", (".so",)),
    ("/usr/lib64", (".so",)),
    ("/usr/bin", ("",)),
    ("/usr/sbin", ("",)),
)


def _files_below(root: Path, kinds: tuple[str, ...]) -> Iterator[Path]:
    """Regular readable files whose name has one of these parts, in the order of their names."""
    for folder, folders, names in os.walk(root, followlinks=False):
        folders.sort()
        for name in sorted(names):
            if any(kind in name for kind in kinds):
                path = Path(folder) / name
                if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK):
                    yield path


def machine_files() -> Iterator[Path]:
    """The files, in a fixed order for an unchanged machine; each once."""
    binaries = (path for root, kinds in _ROOTS for path in _files_below(Path(root), kinds))
    sources = _files_below(Path(sysconfig.get_path("stdlib")), (".py",))
    seen: set[tuple[int, int]] = set()
    for pair in zip_longest(binaries, sources):
        for path in pair:
            if path is None:
                continue
            status = path.stat()
            identity = (status.st_dev, status.st_ino)
            if identity not in seen:
                seen.add(identity)
                yield path


def build_source(
    target: Path, length_bytes: int, progress: Callable[[int], None] | None = None
) -> int:
    """Write up to so many bytes of whole pages to ``target``; returns how many it got.

    ``progress`` gets the bytes so far, now and then.  Raises ``HostError`` if the machine has
    no readable file at all.
    """
    done = 0
    with target.open("xb") as out:
        for path in machine_files():
            if done >= length_bytes:
                break
            try:
                with path.open("rb") as source:
                    data = source.read(min(FILE_BYTES_MAX, length_bytes - done))
            except OSError:
                continue  # unreadable after all, or gone: the next will do
            out.write(data)
            out.write(bytes(-len(data) % PAGE_BYTES))
            done += -(-len(data) // PAGE_BYTES) * PAGE_BYTES
            if progress is not None:
                progress(done)
    if done == 0:
        raise HostError("found no readable library, program or Python source to fill a guest with")
    return done
