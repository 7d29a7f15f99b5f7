# SPDX-License-Identifier: Apache-2.0
"""The exceptions of tierstore, and the one door through which C's error codes become them.

Every exception carries ``.status``, the negative code of the C library it stands for (``TS_E*``
or ``-errno``), so that a store written in Python and one written in C fail in the same terms.
The codes are written down here once more because this module must work without the compiled
core; a test compares them with the header.
"""

from __future__ import annotations

import enum
import errno
import os
from typing import ClassVar

__all__ = [
    "ConfigError",
    "HostError",
    "RegionError",
    "RegionGone",
    "Status",
    "StoreCorrupt",
    "StoreError",
    "StoreFull",
    "StoreLocked",
    "StoreNotFound",
    "StoreVersion",
    "StoreWrongFile",
    "TierstoreError",
    "UsageError",
    "check_error",
    "error_from_status",
    "status_of",
]


class Status(enum.IntEnum):
    """The private codes of tierstore.h, below every ``-errno``."""

    EFULL = -10001
    ENOTFOUND = -10002
    ECORRUPT = -10003
    EWRONGFILE = -10004
    ELOCKED = -10005
    EVERSION = -10006
    EUNSUPPORTED = -10007
    EOVERLAP = -10008
    EREGISTERED = -10009
    EALIGN = -10010
    EBACKING = -10011
    ECONFIG = -10012
    EPERMISSION = -10013
    ELIMIT = -10014
    ESTATE = -10015
    EBUSY = -10016


class TierstoreError(Exception):
    """The root.  ``status`` is the C library's code; ``str()`` names call, object and remedy."""

    status: int
    default_status: ClassVar[int] = -errno.EIO

    def __init__(self, message: str = "", *, status: int | None = None) -> None:
        self.status = self.default_status if status is None else int(status)
        super().__init__(message or _text_of(self.status))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), str(self), dict(self.__dict__))


class ConfigError(TierstoreError):
    """A setting makes no sense; the message says which, and what would."""

    default_status = Status.ECONFIG


class HostError(TierstoreError):
    """This host (kernel, privileges, hardware) can't do it.  ``hint`` is the remedy, or ""."""

    default_status = Status.EUNSUPPORTED
    hint: str

    def __init__(self, message: str = "", *, status: int | None = None, hint: str = "") -> None:
        super().__init__(message, status=status)
        self.hint = hint


class UsageError(TierstoreError):
    """Wrong order of calls, one of the library's own bounds, or some pages were busy."""

    default_status = Status.ESTATE


class StoreError(TierstoreError):
    """A store could not do what it was asked.  Nothing it acknowledged before is lost."""


class StoreFull(StoreError):
    """No room.  Everything stored before is still there; deletes make room again."""

    default_status = Status.EFULL


class StoreNotFound(StoreError):
    """No frame under this key."""

    default_status = Status.ENOTFOUND


class StoreCorrupt(StoreError):
    """What is there is not what was put.  The bytes are never handed out."""

    default_status = Status.ECORRUPT


class StoreWrongFile(StoreError):
    """The path holds something that is not a store of this kind; it was not touched."""

    default_status = Status.EWRONGFILE


class StoreLocked(StoreError):
    """Another process, or another store of this one, uses the path."""

    default_status = Status.ELOCKED


class StoreVersion(StoreError):
    """Written by another version of the format; it was not touched."""

    default_status = Status.EVERSION


class RegionError(TierstoreError):
    """Guest memory that can't be attached: overlap, alignment, backing, already registered."""

    default_status = Status.EBACKING


class RegionGone(RegionError):
    """The region was detached, or its process has gone."""

    default_status = Status.ESTATE


_CLASSES: dict[int, type[TierstoreError]] = {
    Status.EFULL: StoreFull,
    Status.ENOTFOUND: StoreNotFound,
    Status.ECORRUPT: StoreCorrupt,
    Status.EWRONGFILE: StoreWrongFile,
    Status.ELOCKED: StoreLocked,
    Status.EVERSION: StoreVersion,
    Status.EUNSUPPORTED: HostError,
    Status.EOVERLAP: RegionError,
    Status.EREGISTERED: RegionError,
    Status.EALIGN: RegionError,
    Status.EBACKING: RegionError,
    Status.ECONFIG: ConfigError,
    Status.EPERMISSION: HostError,
    Status.ELIMIT: UsageError,
    Status.ESTATE: UsageError,
    Status.EBUSY: UsageError,
}

_HINTS: dict[int, str] = {
    Status.EUNSUPPORTED: "`tierstore probe` says what this kernel offers",
    Status.EPERMISSION: "`tierstore probe` says which privilege is missing",
}

_TEXTS: dict[int, str] = {
    Status.EFULL: "no room left in the store",
    Status.ENOTFOUND: "no such frame",
    Status.ECORRUPT: "contents do not match their checksum or format",
    Status.EWRONGFILE: "the path holds something that is not a tierstore store",
    Status.ELOCKED: "in use by another process",
    Status.EVERSION: "written by or compiled for another version",
    Status.ESTATE: "not possible in this state",
}


def _text_of(status: int) -> str:
    if status in _TEXTS:
        return _TEXTS[status]
    if status in _CLASSES:
        return Status(status).name
    return os.strerror(-status)


def _rebuild(cls: type[TierstoreError], text: str, state: dict[str, object]) -> TierstoreError:
    """Unpickle: exceptions of worker processes cross to their parent whole."""
    error = cls(text)
    error.__dict__.update(state)
    return error


def error_from_status(
    status: int, message: str = "", *, default: type[TierstoreError] = TierstoreError
) -> TierstoreError:
    """The exception, not raised, for a negative code.

    ``default`` is the class for codes that have none of their own (``-errno``).
    """
    cls = _CLASSES.get(status, default)
    if issubclass(cls, HostError):
        return cls(message, status=status, hint=_HINTS.get(status, ""))
    return cls(message, status=status)


def status_of(error: BaseException) -> int:
    """The code that stands for any exception where it has to cross into C."""
    if isinstance(error, TierstoreError):
        return error.status if error.status < 0 else -errno.EIO
    if isinstance(error, OSError) and error.errno:
        return int(Status.EFULL) if error.errno == errno.ENOSPC else -error.errno
    if isinstance(error, KeyError):
        return int(Status.ENOTFOUND)
    if isinstance(error, MemoryError):
        return -errno.ENOMEM
    return -errno.EIO


def check_error(rc: int, what: str = "", *, default: type[TierstoreError] = TierstoreError) -> int:
    """Raise for a negative result of the C library, else hand ``rc`` through.

    Must run on the thread that made the call, before its next call: the text comes from
    ``ts_last_error()``, which is the thread's own.  ``what`` goes in front of it.
    """
    if rc >= 0:
        return rc
    # Imported here: this module is also for stores in pure Python, without the core.
    from tierstore._native import ffi, lib

    raw = ffi.string(lib.ts_last_error()) or ffi.string(lib.ts_strerror(rc))
    text = bytes(raw).decode("utf-8", "replace")
    raise error_from_status(rc, f"{what}: {text}" if what else text, default=default)
