# SPDX-License-Identifier: Apache-2.0
"""Adds a configured tier to an engine: a store of the C core by name, or one written in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tierstore._native import ffi, lib
from tierstore.config import BUILTIN_STORES, TierConfig
from tierstore.errors import ConfigError, StoreError, check_error

__all__ = ["add_tier", "read_dictionary", "set_numbers"]

DICTIONARY_BYTES_MAX = 128 << 10
"""The core's bound."""


def read_dictionary(tier: TierConfig) -> bytes | None:
    """The dictionary to start with; ``auto`` is trained later, by the controller.

    Raises ``ConfigError``.
    """
    if tier.dictionary in ("none", "auto"):
        return None
    would_do = '"none", "auto" or the path of a dictionary would do'
    try:
        with Path(tier.dictionary).open("rb") as file:
            dictionary = file.read(DICTIONARY_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f'the dictionary of the tier "{tier.name}" can\'t be read: {error}; {would_do}'
        ) from None
    if not 8 <= len(dictionary) <= DICTIONARY_BYTES_MAX:
        size = "less than 8" if len(dictionary) < 8 else f"more than {DICTIONARY_BYTES_MAX}"
        raise ConfigError(
            f'the dictionary of the tier "{tier.name}", {tier.dictionary}, has {size} bytes, '
            f"and can't be one; {would_do}"
        )
    return dictionary


def set_numbers(options: Any, tier: TierConfig) -> None:
    """What ``struct ts_tier_options`` and ``struct tsp_tier`` have in common, texts aside."""
    options.size_bytes = tier.size
    options.codec = getattr(lib, f"TS_CODEC_{tier.codec.name.upper()}")
    options.level = tier.codec.level
    options.range_bytes = tier.range
    if tier.demote_after is not None:
        options.demote_after_ms = max(int(tier.demote_after * 1000), 1)
    options.demote_above_pct = tier.demote_above
    options.admit_ratio_pct = tier.admit_ratio
    options.no_keep = not tier.keep


def add_tier(engine: Any, tier: TierConfig) -> Any:
    """Open the store and put it at the end of the ladder.

    Returns what has to be kept alive until the engine is closed.  Raises ``ConfigError`` or
    ``StoreError``.
    """
    keep: list[Any] = []

    def text(value: object) -> Any:
        keep.append(ffi.new("char[]", str(value).encode()))
        return keep[-1]

    dictionary = read_dictionary(tier)
    options = ffi.new("struct ts_tier_options *")
    options.size = ffi.sizeof("struct ts_tier_options")
    options.name = text(tier.name)
    options.store = text(tier.store)
    bound = None
    if tier.store not in BUILTIN_STORES:
        # Imported when wanted: an engine of C stores alone needs no bridge.
        from tierstore.stores import bridge

        ops, user, bound = bridge.bind(tier.store)
        options.store_ops, options.store_user = ops, user
        keep.append(bound)
    options.store_options = text(tier.options_text)
    options.wrap = text(tier.wrap) if tier.wrap else ffi.NULL
    options.path = text(tier.path) if tier.path is not None else ffi.NULL
    set_numbers(options, tier)
    what = f'opening the tier "{tier.name}"'
    rc = lib.ts_engine_add_tier(engine, options)
    if rc < 0 and bound is not None:
        bound.raise_failure()  # the exception itself says more than its code
    number = check_error(rc, what, default=StoreError)
    if dictionary is not None:
        rc = lib.ts_tier_set_dictionary(engine, number, dictionary, len(dictionary))
        check_error(rc, f'dictionary of the tier "{tier.name}"', default=StoreError)
    return keep
