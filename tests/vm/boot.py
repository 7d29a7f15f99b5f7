# SPDX-License-Identifier: Apache-2.0
"""Starts a kernel in QEMU, runs one command in it, and brings back what it said.

QEMU emulates the processor (TCG): the machines this runs on have no virtualisation that a stock
kernel could use.  Time is five to twenty times what it is on the machine itself.  If the command
takes too long, the console is asked for the stacks of all tasks (a serial break and `t`), which
works when no program runs any more.

The kernel patches its own code while it starts, and QEMU before 8.1 may go on running what another
processor has just replaced.  So it starts on one processor, init.sh adds the second one, and a
guest that dies of that all the same is started again.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.vm import image
from tests.vm.problem import Problem
from tests.vm.scratch import scratch

MEMORY = "3G"
# Without cmpxchg16b: QEMU 7.2 sometimes spoils the flags with it, and the kernel dies in its
# allocator.  Without five-level page tables: they cost time and bring nothing.
CPU = "max,cx16=off,la57=off"
RESULTS_BYTES = 64 << 20
# How long the stacks of all tasks may take, and the longest pause in them.
STACKS_S, STACKS_SILENCE_S = 60, 4
BOOT_ARGUMENTS = (
    f"console=ttyS0,115200 root={image.ROOT_DEVICE} rootwait rootfstype=ext4 rw init=/vm-init "
    "panic=-1 quiet mitigations=off nokaslr no_timer_check random.trust_cpu=1 "
    "maxcpus=1 cryptomgr.notests"
)
# init.sh says so on the console; until then it is the boot that takes its time.
STARTED = b"vm: the command starts"
BOOT_S = 240
# What a processor says that ran into the middle of a patch.
EMULATOR_FAULT = "Oops: int3"
BOOTS_MAX = 3


@dataclass
class Outcome:
    """What became of a command.  status: its exit code; None: it did not end."""

    status: int | None
    stdout: str
    stderr: str
    console: str
    files: dict[str, bytes] = field(default_factory=dict)


def command_script(command: list[str]) -> str:
    """What the guest runs: the command in the project's environment."""
    root = image.ROOT
    settings = {
        "PATH": f"{root}/.venv/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "VIRTUAL_ENV": f"{root}/.venv",
        "TIERSTORE_BUILD_DIR": f"{root}/build-dev",
        "LC_ALL": "C.UTF-8",
        "COLUMNS": "100",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TIERSTORE_IN_VM": "1",
        "PYTEST_ADDOPTS": "-p no:cacheprovider --timeout=900 --junit-xml=/results/junit.xml",
    }
    lines = [f"export {name}={shlex.quote(value)}" for name, value in settings.items()]
    return "\n".join([*lines, f"cd {shlex.quote(str(root))}", shlex.join(command), ""])


def qemu(kernel: Path, folder: Path, system: Path) -> list[str]:
    """The command line."""
    disks = [(system, "on"), (folder / "project.ext4", "on"), (folder / "results.tar", "off")]
    console = f"socket,id=console,path={folder}/console.sock,server=on,wait=off"
    words = [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-accel", "tcg,thread=multi", "-machine", "pc,mem-merge=off",
        "-cpu", CPU, "-smp", "2", "-m", MEMORY,
        "-kernel", str(kernel),
        "-append", f"{BOOT_ARGUMENTS} vm.root={image.ROOT}",
        "-qmp", f"unix:{folder}/qmp,server=on,wait=off",
        "-chardev", f"{console},logfile={folder}/console",
        "-serial", "chardev:console",
        "-chardev", f"file,id=out,path={folder}/stdout", "-serial", "chardev:out",
        "-chardev", f"file,id=err,path={folder}/stderr", "-serial", "chardev:err",
        "-device", "virtio-rng-pci",
    ]  # fmt: skip
    for i, (path, snapshot) in enumerate(disks):
        drive = f"if=none,id=d{i},format=raw,file={path},snapshot={snapshot},cache=unsafe"
        words += ["-drive", drive, "-device", f"nvme,serial=d{i},drive=d{i}"]
    return words


