# SPDX-License-Identifier: Apache-2.0
"""Starts programs under ``tierstore run`` and looks at them from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tierstore.control import Client, runtime_folder
from tierstore.errors import TierstoreError

POLL_S = 0.05
PATIENCE_S = 60.0
"""So wide that only something that hangs meets it."""

CONFIG = """
[engine]
interval = "{interval}"

[[tier]]
name = "warm"
store = "ram"
size = "{warm}"
codec = "lz4"

[[tier]]
name = "cold"
store = "file"
size = "4GiB"
codec = "zstd"
range = "16KiB"
path = "{folder}/{{pid}}.frames"

[region]
budget = "{budget}"
min_age = "{interval}"
probation = "50ms"
guard_scans = 1
"""


def write_config(
    folder: Path, *, interval: str = "200ms", budget: str = "20%", warm: str = "16MiB"
) -> Path:
    """A short cycle, and two tiers."""
    path = folder / "tiers.toml"
    path.write_text(CONFIG.format(folder=folder, interval=interval, budget=budget, warm=warm))
    return path


def install(*packages: str) -> None:
    """Debian packages, those that are missing; as root."""
    query = subprocess.run(
        ["dpkg-query", "-W", "-f=${Package} ${db:Status-Status}\n", *packages],
        capture_output=True,
        text=True,
        check=False,
    )
    missing = [name for name in packages if f"{name} installed" not in query.stdout.splitlines()]
    if not missing:
        return
    # Nothing that a package brings shall be started: exit code 101 of policy-rc.d says so.
    policy = Path("/usr/sbin/policy-rc.d")
    is_ours = not policy.exists()
    if is_ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        if subprocess.run(command, env=environment, capture_output=True, check=False).returncode:
            subprocess.run(["apt-get", "update"], env=environment, capture_output=True, check=True)
            subprocess.run(command, env=environment, capture_output=True, check=True)
    finally:
        if is_ours:
            policy.unlink()


def tierstore_command(*arguments: str | Path) -> list[str]:
    """The program, by this interpreter."""
    return [sys.executable, "-P", "-m", "tierstore", *map(str, arguments)]


def wait_until(true: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Polls until something is true, and returns it."""
    end_s = time.monotonic() + patience_s
    while time.monotonic() < end_s:
        found = true()
        if found:
            return found
        time.sleep(POLL_S)
    raise AssertionError(f"in {patience_s:.0f} s: not {what}")


def statistics(pid: int) -> dict[str, Any] | None:
    """Of the engine inside of that process; None while there is none."""
    try:
        with Client(pid) as client:
            engines = client.statistics()
    except (OSError, TierstoreError):
        return None
    return engines[0] if engines else None


def away_bytes(pid: int, tier: str | None = None) -> int:
    """What is away, filled pages included; or what a tier holds."""
    found = statistics(pid)
    if found is None:
        return 0
    if tier is not None:
        return sum(int(t["raw_bytes"]) for t in found["tiers"] if t["name"] == tier)
    return (int(found["pages"]["away"]) + int(found["pages"]["filled"])) * 4096


def rss_bytes(pid: int) -> int:
    """All the memory of a process: private, and a memfd's."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def end_process(process: subprocess.Popen[Any]) -> None:
    """By SIGTERM, which `tierstore run` passes on; then by force."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def children_of(pid: int) -> list[int]:
    """Processes that this one has started."""
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def sockets_left() -> list[Path]:
    """What runs of `tierstore run` have left in the folder for sockets."""
    return sorted(runtime_folder().glob("*.sock*"))


class Program:
    """program.c under ``tierstore run``."""

    def __init__(self, binary: Path, config: Path, *options: str, log: Path) -> None:
        self.log = log
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                tierstore_command("run", "-v", "--config", config, *options, "--", binary),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self.pid = int(self.line().split()[1])

    def line(self) -> str:
        """What the program prints next."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the program has gone: {self.log.read_text()}"
        return line.rstrip("\n")

    def start(self, *words: object) -> None:
        """Send a command."""
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()

    def do(self, *words: object) -> None:
        """Send a command, and see it succeed."""
        self.start(*words)
        answer = self.line()
        assert answer == "ok", f"{words}: {answer}; {self.log.read_text()}"

    def wait_away(self, nr_bytes: int) -> None:
        """Until so much has left."""
        wait_until(lambda: away_bytes(self.pid) >= nr_bytes, f"{nr_bytes} bytes away")

    def finish(self) -> int:
        """Its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(timeout=PATIENCE_S)
