# SPDX-License-Identifier: Apache-2.0
"""A program that knows every byte of its memory, and does to it what programs do.

Each test waits until most of the memory is away, then has the program do the one thing; the
program checks all of its memory after it.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.preload.support import (
    Program,
    away_bytes,
    end_process,
    rss_bytes,
    sockets_left,
    tierstore_command,
    wait_until,
    write_config,
)

MIB = 1 << 20
SIZE_MIB = 24
RULE = ("--region", "size>=8MiB")


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """program.c, compiled."""
    out = tmp_path_factory.mktemp("program") / "program"
    source = Path(__file__).with_name("program.c")
    command = ["cc", "-std=gnu17", "-D_GNU_SOURCE", "-O2", "-Wall", "-Werror", "-pthread"]
    subprocess.run([*command, "-o", out, source], check=True)
    return out


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets of the test's own."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def bare(binary: Path, tmp_path: Path) -> Iterator[Program]:
    """The program, without memory."""
    config = write_config(tmp_path, interval="100ms")
    program = Program(binary, config, *RULE, log=tmp_path / "log")
    yield program
    end_process(program.process)


@pytest.fixture
def program(bare: Program) -> Program:
    """The program, most of whose memory is away."""
    bare.do("map", SIZE_MIB)
    bare.do("fill", 1)
    bare.wait_away(SIZE_MIB * MIB // 2)
    return bare


def test_memory_leaves_and_comes_back(program: Program, tmp_path: Path) -> None:
    program.do("check")
    program.do("fill", 2)
    program.wait_away(SIZE_MIB * MIB // 2)
    program.do("check")
    assert (tmp_path / f"{program.pid}.frames").exists()
    assert program.finish() == 0
    # Nothing is left behind: neither the tier's file nor a socket.
    assert not (tmp_path / f"{program.pid}.frames").exists()
    assert sockets_left() == []


def test_views_show_it_by_the_programs_pid(program: Program) -> None:
    command = tierstore_command("stat", "--pid", str(program.pid), "--json")
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert found["pid"] == program.pid
    [region] = found["engines"][0]["regions"]
    assert (region["memory"], region["region_bytes"]) == ("anon", SIZE_MIB * MIB)
    command = tierstore_command("top", "--pid", str(program.pid), "-n", "1")
    assert subprocess.run(command, capture_output=True, check=True).stdout


def test_a_signal_for_us_is_the_programs(program: Program) -> None:
    program.process.send_signal(signal.SIGTERM)
    assert program.process.wait(timeout=60) == 128 + signal.SIGTERM
    assert sockets_left() == []


def test_resident_memory_shrinks(bare: Program) -> None:
    bare.do("map", 192)
    bare.do("fill", 1)
    bare.wait_away(144 * MIB)
    # All that the process has, the engine, its buffers and its tier in RAM included.
    wait_until(lambda: rss_bytes(bare.pid) <= 96 * MIB, "half of its memory given back")
    bare.do("check")


@pytest.mark.parametrize(
    "command",
    ["mprotect", "mlock", "punch", "pipe", "dontneed", "signal", "clone", "closeall", "mremap"],
)
def test_what_programs_do_to_memory(program: Program, command: str) -> None:
    program.do(command, 0)
    program.do("check")


def test_memory_is_moved_again_after_it_was_moved(program: Program) -> None:
    program.do("mremap", 0)
    program.wait_away(SIZE_MIB * MIB // 2)
    program.do("check")


def test_all_descriptors_closed_and_memory_leaves_again(program: Program) -> None:
    program.do("closeall")
    program.do("fill", 3)
    program.wait_away(SIZE_MIB * MIB // 2)
    program.do("check")


def test_fork_child_and_parent_keep_their_own(program: Program) -> None:
    program.do("fork", 7)
    # The child has gone; what was shared with it leaves again.
    program.wait_away(SIZE_MIB * MIB // 2)
    program.do("check")
    program.do("fork", 8)
    program.do("check")


def test_fork_inside_of_the_c_library(program: Program) -> None:
    program.do("forkpty")
    program.wait_away(SIZE_MIB * MIB // 2)
    program.do("check")


def test_fork_in_a_handler_that_interrupts_a_fork(program: Program) -> None:
    program.do("forksignal")
    program.wait_away(SIZE_MIB * MIB // 2)
    program.do("check")


@pytest.mark.parametrize("command", ["map", "memfd"])
def test_a_fork_that_fails_changes_nothing(bare: Program, command: str) -> None:
    bare.do(command, SIZE_MIB, "memory-backend-memfd")
    bare.do("fill", 1)
    bare.wait_away(SIZE_MIB * MIB // 2)
    bare.do("forkfail")
    bare.do("fill", 2)
    bare.wait_away(SIZE_MIB * MIB // 2)
    bare.do("check")


def test_a_childs_own_memory_leaves(program: Program) -> None:
    program.start("forkmap", 32)
    child = int(program.line().split()[1])
    wait_until(lambda: away_bytes(child) >= 16 * MIB, "the child's memory away")
    program.do()
    program.do("check")


def test_programs_that_are_executed_are_not_followed(program: Program) -> None:
    program.do("spawn")


def test_followed_programs_are_served(binary: Path, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\nexec {binary}\n")
    script.chmod(0o755)
    program = Program(script, write_config(tmp_path), "--follow", *RULE, log=tmp_path / "log")
    try:
        program.do("map", SIZE_MIB)
        program.do("fill", 1)
        program.wait_away(SIZE_MIB * MIB // 2)
        program.do("check")
    finally:
        end_process(program.process)


def test_lines_that_nobody_takes_end_nothing(binary: Path, tmp_path: Path) -> None:
    """stderr is on a full disk, or a pipe whose reader has gone."""
    program = Program(binary, write_config(tmp_path), *RULE, log=Path("/dev/full"))
    try:
        program.do("map", SIZE_MIB)
        program.do("fill", 1)
        program.wait_away(SIZE_MIB * MIB // 2)
        program.do("check")
        assert program.finish() == 0
    finally:
        end_process(program.process)


def test_what_a_process_has_stored_goes_with_it(binary: Path, tmp_path: Path) -> None:
    """Not only when all of them have ended."""
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\n{binary}\nexec {binary}\n")
    script.chmod(0o755)
    program = Program(script, write_config(tmp_path), "--follow", *RULE, log=tmp_path / "log")
    try:
        frames = []
        for _ in range(2):
            program.do("map", SIZE_MIB)
            program.do("fill", 1)
            program.wait_away(SIZE_MIB * MIB // 2)
            frames.append(tmp_path / f"{program.pid}.frames")
            assert frames[-1].exists()
            if len(frames) == 1:
                program.do("exit")
                program.pid = int(program.line().split()[1])
        wait_until(lambda: not frames[0].exists(), "the first one's frames removed")
        program.do("check")
    finally:
        end_process(program.process)


def test_the_program_outlives_its_controller(program: Program) -> None:
    program.process.kill()
    program.process.wait()
    program.do("check")
    program.do("fork", 5)
    program.do("check")
    program.do("exit")


def test_a_filtered_program_is_left_alone(bare: Program) -> None:
    bare.do("seccomp")
    bare.do("map", SIZE_MIB)
    bare.do("fill", 1)
    wait_until(lambda: "seccomp" in bare.log.read_text(), "said")
    bare.do("fork", 2)
    bare.do("check")


def test_unmapped_memory_is_let_go(program: Program) -> None:
    program.do("map", SIZE_MIB)
    program.do("munmap", 0)
    program.do("fill", 4)
    program.wait_away(SIZE_MIB * MIB // 2)
    program.do("check")


@pytest.mark.parametrize("change", ["fill", "dontneed", "pipe", "mprotect"])
def test_memfd(bare: Program, change: str) -> None:
    bare.do("memfd", SIZE_MIB, "memory-backend-memfd")
    bare.do("fill", 1)
    bare.wait_away(SIZE_MIB * MIB // 2)
    bare.do(change, 0)
    bare.do("check")


def test_memfd_is_given_up_by_fork(bare: Program) -> None:
    bare.do("memfd", SIZE_MIB, "memory-backend-memfd")
    bare.do("fill", 1)
    bare.wait_away(SIZE_MIB * MIB // 2)
    bare.do("fork", 2)
    bare.do("check")
    assert away_bytes(bare.pid) == 0


def test_a_foreign_memfd_is_left_alone(bare: Program) -> None:
    bare.do("memfd", 64, "something")
    bare.do("map", SIZE_MIB)
    bare.do("fill", 1)
    bare.wait_away(SIZE_MIB * MIB // 2)
    bare.do("check")
    assert "memfd" not in bare.log.read_text()


@pytest.mark.parametrize("seed", [1, 2])
def test_storm(binary: Path, tmp_path: Path, seed: int) -> None:
    """All at once, while memory leaves as fast as it can."""
    config = write_config(tmp_path, interval="50ms", budget="1%")
    program = Program(binary, config, *RULE, log=tmp_path / "log")
    try:
        program.do("map", 8)
        program.do("map", 12)
        program.do("fill", 1)
        program.wait_away(10 * MIB)
        program.do("storm", 250, seed)
        program.do("check")
        assert program.finish() == 0
    finally:
        end_process(program.process)


def test_threads_while_the_program_forks(binary: Path, tmp_path: Path) -> None:
    """Each thread checks its own memory; the first one forks, maps and unmaps meanwhile."""
    config = write_config(tmp_path, interval="50ms", budget="1%")
    program = Program(binary, config, "--region", "size>=4MiB", log=tmp_path / "log")
    try:
        for mib in (8, 12, 9):
            program.do("map", mib)
        program.do("fill", 1)
        program.wait_away(8 * MIB)
        program.do("threads", 24)
        program.do("check")
        assert program.finish() == 0
    finally:
        end_process(program.process)


def test_exit_code_is_the_programs(tmp_path: Path) -> None:
    def code(script: str) -> int:
        command = tierstore_command("run", "--", "sh", "-c", script)
        return subprocess.run(command, check=False).returncode

    assert code("exit 7") == 7
    assert code("kill -TERM $$") == 128 + 15
    assert code("exit 0") == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--region", "size>64"], "a rule is conditions"),
        (["--region", "size>=1KiB"], "at least 64KiB"),
        (["--", "no-such-command"], "no such command"),
    ],
)
def test_what_makes_no_sense_is_said(arguments: list[str], words: str) -> None:
    command = tierstore_command("run", *arguments)
    command += [] if "--" in arguments else ["--", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("tier", "words"),
    [
        ('store = "python-file"\npath = "{folder}/f"\n', "written in Python"),
        ('store = "ram"\ncodec = "zstd"\ndictionary = "{folder}/d"\n', r"read: .*No such file"),
        ('store = "ram"\ncodec = "zstd"\ndictionary = "/dev/null"\n', "less than 8 bytes"),
        ('store = "ram"\ncodec = "zstd"\ndictionary = "/dev/zero"\n', "more than 131072 bytes"),
    ],
    ids=["a store in Python", "no dictionary", "an empty one", "an endless one"],
)
def test_a_tier_that_can_not_be_is_refused(tier: str, words: str, tmp_path: Path) -> None:
    """Before the program runs."""
    config = tmp_path / "tiers.toml"
    config.write_text('[[tier]]\nname = "t"\nsize = "8MiB"\n' + tier.format(folder=tmp_path))
    command = tierstore_command("run", "--config", config, "--", "echo", "ran")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(words, done.stderr)
    assert "Traceback" not in done.stderr


def test_without_an_engine_the_program_runs_all_the_same(binary: Path, tmp_path: Path) -> None:
    config = tmp_path / "tiers.toml"
    (tmp_path / "cold").write_text("not a tier")
    config.write_text(
        f'[[tier]]\nname = "t"\nstore = "file"\nsize = "8MiB"\npath = "{tmp_path}/cold"\n'
    )
    program = Program(binary, config, *RULE, log=tmp_path / "log")
    try:
        program.do("map", SIZE_MIB)
        program.do("fill", 1)
        wait_until(lambda: "runs without tiers" in program.log.read_text(), "said")
        program.do("fork", 2)
        program.do("check")
        assert program.finish() == 0
    finally:
        end_process(program.process)
    assert (tmp_path / "cold").read_text() == "not a tier"
