# SPDX-License-Identifier: Apache-2.0
"""A VMM for tests: a process with guest memory that hands its userfaultfd over and then obeys.

Run as a program: it prints one JSON line when it is handed over, then takes one JSON object a line
on stdin, and answers each with one.  A guest page holds its number and the seed of who wrote it
last, hashed, so that every byte of it can be checked.  It answers no fault: it is one thread, and
one that touches a page waits until the manager has served it.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import hashlib
import json
import mmap
import os
import platform
import socket
import struct
import sys
import time
from typing import Any

PAGE = 4096
UFFDIO_API, UFFDIO_REGISTER, UFFDIO_UNREGISTER = 0xC018AA3F, 0xC020AA00, 0x8010AA01
SYS_USERFAULTFD = {"x86_64": 323, "aarch64": 282, "riscv64": 282}[platform.machine()]
EVENT_REMOVE, SHMEM, WP_SHMEM, WP_UNPOPULATED, WP_ASYNC = 1 << 3, 1 << 5, 1 << 12, 1 << 13, 1 << 15
REGISTER = {"MISSING": 1, "WP": 2}
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def page_bytes(seed: int, number: int) -> bytes:
    """What a page holds that was written with this seed: 64 bytes, repeated, and not all alike."""
    unit = hashlib.blake2b(f"{seed}:{number}".encode(), digest_size=64).digest()
    return unit * (PAGE // 64)


class Vmm:
    """The process's guest memory and its userfaultfd."""

    def __init__(self, memory: str, mode: str) -> None:
        self.memory = memory
        self.mode = mode
        features = EVENT_REMOVE | (WP_ASYNC | WP_UNPOPULATED if "WP_ASYNC" in mode else 0)
        if "WP" in mode and memory == "memfd":
            features |= WP_SHMEM
        self.uffd = libc.syscall(SYS_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK)
        if self.uffd < 0:
            raise OSError(ctypes.get_errno(), "userfaultfd")
        fcntl.ioctl(self.uffd, UFFDIO_API, bytearray(struct.pack("QQQ", 0xAA, features, 0)))
        self.regions: list[dict[str, int]] = []
        self.memfds: list[int] = []
        self.socket: socket.socket | None = None

    def add(self, size: int, offset: int = 0, memfd: int = -1) -> int:
        """Map, register, and remember a region; its number."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        if self.memory == "memfd" and memfd < 0:
            memfd = os.memfd_create("guest-ram", os.MFD_CLOEXEC)
            os.ftruncate(memfd, size)
            self.memfds.append(memfd)
        if memfd >= 0:
            flags = mmap.MAP_SHARED
        addr = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, memfd,
                         offset if memfd >= 0 else 0)  # fmt: skip
        bits = sum(bit for token, bit in REGISTER.items() if token in self.mode.split("|"))
        fcntl.ioctl(self.uffd, UFFDIO_REGISTER, bytearray(struct.pack("QQQQ", addr, size, bits, 0)))
        self.regions.append({"addr": addr, "size": size, "offset": offset})
        return len(self.regions) - 1

    def at(self, page: int) -> int:
        """The address of a page; they are numbered through all regions."""
        left = page * PAGE
        for region in self.regions:
            if left < region["size"]:
                return region["addr"] + left
            left -= region["size"]
        raise IndexError(page)

    def fill(self, low: int, high: int, seed: int) -> None:
        """The guest writes pages."""
        for page in range(low, high):
            ctypes.memmove(self.at(page), page_bytes(seed, page), PAGE)

    def wrong(self, low: int, high: int, seed: int | None) -> int:
        """The guest reads pages: how many are not what they were written with (None: zeros)."""
        count = 0
        for page in range(low, high):
            expected = bytes(PAGE) if seed is None else page_bytes(seed, page)
            count += ctypes.string_at(self.at(page), PAGE) != expected
        return count

    # ---- What it says -------------------------------------------------------------------

    def message(self, vmm: str, pid: int) -> bytes:
        """The hand-over."""
        if vmm == "firecracker":
            return json.dumps([
                {"base_host_virt_addr": r["addr"], "size": r["size"], "offset": r["offset"],
                 "page_size": PAGE, "page_size_kib": PAGE} for r in self.regions
            ]).encode()  # fmt: skip
        return framed({"type": "handoff", "version": 0, "vmm_pid": pid, "mode": self.mode,
                       "regions": [told(r) for r in self.regions]})  # fmt: skip

    def hand_over(self, args: argparse.Namespace) -> None:
        """Connect, send, and wait for the answer if this protocol has one."""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(2.0)
        self.socket.connect(args.socket)
        fds = [self.uffd, *(self.memfds if args.pass_memfds else [])]
        whole = self.message(args.vmm, args.say_pid or os.getpid())
        if args.late_fd:
            self.socket.sendall(whole[:-1])
            time.sleep(0.05)
            socket.send_fds(self.socket, [whole[-1:]], fds)
        else:
            socket.send_fds(self.socket, [whole], fds)
        if args.vmm != "firecracker":
            self.wait_answer()

    def wait_answer(self) -> None:
        """One byte within two seconds, as the VMM wants it."""
        assert self.socket is not None
        if len(self.socket.recv(1)) != 1:
            raise ConnectionError("the manager hung up")

    def plug(self, size: int) -> None:
        """Hot-add."""
        assert self.socket is not None
        number = self.add(size)
        self.socket.sendall(framed({"type": "add_region", "region": told(self.regions[number])}))
        self.wait_answer()


def told(region: dict[str, int]) -> dict[str, int]:
    """A region as Cloud Hypervisor tells it."""
    return {"guest_phys_addr": region["addr"], "host_virt_addr": region["addr"],
            "size": region["size"], "backing_file_offset": region["offset"]}  # fmt: skip


def framed(message: object) -> bytes:
    """A message with its length."""
    text = json.dumps(message).encode()
    return struct.pack("<I", len(text)) + text


def obey(vmm: Vmm, args: argparse.Namespace, order: dict[str, Any]) -> dict[str, Any]:
    """One order of the test's."""
    verb = order.pop("do")
    if verb == "fill":
        vmm.fill(**order)
    elif verb == "check":
        return {"wrong": vmm.wrong(**order)}
    elif verb == "plug":
        vmm.plug(**order)
    elif verb == "remove":
        libc.madvise(vmm.at(order["low"]), (order["high"] - order["low"]) * PAGE, 4)
    elif verb == "hang-up":
        assert vmm.socket is not None
        vmm.socket.close()
    elif verb == "hand-over":
        vmm.hand_over(args)
    elif verb == "held":
        return {"bytes": sum(os.fstat(fd).st_blocks * 512 for fd in vmm.memfds)}
    else:
        raise ValueError(verb)
    return {}


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--vmm", choices=["firecracker", "cloud-hypervisor"], required=True)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--memory", choices=["memfd", "anon"], default="memfd")
    parser.add_argument("--mode", default="MISSING|WP")
    parser.add_argument("--size", type=int, action="append", required=True)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--pass-memfds", action="store_true")
    parser.add_argument("--late-fd", action="store_true")
    parser.add_argument("--say-pid", type=int, default=0)
    args = parser.parse_args()
    vmm = Vmm(args.memory, args.mode)
    offset = 0
    one_file = -1
    for size in args.size:
        vmm.add(size, offset if args.memory == "anon" else 0, one_file)
        offset += size
    if args.seed is not None:
        # The regions are registered: a touch would wait.  The memory is written as a device would.
        page = 0
        for memfd, region in zip(vmm.memfds, vmm.regions, strict=True):
            for number in range(region["size"] // PAGE):
                os.pwrite(memfd, page_bytes(args.seed, page), number * PAGE)
                page += 1
    try:
        vmm.hand_over(args)
    except OSError as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
        return
    print(json.dumps({"pid": os.getpid()}), flush=True)
    for line in sys.stdin:
        try:
            answer = obey(vmm, args, json.loads(line))
        except OSError as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
