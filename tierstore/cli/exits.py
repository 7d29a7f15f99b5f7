# SPDX-License-Identifier: Apache-2.0
"""How the program ends: one exit code for each kind of trouble, one line for a person.

0    fine
1    wrong bytes: a mismatch in the demo, a corrupt frame
2    the command line or the configuration makes no sense
3    this host lacks something (kernel feature, privilege, memory)
4    trouble with a store or a file: locked, foreign, unreadable, full
70   a bug of ours; TIERSTORE_TRACEBACK=1 shows where
130  ended by SIGINT (Ctrl-C), 143 by SIGTERM
"""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

from tierstore.errors import (
    ConfigError,
    HostError,
    RegionError,
    StoreCorrupt,
    StoreError,
    TierstoreError,
    UsageError,
)

__all__ = ["OK", "SIGNALS", "WRONG_BYTES", "complain", "exit_code", "guarded"]

OK, WRONG_BYTES, USAGE, HOST, STORE, BUG = 0, 1, 2, 3, 4, 70
SIGNALS = 128
"""Plus the signal's number."""

_BY_CLASS: tuple[tuple[type[Exception], int], ...] = (
    (StoreCorrupt, WRONG_BYTES),
    (StoreError, STORE),
    (ConfigError, USAGE),
    (UsageError, USAGE),
    (HostError, HOST),
    (RegionError, HOST),
    (OSError, STORE),
    (MemoryError, HOST),
)

_REMEDIES = {
    -errno.EMFILE: "this process may have no more files open; raise its limit (ulimit -n)",
    -errno.ENFILE: "this host has no more files to open; raise sysctl fs.file-max",
    -errno.ENOMEM: "there is too little memory, or a limit is reached (ulimit -v, memory.max)",
    -errno.ENOSPC: "the disk is full; make room, or name another path",
}
"""By status, for what has no hint of its own."""

_P = ParamSpec("_P")
_R = TypeVar("_R")


def exit_code(error: BaseException) -> int:
    """The code for an exception."""
    for cls, code in _BY_CLASS:
        if isinstance(error, cls):
            return code
    return BUG


def complain(text: str) -> None:
    """A line on stderr, where ``--json`` does not look."""
    print(f"tierstore: {text}", file=sys.stderr)


def _report(error: BaseException) -> int:
    code = exit_code(error)
    text = str(error) or type(error).__name__
    if code == BUG and not isinstance(error, TierstoreError):
        text = f"internal error: {type(error).__name__}: {text}"
    complain(text)
    status = -(error.errno or 0) if isinstance(error, OSError) else getattr(error, "status", 0)
    hint = getattr(error, "hint", "") or _REMEDIES.get(status, "")
    if hint:
        complain(hint)
    return code


def guarded(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Wrap a command: exceptions become a line and a code, never a traceback."""

    @functools.wraps(command)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return command(*args, **kwargs)
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            raise typer.Exit(SIGNALS + 2) from None
        except BrokenPipeError:
            # Whoever read our output has seen enough; keep Python from saying so at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(SIGNALS + 13) from None
        except Exception as error:
            if os.environ.get("TIERSTORE_TRACEBACK"):
                raise
            raise typer.Exit(_report(error)) from None

    return wrapper
