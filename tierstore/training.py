# SPDX-License-Identifier: Apache-2.0
"""Dictionaries for zstd tiers: trained on a guest's pages, kept only if they pay.

A dictionary saves what small frames of one guest have in common.  How much that is can't be
foreseen (measured: from nothing to a third), so some of the samples are held out, and the saving
on those, at the tier's own level and range, decides.  Later the engine measures on, frame by frame,
and switches off a dictionary that has stopped to gain (native/src/codec/dict_gain.h).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import zstandard

from tierstore.abc import Buffer

__all__ = ["Training", "train", "train_dictionary"]

logger = logging.getLogger("tierstore")

PAGE_BYTES = 4096
DICT_BYTES = 110 * 1024
"""zstd's own default; the codec takes up to 256 KiB."""
DICT_BYTES_MIN = 8 * 1024
SAMPLES_PER_DICT = 10
"""Training wants many times more sample bytes than the dictionary has, or it learns by heart."""
PAGES_MIN = 128
"""Usable pages without which nothing is tried."""
GAIN_MIN = 0.02
"""Saving on held-out pages, as a share of their encoded size, below which it does not pay."""

_BLOCK_PAGES = 16
_HELD_OUT_EVERY = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Training:
    """What came of it.  ``dictionary`` is ``None`` unless it pays; ``reason`` says why, or why
    not, in words.  Byte counts are those of the held-out pages; 0 where it did not get so far."""

    dictionary: bytes | None
    reason: str
    gain: float = 0.0
    """Share of the encoded size that the dictionary saves; negative where it does harm."""
    nr_pages: int = 0
    """Usable pages, those for training and those held out."""
    plain_bytes: int = 0
    dictionary_bytes: int = 0


def train(
    samples: Sequence[bytes], *, level: int = 1, range_bytes: int = PAGE_BYTES
) -> bytes | None:
    """The dictionary alone, or ``None`` (the log says why).  See :func:`train_dictionary`."""
    training = train_dictionary(samples, level=level, range_bytes=range_bytes)
    logger.info("dictionary training: %s", training.reason)
    return training.dictionary


def train_dictionary(
    samples: Sequence[bytes],
    *,
    level: int = 1,
    range_bytes: int = PAGE_BYTES,
    dict_bytes: int = DICT_BYTES,
    gain_min: float = GAIN_MIN,
) -> Training:
    """Train on ``samples`` (pages of 4096 bytes, in the order of their addresses) and judge.

    ``level`` is zstd's, ``range_bytes`` the tier's range: ranges are judged as runs of neighbouring
    samples.  Samples that are only nearly neighbours have less in common than real ranges do, so
    for long ranges the judgement leans towards the dictionary.

    Takes seconds of CPU for some thousand pages, on the calling thread, most of it without the
    interpreter's lock.  Raises ``ValueError`` for samples that are not whole pages.
    """
    if any(len(page) != PAGE_BYTES for page in samples):
        raise ValueError(f"samples are whole pages of {PAGE_BYTES} bytes")
    if range_bytes < PAGE_BYTES or range_bytes % PAGE_BYTES:
        raise ValueError(f"a range of {range_bytes} bytes is not whole pages")
    pages = [page for page in samples if not _is_filled(page)]
    if len(pages) < PAGES_MIN:
        return Training(
            None, f"{len(pages)} usable pages; {PAGES_MIN} are needed", nr_pages=len(pages)
        )
    learn, held_out = _split(pages)
    size = min(dict_bytes, len(learn) * PAGE_BYTES // SAMPLES_PER_DICT)
    try:
        known = zstandard.train_dictionary(max(size, DICT_BYTES_MIN), learn, level=level or 1)
    except zstandard.ZstdError as error:
        return Training(None, f"the pages have nothing in common ({error})", nr_pages=len(pages))
    return _judge(known, held_out, level or 1, range_bytes, gain_min, len(pages))


def _is_filled(page: bytes) -> bool:
    """One value over and over: such pages are stored nowhere."""
    return page[8:] == page[:-8]


def _split(pages: Sequence[bytes]) -> tuple[list[Buffer], list[bytes]]:
    """Every fourth block of neighbours is held out: single pages would be judged by their twins."""
    learn: list[Buffer] = []
    held_out: list[bytes] = []
    for index, page in enumerate(pages):
        if index // _BLOCK_PAGES % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1:
            held_out.append(page)
        else:
            learn.append(page)
    return learn, held_out


def _encoded_bytes(ranges: Sequence[bytes], compressor: zstandard.ZstdCompressor) -> int:
    """What the ranges take; one that does not shrink is stored raw."""
    return sum(min(len(compressor.compress(pages)), len(pages)) for pages in ranges)


def _judge(
    known: zstandard.ZstdCompressionDict,
    held_out: Sequence[bytes],
    level: int,
    range_bytes: int,
    gain_min: float,
    nr_pages: int,
) -> Training:
    step = range_bytes // PAGE_BYTES
    ranges = [b"".join(held_out[i : i + step]) for i in range(0, len(held_out), step)]
    known.precompute_compress(level=level)
    plain, with_dictionary = (
        _encoded_bytes(
            ranges,
            zstandard.ZstdCompressor(
                level=level, dict_data=dict_data, write_content_size=False, write_dict_id=False
            ),
        )
        for dict_data in (None, known)
    )
    gain = 1 - with_dictionary / plain
    verdict = f"saves {gain:.1%} of {len(held_out)} held-out pages"
    pays = gain >= gain_min
    return Training(
        dictionary=known.as_bytes() if pays else None,
        reason=verdict if pays else f"{verdict}, less than {gain_min:.1%}: it does not pay",
        gain=gain,
        nr_pages=nr_pages,
        plain_bytes=plain,
        dictionary_bytes=with_dictionary,
    )
