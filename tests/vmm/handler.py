# SPDX-License-Identifier: Apache-2.0
"""The smallest manager there can be, in Python alone, to hold the double to its word.

It takes a hand-over, and answers faults with zeros or with pages of a memory file.  It evicts
nothing.  What it learned from the VMM stands in its attributes.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import socket
import struct
import threading
from pathlib import Path
from typing import Any

PAGE = 4096
UFFDIO_WAKE, UFFDIO_COPY, UFFDIO_ZEROPAGE = 0x8010AA02, 0xC028AA03, 0xC020AA04
UFFDIO_POISON = 0xC020AA08
EVENT_PAGEFAULT, EVENT_REMOVE = 0x12, 0x15


class Handler:
    """Listens at once; take() accepts one VMM, serve() answers its faults on a thread."""

    def __init__(self, path: Path, file: Path | None = None) -> None:
        """Listens on @path; @file is the snapshot's memory file."""
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(path))
        self.listener.listen(1)
        self.listener.settimeout(60)
        self.file = None if file is None else file.read_bytes()
        self.fds: list[int] = []
        self.link: Any = None  # the connection
        self.message: Any = None
        self.is_stopped = False
        self.removed: list[tuple[int, int]] = []
        self.nr_faults = 0
        self.poisoned: set[int] = set()  # addresses whose page is lost
        self._later: list[int] = []  # faults that met a queued event
        self._stop_read, self._stop_write = os.pipe()
        self._thread: threading.Thread | None = None

    def accept(self) -> None:
        """One connection."""
        self.link, _ = self.listener.accept()
        self.link.settimeout(60)

    def take(self, framed: bool) -> bytes:
        """One connection and its first message, as it came."""
        self.accept()
        raw = b""
        while True:
            data, fds, _, _ = socket.recv_fds(self.link, 1 << 16, 64)
            self.fds += fds
            raw += data
            body = raw[4:] if framed else raw
            if framed and len(raw) >= 4 and len(body) < struct.unpack("<I", raw[:4])[0] and data:
                continue
            try:
                self.message = json.loads(body)
            except ValueError:
                if data:
                    continue
            return raw

    def frame(self) -> Any:
        """One later message."""
        length = struct.unpack("<I", self.link.recv(4, socket.MSG_WAITALL))[0]
        return json.loads(self.link.recv(length, socket.MSG_WAITALL))

    def answer(self) -> None:
        """The byte that Cloud Hypervisor waits for."""
        self.link.sendall(b"\x01")

    def regions(self) -> list[tuple[int, int, int]]:
        """(address, bytes, offset) of each."""
        if isinstance(self.message, list):
            return [(r["base_host_virt_addr"], r["size"], r["offset"]) for r in self.message]
        regions = self.message["regions"]
        return [(r["host_virt_addr"], r["size"], r["backing_file_offset"]) for r in regions]

    def serve(self) -> None:
        """From now on faults are answered."""
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        uffd = self.fds[0]
        poll = select.poll()
        poll.register(uffd, select.POLLIN)
        poll.register(self._stop_read, select.POLLIN)
        while True:
            ready = dict(poll.poll(5 if self._later else None))
            if self._stop_read in ready:
                return
            later, self._later = self._later, []
            for addr in later:
                self._install(uffd, addr)
            try:
                message = os.read(uffd, 32)
            except BlockingIOError:
                continue
            if message[0] == EVENT_REMOVE:
                self.removed.append(struct.unpack("<QQ", message[8:24]))
            elif message[0] == EVENT_PAGEFAULT:
                self.nr_faults += 1
                self._install(uffd, struct.unpack("<Q", message[16:24])[0] & ~(PAGE - 1))

    def _contents(self, addr: int) -> bytes | None:
        if self.file is None or any(start <= addr < end for start, end in self.removed):
            return None
        for start, length, offset in self.regions():
            if start <= addr < start + length:
                return self.file[offset + addr - start :][:PAGE]
        return None

    def _install(self, uffd: int, addr: int) -> None:
        contents = self._contents(addr)
        if addr in self.poisoned:
            call, argument = UFFDIO_POISON, struct.pack("<QQQq", addr, PAGE, 0, 0)
        elif contents is None:
            call, argument = UFFDIO_ZEROPAGE, struct.pack("<QQQq", addr, PAGE, 0, 0)
        else:
            source = ctypes.create_string_buffer(contents, PAGE)
            where = ctypes.addressof(source)
            call, argument = UFFDIO_COPY, struct.pack("<QQQQq", addr, where, PAGE, 0, 0)
        try:
            fcntl.ioctl(uffd, call, bytearray(argument))
        except FileExistsError:
            fcntl.ioctl(uffd, UFFDIO_WAKE, bytearray(struct.pack("<QQ", addr, PAGE)))
        except BlockingIOError:
            self._later.append(addr)

    def stop(self) -> None:
        """As a manager that dies: everything it holds is closed, nobody is woken."""
        if self.is_stopped:
            return
        self.is_stopped = True
        os.write(self._stop_write, b"x")
        if self._thread:
            self._thread.join()
        for fd in [*self.fds, self._stop_read, self._stop_write]:
            os.close(fd)
        if self.link:
            self.link.close()
        self.listener.close()

    def __enter__(self) -> Handler:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stops it, if the test has not."""
        self.stop()
