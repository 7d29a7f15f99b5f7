# SPDX-License-Identifier: Apache-2.0
"""Frames that a store kept are for the offline tools; a new engine does not take them over."""

from __future__ import annotations

from pathlib import Path

import pytest

from tierstore import Engine, TierstoreError
from tierstore.stores.native import FileNative, LmdbNative, NativeStore

SIZE = 64 << 20


def _tiers(path: Path, store: str, options: dict[str, str]) -> dict[str, object]:
    tier = {"name": "cold", "store": store, "path": str(path), "size": SIZE, "options": options}
    return {"tier": [tier]}


@pytest.mark.parametrize("kind", [FileNative, LmdbNative])
def test_kept_frames_are_refused(tmp_path: Path, kind: type[NativeStore]) -> None:
    path = tmp_path / "tier"
    with kind(name="kept", path=str(path), size_bytes=SIZE, options={"keep": "1"}) as store:
        store.put([(1, b"x" * 1000), (2, b"y" * 3000)])
    with pytest.raises(TierstoreError, match="2 frames that an earlier run kept") as caught:
        Engine(_tiers(path, kind.kind, {"keep": "1"})).__enter__()
    assert "keep=1" in str(caught.value)
    with kind(name="kept", path=str(path), size_bytes=SIZE, options={"keep": "1"}) as store:
        assert store.get(2) == b"y" * 3000
