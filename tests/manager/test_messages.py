# SPDX-License-Identifier: Apache-2.0
"""What VMMs say: real messages in any pieces, every kind of nonsense, and fuzz."""

from __future__ import annotations

import json
import random
import struct
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierstore.manager.bounds import MESSAGE_BYTES_MAX, RANGES_MAX
from tierstore.manager.cloud_hypervisor import CloudHypervisor
from tierstore.manager.firecracker import Firecracker
from tierstore.manager.protocol import (
    HEAD_BYTES,
    Added,
    Handoff,
    Message,
    MessageError,
    Piece,
    find_protocol,
    protocol_names,
)

MIB = 1 << 20
FC_REGION = {
    "base_host_virt_addr": 0x7F0000000000,
    "size": 128 * MIB,
    "offset": 0,
    "page_size": 4096,
    "page_size_kib": 4096,
}
CH_REGION = {
    "guest_phys_addr": 0,
    "host_virt_addr": 0x7F0000000000,
    "size": 128 * MIB,
    "backing_file_offset": 0,
}
CH_HANDOFF: dict[str, Any] = {
    "type": "handoff",
    "version": 0,
    "vmm_pid": 4711,
    "mode": "MISSING|WP|WP_ASYNC",
    "regions": [CH_REGION],
}


def framed(message: object) -> bytes:
    """As Cloud Hypervisor frames it."""
    text = json.dumps(message).encode()
    return struct.pack("<I", len(text)) + text


def speak(*chunks: bytes) -> list[Message]:
    """What comes out of a connection on which this arrives, in these pieces."""
    head, messages, protocol = b"", [], None
    for chunk in chunks:
        if protocol is None:
            head += chunk
            protocol = find_protocol(head)
            chunk = head
        if protocol is not None:
            messages += protocol.feed(chunk)
    return messages


def only(*chunks: bytes) -> Message:
    """The same, where one message is expected."""
    (message,) = speak(*chunks)
    return message


def test_both_are_known() -> None:
    assert protocol_names() == ["firecracker", "cloud-hypervisor"]


def test_firecracker() -> None:
    second = FC_REGION | {"base_host_virt_addr": 0x7F1000000000, "offset": 128 * MIB}
    message = only(json.dumps([FC_REGION, second]).encode())
    assert message == Handoff(
        vmm="firecracker",
        pieces=(
            Piece(0x7F0000000000, 128 * MIB, 0),
            Piece(0x7F1000000000, 128 * MIB, 128 * MIB),
        ),
        modes=frozenset({"MISSING"}),
        is_snapshot=True,
    )


@pytest.mark.parametrize("gone", [["page_size"], ["page_size_kib"], ["page_size", "page_size_kib"]])
def test_firecracker_of_other_releases(gone: list[str]) -> None:
    region = {key: value for key, value in FC_REGION.items() if key not in gone}
    assert isinstance(only(json.dumps([region | {"is_new": {"a": []}}]).encode()), Handoff)


def test_cloud_hypervisor() -> None:
    assert only(framed(CH_HANDOFF)) == Handoff(
        vmm="cloud-hypervisor",
        pieces=(Piece(0x7F0000000000, 128 * MIB, 0),),
        modes=frozenset({"MISSING", "WP", "WP_ASYNC"}),
        vmm_pid=4711,
        is_resumable=True,
    )


def test_cloud_hypervisor_adds_memory() -> None:
    added = {"type": "add_region", "region": CH_REGION | {"host_virt_addr": 0x7F2000000000}}
    messages = speak(framed(CH_HANDOFF) + framed(added), framed(added))
    assert messages[1:] == [Added(Piece(0x7F2000000000, 128 * MIB, 0))] * 2


def test_a_missing_version_is_the_first() -> None:
    message = {key: value for key, value in CH_HANDOFF.items() if key != "version"}
    assert isinstance(only(framed(message)), Handoff)


def test_a_missing_pid_is_known_from_the_socket() -> None:
    message = {key: value for key, value in CH_HANDOFF.items() if key != "vmm_pid"}
    handoff = only(framed(message))
    assert isinstance(handoff, Handoff) and handoff.vmm_pid is None


@pytest.mark.parametrize("whole", [json.dumps([FC_REGION]).encode(), framed(CH_HANDOFF)])
def test_any_cut_gives_the_same(whole: bytes) -> None:
    message = only(whole)
    assert only(*(whole[i : i + 1] for i in range(len(whole)))) == message
    for cut in range(1, len(whole)):
        assert only(whole[:cut], whole[cut:]) == message


