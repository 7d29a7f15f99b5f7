# SPDX-License-Identifier: Apache-2.0
"""The state folder and images from Python: what there is, what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tierstore._native._core", reason="the extension is not built: ./dev build")

from tierstore import Engine, images
from tierstore.errors import StoreError, StoreFull, TierstoreError, UsageError

PAGE = 4096


def settings(folder: Path, size: str = "32MiB", store: str = "file") -> dict[str, Any]:
    tier = {"name": "cold", "store": store, "size": size, "codec": "zstd"}
    if store != "ram":
        tier["path"] = str(folder / "cold")
    return {"engine": {"state": str(folder / "state")}, "tier": [tier]}


def snapshot(folder: Path, pages: int) -> Path:
    path = folder / "snapshot"
    kinds = [bytes(PAGE), b"\7" * PAGE, os.urandom(PAGE // 2) + bytes(PAGE // 2)]
    path.write_bytes(b"".join(kinds[page % 3] for page in range(pages)))
    return path


def give_up(done: int, _all: int) -> None:
    raise ZeroDivisionError(done)


def test_an_image_outlives_its_engine(tmp_path: Path) -> None:
    path = snapshot(tmp_path, 3000)
    steps: list[tuple[int, ...]] = []
    with Engine(settings(tmp_path)) as engine:
        engine.import_image(path, "base", progress=lambda *step: steps.append(step))
        assert steps[-1] == (3000 * PAGE, 3000 * PAGE)
        with pytest.raises(UsageError, match="base"):
            engine.import_image(path, "base")
    with Engine(settings(tmp_path)) as engine:
        (image,) = engine.images()
        assert (image.name, image.length_bytes, image.nr_regions) == ("base", 3000 * PAGE, 0)
        assert (image.nr_stored, image.nr_filled) == (1000, 1000)
        assert images.list_orphans(engine) == []
        images.remove_image(engine, "base")
        assert engine.images() == []


def test_an_import_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "noise"
    path.write_bytes(os.urandom(16 << 20))
    with Engine(settings(tmp_path, size="8MiB")) as engine:
        with pytest.raises(ZeroDivisionError):
            engine.import_image(path, "noise", progress=give_up)
        with pytest.raises(StoreFull, match="noise"):
            engine.import_image(path, "noise")
        with pytest.raises(StoreError, match="nowhere"):
            engine.import_image(tmp_path / "nowhere", "noise")
        assert engine.images() == []
        with pytest.raises(TierstoreError, match="noise"):
            images.remove_image(engine, "noise")
        with pytest.raises(TierstoreError, match="vm"):
            images.forget_orphan(engine, "vm")


def test_what_cannot_outlive_its_process_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TierstoreError, match="tmpfs"):
        Engine(settings(tmp_path, store="ram"))


def test_two_engines_do_not_share_a_state_folder(tmp_path: Path) -> None:
    with Engine(settings(tmp_path)), pytest.raises(TierstoreError, match="in use"):
        Engine(settings(tmp_path))
