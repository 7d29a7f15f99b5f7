# SPDX-License-Identifier: Apache-2.0
"""JSON from strangers: bounded in length, nesting and digits, and of one meaning only.

What two parsers could understand differently is refused: a key that comes twice, NaN and
infinities, numbers with a fraction or an exponent, numbers of more digits than 64 bits have,
encodings other than UTF-8.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from tierstore.manager.bounds import DEPTH_MAX, DIGITS_MAX, MESSAGE_BYTES_MAX

__all__ = ["JsonError", "parse"]

# Possessive, and the closing quote optional: linear also for a string that never ends.
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+"?|[][{}]', re.S)


class JsonError(ValueError):
    """The text is not acceptable; ``str()`` says why."""


def _check_depth(text: str) -> None:
    """Before the parser, which recurses."""
    depth = 0
    for match in _STRUCTURE.finditer(text):
        if match[0] in "[{":
            depth += 1
            if depth > DEPTH_MAX:
                raise JsonError(f"nested more than {DEPTH_MAX} deep")
        elif match[0] in "]}":
            depth -= 1


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > DIGITS_MAX:
        raise JsonError(f"a number of {len(digits)} digits")
    return int(digits)


def _no_fraction(text: str) -> NoReturn:
    raise JsonError(f"{text[:40]}: only whole numbers are known here")


def _no_constant(text: str) -> NoReturn:
    raise JsonError(f"{text} is no number")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise JsonError(f"the key {ascii(twice)[:60]} comes twice")
    return found


def parse(data: bytes) -> Any:
    """The value.  Raises ``JsonError``."""
    if len(data) > MESSAGE_BYTES_MAX:
        raise JsonError(f"{len(data)} bytes; at most {MESSAGE_BYTES_MAX}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JsonError(f"not UTF-8 at byte {error.start}") from None
    _check_depth(text)
    try:
        return json.loads(
            text,
            object_pairs_hook=_no_twins,
            parse_int=_integer,
            parse_float=_no_fraction,
            parse_constant=_no_constant,
        )
    except json.JSONDecodeError as error:
        raise JsonError(f"not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise JsonError(f"nested more than {DEPTH_MAX} deep") from None
