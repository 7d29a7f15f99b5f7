# SPDX-License-Identifier: Apache-2.0
"""Kernel swap, on zram or on a file, for as long as a `with` block lasts.

Nothing is left behind: leaving the block takes everything down, SIGTERM and Ctrl-C included
(bench.__main__ turns the former into an exception), and what a killed run left is known by its
label and removed by the next one.  A machine that has swap on already is left alone: pages would
go there, and it would measure that.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.harness import is_root
from bench.result import Skipped

LABEL = "tierstore-bench"
LABEL_OFFSET = 1024 + 4 * 3 + 16  # struct of mkswap: bootbits, three words, a uuid
LOCK = Path("/run/lock/tierstore-bench")
CLUSTER = Path("/proc/sys/vm/page-cluster")
CLUSTER_BEFORE = Path("/run/lock/tierstore-bench.page-cluster")  # while a row has it changed


@dataclass(frozen=True)
class Zram:
    """A zram device that is swapped to."""

    block: Path

    def reset_peak(self) -> None:
        """Lets mem_used_max start again from what is used now."""
        (self.block / "mem_used_max").write_text("0")

    def stat(self) -> dict[str, int]:
        """mm_stat's first columns, in bytes."""
        names = ["orig_data", "compr_data", "mem_used", "mem_limit", "mem_used_max"]
        values = (self.block / "mm_stat").read_text().split()
        return {name: int(value) for name, value in zip(names, values, strict=False)}


def command(*words: str) -> None:
    """Runs a tool; its complaint becomes the exception's text."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")


def swaps() -> list[str]:
    """What is swapped to now."""
    lines = Path("/proc/swaps").read_text().splitlines()[1:]
    return [line.split()[0] for line in lines]


def is_ours(path: str) -> bool:
    """Whether a swap area carries our label."""
    with suppress(OSError), Path(path).open("rb") as area:
        return os.pread(area.fileno(), len(LABEL), LABEL_OFFSET) == LABEL.encode()
    return False


def remove_leftovers() -> None:
    """What a killed run of this bench left on, or changed."""
    if CLUSTER_BEFORE.exists():
        CLUSTER.write_text(CLUSTER_BEFORE.read_text())
        CLUSTER_BEFORE.unlink()
    for path in swaps():
        if not is_ours(path):
            continue
        command("swapoff", path)
        block = Path("/sys/block") / Path(path).name
        if (block / "reset").exists():
            (block / "reset").write_text("1")
        else:
            Path(path).unlink()


@contextmanager
def alone_with_swap() -> Iterator[None]:
    """Skipped unless swap can be had, and nobody else uses any: not the machine, and no other
    bench (who holds the lock knows that labelled swap is a killed run's)."""
    if not is_root():
        raise Skipped("swap needs root")
    if not Path("/proc/swaps").exists():
        raise Skipped("this kernel has no swap")
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Skipped("another bench uses swap") from error
        remove_leftovers()
        if found := swaps():
            raise Skipped(f"this machine has swap on already: {', '.join(found)}")
        yield


@contextmanager
def page_cluster(log2_pages: int) -> Iterator[None]:
    """Sets how far the kernel reads ahead from swap; puts it back, also when nested."""
    before = CLUSTER.read_text()
    is_outer = not CLUSTER_BEFORE.exists()
    if is_outer:
        CLUSTER_BEFORE.write_text(before)
    try:
        CLUSTER.write_text(str(log2_pages))
        yield
    finally:
        CLUSTER.write_text(before)
        if is_outer:
            CLUSTER_BEFORE.unlink()


@contextmanager
def unused_zram() -> Iterator[Path]:
    """A zram device without a size; one made for this if none is there."""
    for block in sorted(Path("/sys/block").glob("zram*")):
        if (block / "disksize").read_text().strip() == "0":
            yield block
            return
    control = Path("/sys/class/zram-control")
    if not control.exists():
        raise Skipped("this kernel has no zram")
    number = (control / "hot_add").read_text().strip()
    try:
        yield Path("/sys/block") / f"zram{number}"
    finally:
        (control / "hot_remove").write_text(number)


@contextmanager
def zram(size_bytes: int, algorithm: str = "lz4") -> Iterator[Zram]:
    """Swap on zram alone."""
    with (
        alone_with_swap(),
        unused_zram() as block,
        zram_on(block, size_bytes, algorithm) as rival,
    ):
        yield rival


@contextmanager
def zram_on(block: Path, size_bytes: int, algorithm: str) -> Iterator[Zram]:
    """The same, on a device that is known to be unused."""
    offered = (block / "comp_algorithm").read_text()
    if algorithm not in offered.replace("[", "").replace("]", "").split():
        raise Skipped(f"this kernel's zram has no {algorithm}: {offered.strip()}")
    before = offered.split("[")[1].split("]")[0]
    device = f"/dev/{block.name}"
    try:
        (block / "comp_algorithm").write_text(algorithm)
        (block / "disksize").write_text(str(size_bytes))
        command("mkswap", "-L", LABEL, device)
        command("swapon", device)
        with page_cluster(0):
            yield Zram(block)
    finally:
        if device in swaps():
            command("swapoff", device)
        (block / "reset").write_text("1")
        (block / "comp_algorithm").write_text(before)


@contextmanager
def swap_file(path: Path, size_bytes: int, cluster: int) -> Iterator[Path]:
    """Swap on a file of this disk alone, with 2^cluster pages of readahead."""
    with alone_with_swap(), swap_file_on(path.resolve(), size_bytes, cluster) as area:
        yield area


@contextmanager
def swap_file_on(path: Path, size_bytes: int, cluster: int) -> Iterator[Path]:
    """The same; the path is absolute, as /proc/swaps will name it."""
    try:
        with path.open("xb") as area:
            os.posix_fallocate(area.fileno(), 0, size_bytes)
        path.chmod(0o600)
        command("mkswap", "-L", LABEL, str(path))
        try:
            command("swapon", str(path))
        except RuntimeError as error:
            raise Skipped(f"this file system takes no swap file: {error}") from error
        with page_cluster(cluster):
            yield path
    finally:
        if str(path) in swaps():
            command("swapoff", str(path))
        path.unlink(missing_ok=True)
