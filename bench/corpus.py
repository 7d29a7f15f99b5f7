# SPDX-License-Identifier: Apache-2.0
"""What the measured memory holds: pages as a guest has them, made from what any machine has.

Two kinds.  `files`: pages of shared libraries and, up to a third, of Python's own sources, without
pages of one repeated value; for rows that compare codecs or latencies, where a page that needs no
codec would only blur the figure.  `mixed`: of each 64 pages 32 from `files`, 8 like the heap of a
key-value server, 20 zero, 4 random; for rows about density and whole guests.

Runs of 16 pages keep their order, as the page cache of a guest would hold them; the order of the
runs is shuffled with a fixed seed.  A library gives 1 MiB from a place that hangs on its name, and
more only when all have given: no single one makes the corpus.  Which come first hangs on their
names, too, so that one package more changes little.  One machine always gives the same bytes;
another machine gives others, which is why only ratios are compared, and why the corpus' hash is
printed with them.
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
CHUNK = 1 << 20
SEED = 20240229
ZERO = bytes(PAGE)


def rank(path: Path) -> bytes:
    """A place in an order that does not hang on what else is there."""
    return hashlib.blake2b(f"{SEED} {path}".encode(), digest_size=8).digest()


@cache
def shared_libraries() -> tuple[Path, ...]:
    """Shared objects in the system's library folders, each once however many names it has."""
    folders = [Path("/usr/lib"), Path("/usr/lib64"), Path(sysconfig.get_paths()["stdlib"])]
    found: dict[tuple[int, int], Path] = {}
    for path in sorted(path for folder in folders for path in folder.rglob("*.so*")):
        if path.suffix != ".so" and ".so." not in path.name:
            continue
        if path.is_file() and not path.is_symlink():
            info = path.stat()
            found.setdefault((info.st_dev, info.st_ino), path)
    return tuple(sorted(found.values(), key=rank))


@cache
def python_sources() -> tuple[Path, ...]:
    """Python's standard library."""
    return tuple(sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py"), key=rank))


def chunks_of(paths: Iterable[Path]) -> Iterator[bytes]:
    """A chunk of each file, then another one of those that have more, and so on."""
    left = []
    for path in paths:
        order = list(range(0, path.stat().st_size, CHUNK))
        random.Random(rank(path)).shuffle(order)
        left.append((path, order))
    while left := [(path, order) for path, order in left if order]:
        for path, order in left:
            with path.open("rb") as file:
                file.seek(order.pop())
                yield file.read(CHUNK)


def runs_of(pieces: Iterable[bytes], nr_pages: int) -> Iterator[bytes]:
    """Runs of 16 pages from these pieces one after the other, filled pages left out."""
    run = bytearray()
    for data in pieces:
        if nr_pages <= 0:
            return
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
    """Libraries and sources in shuffled runs; at most nr_pages, fewer where there are no more."""
    sources = (path.read_bytes() for path in python_sources())
    runs = list(runs_of(sources, nr_pages // 3))
    runs += runs_of(chunks_of(shared_libraries()), nr_pages - len(runs) * RUN_PAGES)
    random.Random(SEED).shuffle(runs)
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
