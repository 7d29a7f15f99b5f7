# SPDX-License-Identifier: Apache-2.0
"""Imports of snapshots into the tiers of a manager that is running: one at a time, on a thread."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from tierstore.engine import Engine
from tierstore.errors import TierstoreError, UsageError

__all__ = ["Importer"]

logger = logging.getLogger("tierstore.manager")


class Importer:
    """``begin`` and ``report`` may be called from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()  # guards _looks
        self._looks: dict[str, dict[str, Any]] = {}
        self._thread: threading.Thread | None = None
        self._is_closing = False

    def begin(self, path: str, name: str) -> str:
        """Import a file on the manager's host, as the manager's user; its name."""
        if not path.startswith("/") or not 0 < len(name) < 64:
            raise UsageError("an import needs an absolute path, and a name of 1 to 63 characters")
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                raise UsageError("another import is under way: wait until it is done")
            look = {"done_bytes": 0, "length_bytes": 0, "is_done": False, "error": ""}
            self._looks[name] = look
            self._thread = threading.Thread(
                target=self._run, args=(Path(path), name, look), name="tierstore-import",
                daemon=True,
            )  # fmt: skip
            self._thread.start()
        return name

    def _run(self, path: Path, name: str, look: dict[str, Any]) -> None:
        def progress(done_bytes: int, length_bytes: int) -> None:
            if self._is_closing:
                raise UsageError("the manager ends")
            look.update(done_bytes=done_bytes, length_bytes=length_bytes)

        try:
            self._engine.import_image(path, name, progress=progress)
            image = next(image for image in self._engine.images() if image.name == name)
            tiers = self._engine.statistics().tiers
            look.update(
                length_bytes=image.length_bytes,
                done_bytes=image.length_bytes,
                stored_pages=image.nr_stored,
                tiers_bytes=sum(tier.used_bytes for tier in tiers),
                is_done=True,
            )
            logger.info("%s: imported %d MiB from %s", name, image.length_bytes >> 20, path)
        except TierstoreError as error:
            look["error"] = str(error)
            logger.error("%s: import of %s: %s", name, path, error)
        except Exception as error:
            look["error"] = f"internal error: {type(error).__name__}"
            logger.exception("a bug of ours")

    def report(self) -> dict[str, dict[str, Any]]:
        """Every import since the start, by name."""
        with self._lock:
            return {name: dict(look) for name, look in self._looks.items()}

    def close(self) -> None:
        """Give up what is under way; nothing of it stays."""
        self._is_closing = True
        if self._thread is not None:
            self._thread.join()
