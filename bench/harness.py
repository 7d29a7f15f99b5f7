# SPDX-License-Identifier: Apache-2.0
"""Runs the programs: sizes, turns, warm-up, and the check that all sides did the same work.

A side is a function that does one run and returns its figures; `alternate` takes turns between
sides (A B A B ...), so that what the machine does meanwhile falls on all of them alike.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bench import corpus
from bench.result import Skipped

ROOT = Path(__file__).resolve().parent.parent
PAGE = 4096
RUN_SECONDS_MAX = 120

Figures = dict[str, Any]
Side = Callable[[], Figures]


@dataclass(frozen=True)
class Sizes:
    """How much is measured.  Smoke proves that a row still works; its figures mean nothing."""

    pages: int
    turns: int
    warm_up: bool
    corpus_pages: int
    large_bytes: int
    requests: int


SMOKE = Sizes(2048, 1, False, 2048, 256 << 20, 2000)
REAL = Sizes(32768, 5, True, 16384, 16 << 30, 200_000)


@dataclass
class Bench:
    """One run of the suite: where its programs and files are, and how much it does."""

    build: Path
    folder: Path
    sizes: Sizes
    corpora: dict[str, str] = field(default_factory=dict)

    def corpus(self, kind: str) -> Path:
        """The corpus of this kind, made at its first use."""
        path = self.folder / f"{kind}.pages"
        if kind not in self.corpora:
            path, self.corpora[kind] = corpus.write(kind, self.sizes.corpus_pages, self.folder)
        return path

    def program(self, name: str) -> Path:
        """A program of the build; Skipped without it."""
        path = self.build / "native" / "tests" / name
        if not path.exists():
            raise Skipped(f"{path} was not built")
        return path

    def run(self, program: str, *words: object, **options: object) -> Figures:
        """One run of a C program: options as name=value, the JSON object that it prints."""
        command = [str(self.program(program)), *map(str, words)]
        command += [f"{name}={value}" for name, value in options.items()]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS_MAX,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.returncode}\n{done.stderr[-2000:]}")
        figures: Figures = json.loads(done.stdout)
        return figures

    def memory(self, way: str, **options: object) -> Figures:
        """One run of bench_memory, with the suite's defaults."""
        settings: dict[str, object] = {
            "way": way,
            "corpus": self.corpus(str(options.pop("kind", "files"))),
            "pages": self.sizes.pages,
        }
        return self.run("bench_memory", **{**settings, **options})

    @cached_property
    def scratch(self) -> Path:
        """A folder on the disk that this run's file tiers and swap files live on."""
        path = self.folder / "tiers"
        path.mkdir(exist_ok=True)
        return path

    def fresh_path(self, name: str) -> Path:
        """A path in scratch that is removed first."""
        path = self.scratch / name
        path.unlink(missing_ok=True)
        return path

    def alternate(self, sides: Mapping[str, Side], times: int = 1) -> dict[str, list[Figures]]:
        """All sides in turn, several times; the first turn only warms up.  Sides that say what
        they read (a hash) must agree.  `times` as many turns for what the machine disturbs most."""
        found: dict[str, list[Figures]] = {name: [] for name in sides}
        for turn in range(self.sizes.turns * times + self.sizes.warm_up):
            for name, side in sides.items():
                figures = side()
                if turn >= self.sizes.warm_up:
                    found[name].append(figures)
        hashes = {run["hash"] for runs in found.values() for run in runs if "hash" in run}
        if len(hashes) > 1:
            raise RuntimeError(f"the sides did different work: {hashes}")
        return found


def column(runs: list[Figures], name: str, scale: float = 1.0) -> list[float]:
    """One figure of every turn."""
    return [run[name] * scale for run in runs]


def is_root() -> bool:
    """Whether swap and control groups can be had."""
    return os.geteuid() == 0
