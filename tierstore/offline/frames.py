# SPDX-License-Identifier: Apache-2.0
"""Frames in Python: the independent second reader and writer of FORMAT.md, "Frames".

It shares no code with the C codec and uses other bindings (zstandard, lz4, xxhash), so that a
mistake in one does not go unnoticed in the other.  It rejects whatever the C codec rejects.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Mapping
from typing import ClassVar

import lz4.block
import xxhash
import zstandard

from tierstore.abc import Buffer
from tierstore.errors import StoreCorrupt, StoreVersion

__all__ = [
    "CODEC_NAMES",
    "DICT",
    "DICT_BYTES_MAX",
    "DICT_MAX",
    "HEAD_BYTES",
    "KEY_DICT",
    "LZ4",
    "PAGE_BYTES",
    "PAGE_SHIFT",
    "RAW",
    "ZSTD",
    "Decoder",
    "FrameHead",
    "encode",
    "encode_dictionary",
    "parse",
]

MAGIC = 0x31465354
VERSION = 1
PAGE_SHIFT = 12
PAGE_BYTES = 1 << PAGE_SHIFT
DICT_BYTES_MAX = 128 * 1024
DICT_MAX = 16
"""Dictionary ids go from 1 to this."""
KEY_DICT = 1 << 27
"""A store keeps dictionary d under the key KEY_DICT + d."""

RAW, LZ4, ZSTD, DICT = 0, 1, 2, 3
CODEC_NAMES: Mapping[int, str] = {RAW: "raw", LZ4: "lz4", ZSTD: "zstd", DICT: "dictionary"}

_SUMMED = struct.Struct("<IBBBBIIIIQ")
_CHECKSUM = struct.Struct("<Q")
HEAD_BYTES = _SUMMED.size + _CHECKSUM.size


@dataclasses.dataclass(frozen=True, slots=True)
class FrameHead:
    """What a frame says of itself."""

    codec: int
    dict_id: int
    stored_bytes: int
    """Length of the payload."""
    region: int
    base_page: int
    page_bits: int
    checksum: int

    @property
    def nr_pages(self) -> int:
        """Pages in the payload; 0 for a dictionary."""
        return self.page_bits.bit_count()

    @property
    def raw_bytes(self) -> int:
        """Length of the contents."""
        return self.stored_bytes if self.codec == DICT else self.nr_pages << PAGE_SHIFT

    @property
    def pages(self) -> list[int]:
        """Indexes in the region of the pages that are in the payload, in their order there."""
        return [self.base_page + bit for bit in range(64) if self.page_bits >> bit & 1]


def parse(frame: Buffer) -> FrameHead:
    """The header, once it fits the frame.  Raises ``StoreCorrupt`` or ``StoreVersion``."""
    if len(frame) < HEAD_BYTES:
        raise StoreCorrupt(f"frame of {len(frame)} bytes is shorter than a header")
    (magic, version, codec, page_shift, flags, dict_id, stored, region, base, bits) = (
        _SUMMED.unpack_from(frame)
    )
    (checksum,) = _CHECKSUM.unpack_from(frame, _SUMMED.size)
    if magic != MAGIC:
        raise StoreCorrupt(f"magic number is 0x{magic:08x}, not a frame's")
    if version != VERSION:
        raise StoreVersion(f"frame of version {version}; this program reads version {VERSION}")
    if page_shift != PAGE_SHIFT or flags != 0:
        raise StoreCorrupt(f"page shift {page_shift}, flags 0x{flags:02x}: not of this version")
    if stored != len(frame) - HEAD_BYTES:
        raise StoreCorrupt(f"payload of {len(frame) - HEAD_BYTES} bytes, {stored} announced")
    head = FrameHead(codec, dict_id, stored, region, base, bits, checksum)
    if not _is_consistent(head):
        raise StoreCorrupt(
            f"codec {codec}, {head.nr_pages} pages, {stored} bytes, dictionary {dict_id} "
            "don't go together"
        )
    return head


def _is_consistent(head: FrameHead) -> bool:
    if head.codec == RAW:
        return 0 < head.raw_bytes == head.stored_bytes and head.dict_id == 0
    if head.codec == LZ4:
        return 0 < head.stored_bytes < head.raw_bytes and head.dict_id == 0
    if head.codec == ZSTD:
        return 0 < head.stored_bytes < head.raw_bytes
    return (
        head.codec == DICT
        and head.page_bits == 0
        and 1 <= head.dict_id <= DICT_MAX
        and 0 < head.stored_bytes <= DICT_BYTES_MAX
    )


def _checksum(raw: Buffer, summed: Buffer) -> int:
    state = xxhash.xxh3_64(raw)
    state.update(summed)
    return int(state.intdigest())


class Decoder:
    """Decodes frames; knows the dictionaries it was given.  Not for several threads at a time."""

    _FRAME_MAGIC: ClassVar[bytes] = struct.pack("<I", 0xFD2FB528)

    def __init__(self) -> None:
        self._plain = zstandard.ZstdDecompressor()
        self._by_dict: dict[int, zstandard.ZstdDecompressor] = {}

    def add_dictionary(self, dict_id: int, data: bytes) -> None:
        """Use ``data`` (ZDICT format) for frames of this id.  Raises ``StoreCorrupt``."""
        try:
            known = zstandard.ZstdCompressionDict(data, dict_type=zstandard.DICT_TYPE_FULLDICT)
            self._by_dict[dict_id] = zstandard.ZstdDecompressor(dict_data=known)
        except (zstandard.ZstdError, ValueError) as error:
            raise StoreCorrupt(f"dictionary {dict_id} is damaged: {error}") from error

    def decode(self, frame: Buffer) -> tuple[FrameHead, bytes]:
        """Header and contents, checked.  Raises ``StoreCorrupt`` or ``StoreVersion``."""
        head = parse(frame)
        view = memoryview(frame)
        raw = self._contents(head, view[HEAD_BYTES:])
        if len(raw) != head.raw_bytes:
            raise StoreCorrupt(f"{len(raw)} bytes of contents, {head.raw_bytes} announced")
        actual = _checksum(raw, view[: _SUMMED.size])
        if actual != head.checksum:
            raise StoreCorrupt(f"checksum is 0x{actual:016x}, 0x{head.checksum:016x} recorded")
        return head, raw

    def _contents(self, head: FrameHead, payload: memoryview) -> bytes:
        if head.codec == LZ4:
            try:
                return bytes(lz4.block.decompress(payload, uncompressed_size=head.raw_bytes))
            except lz4.block.LZ4BlockError as error:
                raise StoreCorrupt(f"lz4: {error}") from error
        if head.codec == ZSTD:
            return self._zstd(head, bytes(payload))
        return bytes(payload)

    def _zstd(self, head: FrameHead, payload: bytes) -> bytes:
        decompressor = self._by_dict.get(head.dict_id) if head.dict_id else self._plain
        if decompressor is None:
            raise StoreCorrupt(f"needs dictionary {head.dict_id}, which is missing or damaged")
        try:
            if not payload.startswith(self._FRAME_MAGIC):
                raise StoreCorrupt("payload is not a zstd frame")
            # A size in the zstd frame itself would be believed, and that much memory taken.
            if zstandard.frame_content_size(payload) not in (-1, head.raw_bytes):
                raise StoreCorrupt("zstd frame announces another length than the header")
            return decompressor.decompress(
                payload, max_output_size=head.raw_bytes, allow_extra_data=False
            )
        except zstandard.ZstdError as error:
            raise StoreCorrupt(f"zstd: {error}") from error


def _seal(
    codec: int,
    dict_id: int,
    owner: tuple[int, int, int],
    raw: Buffer,
    payload: Buffer,
) -> bytes:
    summed = _SUMMED.pack(MAGIC, VERSION, codec, PAGE_SHIFT, 0, dict_id, len(payload), *owner)
    return summed + _CHECKSUM.pack(_checksum(raw, summed)) + bytes(payload)


def encode(
    raw: Buffer,
    *,
    codec: int,
    level: int = 1,
    region: int = 0,
    base_page: int = 0,
    page_bits: int | None = None,
    dictionary: tuple[int, bytes] | None = None,
) -> bytes:
    """A frame that the C engine reads.  ``raw`` is 1 to 64 pages; raw where nothing is gained.

    ``page_bits`` defaults to as many neighbouring pages as there are; ``dictionary`` is an id and
    ZDICT bytes, for zstd.
    """
    nr_pages, rest = divmod(len(raw), PAGE_BYTES)
    bits = (1 << nr_pages) - 1 if page_bits is None else page_bits
    if rest or not 1 <= nr_pages <= 64 or bits.bit_count() != nr_pages or bits >> 64:
        raise ValueError(f"{len(raw)} bytes for page bits 0x{bits:x}: not 1 to 64 whole pages")
    owner = (region, base_page, bits)
    dict_id = 0
    payload: bytes = bytes(raw)
    if codec == LZ4:
        payload = lz4.block.compress(raw, acceleration=max(level, 1), store_size=False)
    elif codec == ZSTD:
        payload, dict_id = _zstd_payload(raw, level, dictionary)
    elif codec != RAW:
        raise ValueError(f"no codec {codec} for pages")
    if len(payload) >= len(raw):
        return _seal(RAW, 0, owner, raw, raw)
    return _seal(codec, dict_id, owner, raw, payload)


def _zstd_payload(
    raw: Buffer, level: int, dictionary: tuple[int, bytes] | None
) -> tuple[bytes, int]:
    known = None
    if dictionary:
        known = zstandard.ZstdCompressionDict(dictionary[1], dict_type=zstandard.DICT_TYPE_FULLDICT)
    compressor = zstandard.ZstdCompressor(
        level=level or 1,
        dict_data=known,
        write_checksum=False,
        write_content_size=False,
        write_dict_id=False,
    )
    return compressor.compress(raw), dictionary[0] if dictionary else 0


def encode_dictionary(dict_id: int, data: bytes) -> bytes:
    """The frame that carries a dictionary; its key is ``KEY_DICT + dict_id``."""
    if not (0 < dict_id <= DICT_MAX and 0 < len(data) <= DICT_BYTES_MAX):
        raise ValueError(f"dictionary {dict_id} of {len(data)} bytes: not one a frame can carry")
    return _seal(DICT, dict_id, (0, 0, 0), data, data)
