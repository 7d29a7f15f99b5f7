# SPDX-License-Identifier: Apache-2.0
"""Folders for one run's images, beside the kernels; those of runs that were killed are removed.

Who uses one holds a lock on it, which ends with its process, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.vm.apt import cache_dir

PREFIX = "run-"


def _locked(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock; None where somebody else does, or it has gone."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def remove_abandoned() -> None:
    """Folders whose run has ended without removing them."""
    for folder in cache_dir().glob(f"{PREFIX}*"):
        fd = _locked(folder)
        if fd is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(fd)


@contextmanager
def scratch() -> Iterator[Path]:
    """A new folder, until the end of the block."""
    cache_dir().mkdir(parents=True, exist_ok=True)
    remove_abandoned()
    fd = None
    while fd is None:
        # Another run may take it for abandoned before the lock is ours: then there is a next one.
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=cache_dir()))
        fd = _locked(folder)
        if fd is not None and not folder.exists():
            os.close(fd)
            fd = None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(fd)
