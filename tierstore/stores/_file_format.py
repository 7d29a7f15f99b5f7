# SPDX-License-Identifier: Apache-2.0
"""The bytes of a file store (FORMAT.md, "File store"): superblock, record heads, packing, walking.

No I/O here.  A *place* is a byte offset from the start of the file; an *image* is the contents of
one segment, its first byte included even where that is the superblock's.
"""

from __future__ import annotations

import dataclasses
import secrets
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import xxhash

from tierstore.abc import Buffer
from tierstore.errors import StoreCorrupt, StoreVersion

__all__ = [
    "BLOCK",
    "HEAD",
    "KEY_DEAD",
    "SEGMENT",
    "Packed",
    "Record",
    "Super",
    "first_block",
    "mark_dead",
    "newer",
    "pack",
    "walk",
]

BLOCK = 4096
SEGMENT = 1 << 20
KEY_DEAD = 0xFFFFFFFF
"""The key of a record that was deleted before the store was closed in order."""

_MAGIC = b"TSFILE\r\n"
_VERSION = 1
_SUPER = struct.Struct("<8sIIIIQ16sII")
_CHECKSUM = struct.Struct("<Q")
_HEAD = struct.Struct("<IIII")
HEAD = _HEAD.size

CLEAN = 1
CREATED = 2
HELD = 4
BOOT_SHIFT = 8


def held_flags() -> int:
    """The flags of a store that is held by an engine of this boot."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip().ljust(40, b"\0")
    return HELD | xxhash.xxh3_64_intdigest(boot) << BOOT_SHIFT & 0xFFFFFF00


def is_held(flags: int) -> bool:
    """Frames of an engine's state folder, and nobody else's."""
    return bool(flags & HELD) and flags >> BOOT_SHIFT == held_flags() >> BOOT_SHIFT


@dataclasses.dataclass(slots=True)
class Super:
    """The superblock.  ``record_magic`` changes whenever the contents are given up."""

    capacity_bytes: int
    unit_bytes: int
    uuid: bytes = b""
    record_magic: int = 0
    flags: int = 0

    @classmethod
    def create(cls, size_bytes: int) -> Super:
        """For a new store of at most this size."""
        capacity = size_bytes // SEGMENT * SEGMENT
        unit = 16
        while capacity // unit > 0xFFFFFFFF:
            unit *= 2
        uuid = secrets.token_bytes(16)
        return cls(capacity, unit, uuid, int.from_bytes(uuid[:4], "little") or 1)

    @classmethod
    def parse(cls, block: bytes, what: str) -> Super | None:
        """``None``: not a store of ours.  Raises for one of ours that is of no use."""
        magic, version, block_bytes, segment, unit, capacity, uuid, record_magic, flags = (
            _SUPER.unpack_from(block)
        )
        if magic != _MAGIC:
            return None
        if version != _VERSION:
            raise StoreVersion(
                f"{what} holds a store of format version {version}, this is version {_VERSION}; "
                "open it with init=1 to discard its contents"
            )
        (checksum,) = _CHECKSUM.unpack_from(block, _SUPER.size)
        if (
            checksum != xxhash.xxh3_64_intdigest(block[: _SUPER.size])
            or (block_bytes, segment) != (BLOCK, SEGMENT)
            or unit not in [16 << i for i in range(9)]
        ):
            raise StoreCorrupt(
                f"{what}: damaged superblock; open it with init=1 to discard its contents"
            )
        return cls(capacity, unit, uuid, record_magic, flags)

    def to_block(self) -> bytes:
        """All of block 0."""
        body = _SUPER.pack(
            _MAGIC,
            _VERSION,
            BLOCK,
            SEGMENT,
            self.unit_bytes,
            self.capacity_bytes,
            self.uuid,
            self.record_magic,
            self.flags,
        )
        return (body + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(body))).ljust(BLOCK, b"\0")

    def record_bytes(self, len_bytes: int) -> int:
        """What a frame of this length takes: its head included, whole units."""
        return -(-(HEAD + len_bytes) // self.unit_bytes) * self.unit_bytes


def first_block(segment: int) -> int:
    """Where the log of a segment starts: block 0 of the file is the superblock."""
    return 1 if segment == 0 else 0


def newer(left: int, right: int) -> bool:
    """Whether a sequence number comes after another; they wrap around."""
    return 0 < (left - right) % (1 << 32) < 1 << 31


# ---- Reading a segment ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """What a head says, and where it was found: ``at`` bytes into the segment's image."""

    sequence: int
    key: int
    len_bytes: int
    at: int


def head_at(layout: Super, image: Buffer, at: int) -> Record | None:
    """The record that starts there, if one does."""
    magic, sequence, key, len_bytes = _HEAD.unpack_from(image, at)
    if magic != layout.record_magic or len_bytes > len(image) - at - HEAD:
        return None
    return Record(sequence, key, len_bytes, at)


def walk(layout: Super, image: Buffer, segment: int) -> Iterator[Record]:
    """The records of a segment's current use; its first record says which that is."""
    at = first_block(segment) * BLOCK
    first = head_at(layout, image, at)
    while first and at < len(image):
        record = head_at(layout, image, at)
        if record and record.sequence == first.sequence:
            yield record
            at += layout.record_bytes(record.len_bytes)
        else:
            at = (at // BLOCK + 1) * BLOCK  # a hole reaches up to the next block


def mark_dead(image: bytearray, at: int) -> None:
    """Whoever opens the store will pass over this record."""
    struct.pack_into("<I", image, at + 8, KEY_DEAD)


# ---- Packing ----------------------------------------------------------------------------------


@dataclasses.dataclass(slots=True)
class Packed:
    """One stretch of whole blocks, ready to be written; ``spots``: item number to offset in it."""

    data: bytearray
    spots: dict[int, int]
    pad_bytes: int = 0
    """Room left in its last block."""


def pack(
    layout: Super,
    sequence: int,
    items: Sequence[tuple[int, Buffer]],
    todo: Sequence[int],
    room_blocks: int,
) -> Packed:
    """Place as many of ``items[i] for i in todo`` as fit into that many blocks.

    A record that fits into a block never crosses a block's edge, so that reading it costs one
    block; longer ones come first and may start anywhere.  Longest first, into the fullest block
    that has room (``room``: what each block has left), leaves few holes.
    """
    packed = Packed(bytearray(), {})
    room: list[int] = []
    end = 0  # of the last long record
    for i in sorted(todo, key=lambda i: -len(items[i][1])):
        key, data = items[i]
        need = layout.record_bytes(len(data))
        if HEAD + len(data) > BLOCK:
            if end + need > room_blocks * BLOCK:
                continue
            at, end = end, end + need
            room = [0] * (-(-end // BLOCK) - 1) + [-end % BLOCK]
        else:
            block = min(
                (b for b, left in enumerate(room) if left >= need),
                key=room.__getitem__,
                default=len(room),
            )
            if block == room_blocks:
                continue
            if block == len(room):
                room.append(BLOCK)
            at = (block + 1) * BLOCK - room[block]
            room[block] -= need
        packed.data.extend(bytes(len(room) * BLOCK - len(packed.data)))
        _HEAD.pack_into(packed.data, at, layout.record_magic, sequence, key, len(data))
        packed.data[at + HEAD : at + HEAD + len(data)] = data
        packed.spots[i] = at
    packed.pad_bytes = room[-1] if room else 0
    return packed
