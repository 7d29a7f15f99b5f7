# SPDX-License-Identifier: Apache-2.0
"""Keeps a C object alive while calls use it: nothing is closed under a running call.

The C library's one rule for threads is that nobody calls with an object that another thread is
closing.  A guard makes that true for Python: calls enter it, closing waits until they have left,
and whoever comes later gets an exception in place of a dangling pointer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Guard"]


class Guard:
    """Owns one cdata pointer.  All methods may be called from any thread."""

    def __init__(self, handle: Any, gone: Callable[[], Exception]) -> None:
        """``gone`` makes the exception for calls that come after closing."""
        self._handle = handle
        self._gone = gone
        self._changed = threading.Condition()
        self._nr_users = 0
        self._is_open = True

    @property
    def is_open(self) -> bool:
        """False once closing has begun."""
        return self._is_open

    @contextmanager
    def use(self) -> Iterator[Any]:
        """The pointer, valid inside of the block."""
        with self._changed:
            if not self._is_open:
                raise self._gone()
            self._nr_users += 1
        try:
            yield self._handle
        finally:
            with self._changed:
                self._nr_users -= 1
                self._changed.notify_all()

    def begin_close(self) -> Any | None:
        """Shut the door, wait for calls under way; the pointer to close, or ``None``.

        Exactly one caller gets the pointer; the others return ``None`` at once.
        """
        with self._changed:
            if not self._is_open:
                return None
            self._is_open = False
            while self._nr_users:
                self._changed.wait()
            handle, self._handle = self._handle, None
            return handle
