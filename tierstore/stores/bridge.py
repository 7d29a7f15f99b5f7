# SPDX-License-Identifier: Apache-2.0
"""A store written in Python as the C core sees it: a table of functions and a handle.

The life of a call: a thread of the core (never one that answers faults of another tier: the table
says TS_STORE_BLOCKING_GET) enters one of the ``py_store_*`` functions below, which finds the
Python object by the address of the C struct that stands for it, calls the method, and turns the
result or the exception into statuses.  No exception crosses C: one that is not an ordinary answer
(not found, full) is logged with its traceback and kept in ``BoundStore.failures``.

Objects live as long as C may hold their address: the owner of an engine or a store keeps the
``BoundStore`` that ``bind`` returned until it has closed it.
"""

from __future__ import annotations

import collections
import errno
import inspect
import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from tierstore._native import ffi, lib
from tierstore.abc import Store
from tierstore.errors import Status, StoreFull, StoreNotFound, status_of

__all__ = ["BoundStore", "bind"]

_log = logging.getLogger("tierstore.stores")

_Function = TypeVar("_Function", bound=Callable[..., Any])

_FAILURES_MAX = 16
"""How many exceptions a bound store remembers; all of them are logged."""


class BoundStore:
    """A store class bound to a C table.  ``store`` is the instance while it is open.

    One binding opens one store at a time.  ``failures``: the last exceptions that reached C as
    nothing but a number, oldest first; any thread may append to it.
    """

    def __init__(self, factory: Callable[..., Store]) -> None:
        self.factory = factory
        self.store: Store | None = None
        self.failures: collections.deque[BaseException] = collections.deque(maxlen=_FAILURES_MAX)
        self.frame_bytes_max = 0
        self.user = ffi.new_handle(self)
        self._name = ffi.new("char[]", str(getattr(factory, "kind", "python")).encode())
        self.ops = ffi.new("struct ts_store_ops *")
        self.ops.size = ffi.sizeof("struct ts_store_ops")
        self.ops.name = self._name
        self.ops.flags = lib.TS_STORE_BLOCKING_GET
        if getattr(factory, "persistent", False):
            self.ops.flags |= lib.TS_STORE_PERSISTENT
        for member in ("open", "close", "put", "del", "reader_open", "reader_close", "get",
                       "maintain", "stat"):  # fmt: skip
            setattr(self.ops, member, getattr(lib, f"py_store_{member}"))

    def failed(self, error: BaseException, what: str) -> int:
        """Note an exception that C will see as a code; returns the code."""
        status = status_of(error)
        if not isinstance(error, StoreFull | StoreNotFound):
            self.failures.append(error)
            _log.error("store %s: %s: %s", self._label(), what, error, exc_info=error)
        text = f"{what}: {error or type(error).__name__}"
        lib.ts_set_error(status, text.encode("utf-8", "replace")[:500])
        return status

    def _label(self) -> str:
        return self.store.name if self.store is not None else repr(self.factory)

    def raise_failure(self) -> None:
        """Raise the oldest exception that was kept, and forget it; nothing if there is none."""
        if self.failures:
            raise self.failures.popleft()


def bind(store: str | type[Store] | Callable[..., Store]) -> tuple[Any, Any, BoundStore]:
    """(ops, user, bound) for ``ts_tier_options`` or ``ts_store_open()``.

    ``store`` is a name (see :mod:`tierstore.stores.registry`), a class, or a function that takes
    the keywords of ``Store``.  Keep ``bound`` until the engine or store is closed.
    """
    if isinstance(store, str):
        from tierstore.stores.registry import find_store

        store = find_store(store)
    bound = BoundStore(store)
    return bound.ops, bound.user, bound


# ---- What C calls ------------------------------------------------------------------------------

_lock = threading.Lock()  # Guards the next two.  Innermost.
_stores: dict[int, tuple[BoundStore, Any]] = {}
"""By address of the ts_store or ts_reader: whose it is, and the struct, kept alive here."""


def _address(struct: Any) -> int:
    return int(ffi.cast("uintptr_t", struct))


def _add(bound: BoundStore, struct: Any) -> Any:
    with _lock:
        _stores[_address(struct)] = (bound, struct)
    return struct


def _remove(struct: Any) -> BoundStore:
    with _lock:
        return _stores.pop(_address(struct))[0]


def _opened(struct: Any) -> tuple[BoundStore, Store]:
    bound, _ = _stores[_address(struct)]
    assert bound.store is not None
    return bound, bound.store


def _last_resort(exc_type: Any, exc: Any, traceback: Any) -> None:
    """An exception that not even the code below expected; C gets -EIO."""
    _log.critical("a callback of a Python store failed", exc_info=(exc_type, exc, traceback))


