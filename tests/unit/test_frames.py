# SPDX-License-Identifier: Apache-2.0
"""Frames in Python: against FORMAT.md, against damage, and against the C codec both ways."""

from __future__ import annotations

import functools
import os
import random
import struct
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import BUILD_DIR
from tierstore.errors import StoreCorrupt, StoreVersion, TierstoreError
from tierstore.offline import frames

TEXT = Path(os.__file__).read_bytes()[: 8 * 4096]
ALL_CODECS = [frames.RAW, frames.LZ4, frames.ZSTD]


def sources() -> list[bytes]:
    """Python's library in pages: real, plenty, and alike."""
    folder = Path(sysconfig.get_path("stdlib"))
    text = b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))
    return [text[i : i + 4096] for i in range(0, 3 << 20, 4096)]


@pytest.fixture(scope="module")
def dictionary() -> bytes:
    """A real ZDICT dictionary."""
    return zstandard.train_dictionary(32 * 1024, [*sources()]).as_bytes()


def test_the_example_of_the_format() -> None:
    """FORMAT.md shows a header in full; so does test_codec.c."""
    raw = bytes(i * 7 % 251 for i in range(8192))
    frame = frames.encode(
        raw,
        codec=frames.RAW,
        region=0x01020304,
        base_page=0x01223344,
        page_bits=0x8000000000000001,
    )
    shown = (Path(__file__).parents[2] / "FORMAT.md").read_text()
    block = shown.split("### An example")[1].split("```")[1]
    assert frame[: frames.HEAD_BYTES] == bytes.fromhex(block)
    assert frame[frames.HEAD_BYTES :] == raw


@pytest.mark.parametrize("codec", ALL_CODECS)
@pytest.mark.parametrize("nr_pages", [1, 5])
def test_round_trip(codec: int, nr_pages: int) -> None:
    """Contents and owner come back."""
    bits = 0b1000010000100011 if nr_pages == 5 else 1 << 63
    raw = TEXT[: nr_pages * 4096]
    frame = frames.encode(raw, codec=codec, region=7, base_page=640, page_bits=bits)
    head, back = frames.Decoder().decode(frame)
    assert back == raw
    assert (head.codec, head.region, head.page_bits) == (codec, 7, bits)
    assert head.pages == [640 + bit for bit in range(64) if bits >> bit & 1]
    assert codec == frames.RAW or len(frame) < len(raw)


@pytest.mark.parametrize("codec", ALL_CODECS)
def test_no_gain_is_stored_raw(codec: int) -> None:
    """Random pages."""
    raw = random.Random(1).randbytes(4096)
    head, back = frames.Decoder().decode(frames.encode(raw, codec=codec))
    assert (head.codec, back) == (frames.RAW, raw)


