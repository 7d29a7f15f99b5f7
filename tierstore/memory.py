# SPDX-License-Identifier: Apache-2.0
"""Guest memory: allocated here, or handed in as an address or a buffer."""

from __future__ import annotations

import dataclasses
import mmap
import os
from pathlib import Path
from typing import Any, Literal, Self

from tierstore._native import ffi
from tierstore.errors import RegionError, Status

__all__ = ["GuestMemory", "MemoryKind"]

MemoryKind = Literal["anon", "memfd"]


@dataclasses.dataclass(slots=True)
class GuestMemory:
    """Mapped memory that a region can be made of.

    ``anon(size)``, ``memfd(size)`` and ``hugetlb(size)`` allocate; ``of(buffer)`` borrows an
    ``mmap.mmap`` or anything else that exports a writable buffer; ``at(address, length)`` trusts
    you.  The memory must stay mapped while it is attached: buffers are kept alive for that time.

    Reading or writing the mapping from Python holds the interpreter's lock during a page fault.
    That is fine for stores in C, and a deadlock where a tier is a store written in Python: use
    ``Region.read`` and ``Region.write`` there, which let go of the lock.
    """

    address: int
    length_bytes: int
    kind: MemoryKind
    fd: int = -1
    fd_offset: int = 0
    nr_attached: int = 0
    """Regions that are made of it at this moment."""
    _mapping: mmap.mmap | None = None
    _keep: Any = None

    @classmethod
    def anon(cls, length_bytes: int) -> GuestMemory:
        """Private anonymous memory, zeroed."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        mapping = mmap.mmap(-1, length_bytes, flags=flags)
        return cls._over(mapping, "anon")

    @classmethod
    def memfd(cls, length_bytes: int, *, name: str = "guest") -> GuestMemory:
        """A memfd of that size, mapped shared; ``fd`` is its descriptor."""
        return cls._memfd(length_bytes, name, os.MFD_CLOEXEC)

    @classmethod
    def hugetlb(cls, length_bytes: int, *, name: str = "guest") -> GuestMemory:
        """A memfd of 2 MiB pages, which the host has to have reserved (``vm.nr_hugepages``).

        Can be attached on Linux 7.3.4 and later; its kind is ``"memfd"``.
        """
        flags = os.MFD_CLOEXEC | os.MFD_HUGETLB | os.MFD_HUGE_2MB
        return cls._memfd(length_bytes, name, flags)

    @classmethod
    def _memfd(cls, length_bytes: int, name: str, flags: int) -> GuestMemory:
        fd = os.memfd_create(name, flags)
        try:
            os.ftruncate(fd, length_bytes)
            mapping = mmap.mmap(fd, length_bytes, flags=mmap.MAP_SHARED)
        except BaseException:
            os.close(fd)
            raise
        memory = cls._over(mapping, "memfd")
        memory.fd = fd
        return memory

    @classmethod
    def _over(cls, mapping: mmap.mmap, kind: MemoryKind) -> GuestMemory:
        memory = cls.of(mapping, kind=kind)
        memory._mapping = mapping
        return memory

    @classmethod
    def of(
        cls, buffer: Any, *, kind: MemoryKind = "anon", fd: int = -1, fd_offset: int = 0
    ) -> GuestMemory:
        """Memory behind a writable buffer (``mmap.mmap``, a ctypes array, ...)."""
        try:
            keep = ffi.from_buffer("char[]", buffer, require_writable=True)
        except (TypeError, BufferError) as error:
            raise RegionError(
                f"guest memory must be a writable buffer: {error}", status=Status.EBACKING
            ) from None
        address = int(ffi.cast("uintptr_t", keep))
        return cls(address, len(keep), kind, fd, fd_offset, _keep=keep)

    @classmethod
    def at(
        cls,
        address: int,
        length_bytes: int,
        *,
        kind: MemoryKind = "anon",
        fd: int = -1,
        fd_offset: int = 0,
    ) -> GuestMemory:
        """Memory at an address of this process.  Nothing keeps it mapped but you."""
        return cls(address, length_bytes, kind, fd, fd_offset)

    @property
    def is_remote(self) -> bool:
        """Whether this is another process's (``tierstore.remote``): there is no address here."""
        return False

    @property
    def buffer(self) -> memoryview:
        """The bytes, writable.  Mind the lock (see the class)."""
        return memoryview(ffi.buffer(ffi.cast("char *", self.address), self.length_bytes))

    def resident_bytes(self) -> int:
        """What the kernel says it holds of this memory.  Walks page tables: about 10 ms a GiB."""
        if self.kind == "memfd" and self.fd >= 0:
            return os.fstat(self.fd).st_blocks * 512
        return _rss_bytes(self.address, self.address + self.length_bytes)

    def close(self) -> None:
        """Unmap what was allocated here.  Idempotent; refused while a region is made of it."""
        if self.nr_attached:
            raise RegionError(
                "this memory is still attached: detach its region first", status=Status.ESTATE
            )
        if self._keep is not None and self._mapping is not None:
            ffi.release(self._keep)
            self._keep = None
        if self._mapping is not None:
            self._mapping.close()
            self._mapping = None
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _rss_bytes(start: int, end: int) -> int:
    """Resident bytes of the mappings inside of [start, end), from /proc/self/smaps."""
    total_kib = 0
    is_inside = False
    with Path("/proc/self/smaps").open("rb") as smaps:
        for line in smaps:
            # A mapping's first line is "start-end perms ..."; the others are "Name:  value kB".
            if line.startswith(b"Rss:"):
                total_kib += int(line.split()[1]) if is_inside else 0
            elif b"-" in line.split(b" ", 1)[0]:
                low, _, high = line.split(b" ", 1)[0].partition(b"-")
                is_inside = int(low, 16) >= start and int(high, 16) <= end
                if int(low, 16) >= end:
                    break
    return total_kib * 1024
