# SPDX-License-Identifier: Apache-2.0
"""Firecracker's message: a bare JSON array, once, at the restore of a snapshot.

No length, no newline, no version, no answer; the socket stays open and silent afterwards.  The
array is over when its last bracket closes.  Memory is private and anonymous, and begins as the
snapshot's memory file.  ``page_size`` is in bytes, and so is the deprecated ``page_size_kib``;
older releases send neither.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tierstore.manager import strict_json
from tierstore.manager.bounds import MESSAGE_BYTES_MAX, PAGE_BYTES, REGIONS_MAX
from tierstore.manager.protocol import (
    Handoff,
    Message,
    MessageError,
    Piece,
    Protocol,
    join_pieces,
    register,
)

__all__ = ["Firecracker", "first_complaint"]

U64 = Annotated[int, Field(strict=True, ge=0, le=(1 << 64) - 1)]


class _Region(BaseModel):
    # Fields of later releases are none of our business.
    model_config = ConfigDict(extra="ignore", frozen=True)
    base_host_virt_addr: U64
    size: U64
    offset: U64
    page_size: U64 | None = None
    page_size_kib: U64 | None = None

    @property
    def page_bytes(self) -> int:
        return self.page_size or self.page_size_kib or PAGE_BYTES


_REGIONS = TypeAdapter(Annotated[list[_Region], Field(min_length=1, max_length=REGIONS_MAX)])


def first_complaint(error: ValidationError) -> str:
    """One line: where it stands, and what is wrong with it."""
    detail = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in detail["loc"])
    return f"{ascii(where)[1:-1][:80]}: {detail['msg']}" if where else str(detail["msg"])


class _Brackets:
    """Finds the end of a JSON array in a stream."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._is_escaped = False

    def find_end(self, data: bytes) -> int | None:
        """The index behind the bracket that closes the outermost; ``None``: not yet."""
        for index, byte in enumerate(data):
            if self._in_string:
                if self._is_escaped:
                    self._is_escaped = False
                elif byte == 0x5C:  # backslash
                    self._is_escaped = True
                elif byte == 0x22:  # quote
                    self._in_string = False
            elif byte == 0x22:
                self._in_string = True
            elif byte in b"[{":
                self._depth += 1
            elif byte in b"]}":
                self._depth -= 1
                if self._depth <= 0:
                    return index + 1
        return None


@register
class Firecracker(Protocol):
    """Snapshot restore with the memory back end ``Uffd``."""

    name = "firecracker"

    def __init__(self) -> None:
        self._brackets = _Brackets()
        self._buffer = bytearray()
        self._is_over = False

    @classmethod
    def recognises(cls, head: bytes) -> bool:
        # "[" could be the low byte of a length; the high bytes of one are 0, and JSON has none.
        return head.startswith(b"[") and 0 not in head

    def feed(self, data: bytes) -> list[Message]:
        if self._is_over:
            return []
        end = self._brackets.find_end(data)
        self._buffer += data if end is None else data[:end]
        if len(self._buffer) > MESSAGE_BYTES_MAX:
            raise MessageError(f"its message is longer than {MESSAGE_BYTES_MAX} bytes")
        if end is None:
            return []
        if data[end:].strip():
            raise MessageError("it goes on after its message; this protocol has only one")
        self._is_over = True
        text = bytes(self._buffer)
        self._buffer.clear()
        return [_handoff(text)]

    @property
    def is_over(self) -> bool:
        return self._is_over


def _handoff(text: bytes) -> Handoff:
    try:
        regions = _REGIONS.validate_python(strict_json.parse(text))
    except strict_json.JsonError as error:
        raise MessageError(f"its message is refused: {error}") from None
    except ValidationError as error:
        raise MessageError(f"its message is refused: {first_complaint(error)}") from None
    for region in regions:
        if region.page_bytes != PAGE_BYTES:
            raise MessageError(
                f"it has pages of {region.page_bytes} bytes, and this manager serves 4096: load "
                f'the snapshot with "huge_pages": "None"'
            )
    pieces = [Piece(r.base_host_virt_addr, r.size, r.offset) for r in regions]
    return Handoff(
        vmm=Firecracker.name,
        pieces=join_pieces(pieces, one_file=True),
        modes=frozenset({"MISSING"}),
        is_snapshot=True,
    )
