# SPDX-License-Identifier: Apache-2.0
"""The program ``tierstore``: a module for each command; exit codes are in ``exits``.

This one imports next to nothing, so that Ctrl-C is in good hands before the rest is imported.
"""

from __future__ import annotations

import os
import signal

__all__ = ["main"]

INTERRUPTED = 128 + signal.SIGINT


def _end(_number: int, _frame: object) -> None:
    # Not an exception: whoever is being imported might catch it, or print it.
    os._exit(INTERRUPTED)


def main() -> None:
    """The entry point; ends the process with the exit code."""
    # Whoever told us to ignore it (a shell's "&") knows why.
    is_heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_heard:
        signal.signal(signal.SIGINT, _end)
    from tierstore.cli import app

    if is_heard:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    app.main()
