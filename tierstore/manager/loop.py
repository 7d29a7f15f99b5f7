# SPDX-License-Identifier: Apache-2.0
"""One thread that waits for all sockets, deadlines and other threads' news at once.

What it calls must not block: hand-overs are worked on by other threads, which ``post`` what came of
it.  A callback that fails is a bug of ours; it is logged, and the loop goes on for the other VMs.
"""

from __future__ import annotations

import collections
import contextlib
import heapq
import itertools
import logging
import selectors
import socket
import time
from collections.abc import Callable

__all__ = ["Loop", "Timer"]

logger = logging.getLogger("tierstore.manager")

Callback = Callable[[], None]


class Timer:
    """Calls once, unless cancelled before."""

    def __init__(self, callback: Callback) -> None:
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        """Idempotent."""
        self.callback = None


class Loop:
    """``run`` on one thread; ``post`` and ``stop`` from any, signal handlers included."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = socket.socketpair()
        for end in (self._woken, self._wake):
            end.setblocking(False)
        self._posted: collections.deque[Callback] = collections.deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._is_stopping = False
        self._selector.register(self._woken, selectors.EVENT_READ, self._on_wake)

    @property
    def wakeup_fd(self) -> int:
        """For ``signal.set_wakeup_fd``: a signal that another thread got would not end a wait."""
        return self._wake.fileno()

    def _on_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)

    def watch(self, fd: int, callback: Callback) -> None:
        """Call whenever the descriptor can be read, or its other end has gone."""
        self._selector.register(fd, selectors.EVENT_READ, callback)

    def forget(self, fd: int) -> None:
        """Watch it no more; nothing happens if it is not watched."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(fd)

    def after(self, seconds: float, callback: Callback) -> Timer:
        """Call once, later."""
        timer = Timer(callback)
        due_s = time.monotonic() + seconds
        heapq.heappush(self._timers, (due_s, next(self._numbers), timer))
        return timer

    def post(self, callback: Callback) -> None:
        """Call soon, on the loop's thread.  From any thread."""
        self._posted.append(callback)
        with contextlib.suppress(OSError):  # full: it wakes up anyway
            self._wake.send(b"\0")

    def stop(self) -> None:
        """Let ``run`` return.  From any thread."""
        self._is_stopping = True
        self.post(lambda: None)

    def run(self) -> None:
        """Until ``stop``."""
        while not self._is_stopping:
            self.step()

    def step(self, timeout_s: float | None = None) -> None:
        """One round."""
        if self._posted:
            timeout_s = 0.0
        elif self._timers:
            left_s = max(self._timers[0][0] - time.monotonic(), 0.0)
            timeout_s = left_s if timeout_s is None else min(left_s, timeout_s)
        for key, _ in self._selector.select(timeout_s):
            # A callback before may have forgotten this one.
            if key.fd in self._selector.get_map():
                self._call(key.data)
        for _ in range(len(self._posted)):
            self._call(self._posted.popleft())
        while self._timers and self._timers[0][0] <= time.monotonic():
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                self._call(timer.callback)

    def _call(self, callback: Callback) -> None:
        try:
            callback()
        except Exception:
            logger.exception("a bug of ours; the other VMs are not affected")

    def close(self) -> None:
        """After ``run`` has returned."""
        self._selector.close()
        self._wake.close()
        self._woken.close()
