# SPDX-License-Identifier: Apache-2.0
"""Memory that can't be served is refused: with the right code, words that name region and remedy,
and nothing left behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tierstore import Engine, GuestMemory
from tierstore._native import ffi, lib
from tierstore.errors import (
    ConfigError,
    HostError,
    RegionError,
    Status,
    StoreError,
    TierstoreError,
    UsageError,
)
from tierstore.probe import probe

PAGE = 4096
SIZE = 64 * PAGE
MAP_FIXED = 0x10
MAP_HUGETLB = 0x40000
HUGE = 2 << 20
SYS_USERFAULTFD = {"x86_64": 323, "aarch64": 282}
UFFDIO_API, UFFDIO_REGISTER = 0xC018AA3F, 0xC020AA00

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
for name in ("munmap", "mlock", "munlock"):
    getattr(libc, name).argtypes = (ctypes.c_void_p, ctypes.c_size_t)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
libc.ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)

RW = mmap.PROT_READ | mmap.PROT_WRITE
ANON = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


@contextlib.contextmanager
def mapped(
    length: int = SIZE, flags: int = ANON, fd: int = -1, offset: int = 0, prot: int = RW
) -> Iterator[int]:
    """The address of a fresh mapping."""
    address = libc.mmap(None, length, prot, flags, fd, offset)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "mmap")
    try:
        yield address
    finally:
        libc.munmap(address, length)


@pytest.fixture
def engine() -> Iterator[Engine]:
    """One tier in RAM."""
    with Engine({"tier": [{"name": "warm", "store": "ram", "size": "8MiB"}]}) as opened:
        yield opened


def refused(
    engine: Engine,
    memory: GuestMemory,
    status: int,
    words: str,
    kind: type[TierstoreError] = RegionError,
) -> str:
    """Attaching fails in this way; returns the message."""
    with pytest.raises(kind, match=words) as caught:
        engine.attach(memory, name="vm")
    assert caught.value.status == status
    assert "vm" in str(caught.value)
    assert engine.regions == ()
    assert memory.nr_attached == 0
    assert engine.statistics().nr_regions == 0
    return str(caught.value)


def attach_and_detach(engine: Engine, memory: GuestMemory) -> None:
    """With the remedy taken it works, out and back."""
    with engine.attach(memory, name="vm") as region:
        region.write(0, b"here")
        region.evict(age_min=0, probation=False)
        assert region.read(0, 4) == b"here"


def vm_flags(address: int) -> list[str]:
    """The kernel's flags of the mapping at this address."""
    is_inside = False
    with Path("/proc/self/smaps").open() as smaps:
        for line in smaps:
            first = line.split(" ", 1)[0]
            if "-" in first and ":" not in first:
                low, high = (int(part, 16) for part in first.split("-"))
                is_inside = low <= address < high
            elif is_inside and line.startswith("VmFlags:"):
                return line.split()[1:]
    raise AssertionError(f"nothing is mapped at {address:x}")


def test_alignment(engine: Engine) -> None:
    with mapped() as address:
        crooked = GuestMemory.at(address + 1, PAGE)
        refused(engine, crooked, Status.EALIGN, "multiples of 4096")
        refused(engine, GuestMemory.at(address, PAGE + 1), Status.EALIGN, "multiples of 4096")
        refused(engine, GuestMemory.at(address, 0), Status.ECONFIG, "length", ConfigError)
        attach_and_detach(engine, GuestMemory.at(address, PAGE))


@pytest.mark.parametrize(
    ("flags", "kind", "words"),
    [
        (mmap.MAP_PRIVATE, "anon", "private mapping of a file"),
        (mmap.MAP_SHARED, "anon", "attach it as memfd"),
        (mmap.MAP_SHARED, "memfd", "a file, not a memfd"),
        (mmap.MAP_PRIVATE, "memfd", "MAP_SHARED"),
    ],
)
def test_files(engine: Engine, tmp_path: Path, flags: int, kind: Any, words: str) -> None:
    path = tmp_path / "guest.img"
    path.write_bytes(b"x" * SIZE)
    with path.open("r+b") as file, mapped(flags=flags, fd=file.fileno()) as address:
        memory = GuestMemory.at(address, SIZE, kind=kind, fd=file.fileno())
        message = refused(engine, memory, Status.EBACKING, words)
        assert str(path) in message
    assert path.read_bytes() == b"x" * SIZE


