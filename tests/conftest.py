# SPDX-License-Identifier: Apache-2.0
"""What all tests share: where things are, and in which order folders run.

Cheap checks come first, so that a failure shows early; what installs or builds comes last.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILD_DIR = Path(os.environ.get("TIERSTORE_BUILD_DIR", ROOT / "build-dev"))

FIRST = ["tidy", "native", "unit", "abi", "contract", "model"]
LAST = ["soak", "setup"]


def kernel_version() -> tuple[int, int]:
    """Major and minor number of the running kernel."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()))


def pytest_addoption(parser: pytest.Parser) -> None:
    """--soak: run the tests that take hours, too."""
    parser.addoption("--soak", action="store_true", help="run the soak tests, too (hours)")


def pytest_configure(config: pytest.Config) -> None:
    """Markers that any test may carry."""
    config.addinivalue_line("markers", "soak: takes long; runs with --soak only")


def folder_rank(folder: str) -> int:
    """FIRST's folders in their order, then those that neither list names, then LAST's."""
    if folder in FIRST:
        return FIRST.index(folder)
    return len(FIRST) + (1 + LAST.index(folder) if folder in LAST else 0)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Orders the tests by folder (stable within one), and leaves the soak out unless asked."""

    def folder(item: pytest.Item) -> str:
        parts = item.path.relative_to(ROOT / "tests").parts
        return parts[0] if len(parts) > 1 else ""

    items.sort(key=lambda item: folder_rank(folder(item)))
    if config.getoption("--soak"):
        return
    soak = [i for i in items if folder(i) == "soak" or i.get_closest_marker("soak")]
    if soak:
        config.hook.pytest_deselected(items=soak)
        items[:] = [item for item in items if item not in set(soak)]


@pytest.fixture(scope="session")
def root_dir() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def build_dir() -> Path:
    """The hook build that ./dev makes; fails the test where there is none."""
    if not (BUILD_DIR / "build.ninja").exists():
        pytest.fail(f"{BUILD_DIR} holds no build: run ./dev build")
    return BUILD_DIR
