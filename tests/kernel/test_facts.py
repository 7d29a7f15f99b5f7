# SPDX-License-Identifier: Apache-2.0
"""Does the running kernel do what the code relies on?

The facts are the programs of native/tests/kernel, one behaviour each.  tests/native runs them with
all other C tests and lets them skip; here a skip must be excused.  On Linux 6.18 or later, as root,
every fact but a few that hang on the kernel's configuration must be shown and not skipped (from 7.3
on those about read-write protection as well): otherwise a lost privilege or a renamed /proc file
would turn the whole suite off unseen.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import BUILD_DIR, ROOT, kernel_version

SKIPPED = 77
TIMEOUT_S = 60

# May be absent from any kernel: huge pages switched off, no KSM, memory that reclaim won't take.
MAY_SKIP = {
    "test_collapse",
    "test_ksm_loses_wp",
    "test_madv_free",
    "test_move_mlock_mismatch",
    "test_move_splits_thp",
    "test_rwp_huge_anon",
    "test_rwp_huge_shmem",
    "test_rwp_hugetlb",
    "test_rwp_ksm",
    "test_rwp_swap",
    "test_wp_async_thp",
}

FACTS = sorted(path.stem for path in (ROOT / "native/tests/kernel").glob("test_*.c"))


def must_run(fact: str) -> bool:
    """Whether this machine has no excuse for skipping the fact."""
    since = (7, 3) if fact.startswith("test_rwp_") else (6, 18)
    return kernel_version() >= since and os.geteuid() == 0 and fact not in MAY_SKIP


def program_of(fact: str, build: Path) -> Path:
    """Where meson puts the program: each folder's targets in the folder of the meson.build that
    names them."""
    found = sorted(build.glob(f"native/tests/**/{fact}"))
    assert found, f"{fact} is not built: run ./dev build"
    return found[0]


def test_there_are_facts() -> None:
    """Guards against a loop over nothing, and against excuses for tests that have gone."""
    assert FACTS
    assert set(FACTS) >= MAY_SKIP


@pytest.mark.usefixtures("build_dir")
@pytest.mark.parametrize("fact", FACTS)
def test_fact(fact: str) -> None:
    """One behaviour of the kernel."""
    done = subprocess.run(
        [program_of(fact, BUILD_DIR)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode == SKIPPED and not must_run(fact):
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}"
