# SPDX-License-Identifier: Apache-2.0
"""Dictionaries for ``dictionary = "auto"``: trained from this guest's own cold pages, once a tier.

Which pages are cold is known after a few scans; by then most of them may have left, but what is
about to leave looks alike.  Sampling copies pages and leaves them where they are.  Whether the
dictionary is worth anything is found out by the tier itself, which drops one that gains nothing.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from tierstore.errors import RegionGone, TierstoreError

if TYPE_CHECKING:
    from tierstore.engine import Engine

__all__ = ["Trainer"]

logger = logging.getLogger("tierstore")

SAMPLES_MIN = 512
"""Fewer pages than this say too little about a guest."""
SAMPLES_MAX = 4096
AGE_MIN = 1
TRIES = 30
"""Ticks after which a guest without cold pages is left alone."""


class Trainer:
    """Watches the ticks of one engine.  ``tick`` is called by the controller's thread alone.

    Training takes seconds of CPU: it has a thread of its own, so that the cycle goes on.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._wanted = [tier for tier in engine.config.tier if tier.dictionary == "auto"]
        self._tries_left = TRIES
        self._thread: threading.Thread | None = None

    def tick(self) -> None:
        """Sample, and start training when there is enough."""
        if not self._wanted or self._tries_left == 0 or self._thread is not None:
            return
        self._tries_left -= 1
        samples = self._sample()
        if len(samples) < SAMPLES_MIN:
            return
        self._thread = threading.Thread(
            target=self._train, args=(samples,), name="tierstore-train", daemon=True
        )
        self._thread.start()

    def join(self) -> None:
        """Wait for a training under way."""
        if self._thread is not None:
            self._thread.join()

    def _sample(self) -> list[bytes]:
        samples: list[bytes] = []
        regions = self._engine.regions
        for region in regions:
            try:
                samples += region.sample(SAMPLES_MAX // len(regions), age_min=AGE_MIN)
            except RegionGone:
                continue
        return samples

    def _train(self, samples: list[bytes]) -> None:
        from tierstore import training

        for tier in self._wanted:
            try:
                dictionary = training.train(samples, level=tier.codec.level, range_bytes=tier.range)
                if dictionary is not None:
                    self._engine.set_dictionary(tier.name, dictionary)
                    logger.info("tier %s: dictionary of %d bytes", tier.name, len(dictionary))
            except RegionGone:
                return  # whose pages they were
            except (TierstoreError, ValueError) as error:
                # The tier goes on without one.
                logger.warning("tier %s: no dictionary: %s", tier.name, error)