def test_a_length_that_looks_like_a_bracket() -> None:
    """0x5b is "[": a framed message of 0x15b bytes must not be taken for Firecracker's."""
    for low in (0x015B, 0x5B5B):
        padded = CH_HANDOFF | {"pad": ""}
        short = len(json.dumps(padded))
        padded["pad"] = "x" * (low - short)
        whole = framed(padded)
        assert whole[0] == ord("[")
        assert only(whole) == only(framed(CH_HANDOFF))


def test_regions_that_continue_each_other_are_one() -> None:
    size = 2 * MIB
    regions = [
        FC_REGION | {"base_host_virt_addr": (1 << 40) + i * size, "size": size, "offset": i * size}
        for i in range(40)
    ]
    handoff = only(json.dumps(regions).encode())
    assert isinstance(handoff, Handoff)
    assert handoff.pieces == (Piece(1 << 40, 40 * size, 0),)


REGION_NONSENSE: dict[str, dict[str, Any]] = {
    "negative": {"size": -4096},
    "zero": {"size": 0},
    "too large a number": {"size": 1 << 64},
    "very many digits": {"size": int("9" * 300)},
    "a fraction": {"size": 4096.0},
    "text": {"size": "4096"},
    "true": {"size": True},
    "null": {"size": None},
    "not whole pages": {"size": 4097},
    "a list": {"size": [4096]},
    "the end of the address space": {"size": (1 << 64) - 4096},
    "more than a region may have": {"size": 1 << 40},
}


@pytest.mark.parametrize("change", REGION_NONSENSE.values(), ids=REGION_NONSENSE.keys())
def test_regions_that_make_no_sense(change: dict[str, Any]) -> None:
    with pytest.raises(MessageError):
        speak(json.dumps([FC_REGION | change]).encode())
    with pytest.raises(MessageError):
        speak(framed(CH_HANDOFF | {"regions": [CH_REGION | change]}))
    with pytest.raises(MessageError):
        added = {"type": "add_region", "region": CH_REGION | change}
        speak(framed(CH_HANDOFF) + framed(added))


def many(number: int) -> list[dict[str, Any]]:
    """Regions with gaps between them."""
    return [
        FC_REGION | {"base_host_virt_addr": (i + 1) << 32, "size": 4096, "offset": i << 20}
        for i in range(number)
    ]


def test_the_number_of_regions_is_bounded() -> None:
    assert isinstance(only(json.dumps(many(RANGES_MAX)).encode()), Handoff)
    for number in (0, RANGES_MAX + 1, 65, 500):
        with pytest.raises(MessageError):
            speak(b"[  " + json.dumps(many(number)).encode()[1:])


FC_NONSENSE: dict[str, bytes] = {
    "no JSON": b"[this is no JSON]",
    "an unknown key only": b'[{"a": 1}]',
    "numbers": b"[1, 2, 3]",
    "two brackets": b"[[]]",
    "a second message": json.dumps([FC_REGION]).encode() * 2,
    "a twin": json.dumps([FC_REGION]).encode().replace(b'"size"', b'"size": 4096, "size"', 1),
    "NaN": b'[{"size": NaN}]',
    "infinity": b'[{"size": -Infinity}]',
    "an exponent": b'[{"size": 1e99999}]',
    "not UTF-8": b'[{"\xff\xfe": 1}]',
    "deep": b"[" * 30000 + b"]" * 30000,
    "objects, deep": b'[{"a":' * 500 + b"1" + b"}]" * 500,
    "never over": b"[" + b" " * (MESSAGE_BYTES_MAX + 1),
    "a string that is never over": b'["' + b'\\"' * (MESSAGE_BYTES_MAX // 2),
    "huge pages": json.dumps([FC_REGION | {"page_size": 2 * MIB}]).encode(),
    "overlap": json.dumps([FC_REGION, FC_REGION | {"offset": 128 * MIB}]).encode(),
    "overlap in the file": json.dumps(
        [FC_REGION, FC_REGION | {"base_host_virt_addr": 1 << 40}]
    ).encode(),
}


@pytest.mark.parametrize("text", FC_NONSENSE.values(), ids=FC_NONSENSE.keys())
def test_firecracker_nonsense(text: bytes) -> None:
    started_s = time.process_time()
    with pytest.raises(MessageError) as refused:
        speak(text)
    assert str(refused.value).isprintable()
    assert time.process_time() - started_s < 5


CH_NONSENSE: dict[str, bytes] = {
    "an array": framed([CH_HANDOFF]),
    "no type": framed({"regions": []}),
    "an unknown type": framed(CH_HANDOFF | {"type": "format-disk"}),
    "a later version": framed(CH_HANDOFF | {"version": 1}),
    "a version that is none": framed(CH_HANDOFF | {"version": "0"}),
    "an unknown mode": framed(CH_HANDOFF | {"mode": "MISSING|\x1b[31mRED"}),
    "no mode": framed(CH_HANDOFF | {"mode": ""}),
    "a list of modes": framed(CH_HANDOFF | {"mode": ["MISSING"]}),
    "no regions": framed(CH_HANDOFF | {"regions": []}),
    "overlap": framed(CH_HANDOFF | {"regions": [CH_REGION, CH_REGION]}),
    "process 0": framed(CH_HANDOFF | {"vmm_pid": 0}),
    "memory before the hand-over": framed({"type": "add_region", "region": CH_REGION}),
    "two hand-overs": framed(CH_HANDOFF) * 2,
    "an empty frame later": framed(CH_HANDOFF) + bytes(4),
    "too long later": framed(CH_HANDOFF) + struct.pack("<I", MESSAGE_BYTES_MAX + 1),
    "twins": struct.pack("<I", 30) + b'{"type":"handoff","type":"ha"}',
}


@pytest.mark.parametrize("text", CH_NONSENSE.values(), ids=CH_NONSENSE.keys())
def test_cloud_hypervisor_nonsense(text: bytes) -> None:
    with pytest.raises(MessageError) as refused:
        speak(text)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "head",
    [b"GET / HTTP/1.1", bytes(4), b"\xff" * 4, b'{"a": 1}', b"\n[{}]", b"\x16\x03\x01\x02"],
)
def test_nobody_speaks_so(head: bytes) -> None:
    with pytest.raises(MessageError, match="none of firecracker, cloud-hypervisor"):
        speak(head)