def _export(function: _Function) -> _Function:
    """Make this the body of the C function of that name."""
    returns_nothing = inspect.signature(function).return_annotation in (None, "None")
    ffi.def_extern(error=None if returns_nothing else -errno.EIO, onerror=_last_resort)(function)
    return function


def _options(text: str) -> dict[str, str]:
    pairs = (element.partition("=") for element in text.split(",") if element)
    return {key: value for key, _, value in pairs}


def _text(pointer: Any) -> str | None:
    return None if pointer == ffi.NULL else bytes(ffi.string(pointer)).decode()


@_export
def py_store_open(config: Any, store_out: Any) -> int:
    bound: BoundStore = ffi.from_handle(config.user)
    try:
        bound.store = bound.factory(
            name=_text(config.name) or "store",
            size_bytes=config.size_bytes,
            path=_text(config.path),
            frame_bytes_max=config.frame_max_bytes,
            options=_options(_text(config.options) or ""),
        )
    except BaseException as error:
        # Whoever opens a store reports why it failed; the exception itself is kept for them.
        bound.failures.append(error)
        lib.ts_set_error(status_of(error), f"{error}".encode("utf-8", "replace")[:500])
        return status_of(error)
    bound.frame_bytes_max = config.frame_max_bytes
    struct = ffi.new("struct ts_store *")
    struct.ops = bound.ops
    store_out[0] = _add(bound, struct)
    return 0


@_export
def py_store_close(struct: Any) -> None:
    if struct == ffi.NULL:
        return
    bound = _remove(struct)
    store, bound.store = bound.store, None
    try:
        if store is not None:
            store.close()
    except BaseException as error:
        bound.failed(error, "close")


@_export
def py_store_put(struct: Any, items: Any, nr_items: int) -> int:
    bound, store = _opened(struct)
    views = [
        memoryview(ffi.buffer(items[i].data, items[i].len_bytes)).toreadonly()
        for i in range(nr_items)
    ]
    try:
        outcomes = store.put([(items[i].key, view) for i, view in enumerate(views)])
        if len(outcomes) != nr_items:
            raise ValueError(f"put returned {len(outcomes)} outcomes for {nr_items} items")
        if not all(outcome is None or isinstance(outcome, Exception) for outcome in outcomes):
            raise TypeError("put returned an outcome that is neither None nor an exception")
        for i, outcome in enumerate(outcomes):
            items[i].status = 0 if outcome is None else bound.failed(outcome, "put")
    except BaseException as error:
        return bound.failed(error, "put")
    finally:
        # The bytes are C's again: who kept a view of them gets an exception, not garbage.
        for view in views:
            _release(view)
    return 0


def _release(view: memoryview) -> None:
    try:
        view.release()
    except BufferError as error:
        _log.warning("a store keeps what put() lent it; it must copy: %s", error)


@_export
def py_store_del(struct: Any, keys: Any, nr_keys: int) -> int:
    bound, store = _opened(struct)
    try:
        store.delete(list(ffi.unpack(keys, nr_keys)))
    except BaseException as error:
        return bound.failed(error, "delete")
    return 0


@_export
def py_store_reader_open(struct: Any, reader_out: Any) -> int:
    bound, _ = _opened(struct)
    reader = ffi.new("struct ts_reader *")
    reader.store = struct
    reader_out[0] = _add(bound, reader)
    return 0


@_export
def py_store_reader_close(reader: Any) -> None:
    if reader != ffi.NULL:
        _remove(reader)


@_export
def py_store_get(reader: Any, request: Any) -> int:
    request.status = -errno.EIO
    bound, store = _opened(reader)
    try:
        frame = store.get(request.key)
        if len(frame) > min(bound.frame_bytes_max, request.cap_bytes):
            request.status = Status.ECORRUPT
            return 0
        ffi.memmove(request.buf, frame, len(frame))
    except BaseException as error:
        request.status = bound.failed(error, f"get {request.key}")
        return 0
    request.off_bytes = 0
    request.len_bytes = len(frame)
    request.status = 0
    return 0


@_export
def py_store_reap(reader: Any, done: Any, done_max: int, wait_ms: int) -> int:
    """Never has anything to report: every get completes at once."""
    return 0


@_export
def py_store_maintain(struct: Any) -> int:
    bound, store = _opened(struct)
    try:
        return 1 if store.maintain() else 0
    except BaseException as error:
        return bound.failed(error, "maintain")


@_export
def py_store_stat(struct: Any, stat: Any) -> int:
    bound, store = _opened(struct)
    try:
        values = store.stat()
        for name in values.__slots__:
            setattr(stat, name, getattr(values, name))
    except BaseException as error:
        return bound.failed(error, "stat")
    return 0
