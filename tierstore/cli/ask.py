# SPDX-License-Identifier: Apache-2.0
"""Finds the process that ``stat`` and ``top`` are about."""

from __future__ import annotations

from tierstore.control import Client, find_publishers
from tierstore.errors import UsageError

__all__ = ["connect"]


def connect(pid: int | None) -> Client:
    """Connect to that process, or to the only one.

    Raises ``UsageError`` that lists the choices if there is none or more than one.
    """
    pids = find_publishers()
    if pid is None:
        if not pids:
            raise UsageError(
                "no running engine found for this user; start one (`tierstore demo`) or name its "
                "process with --pid"
            )
        if len(pids) > 1:
            listed = ", ".join(str(found) for found in pids)
            raise UsageError(f"several engines are running; choose one with --pid: {listed}")
        pid = pids[0]
    try:
        return Client(pid)
    except OSError as error:
        listed = ", ".join(str(found) for found in pids) or "none"
        raise UsageError(
            f"process {pid} runs no engine that can be asked ({error.strerror or error}); "
            f"running: {listed}"
        ) from None
