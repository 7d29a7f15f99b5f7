# SPDX-License-Identifier: Apache-2.0
"""What the figures were taken on: printed above every table, and the first JSON line."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.harness import ROOT


def first_match(path: str, key: str) -> str:
    """The value of `key : value` in a file of /proc; "?" if there is none."""
    try:
        for line in Path(path).read_text().splitlines():
            if line.startswith(key):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return "?"


def output(*command: str) -> str:
    """What a command prints, or "?"."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "?"
    return done.stdout.strip()


def version(package: str) -> str:
    """Of an installed package, or "?"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "?"


def header(build: Path, size: str) -> dict[str, Any]:
    """Kernel, CPU, memory, versions, load."""
    return {
        "size": size,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": output("git", "describe", "--always", "--dirty"),
        "kernel": platform.release(),
        "cpu": first_match("/proc/cpuinfo", "model name"),
        "cpus": os.cpu_count(),
        "memory": first_match("/proc/meminfo", "MemTotal"),
        "load": [round(load, 2) for load in os.getloadavg()],
        "build": build.name,
        "libraries": {
            name: output("pkg-config", "--modversion", name)
            for name in ("libzstd", "liblz4", "lmdb", "liburing", "libxxhash")
        },
        "python": platform.python_version(),
    }