class Follower:
    """Copies a growing file to a stream."""

    def __init__(self, path: Path, stream: IO[str] | None) -> None:
        self.path, self.stream, self.offset = path, stream, 0

    def step(self) -> None:
        """Hands on what has come since the last time."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read()
        self.offset += len(data)
        if data and self.stream:
            self.stream.write(data.decode("utf-8", "replace"))
            self.stream.flush()


def ask_for_stacks(folder: Path) -> None:
    """Break and `t` on the console: the kernel prints the stack of every task.  `9` before
    that lets it print all of it.  Returns when it has nothing more to say."""
    with socket.socket(socket.AF_UNIX) as monitor, socket.socket(socket.AF_UNIX) as console:
        monitor.connect(str(folder / "qmp"))
        console.connect(str(folder / "console.sock"))
        stream = monitor.makefile("rw")
        stream.readline()
        console.settimeout(STACKS_SILENCE_S)
        end = time.monotonic() + STACKS_S
        for key in (b"9", b"t"):
            for words in ({"execute": "qmp_capabilities"},
                          {"execute": "chardev-send-break", "arguments": {"id": "console"}}):
                stream.write(json.dumps(words) + "\n")
                stream.flush()
                stream.readline()
            console.sendall(key)
            with suppress(TimeoutError):
                while console.recv(1 << 16) and time.monotonic() < end:
                    pass


def text_of(path: Path) -> str:
    """The file as text, lines as the guest meant them; empty where there is none."""
    return path.read_bytes().decode("utf-8", "replace").replace("\r", "") if path.exists() else ""


def results_of(path: Path) -> dict[str, bytes]:
    """The files that the guest has left."""
    try:
        with tarfile.open(path) as archive:
            return {
                member.name.removeprefix("./"): file.read()
                for member in archive
                if member.isfile() and (file := archive.extractfile(member))
            }
    except tarfile.TarError:
        return {}


def has_started(folder: Path) -> bool:
    """Whether the guest has come as far as the command."""
    console = folder / "console"
    return console.exists() and STARTED in console.read_bytes()


def wait(process: subprocess.Popen[bytes], folder: Path, timeout_s: float, live: bool) -> None:
    """Until it ends, or its time is over: then the stacks, then the end."""
    followers = [Follower(folder / "stdout", sys.stdout if live else None),
                 Follower(folder / "stderr", sys.stderr if live else None)]  # fmt: skip
    is_started, end = False, time.monotonic() + BOOT_S
    while process.poll() is None and time.monotonic() < end:
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
        if not is_started and has_started(folder):
            is_started, end = True, time.monotonic() + timeout_s
        for follower in followers:
            follower.step()
    if process.poll() is None:
        ask_for_stacks(folder)
    for follower in followers:
        follower.step()


@contextmanager
def running(words: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """QEMU, which does not outlive us."""
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def boot_once(kernel: Path, folder: Path, system: Path, timeout_s: float, live: bool) -> Outcome:
    """One guest, from power-on to power-off."""
    for part in ("stdout", "stderr", "console"):
        (folder / part).unlink(missing_ok=True)
    with (folder / "results.tar").open("wb") as file:
        file.truncate(RESULTS_BYTES)
    with running(qemu(kernel, folder, system)) as process:
        wait(process, folder, timeout_s, live)
        has_ended = process.poll() is not None
    files = results_of(folder / "results.tar") if has_ended else {}
    status = int(files.pop("status", b"-1"))
    texts = [text_of(folder / part) for part in ("stdout", "stderr", "console")]
    return Outcome(status if status >= 0 else None, texts[0], texts[1], texts[2], files)


def run_command(
    kernel: Path, command: list[str], *, timeout_s: float, live: bool = False
) -> Outcome:
    """Boots the kernel and runs the command in the checkout, as root; timeout_s is the command's.
    Raises Problem."""
    system = image.system_image()
    with scratch() as folder:
        image.project_image(folder / "project.ext4", command_script(command))
        for left in reversed(range(BOOTS_MAX)):
            outcome = boot_once(kernel, folder, system, timeout_s, live)
            if outcome.status is not None or EMULATOR_FAULT not in outcome.console or not left:
                break
            print("the emulator ran into code that was being patched; again", file=sys.stderr)
        return outcome


def nice_if_asked() -> None:
    """QEMU takes all it gets; TIERSTORE_VM_NICE leaves the machine to others."""
    os.nice(int(os.environ.get("TIERSTORE_VM_NICE", "0")))


__all__ = ["Outcome", "Problem", "nice_if_asked", "run_command"]
