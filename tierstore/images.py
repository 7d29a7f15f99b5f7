# SPDX-License-Identifier: Apache-2.0
"""Images: snapshots' memory in an engine's tiers, which restored VMs begin as; and what is left of
regions whose process ended.

``Engine.import_image``, ``Engine.images`` and their like are these.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tierstore._native import ffi, lib
from tierstore.errors import StoreError, check_error

if TYPE_CHECKING:
    from tierstore.engine import Engine

__all__ = [
    "Image",
    "Orphan",
    "Progress",
    "forget_orphan",
    "import_image",
    "list_images",
    "list_orphans",
    "remove_image",
]

_T = TypeVar("_T")
Progress = Callable[[int, int], None]
"""Gets how many bytes are done, and of how many; an exception gives up."""


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """A snapshot's memory in the tiers."""

    name: str
    length_bytes: int
    nr_stored: int
    """Pages in frames."""
    nr_filled: int
    """Pages of one repeated word that is not zero; all others are zeros, or stored."""
    nr_regions: int
    """Regions that began as it, and are still there."""


@dataclasses.dataclass(frozen=True, slots=True)
class Orphan:
    """A persistent region of an earlier process, which nobody has come back for."""

    name: str
    length_bytes: int
    nr_away: int
    identity: bytes


class _Watch:
    """What the C library's progress call gets."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.failure: BaseException | None = None


@ffi.def_extern()  # type: ignore[untyped-decorator]
def py_progress(user: Any, done_bytes: int, len_bytes: int) -> int:
    """On the thread that imports."""
    watch: _Watch = ffi.from_handle(user)
    try:
        if watch.progress is not None:
            watch.progress(done_bytes, len_bytes)
    except BaseException as error:
        watch.failure = error
        return 1
    return 0


def import_image(
    engine: Engine, path: str | Path, name: str, *, progress: Progress | None = None
) -> None:
    """Read a snapshot's memory file into the tiers.  Blocks.

    Raises ``StoreError`` if it can't be read, ``StoreFull`` if it does not fit (nothing of it stays
    then), ``UsageError`` if there is an image of that name.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(f"{path}: can't be read: {error.strerror}") from None
    watch = _Watch(progress)
    handle = ffi.new_handle(watch)
    name_c = ffi.new("char[]", name.encode())
    try:
        length_bytes = os.fstat(fd).st_size
        with engine._guard.use() as opened:
            rc = lib.ts_image_import(opened, name_c, fd, length_bytes, lib.py_progress, handle)
            if watch.failure is not None:
                raise watch.failure
            check_error(rc, f'import of "{path}"', default=StoreError)
    finally:
        os.close(fd)


def _listed(
    engine: Engine, kind: str, function: Callable[..., int], convert: Callable[[Any], _T]
) -> list[_T]:
    """All infos of a ts_..._list function; more may come while we ask."""
    nr_max = 16
    while True:
        infos = ffi.new(f"struct {kind}[]", nr_max)
        infos[0].size = ffi.sizeof(f"struct {kind}")
        with engine._guard.use() as opened:
            nr = check_error(function(opened, infos, nr_max), "listing")
        if nr <= nr_max:
            return [convert(infos[i]) for i in range(nr)]
        nr_max = nr


def _text(field: Any) -> str:
    return bytes(ffi.string(field)).decode("utf-8", "replace")


def list_images(engine: Engine) -> list[Image]:
    """All images of the engine."""

    def convert(i: Any) -> Image:
        return Image(_text(i.name), i.len_bytes, i.nr_stored, i.nr_filled, i.nr_regions)

    return _listed(engine, "ts_image_info", lib.ts_image_list, convert)


def remove_image(engine: Engine, name: str) -> None:
    """Free what is stored of it.  Raises ``UsageError`` while a region began as it."""
    with engine._guard.use() as opened:
        check_error(lib.ts_image_remove(opened, name.encode()), f'image "{name}"')


def list_orphans(engine: Engine) -> list[Orphan]:
    """What earlier processes have left in the state folder."""

    def convert(o: Any) -> Orphan:
        identity = bytes(ffi.buffer(o.identity))
        return Orphan(_text(o.name), o.len_bytes, o.nr_away, identity)

    return _listed(engine, "ts_orphan_info", lib.ts_orphan_list, convert)


def forget_orphan(engine: Engine, name: str) -> None:
    """Its guest is gone: free what is stored of it.

    Raises ``StoreNotFound`` if there is none of that name.
    """
    with engine._guard.use() as opened:
        check_error(lib.ts_orphan_forget(opened, name.encode()), f'orphan "{name}"')