@pytest.mark.parametrize("kind", ["anon", "memfd"])
def test_protection(engine: Engine, kind: str) -> None:
    make = GuestMemory.anon if kind == "anon" else GuestMemory.memfd
    for protection in (mmap.PROT_READ, 0):
        with make(SIZE) as memory:
            middle = memory.address + 8 * PAGE
            assert libc.mprotect(middle, PAGE, protection) == 0
            refused(engine, memory, Status.EBACKING, "not readable and writable")
            assert libc.mprotect(middle, PAGE, RW) == 0
            attach_and_detach(engine, memory)


@pytest.mark.parametrize("kind", ["anon", "memfd"])
def test_locked(engine: Engine, kind: str) -> None:
    make = GuestMemory.anon if kind == "anon" else GuestMemory.memfd
    with make(SIZE) as memory:
        assert libc.mlock(memory.address + 4 * PAGE, PAGE) == 0
        refused(engine, memory, Status.EBACKING, "munlock it first")
        assert libc.munlock(memory.address + 4 * PAGE, PAGE) == 0
        attach_and_detach(engine, memory)


@pytest.fixture
def huge_page() -> Iterator[None]:
    """At least one hugetlb page, where we may ask for it."""
    knob = Path("/proc/sys/vm/nr_hugepages")
    before = knob.read_text()
    try:
        knob.write_text(str(int(before) + 2))
    except OSError:
        pytest.skip("may not set vm.nr_hugepages")
    yield
    knob.write_text(before)


@pytest.mark.usefixtures("huge_page")
def test_hugetlb(engine: Engine) -> None:
    try:
        with mapped(HUGE, ANON | MAP_HUGETLB) as address:
            refused(engine, GuestMemory.at(address, HUGE), Status.EBACKING, "hugetlb")
    except OSError as error:
        pytest.skip(f"no huge page to be had: {error}")


@pytest.mark.usefixtures("huge_page")
@pytest.mark.skipif(probe().flags["has_rwp_hugetlb"], reason="this kernel has RWP of hugetlbfs")
def test_hugetlb_memfd(engine: Engine) -> None:
    """Where it can't be served, the refusal names the kernel that can."""
    try:
        memory = GuestMemory.hugetlb(HUGE)
    except OSError as error:
        pytest.skip(f"no huge page to be had: {error}")
    with memory:
        refused(engine, memory, Status.EUNSUPPORTED, "hugetlb.*Linux 7.3.4.*4 KiB", HostError)
        memory.buffer[:5] = b"alive"
        assert memory.resident_bytes() == HUGE


