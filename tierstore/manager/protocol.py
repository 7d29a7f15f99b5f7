# SPDX-License-Identifier: Apache-2.0
"""What a VMM may say to the manager, whatever it speaks; and who knows which language.

A protocol is one small class: it is asked whether the first bytes of a connection are its own, is
fed what arrives, and gives back messages.  It sees neither socket nor engine.  To add one, derive
from ``Protocol``, decorate it with ``register``, and import its module in ``find_protocol``'s list.

The languages must be told apart by their first ``HEAD_BYTES`` bytes.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, TypeVar

from tierstore.errors import TierstoreError
from tierstore.manager.bounds import (
    PAGE_BYTES,
    RANGES_MAX,
    REGION_BYTES_MAX,
    REGIONS_MAX,
)

__all__ = [
    "HEAD_BYTES",
    "Added",
    "Handoff",
    "Message",
    "MessageError",
    "Piece",
    "Protocol",
    "find_protocol",
    "join_pieces",
    "protocol_names",
    "register",
]

HEAD_BYTES = 4
"""So many bytes are looked at to tell who speaks."""

ADDRESS_MAX = 1 << 56
"""Above what any architecture gives to programs."""


class MessageError(TierstoreError):
    """A VMM's message makes no sense, or asks for what is not served; the text says which."""


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """Guest memory that is contiguous in the VMM and in what backs it."""

    addr: int
    """In the VMM's address space."""
    len_bytes: int
    offset: int
    """Of its first byte in the backing file, or in the snapshot's memory file."""

    @property
    def end(self) -> int:
        """The address behind it."""
        return self.addr + self.len_bytes

    def __str__(self) -> str:
        return f"{self.addr:#x}-{self.end:#x}"


@dataclasses.dataclass(frozen=True, slots=True)
class Handoff:
    """A VMM hands its userfaultfd over."""

    vmm: str
    pieces: tuple[Piece, ...]
    modes: frozenset[str] = frozenset()
    """How the VMM says that it registered; the kernel is asked, too."""
    vmm_pid: int | None = None
    is_snapshot: bool = False
    """The memory begins as a snapshot's memory file, at the pieces' offsets."""
    is_resumable: bool = False
    """The VMM can hand the same userfaultfd to a later manager."""


@dataclasses.dataclass(frozen=True, slots=True)
class Added:
    """A VM that is served got more memory."""

    piece: Piece


Message = Handoff | Added


class Protocol(ABC):
    """One connection in one language.  ``feed`` it what arrives, send ``answer`` for a message."""

    name: ClassVar[str]
    """For the log, ``--protocol`` and statistics."""
    answer: ClassVar[bytes] = b""
    """What the VMM waits for after each message that was done; empty: nothing."""

    @classmethod
    @abstractmethod
    def recognises(cls, head: bytes) -> bool:
        """Whether a connection that begins with these ``HEAD_BYTES`` bytes speaks it."""

    @abstractmethod
    def feed(self, data: bytes) -> list[Message]:
        """Take what arrived, give back the messages that are complete.

        Raises ``MessageError``; the connection is closed then.
        """

    @property
    @abstractmethod
    def is_over(self) -> bool:
        """No further message is expected in this language."""


_protocols: list[type[Protocol]] = []
_MODULES = ("firecracker", "cloud_hypervisor")

_P = TypeVar("_P", bound=type[Protocol])


def register(protocol: _P) -> _P:
    """Class decorator: the manager speaks this, too."""
    _protocols.append(protocol)
    return protocol


def _known() -> Sequence[type[Protocol]]:
    for module in _MODULES:
        importlib.import_module(f"tierstore.manager.{module}")
    return _protocols


def protocol_names() -> list[str]:
    """What the manager speaks."""
    return [protocol.name for protocol in _known()]


def find_protocol(head: bytes) -> Protocol | None:
    """A new protocol object for a connection that begins so; ``None``: too few bytes to tell.

    Raises ``MessageError`` if nobody knows it.
    """
    if len(head) < HEAD_BYTES:
        return None
    for protocol in _known():
        if protocol.recognises(head[:HEAD_BYTES]):
            return protocol()
    raise MessageError(
        f"it begins with {head[:HEAD_BYTES].hex(' ')}, which is none of "
        f"{', '.join(protocol_names())}"
    )


def _check_piece(piece: Piece, page_bytes: int) -> None:
    if piece.len_bytes == 0:
        raise MessageError(f"the region at {piece.addr:#x} is empty")
    if piece.end > ADDRESS_MAX or piece.offset + piece.len_bytes > ADDRESS_MAX:
        raise MessageError(f"the region {piece} at offset {piece.offset:#x} is out of this world")
    if (piece.addr | piece.len_bytes | piece.offset) % page_bytes:
        raise MessageError(
            f"the region {piece} at offset {piece.offset:#x} is not made of whole pages of "
            f"{page_bytes} bytes"
        )


def _overlapping(spans: Sequence[tuple[int, int]]) -> bool:
    ordered = sorted(spans)
    return any(a_end > b for (_, a_end), (b, _) in itertools.pairwise(ordered))


def join_pieces(
    pieces: Sequence[Piece], *, page_bytes: int = PAGE_BYTES, one_file: bool
) -> tuple[Piece, ...]:
    """Checks a message's regions; those that continue each other become one.

    ``one_file``: all offsets are of the same file, so that they must not overlap either.
    Raises ``MessageError``.
    """
    if not 1 <= len(pieces) <= REGIONS_MAX:
        raise MessageError(f"{len(pieces)} regions; from 1 to {REGIONS_MAX} would do")
    for piece in pieces:
        _check_piece(piece, page_bytes)
    if _overlapping([(piece.addr, piece.end) for piece in pieces]):
        raise MessageError("two of its regions overlap")
    if one_file and _overlapping([(p.offset, p.offset + p.len_bytes) for p in pieces]):
        raise MessageError("two of its regions overlap in the file behind them")
    total_bytes = sum(piece.len_bytes for piece in pieces)
    if total_bytes >= REGION_BYTES_MAX:
        raise MessageError(f"{total_bytes} bytes of memory; less than {REGION_BYTES_MAX} would do")
    joined: list[Piece] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if last and last.end == piece.addr and last.offset + last.len_bytes == piece.offset:
            joined[-1] = Piece(last.addr, last.len_bytes + piece.len_bytes, last.offset)
        else:
            joined.append(piece)
    if len(joined) > RANGES_MAX:
        raise MessageError(f"{len(joined)} separate regions; at most {RANGES_MAX} would do")
    return tuple(joined)
