# SPDX-License-Identifier: Apache-2.0
"""Signals for a main thread that waits: each is a byte in a socket, and a call between two steps.

The kernel gives a signal to any thread of the process.  One that another thread gets ends no wait
of the main thread's, whose handler runs when the wait has ended for another reason; so whoever
waits watches the socket as well.  Used by ``tierstore run`` and ``tierstore serve``.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any

__all__ = ["caught"]


def _nothing(_number: int) -> None:
    """The byte says it all."""


@contextlib.contextmanager
def caught(
    numbers: Iterable[int], fd: int, on_signal: Callable[[int], None] = _nothing
) -> Iterator[None]:
    """Until it ends these signals write their number to ``fd``, and call ``on_signal``.

    On the main thread.  ``fd`` is a socket that does not block; full, it wakes up anyway.  Handlers
    are functions of ours, for what a handler ignores would stay so in a program that is executed.
    """

    def handler(number: int, _frame: object) -> None:
        on_signal(number)

    before: dict[int, Any] = {}
    fd_before = signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
    try:
        for number in numbers:
            before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, was in before.items():
            # None: not from Python, and Python can't put it back.
            signal.signal(number, signal.SIG_DFL if was is None else was)
        signal.set_wakeup_fd(fd_before)
