# SPDX-License-Identifier: Apache-2.0
"""Which VMs a manager serves, in a file that its successor reads (``vms.json``, state folder).

The engine keeps what it knows of a VM's pages; this is what is needed to ask it: who the VM is,
and its memory in the order in which it came, for pages are numbered so.  It is replaced as a whole
whenever a VM comes or goes.

A userfaultfd can't be written down.  It comes back with the VM's own message (resume), or is taken
from the living VM with ``pidfd_getfd(2)``, which wants the right to trace it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tierstore.manager import addresses
from tierstore.manager.protocol import Handoff, Piece

__all__ = ["StateFile", "VmRecord", "boot_id", "take_userfaultfd"]

logger = logging.getLogger("tierstore.manager")

_SYS_PIDFD_GETFD = 438
U64 = Annotated[int, Field(strict=True, ge=0, lt=1 << 64)]


def boot_id() -> str:
    """Of this boot of the host: start times count from it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class VmRecord(BaseModel):
    """One VM."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    name: str
    pid: int
    uid: int
    start_time: int
    boot_id: str
    vmm: str
    socket: str
    modes: tuple[str, ...]
    pieces: tuple[tuple[U64, U64, U64], ...]
    """Address, length and offset of each, in the order in which the engine numbers pages."""
    is_snapshot: bool
    is_resumable: bool
    is_persistent: bool
    """The engine's state folder knows its pages."""

    def handoff(self) -> Handoff:
        """As the VM would say it."""
        return Handoff(
            vmm=self.vmm,
            pieces=tuple(Piece(*piece) for piece in self.pieces),
            modes=frozenset(self.modes),
            vmm_pid=self.pid,
            is_snapshot=self.is_snapshot,
            is_resumable=self.is_resumable,
        )

    def in_order(self, pieces: Iterable[Piece]) -> tuple[Piece, ...]:
        """The same pieces in this record's order; what it does not know comes last."""
        order = {addr: number for number, (addr, _, _) in enumerate(self.pieces)}
        return tuple(sorted(pieces, key=lambda p: (order.get(p.addr, len(order)), p.addr)))


_RECORDS = TypeAdapter(tuple[VmRecord, ...])


class StateFile:
    """``vms.json``.  One writer: the manager that holds the folder's lock in the engine."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "vms.json"

    def load(self) -> tuple[VmRecord, ...]:
        """The VMs of the manager before, as far as they can still be running."""
        try:
            records = _RECORDS.validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return ()
        except (OSError, ValidationError) as error:
            # Who is served is told again by the VMs themselves; what is away is the engine's.
            reason = str(error).splitlines()[0]
            logger.error("%s: can't be read, and is begun anew: %s", self.path, reason)
            return ()
        return tuple(record for record in records if record.boot_id == boot_id())

    def save(self, records: Iterable[VmRecord]) -> None:
        """Replace the file, or leave it as it was."""
        text = json.dumps([record.model_dump(mode="json") for record in records], indent=1)
        fd, name = tempfile.mkstemp(prefix=".vms-", dir=self.path.parent)
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                # Not synced: the loop would wait for a disk, and VMs don't outlive a host's crash.
                file.write(text)
            Path(name).replace(self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise


def take_userfaultfd(pid: int, pidfd: int) -> int:
    """A descriptor of the VM's one userfaultfd.

    Raises ``OSError`` where that is not allowed, ``LookupError`` if it has none or several.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    found: list[int] = []
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if str(entry.readlink()) != "anon_inode:[userfaultfd]":
                    continue
            except FileNotFoundError:
                continue
            fd = int(libc.syscall(_SYS_PIDFD_GETFD, pidfd, int(entry.name), 0))
            if fd < 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
            found.append(fd)
            if not addresses.is_userfaultfd(fd):
                raise LookupError("its descriptors changed meanwhile")
        if len({_context(fd) for fd in found}) != 1:
            raise LookupError(f"it has {len(found)} userfaultfds")
        return os.dup(found[0])
    finally:
        for fd in found:
            os.close(fd)


def _context(fd: int) -> int:
    """Descriptors of the same userfaultfd have the same inode."""
    return os.fstat(fd).st_ino
