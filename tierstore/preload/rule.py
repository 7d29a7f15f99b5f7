# SPDX-License-Identifier: Apache-2.0
"""Which memory of a program becomes a region: ``size>=64MiB,memory=anon``."""

from __future__ import annotations

import dataclasses
from typing import Self

from tierstore import units
from tierstore.errors import ConfigError

__all__ = ["Rule"]

HINT = (
    'a rule is conditions with commas between: "size>=64MiB", "size<=4GiB", "memory=anon", '
    '"memory=memfd", "memory=any", "memfd=NAME"'
)
SIZE_MIN = 1 << 16
QEMU_MEMFD = "memory-backend-memfd"


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """Mappings of at least, and at most, so many bytes; neighbours count as one.

    A memfd may be mapped elsewhere, too, where nothing guards it from writes: by default only
    QEMU's guest memory is taken, which bears its name.
    """

    bytes_min: int = 64 << 20
    bytes_max: int = 0
    """0: no limit."""
    has_anon: bool = True
    has_memfd: bool = True
    memfd_name: str = QEMU_MEMFD
    """"": any."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ``ConfigError``, which says what a rule looks like."""
        changes: dict[str, int | bool | str] = {}
        for condition in text.replace(" ", "").split(","):
            changes |= _condition(condition, text)
        rule = dataclasses.replace(cls(), **changes)  # type: ignore[arg-type]
        if rule.bytes_min < SIZE_MIN:
            raise ConfigError(f'region rule "{text}": a size of at least 64KiB')
        if rule.bytes_max and rule.bytes_max < rule.bytes_min:
            raise ConfigError(f'region rule "{text}": no size is that large and that small')
        return rule

    def settings(self) -> str:
        """As the shim reads it."""
        return (
            f"min={self.bytes_min};max={self.bytes_max};anon={self.has_anon:d};"
            f"memfd={self.has_memfd:d};name={self.memfd_name}"
        )


def _condition(condition: str, text: str) -> dict[str, int | bool | str]:
    for operator, key in (("size>=", "bytes_min"), ("size<=", "bytes_max")):
        if condition.startswith(operator):
            try:
                return {key: units.parse_size(condition.removeprefix(operator))}
            except ValueError as error:
                raise ConfigError(f'region rule "{text}": {error}') from None
    name, _, value = condition.partition("=")
    if name == "memory" and value == "anon":
        return {"has_anon": True, "has_memfd": False}
    if name == "memory" and value in ("memfd", "any"):
        return {"has_anon": value == "any", "has_memfd": True, "memfd_name": ""}
    if name == "memfd" and value and len(value) < 64 and not set(value) & set(";= "):
        return {"memfd_name": value}
    raise ConfigError(f'region rule "{text}": "{condition}" is no condition; {HINT}')
