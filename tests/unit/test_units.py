# SPDX-License-Identifier: Apache-2.0
"""Sizes, times and shares: what is read, what is refused, and that writing is reading's inverse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierstore import units


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4KiB", 4096),
        ("4k", 4096),
        ("1.5GiB", 3 << 29),
        (" 20 GB ", 20 << 30),
        ("1tib", 1 << 40),
        (7, 7),
    ],
)
def test_sizes(text: str | int, size_bytes: int) -> None:
    assert units.parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "x", "-1", "12 parsecs", "1e3", "5%", "1..2k", True, -4, 1.5])
def test_what_is_no_size(text: object) -> None:
    with pytest.raises(ValueError, match="512MiB"):
        units.parse_size(text)  # type: ignore[arg-type]


@given(st.integers(min_value=0, max_value=1 << 50))
def test_exact_sizes_read_back(size_bytes: int) -> None:
    assert units.parse_size(units.format_size(size_bytes, exact=True)) == size_bytes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("500ms", 0.5), ("50us", 5e-5), ("10min", 600), ("2h", 7200), (2.5, 2.5)],
)
def test_durations(text: str | float, seconds: float) -> None:
    assert units.parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "3 weeks", -1, True, float("nan"), float("inf")])
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match="30s"):
        units.parse_duration_s(text)  # type: ignore[arg-type]


def test_shares() -> None:
    share = units.parse_share_or_size("25%")
    assert share == units.Share(25)
    assert isinstance(share, units.Share)
    assert share.of(10 * 4096 + 5) == 2 * 4096, "whole pages, rounded down"
    assert units.parse_share_or_size("1MiB") == 1 << 20
    for wrong in ("101%", "%", "lots"):
        with pytest.raises(ValueError, match="25%"):
            units.parse_share_or_size(wrong)


def test_rates() -> None:
    assert units.parse_rate("10MiB/s") == units.parse_rate("10MiB") == 10 << 20


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0 B"), (999, "999 B"), (1000, "0.977 KiB"), (1 << 30, "1 GiB")]
)
def test_sizes_for_people(size_bytes: int, text: str) -> None:
    assert units.format_size(size_bytes) == text
