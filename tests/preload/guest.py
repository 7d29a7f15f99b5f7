# SPDX-License-Identifier: Apache-2.0
"""A small guest in stock QEMU: a Debian kernel and one program of ours, under ``tierstore run``."""

from __future__ import annotations

import json
import lzma
import socket
import subprocess
from pathlib import Path
from typing import Any

from tests.preload.support import end_process, tierstore_command, wait_until
from tests.vm.apt import fetch
from tests.vm.boot import CPU

KERNEL = "6.12"
BOOT = "console=ttyS0,115200 panic=-1 quiet mitigations=off nokaslr no_timer_check"


def _entry(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    """One file of a cpio archive, in the format that the kernel reads."""
    name_bytes = name.encode() + b"\0"
    numbers = [0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name_bytes), 0]
    head = b"070701" + b"".join(f"{number:08x}".encode() for number in numbers) + name_bytes
    head += b"\0" * (-len(head) % 4)
    return head + data + b"\0" * (-len(data) % 4)


def make_initramfs(folder: Path, kernel: Path) -> Path:
    """/init, a console, and the balloon's module out of the kernel's package."""
    source = Path(__file__).with_name("guest_init.c")
    init = folder / "init"
    command = ["cc", "-std=gnu17", "-D_GNU_SOURCE", "-O2", "-Wall", "-Werror", "-static"]
    subprocess.run([*command, "-o", init, source], check=True)
    package = next(parent for parent in kernel.parents if parent.parent.name == "kernels")
    [module] = package.rglob("virtio_balloon.ko*")
    data = module.read_bytes()
    if module.suffix == ".xz":
        data = lzma.decompress(data)
    archive = _entry("dev", 0o040755) + _entry("dev/console", 0o020600, device=(5, 1))
    archive += _entry("init", 0o100755, init.read_bytes()) + _entry("balloon.ko", 0o100644, data)
    path = folder / "initramfs"
    path.write_bytes(archive + _entry("TRAILER!!!", 0))
    return path


class Monitor:
    """QEMU's QMP socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(60)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rw")
        self._lines.readline()
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: Any) -> Any:
        """The answer to a command; events between are passed over."""
        self._lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._lines.flush()
        while True:
            answer = json.loads(self._lines.readline())
            if "error" in answer:
                raise AssertionError(f"{command}: {answer['error']}")
            if "return" in answer:
                return answer["return"]

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._socket.close()


class Guest:
    """The machine, from power on; ``fill_mib`` of its memory are filled when it is made."""

    def __init__(
        self, folder: Path, config: Path, *, memory_mib: int, fill_mib: int, memfd: bool
    ) -> None:
        _, kernel = fetch(KERNEL)
        self._log = folder / "log"
        ram = ["-m", f"{memory_mib}M"]
        if memfd:
            backend = f"memory-backend-memfd,id=ram,size={memory_mib}M,share=on"
            ram += ["-object", backend, "-machine", "memory-backend=ram"]
        words = [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
            "-no-reboot", "-accel", "tcg,thread=multi", "-cpu", CPU, *ram,
            "-kernel", kernel, "-initrd", make_initramfs(folder, kernel),
            "-append", f"{BOOT} fill={fill_mib}", "-serial", "stdio",
            "-qmp", f"unix:{folder}/qmp,server=on,wait=off", "-device", "virtio-balloon-pci",
        ]  # fmt: skip
        with self._log.open("w") as stderr:
            self.process = subprocess.Popen(
                tierstore_command("run", "-v", "--config", config, "--", *map(str, words)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        self.monitor: Monitor | None = None
        try:
            self.expect("filled")
            self.monitor = Monitor(folder / "qmp")
        except BaseException:
            self.close()
            raise
        self.pid = self._find_pid()

    def _find_pid(self) -> int:
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        [pid] = [int(child) for task in tasks for child in (task / "children").read_text().split()]
        return pid

    def expect(self, word: str) -> int:
        """The number that the guest says with this word."""
        assert self.process.stdout is not None
        said = []
        for raw in self.process.stdout:
            line = raw.decode("utf-8", "replace").strip()
            said.append(line)
            if f"guest: {word}" in line:
                return int(line.split()[-1]) if line.split()[-1].isdigit() else 0
        raise AssertionError(f"the guest ended; it said {said}; {self._log.read_text()}")

    def send(self, word: str) -> None:
        """A command over the serial line."""
        assert self.process.stdin is not None
        self.process.stdin.write(word.encode() + b"\n")
        self.process.stdin.flush()

    def count_bad(self) -> int:
        """How many pages the guest finds changed."""
        self.send("verify")
        return self.expect("bad")

    def balloon(self, guest_bytes: int) -> None:
        """Leave the guest so much; returns when it is so."""
        assert self.monitor is not None
        monitor = self.monitor
        monitor.ask("balloon", value=guest_bytes)
        wait_until(
            lambda: abs(monitor.ask("query-balloon")["actual"] - guest_bytes) < 1 << 20,
            f"a balloon that leaves {guest_bytes} bytes",
        )

    def power_off(self) -> int:
        """The exit code."""
        self.send("off")
        return self.process.wait(timeout=60)

    def close(self) -> None:
        """Whatever state it is in."""
        if self.monitor is not None:
            self.monitor.close()
        end_process(self.process)


def held_bytes(pid: int) -> int:
    """What the host holds of the guest's memory: of a memfd all of it, mapped or not."""
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        if "memfd:memory-backend-memfd" in str(fd.readlink()):
            return fd.stat().st_blocks * 512
    total, rss = 0, 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if line.startswith("Rss:"):
            rss = int(line.split()[1]) * 1024
        elif line.startswith("VmFlags:") and {"um", "uw", "ur"} & set(line.split()):
            total += rss
    return total
