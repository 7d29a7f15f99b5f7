# SPDX-License-Identifier: Apache-2.0
"""The demo's temporary folder: private, gone at the end, reclaimed later if a run was killed.

A run holds a lock on a file in its folder; a folder whose lock is free belongs to nobody any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tierstore.errors import ConfigError

__all__ = ["temporary_folder"]

PREFIX = "tierstore-demo-"
LOCK = "lock"


def _base(given: Path | None) -> Path:
    """A disk if there is one: /tmp is often memory, which is what we want to free."""
    if given is not None:
        if not given.is_dir():
            raise ConfigError(f"--folder {given}: no such folder")
        return given
    var_tmp = Path("/var/tmp")
    if "TMPDIR" not in os.environ and var_tmp.is_dir() and os.access(var_tmp, os.W_OK):
        return var_tmp
    return Path(tempfile.gettempdir())


def _reclaim(base: Path) -> None:
    """Remove what runs that were killed have left.  A folder that can't be judged is left alone."""
    for folder in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.lstat().st_uid != os.geteuid():
                continue
            fd = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(fd)


@contextlib.contextmanager
def temporary_folder(given: Path | None) -> Iterator[Path]:
    """A new folder below ``given`` (default: /var/tmp), 0700, removed at the end.

    Raises ``ConfigError`` if ``given`` is no folder.
    """
    base = _base(given)
    _reclaim(base)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    try:
        # Another run's _reclaim may come between creating and locking: a folder without a lock
        # file is left alone, so the file appears under its name only once it is locked.
        fd = os.open(folder / f"{LOCK}.new", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            (folder / f"{LOCK}.new").rename(folder / LOCK)
            yield folder
        finally:
            os.close(fd)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