def test_a_version_that_is_too_new_names_the_remedy() -> None:
    with pytest.raises(MessageError, match="use a newer tierstore"):
        speak(framed(CH_HANDOFF | {"version": 7}))


# ---- Fuzz ---------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner),
    max_leaves=12,
)
keys = st.sampled_from([*FC_REGION, *CH_REGION, *CH_HANDOFF, "region"])
near = st.dictionaries(
    keys,
    st.sampled_from([0, 1, 4096, 1 << 32, (1 << 64) - 1, 1 << 64, -1, "handoff", "MISSING", [], {}])
    | st.lists(st.dictionaries(keys, st.integers(0, 1 << 64)), max_size=3)
    | json_values,
)


def outcome(data: bytes, seed: int) -> None:
    """However it is cut: messages or a refusal, nothing else."""
    rng = random.Random(seed)
    chunks = []
    while data:
        cut = rng.choice([1, 3, HEAD_BYTES, 50, 4096])
        chunks.append(data[:cut])
        data = data[cut:]
    try:
        for message in speak(*chunks):
            assert isinstance(message, Handoff | Added)
    except MessageError as error:
        assert str(error).isprintable()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 1 << 32))
def test_fuzz_bytes(data: bytes, seed: int) -> None:
    outcome(data, seed)
    outcome(b"[{" + data, seed)
    outcome(struct.pack("<I", max(len(data), 1)) + data, seed)


@settings(max_examples=300, deadline=None)
@given(json_values | near | st.lists(near, max_size=3), st.integers(0, 1 << 32))
def test_fuzz_json(value: object, seed: int) -> None:
    outcome(json.dumps(value).encode(), seed)
    outcome(framed(value), seed)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_fuzz_spoiled_messages(data: st.DataObject) -> None:
    """A real message with some bytes changed, cut off or doubled."""
    whole = data.draw(st.sampled_from([json.dumps([FC_REGION] * 2).encode(), framed(CH_HANDOFF)]))
    spoiled = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(spoiled) - 1))
        how = data.draw(st.sampled_from(["change", "cut", "double"]))
        if how == "change":
            spoiled[at] = data.draw(st.integers(0, 255))
        elif how == "cut" and len(spoiled) > 8:
            del spoiled[at : at + data.draw(st.integers(1, 8))]
        else:
            spoiled[at:at] = spoiled[at : at + 40]
        if not spoiled:
            return
    outcome(bytes(spoiled), 1)


@pytest.mark.parametrize("protocol", [Firecracker, CloudHypervisor])
def test_memory_is_bounded_whatever_comes(protocol: Any) -> None:
    """A stream that never makes a message holds no more than one message's worth."""
    speaker = protocol()
    head = b"[" if protocol is Firecracker else struct.pack("<I", MESSAGE_BYTES_MAX)
    chunk = head + b" " * 4092
    tracemalloc.start()
    try:
        with pytest.raises(MessageError):
            for _ in range(1000):
                speaker.feed(chunk)
        assert tracemalloc.get_traced_memory()[1] < 8 * MESSAGE_BYTES_MAX
    finally:
        tracemalloc.stop()
