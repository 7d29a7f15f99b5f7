# SPDX-License-Identifier: Apache-2.0
"""What the measured memory holds: pages as a guest has them, made from what any machine has.

Two kinds.  `files`: pages of shared libraries (two of three) and of Python's own sources (one of
three), without pages of one repeated value; for rows that compare codecs or latencies, where a
page that needs no codec would only blur the figure.  `mixed`: of each 64 pages 32 from `files`,
8 like the heap of a key-value server, 20 zero, 4 random; for rows about density and whole guests.

Runs of 16 pages keep their order, as the page cache of a guest would hold them; the order of the
runs is shuffled with a fixed seed.  The files are taken in sorted order, so one machine always
gives the same bytes; another machine gives others, which is why only ratios are compared, and why
the corpus' hash is printed with them.
"""

from __future__ import annotations

import hashlib
import json
import random
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

PAGE = 4096
RUN_PAGES = 16
SEED = 20240229
ZERO = bytes(PAGE)


@cache
def shared_libraries() -> tuple[Path, ...]:
    """Regular files named *.so* in the system's library folders, in sorted order."""
    folders = [Path("/usr/lib"), Path("/usr/lib64"), Path(sysconfig.get_paths()["stdlib"])]
    found = {
        path
        for folder in folders
        if folder.is_dir()
        for path in folder.rglob("*.so*")
        if path.is_file() and not path.is_symlink()
    }
    return tuple(sorted(found))


@cache
def python_sources() -> tuple[Path, ...]:
    """Python's standard library, in sorted order."""
    return tuple(sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")))


def runs_of(paths: Iterable[Path], nr_pages: int) -> Iterator[bytes]:
    """Runs of 16 pages from these files one after the other, filled pages left out."""
    run = bytearray()
    for path in paths:
        if nr_pages <= 0:
            return
        data = path.read_bytes()
        for start in range(0, len(data) - PAGE + 1, PAGE):
            page = data[start : start + PAGE]
            if page[8:] == page[:-8]:
                continue
            run += page
            if len(run) == RUN_PAGES * PAGE:
                yield bytes(run)
                run.clear()
                nr_pages -= RUN_PAGES


def files(nr_pages: int) -> bytes:
    """Libraries and sources, two to one, in shuffled runs; at most nr_pages."""
    want = nr_pages // 3
    # Libraries in a seeded order, so that a small corpus is not made of one project's.
    rng = random.Random(SEED)
    libraries = rng.sample(shared_libraries(), len(shared_libraries()))
    sources = rng.sample(python_sources(), len(python_sources()))
    runs = [*runs_of(libraries, nr_pages - want), *runs_of(sources, want)]
    rng.shuffle(runs)
    return b"".join(runs)[: nr_pages * PAGE]


def heap_run(rng: random.Random) -> bytes:
    """Records as a key-value server holds them: headers with lengths, keys, JSON values."""
    out = bytearray()
    while len(out) < RUN_PAGES * PAGE:
        value = json.dumps(
            {
                "user": rng.randrange(1 << 20),
                "token": rng.randbytes(12).hex(),
                "seen": 1_700_000_000 + rng.randrange(1 << 24),
                "items": [rng.randrange(1000) for _ in range(rng.randrange(12))],
            }
        ).encode()
        key = b"session:%08d" % rng.randrange(1 << 26)
        pointer = (0x7F00_0000_0000 + rng.randrange(1 << 30) * 8).to_bytes(8, "little")
        out += pointer + len(value).to_bytes(8, "little") + key + b"\0" + value
        out += bytes(-len(out) % 16)
    return bytes(out[: RUN_PAGES * PAGE])


def mixed(nr_pages: int) -> bytes:
    """Files, heap, zeros and noise as 8 : 2 : 5 : 1, in shuffled runs."""
    rng = random.Random(SEED + 1)
    from_files = files(nr_pages // 2 // RUN_PAGES * RUN_PAGES)
    size = RUN_PAGES * PAGE
    runs = [from_files[at : at + size] for at in range(0, len(from_files), size)]
    nr_left = nr_pages // RUN_PAGES - len(runs)
    nr_heap, nr_noise = nr_left // 4, nr_left // 8
    runs += [heap_run(rng) for _ in range(nr_heap)]
    runs += [rng.randbytes(size) for _ in range(nr_noise)]
    runs += [ZERO * RUN_PAGES] * (nr_left - nr_heap - nr_noise)
    rng.shuffle(runs)
    return b"".join(runs)


KINDS = {"files": files, "mixed": mixed}


def write(kind: str, nr_pages: int, folder: Path) -> tuple[Path, str]:
    """Writes a corpus; returns its path and a short hash of what it holds."""
    data = KINDS[kind](nr_pages)
    path = folder / f"{kind}.pages"
    path.write_bytes(data)
    return path, hashlib.sha256(data).hexdigest()[:16]
