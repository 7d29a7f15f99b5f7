# SPDX-License-Identifier: Apache-2.0
"""Where the engine's threads spend their time, stage by stage: `python -m bench.profile` under
`./dev shell`, as root, with the tool `perf`.

One run of bench_memory (ram tier, lz4, ranges of 4 KiB, random touches, guest thread and fault
thread on CPU 0) is sampled with kernel stacks; what else it is given is for bench_memory, such as
`memory=memfd`.  A sample belongs to the first stage below that any of its functions names, looked
up from the innermost outwards, so that a copy counts for the call that copies.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from bench import corpus
from bench.build import release_build

HERTZ = 5000
PAGES = 65536
THREADS = {"ts-evict": "evict threads", "ts-fault": "fault threads"}
# The part of a function's name, and whose stage it is.
STAGES = {
    "liblz4": "codec", "libzstd": "codec",
    "XXH": "checksum", "checksum": "checksum",
    "clock_gettime": "clocks, histograms", "ts_hist": "clocks, histograms",
    "try_to_wake_up": "waking the waiter (kernel)", "wake_userfault": "waking the waiter (kernel)",
    "schedule": "switching threads (kernel)", "finish_task_switch": "switching threads (kernel)",
    "userfaultfd_copy": "UFFDIO_COPY (kernel)", "mfill_atomic": "UFFDIO_COPY (kernel)",
    "userfaultfd_move": "UFFDIO_MOVE (kernel)", "move_pages": "UFFDIO_MOVE (kernel)",
    "userfaultfd_read": "read (kernel)", "ksys_read": "read (kernel)", "sys_poll": "poll (kernel)",
    "do_madvise": "giving RAM back (kernel)", "fallocate": "giving RAM back (kernel)",
    "exc_page_fault": "RAM for frames (kernel)", "pread": "pread (kernel)",
    "userfaultfd_ioctl": "waking the waiter (kernel)", "futex": "locks (kernel)",
    "memmove": "memcpy of frames and raw pages", "memset": "memcpy of frames and raw pages",
    "ts_pool": "frame store", "ram_": "frame store", "slot_remove": "frame store",
    "do_syscall_64": "entry of system calls (kernel)",
    "entry_SYSCALL": "entry of system calls (kernel)",
}
OTHER = "claiming, serving, words and the rest (ours)"


def stage_of(frames: list[str]) -> str:
    """Of a sample; its functions from the innermost outwards."""
    for name in frames:
        for part, stage in STAGES.items():
            if part in name:
                return stage
    return OTHER


def samples(text: str) -> dict[str, Counter[str]]:
    """By kind of thread: how many samples each stage has.  From `perf script`."""
    found: dict[str, Counter[str]] = {title: Counter() for title in THREADS.values()}
    for block in text.split("\n\n"):
        lines = [line.split() for line in block.strip().splitlines()]
        title = next((name for key, name in THREADS.items() if lines and
                      lines[0] and lines[0][0].startswith(key)), None)
        if title:
            found[title][stage_of([" ".join(line) for line in lines[1:]])] += 1
    return found


def record(program: Path, options: list[str], folder: Path) -> str:
    """Runs it under perf."""
    pages, _ = corpus.write("files", 16384, folder)
    data = folder / "perf.data"
    command = ["perf", "record", "-q", "-g", "-F", str(HERTZ), "-e", "cpu-clock", "-o", str(data),
               str(program), "way=ours", f"corpus={pages}", f"pages={PAGES}", "cpu=0",
               "fault_cpus=1", *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    script = ["perf", "script", "-i", str(data), "-F", "comm,ip,sym,dso"]
    return subprocess.run(script, check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Prints a table for each kind of thread."""
    program = release_build() / "native" / "tests" / "bench_memory"
    with tempfile.TemporaryDirectory() as folder:
        text = record(program, sys.argv[1:], Path(folder))
    for title, stages in samples(text).items():
        total = sum(stages.values())
        print(f"{title}: {total} samples")
        for stage, nr in stages.most_common():
            print(f"  {100 * nr / total:5.1f} %  {stage}")


if __name__ == "__main__":
    main()