@pytest.mark.parametrize("codec", ALL_CODECS)
def test_every_flipped_header_bit_is_found(codec: int) -> None:
    """Nothing in the header is without meaning."""
    frame = bytearray(frames.encode(TEXT[:4096], codec=codec, region=1, base_page=2))
    decoder = frames.Decoder()
    for bit in range(8 * frames.HEAD_BYTES):
        frame[bit // 8] ^= 1 << bit % 8
        with pytest.raises((StoreCorrupt, StoreVersion)):
            decoder.decode(frame)
        frame[bit // 8] ^= 1 << bit % 8
    assert decoder.decode(frame)[1] == TEXT[:4096]


@settings(max_examples=300, deadline=None)
@given(
    codec=st.sampled_from(ALL_CODECS),
    at=st.integers(0, 1 << 16),
    patch=st.binary(min_size=1, max_size=8),
    cut=st.integers(0, 64),
)
def test_damage_is_found_or_harmless(codec: int, at: int, patch: bytes, cut: int) -> None:
    """Whatever is overwritten or cut off: an error of ours, or the right bytes."""
    frame = bytearray(frames.encode(TEXT[:8192], codec=codec))
    at %= len(frame)
    frame[at : at + len(patch)] = patch
    del frame[len(frame) - cut :]
    try:
        _, raw = frames.Decoder().decode(frame)
    except TierstoreError:
        return
    assert raw == TEXT[:8192]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_no_frame(noise: bytes) -> None:
    """And costs no memory to find out."""
    with pytest.raises((StoreCorrupt, StoreVersion)):
        frames.Decoder().decode(struct.pack("<I", frames.MAGIC) + noise)


def reseal(frame: bytes, payload: bytes, raw: bytes) -> bytes:
    """The same header around another payload, with a checksum that is right."""
    summed = frame[:12] + struct.pack("<I", len(payload)) + frame[16:32]
    return summed + struct.pack("<Q", frames._checksum(raw, summed)) + payload


def test_forged_zstd_payloads() -> None:
    """What zstd would take but no writer of ours writes; a huge size must not be believed."""
    raw = TEXT[:4096]
    frame = frames.encode(raw, codec=frames.ZSTD)
    payload = frame[frames.HEAD_BYTES :]
    decoder = frames.Decoder()
    assert decoder.decode(reseal(frame, payload, raw))[1] == raw
    with_size = zstandard.ZstdCompressor().compress(raw)
    assert decoder.decode(reseal(frame, with_size, raw))[1] == raw
    skippable = struct.pack("<II", 0x184D2A50, 0)
    bomb = struct.pack("<IBQ", 0xFD2FB528, 0xE0, 1 << 50) + payload[6:]
    for forged in (payload + skippable, skippable + payload, payload + payload, bomb):
        with pytest.raises(StoreCorrupt):
            decoder.decode(reseal(frame, forged, raw))


def test_dictionaries(dictionary: bytes) -> None:
    """Needed, found by id, and damaged ones are refused."""
    raw = sources()[-1]
    plain = frames.encode(raw, codec=frames.ZSTD)
    frame = frames.encode(raw, codec=frames.ZSTD, dictionary=(3, dictionary))
    assert len(frame) < len(plain)
    decoder = frames.Decoder()
    with pytest.raises(StoreCorrupt, match="needs dictionary 3"):
        decoder.decode(frame)
    head, data = decoder.decode(frames.encode_dictionary(3, dictionary))
    assert (head.codec, head.dict_id, data) == (frames.DICT, 3, dictionary)
    with pytest.raises(StoreCorrupt, match="dictionary 3 is damaged"):
        decoder.add_dictionary(3, dictionary[:100])
    decoder.add_dictionary(3, data)
    assert decoder.decode(frame)[1] == raw
    for dict_id in (0, 17):
        with pytest.raises(ValueError, match="not one a frame can carry"):
            frames.encode_dictionary(dict_id, dictionary)


# ---- Against the C codec: native/tests/test_frame_file.c -------------------------------------


@functools.cache
def page_contents(low_bits: int) -> bytes:
    """As page_byte() in test_frame_file.c, where only the low 8 bits of the index count."""
    return bytes(
        ((i // 64 * 7 if i % 64 < 48 else i * i) + low_bits * 13) & 0xFF for i in range(4096)
    )


def contents(pages: list[int]) -> bytes:
    """As fill_pages() there."""
    return b"".join(page_contents(page & 0xFF) for page in pages)


def read_rows(path: Path) -> Iterator[bytes]:
    """(u32 length, frame) to the end."""
    rest = memoryview(path.read_bytes())
    while rest:
        (length,) = struct.unpack_from("<I", rest)
        yield bytes(rest[4 : 4 + length])
        rest = rest[4 + length :]


@pytest.fixture
def program(build_dir: Path) -> Path:
    """The C side."""
    found = sorted(build_dir.glob("**/test_frame_file"))
    assert found, f"{BUILD_DIR} has no test_frame_file: run ./dev build"
    return found[0]


def test_reads_what_c_wrote(program: Path, tmp_path: Path) -> None:
    """Every codec, level and page map that the C program writes."""
    path = tmp_path / "frames"
    subprocess.run([program, "write", path], check=True, timeout=60)
    decoder = frames.Decoder()
    seen = set()
    for frame in read_rows(path):
        head, raw = decoder.decode(frame)
        seen.add((head.codec, head.dict_id))
        if head.codec == frames.DICT:
            decoder.add_dictionary(head.dict_id, raw)
        else:
            assert raw == contents(head.pages)
    assert {(frames.RAW, 0), (frames.LZ4, 0), (frames.ZSTD, 0), (frames.ZSTD, 1)} <= seen


def test_c_reads_what_python_wrote(program: Path, tmp_path: Path, dictionary: bytes) -> None:
    """The other way round."""
    rng = random.Random(5)
    written = [frames.encode_dictionary(1, dictionary)]
    for index in range(24):
        bits = [1, 1 << 63, rng.getrandbits(16) | 1, rng.getrandbits(64) | 1][index % 4]
        pages = [index * 64 + bit for bit in range(64) if bits >> bit & 1][:6]
        written.append(
            frames.encode(
                contents(pages),
                codec=ALL_CODECS[index % 3],
                level=1 + index % 5,
                region=index,
                base_page=index * 64,
                page_bits=sum(1 << page - index * 64 for page in pages),
                dictionary=(1, dictionary) if index % 2 else None,
            )
        )
    path = tmp_path / "frames"
    path.write_bytes(b"".join(struct.pack("<I", len(frame)) + frame for frame in written))
    done = subprocess.run(
        [program, "read", path], check=True, timeout=60, capture_output=True, text=True
    )
    assert done.stdout == "25 frames read\n"
