# SPDX-License-Identifier: Apache-2.0
"""The demo's huge pages: asked of the host for the time of a run, or refused with what to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tierstore.demo import memory
from tierstore.errors import HostError

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not memory.POOL.exists(), reason="may not set the pool of huge pages"
)


def nr_huge_pages() -> int:
    """All there are, free or not."""
    return int((memory.POOL / "nr_hugepages").read_text())


def test_the_pool_grows_and_shrinks_again() -> None:
    before = nr_huge_pages()
    with memory._huge_pages(memory._nr_free() + 3):
        assert memory._nr_free() >= 3
        assert nr_huge_pages() == before + 3
    assert nr_huge_pages() == before


def test_a_pool_that_is_large_enough_is_left_alone() -> None:
    with memory._huge_pages(4):
        before = nr_huge_pages()
        with memory._huge_pages(2):
            assert nr_huge_pages() == before
        assert nr_huge_pages() == before


def test_a_pool_that_does_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel's does where memory is in pieces; to ask it for too much would clear caches."""
    for name, nr in {"nr_hugepages": 5, "free_hugepages": 4, "resv_hugepages": 1}.items():
        (tmp_path / name).write_text(f"{nr}\n")
    monkeypatch.setattr(memory, "POOL", tmp_path)
    with pytest.raises(HostError, match="needs 8 huge pages of 2 MiB, and 3 are free") as caught:
        memory._huge_pages(8).__enter__()
    assert "vm.nr_hugepages=10" in caught.value.hint
    with memory._huge_pages(3):
        pass
