# SPDX-License-Identifier: Apache-2.0
"""Sizes, times, shares and rates as people write them, and back.

Sizes are powers of two (``KiB`` and ``K`` are both 1024); a bare number is bytes.  Times are
seconds unless they say otherwise.  Parsers raise ``ValueError`` with what would do; they round
nothing silently: what is not a whole number of bytes or nanoseconds is refused or rounded down as
the docstring says.
"""

from __future__ import annotations

import dataclasses
import re

__all__ = [
    "Share",
    "format_duration",
    "format_size",
    "parse_duration_s",
    "parse_rate",
    "parse_share_or_size",
    "parse_size",
]

_SIZE_UNITS = {
    "": 1,
    "b": 1,
    **{
        spelling: 1024**power
        for power, letter in enumerate("kmgt", start=1)
        for spelling in (letter, f"{letter}b", f"{letter}ib")
    },
}
_TIME_UNITS_S = {
    "": 1.0,
    "ns": 1e-9,
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "sec": 1.0,
    "min": 60.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
SIZE_MAX = 1 << 60
TIME_MAX_S = 1e12
_NUMBER = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?)\s*([A-Za-z%]*)\s*")

SIZE_HINT = 'write a number with B, KiB, MiB, GiB or TiB, such as "512MiB"'
TIME_HINT = 'write a number with us, ms, s, min or h, such as "30s"'
SHARE_HINT = 'write a size such as "2GiB" or a share such as "25%"'


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """A part of a whole that is known later: ``Share(25)`` of a region is a quarter of it."""

    pct: float

    def of(self, whole_bytes: int) -> int:
        """That many bytes, rounded down to whole 4 KiB pages."""
        return int(whole_bytes * self.pct / 100) // 4096 * 4096

    def __str__(self) -> str:
        return f"{self.pct:g}%"


def _split(text: str, hint: str, what: str) -> tuple[float, str]:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a {what}; {hint}")
    return float(match[1]), match[2].lower()


def parse_size(value: str | int) -> int:
    """Bytes from ``"512MiB"``, ``"20G"`` or ``4096``; fractions (``"1.5GiB"``) round down."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{value!r} is not a size; {SIZE_HINT}")
    if isinstance(value, int):
        if value < 0:
            raise ValueError(f"{value} is negative; {SIZE_HINT}")
        if value > SIZE_MAX:
            raise ValueError(f"{value} bytes are more than {SIZE_MAX >> 40}TiB")
        return value
    number, unit = _split(value, SIZE_HINT, "size")
    if unit not in _SIZE_UNITS:
        raise ValueError(f"{value!r} has an unknown unit; {SIZE_HINT}")
    if number * _SIZE_UNITS[unit] > SIZE_MAX:
        raise ValueError(f"{value!r} is more than {SIZE_MAX >> 40}TiB")
    return int(number * _SIZE_UNITS[unit])


def parse_duration_s(value: str | int | float) -> float:
    """Seconds from ``"30s"``, ``"500ms"``, ``"10min"`` or ``2.5``."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} is not a time; {TIME_HINT}")
    if isinstance(value, int | float):
        if not 0 <= value < TIME_MAX_S:
            raise ValueError(f"{value} is not a time; {TIME_HINT}")
        return float(value)
    number, unit = _split(value, TIME_HINT, "time")
    if unit not in _TIME_UNITS_S:
        raise ValueError(f"{value!r} has an unknown unit; {TIME_HINT}")
    if not number * _TIME_UNITS_S[unit] < TIME_MAX_S:
        raise ValueError(f"{value!r} is too long a time; {TIME_HINT}")
    return number * _TIME_UNITS_S[unit]


def parse_rate(value: str | int) -> int:
    """Bytes a second from ``"100MiB"`` or ``"100MiB/s"``."""
    if isinstance(value, str):
        value = value.strip().removesuffix("/s")
    return parse_size(value)


def parse_share_or_size(value: str | int | Share) -> Share | int:
    """``Share(25)`` from ``"25%"``, bytes from everything that is a size."""
    if isinstance(value, Share):
        return value
    if isinstance(value, str) and value.rstrip().endswith("%"):
        number, unit = _split(value, SHARE_HINT, "share")
        if unit != "%" or not 0 <= number <= 100:
            raise ValueError(f"{value!r} is not a share from 0% to 100%; {SHARE_HINT}")
        return Share(number)
    try:
        return parse_size(value)
    except ValueError as error:
        if "more than" in str(error):
            raise
        raise ValueError(f"{value!r} is neither a size nor a share; {SHARE_HINT}") from None


def format_size(size_bytes: float, *, exact: bool = False) -> str:
    """``"512MiB"``.  ``exact``: the largest unit that loses nothing; else three digits."""
    if exact:
        whole = int(size_bytes)
        for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
            if whole and whole % 1024**power == 0:
                return f"{whole // 1024**power}{unit}"
        return f"{whole}B"
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1000:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} TiB"


def format_duration(seconds: float) -> str:
    """``"30s"``: the largest unit that shows the value in whole numbers, else three digits."""
    for unit, length_s in (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        number = seconds / length_s
        if number >= 1 and abs(number - round(number)) < 1e-6:
            return f"{round(number)}{unit}"
    for unit, length_s in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= length_s:
            return f"{seconds / length_s:.3g}{unit}"
    return f"{seconds * 1e9:.3g}ns" if seconds else "0s"
