# SPDX-License-Identifier: Apache-2.0
"""One control socket for all running engines of this process.

A host without a place for the socket is no reason not to run: it is logged, and nothing more.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any

from tierstore.control import Publisher
from tierstore.errors import TierstoreError

if TYPE_CHECKING:
    from tierstore.engine import Engine

__all__ = ["publish", "unpublish"]

_lock = threading.Lock()  # guards both below; never held while an engine is asked
_engines: list[Engine] = []
_publisher: Publisher | None = None


def _ask() -> list[dict[str, Any]]:
    with _lock:
        engines = list(_engines)
    answers = []
    for engine in engines:
        with contextlib.suppress(TierstoreError):  # closed meanwhile
            answers.append(engine.statistics().as_dict())
    return answers


def publish(engine: Engine) -> None:
    """Let this engine be asked from outside."""
    global _publisher
    with _lock:
        if engine not in _engines:
            _engines.append(engine)
        if _publisher is not None:
            return
        try:
            _publisher = Publisher(_ask)
        except (OSError, TierstoreError) as error:
            logging.getLogger("tierstore").info("no control socket: %s", error)


def unpublish(engine: Engine) -> None:
    """Stop that; the last engine takes the socket with it."""
    global _publisher
    with _lock:
        if engine in _engines:
            _engines.remove(engine)
        if not _engines and _publisher is not None:
            # Still locked: the next one's socket has the same path.  No thread that it waits for
            # takes the lock.
            _publisher.close()
            _publisher = None
