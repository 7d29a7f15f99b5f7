# SPDX-License-Identifier: Apache-2.0
"""The build that is measured: release, without test hooks, in a folder of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.harness import ROOT

PROGRAMS = ["bench_memory", "bench_scan", "bench_skew", "bench_lmdb"]


def run(*words: str) -> None:
    """A build step; what it says goes to stderr, where it does not mix with JSON."""
    subprocess.run(words, cwd=ROOT, stdout=sys.stderr, check=True)


def release_build() -> Path:
    """Makes build-bench, or brings it up to date."""
    build = ROOT / "build-bench"
    if not (build / "build.ninja").exists():
        run("meson", "setup", str(build), "-Dpython=disabled", "-Dbuildtype=release")
    run("ninja", "-C", str(build), "--quiet", *(f"native/tests/{name}" for name in PROGRAMS))
    return build