@pytest.mark.usefixtures("huge_page")
def test_hugetlb_memfd_by_halves(engine: Engine) -> None:
    """A huge page is attached whole, whatever the kernel."""
    try:
        memory = GuestMemory.hugetlb(HUGE)
    except OSError as error:
        pytest.skip(f"no huge page to be had: {error}")
    with memory:
        part = GuestMemory.at(memory.address, HUGE // 2, kind="memfd", fd=memory.fd)
        refused(engine, part, Status.EALIGN, "hugetlb.*2097152")


@contextlib.contextmanager
def other_userfaultfd(address: int, length: int) -> Iterator[None]:
    """Somebody else's registration."""
    fd = libc.syscall(SYS_USERFAULTFD[os.uname().machine], os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        pytest.skip(f"userfaultfd: {os.strerror(ctypes.get_errno())}")
    try:
        api = ctypes.create_string_buffer(struct.pack("QQQ", 0xAA, 0, 0), 24)
        assert libc.ioctl(fd, UFFDIO_API, api) == 0
        register = ctypes.create_string_buffer(struct.pack("QQQQ", address, length, 1, 0), 32)
        assert libc.ioctl(fd, UFFDIO_REGISTER, register) == 0
        yield
    finally:
        os.close(fd)


def test_another_userfaultfd(engine: Engine) -> None:
    with GuestMemory.anon(SIZE) as memory:
        with other_userfaultfd(memory.address + PAGE, PAGE):
            refused(engine, memory, Status.EREGISTERED, "another userfaultfd")
        attach_and_detach(engine, memory)


@pytest.mark.parametrize("kind", ["anon", "memfd"])
def test_overlap(engine: Engine, kind: str) -> None:
    make = GuestMemory.anon if kind == "anon" else GuestMemory.memfd
    with make(SIZE) as memory, engine.attach(memory, name="first"):
        parts = [(0, SIZE), (PAGE, PAGE), (SIZE - PAGE, PAGE)]
        for offset, length in parts:
            part = GuestMemory.at(
                memory.address + offset,
                length,
                kind=memory.kind,
                fd=memory.fd,
                fd_offset=offset,
            )
            with pytest.raises(RegionError, match=r"second.*overlaps region first") as caught:
                engine.attach(part, name="second")
            assert caught.value.status == Status.EOVERLAP
            with Engine({"tier": [{"name": "t", "store": "ram", "size": "1MiB"}]}) as other:
                refused(other, part, Status.EREGISTERED, "another userfaultfd")


def test_wrong_descriptor(engine: Engine) -> None:
    with GuestMemory.memfd(SIZE) as memory, GuestMemory.memfd(SIZE) as other:
        place: Callable[..., GuestMemory] = GuestMemory.at
        wrong = place(memory.address, SIZE, kind="memfd", fd=other.fd)
        refused(engine, wrong, Status.EBACKING, "not a mapping of the memfd")
        shifted = place(memory.address, SIZE, kind="memfd", fd=memory.fd, fd_offset=PAGE)
        refused(engine, shifted, Status.EBACKING, "not the offset mapped")
        closed = os.dup(memory.fd)
        os.close(closed)
        refused(engine, place(memory.address, SIZE, kind="memfd", fd=closed), -errno.EBADF, "open")
        refused(engine, place(memory.address, SIZE), Status.EBACKING, "attach it as memfd")
        half = place(
            memory.address + SIZE // 2,
            SIZE // 2,
            kind="memfd",
            fd=memory.fd,
            fd_offset=SIZE // 2,
        )
        attach_and_detach(engine, half)


def test_holes_in_the_address_space(engine: Engine) -> None:
    with mapped() as address:
        assert libc.munmap(address + 8 * PAGE, PAGE) == 0
        hole = f"nothing is mapped at {address + 8 * PAGE:x}"
        refused(engine, GuestMemory.at(address, SIZE), Status.EBACKING, hole)
        refused(engine, GuestMemory.at(address, 9 * PAGE), Status.EBACKING, hole)
        attach_and_detach(engine, GuestMemory.at(address, 8 * PAGE))


@pytest.mark.parametrize(
    ("kind", "settings", "status", "words", "error"),
    [
        ("memfd", {"serve": "in-thread"}, Status.EUNSUPPORTED, "in-thread", HostError),
        ("memfd", {"tracker": "wp"}, Status.ECONFIG, "use auto", ConfigError),
        ("anon", {"tracker": "zap"}, Status.ECONFIG, "use auto", ConfigError),
        ("memfd", {"tracker": "rwp"}, None, "rwp", TierstoreError),
    ],
)
def test_settings_that_do_not_fit(
    kind: str,
    settings: dict[str, Any],
    status: int | None,
    words: str,
    error: type[TierstoreError],
) -> None:
    make = GuestMemory.anon if kind == "anon" else GuestMemory.memfd
    config = {"tier": [{"name": "warm", "store": "ram", "size": "1MiB"}], "region": settings}
    with Engine(config) as engine, make(SIZE) as memory:
        with pytest.raises(error, match=words) as caught:
            engine.attach(memory, name="vm")
        assert status is None or caught.value.status == status
        assert engine.regions == ()


def test_more_regions_than_the_bound(engine: Engine) -> None:
    with contextlib.ExitStack() as stack:
        memories = [stack.enter_context(GuestMemory.anon(PAGE)) for _ in range(65)]
        for memory in memories[:64]:
            stack.enter_context(engine.attach(memory))
        with pytest.raises(UsageError, match="at most 64 regions"):
            engine.attach(memories[64], name="vm")
        assert "um" not in vm_flags(memories[64].address)
        assert "dc" not in vm_flags(memories[64].address)
        assert len(engine.regions) == 64


def test_a_refusal_leaves_nothing_behind(engine: Engine) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with GuestMemory.anon(SIZE) as memory, other_userfaultfd(memory.address, PAGE):
        with pytest.raises(RegionError):
            engine.attach(memory)
        before = descriptors()
        for _ in range(50):
            with pytest.raises(RegionError):
                engine.attach(memory)
        assert descriptors() == before
        assert "dc" not in vm_flags(memory.address + PAGE)


@pytest.fixture
def bare_engine() -> Iterator[Any]:
    """An engine of the C library that nobody has started."""
    out = ffi.new("struct ts_engine **")
    assert lib.ts_engine_open(ffi.NULL, out) == 0
    yield out[0]
    lib.ts_engine_close(out[0])


def test_order_of_calls(bare_engine: Any) -> None:
    """What the Python package gets right by itself, a C caller may get wrong."""

    def last_error() -> str:
        return bytes(ffi.string(lib.ts_last_error())).decode()

    options = ffi.new("struct ts_region_options *")
    region = ffi.new("struct ts_region **")
    with GuestMemory.anon(SIZE) as memory:
        options.size = ffi.sizeof("struct ts_region_options")
        options.addr = ffi.cast("void *", memory.address)
        options.len_bytes = SIZE
        assert lib.ts_region_attach(bare_engine, options, region) == Status.ESTATE
        assert "start the engine" in last_error()
        assert lib.ts_engine_start(bare_engine) == Status.ESTATE
        assert "add one" in last_error()
        tier = ffi.new("struct ts_tier_options *")
        tier.size = ffi.sizeof("struct ts_tier_options")
        keep = [ffi.new("char[]", b"warm"), ffi.new("char[]", b"ram")]
        tier.name, tier.store = keep
        assert lib.ts_engine_add_tier(bare_engine, tier) == Status.ECONFIG
        assert "size" in last_error()
        tier.size_bytes = 1 << 20
        assert lib.ts_engine_add_tier(bare_engine, tier) == 0
        assert lib.ts_engine_add_tier(bare_engine, tier) == Status.ECONFIG
        assert "taken" in last_error()
        assert lib.ts_engine_start(bare_engine) == 0
        assert lib.ts_engine_start(bare_engine) == Status.ESTATE
        assert "started already" in last_error()
        for member, value in (("guard_scans", 99), ("nr_shards", 99), ("serve", 9), ("memory", 9)):
            before = getattr(options, member)
            setattr(options, member, value)
            assert lib.ts_region_attach(bare_engine, options, region) == Status.ECONFIG
            setattr(options, member, before)
        options.size = 0
        assert lib.ts_region_attach(bare_engine, options, region) == Status.EVERSION
        assert "sizeof" in last_error()


@pytest.mark.parametrize(
    ("tier", "words"),
    [
        ({"store": "file", "size": "1MiB"}, "at least"),
        ({"store": "lmdb", "size": "1MiB", "path": "/proc/no"}, "/proc/no"),
        ({"store": "file", "size": "64MiB", "path": "/"}, "/"),
        ({"store": "ram", "options": {"what": 1}}, "what"),
        ({"store": "ram", "wrap": "fault:get=2"}, "get"),
    ],
)
def test_tiers_that_can_not_be(tmp_path: Path, tier: dict[str, Any], words: str) -> None:
    tier = {"name": "cold", "size": "1MiB", "path": str(tmp_path / "cold")} | tier
    with pytest.raises((ConfigError, StoreError), match=words) as caught:
        Engine({"tier": [tier]})
    assert "cold" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
