# SPDX-License-Identifier: Apache-2.0
"""Keeps a cut-off LMDB file from killing the process that looks at it.

LMDB reads through a memory map, and a page that the file no longer has is SIGBUS, which Python
can't catch.  The file's last meta page says how long it should be; but pages that were never
written may be missing at the end of a sound file, too.  So when the file is shorter than that, a
process of its own reads everything first (``python -m tierstore.offline._lmdb_length PATH``), and
how it ends is the answer.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

from tierstore.errors import StoreCorrupt

__all__ = ["check"]

_META = struct.Struct("=16xII8x8xI44x48xQQ")
"""Page header; magic, version; address, map size; page size; the rest of the two trees' roots;
last page, transaction."""
_MAGIC = 0xBEEFC0DE


def check(path: Path) -> None:
    """Raise ``StoreCorrupt`` if ``path``/data.mdb is cut off; whatever else is wrong, LMDB says."""
    try:
        with (path / "data.mdb").open("rb") as file:
            wanted = _wanted_bytes(file.read(1 << 17))
            actual = file.seek(0, 2)
    except OSError:
        return
    if actual >= wanted:
        return
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=False,
    )
    if done.returncode in (-signal.SIGBUS, -signal.SIGSEGV):
        raise StoreCorrupt(
            f"{path / 'data.mdb'} is cut off: {actual} bytes of {wanted}; copy it again from "
            "where it came, or delete the folder"
        )


def _wanted_bytes(start: bytes) -> int:
    """What the newer meta page says; 0 where there is none."""
    newest = (0, 0)
    for page_bytes in (4096, 8192, 16384, 65536):
        for offset in (0, page_bytes):
            if len(start) < offset + _META.size:
                continue
            magic, _, size, last_page, transaction = _META.unpack_from(start, offset)
            if magic == _MAGIC and size == page_bytes:
                newest = max(newest, (transaction, (last_page + 1) * size))
    return newest[1]


def _read_all(path: str) -> None:
    from tierstore.offline.verify import open_store

    _, store = open_store(Path(path), is_length_known=True)
    with store:
        for _ in store.scan():
            pass


if __name__ == "__main__":
    _read_all(sys.argv[1])
