# SPDX-License-Identifier: Apache-2.0
"""One suite, every store: the C ones, the Python ones, wrappers around some, and a plug-in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tierstore._native._core", reason="the extension is not built: ./dev build")

from tierstore.abc import Store
from tierstore.stores import bridge
from tierstore.stores.native import NativeStore
from tierstore.stores.registry import find_store
from tierstore.testing import DelayStore, StatsStore, VerifyStore
from tierstore.testing.contract import StoreContract


class NamedContract(StoreContract):
    """A store by its name in the configuration."""

    store_name: str
    wrap: str = ""

    def open_store(self, path: Path, **config: Any) -> Store:
        cls = find_store(self.store_name)
        if self.wrap:
            config["wrap"] = self.wrap
        if self.path_kind is not None:
            config["path"] = str(path)
        return cls(name="tier", **config)


class TestRam(NamedContract):
    store_name = "ram"
    injects = True


class TestFile(NamedContract):
    store_name = "file"
    path_kind = "file"
    size_bytes = 16 << 20
    slack_bytes = 4096
    can_keep = True
    injects = True


class TestLmdb(NamedContract):
    store_name = "lmdb"
    path_kind = "folder"
    can_keep = True
    injects = True


class TestPythonLmdb(NamedContract):
    store_name = "python-lmdb"
    path_kind = "folder"
    can_keep = True


class TestPythonFile(NamedContract):
    store_name = "python-file"
    path_kind = "file"
    size_bytes = 16 << 20
    slack_bytes = 4096
    can_keep = True


class TestRamWrapped(NamedContract):
    """All four wrappers of the C core at once."""

    store_name = "ram"
    wrap = "verify,stats,delay:get=20us,fault"
    can_overwrite_beside_gets = False
    injects = True


class TestLmdbVerified(NamedContract):
    store_name = "lmdb"
    path_kind = "folder"
    wrap = "verify,stats"
    can_overwrite_beside_gets = False


class TestFileVerified(NamedContract):
    store_name = "file"
    path_kind = "file"
    size_bytes = 16 << 20
    slack_bytes = 4096
    wrap = "stats,verify"
    can_overwrite_beside_gets = False


class TestPythonLmdbWrapped(NamedContract):
    """The wrappers in Python, around a store in Python."""

    store_name = "python-lmdb"
    path_kind = "folder"

    def open_store(self, path: Path, **config: Any) -> Store:
        return VerifyStore(StatsStore(DelayStore(super().open_store(path, **config))))


class BridgedStore(NativeStore):
    """A store in Python, as the C core sees it, seen from Python: both directions in one."""

    def __init__(self, name_or_class: Any, **config: Any) -> None:
        ops, user, self.bound = bridge.bind(name_or_class)
        super().__init__(ops=ops, user=user, **config)

    @property
    def is_persistent(self) -> bool:
        assert self.bound.store is not None
        return self.bound.store.is_persistent


class TestBridgedLmdb(StoreContract):
    path_kind = "folder"
    can_keep = True

    def open_store(self, path: Path, **config: Any) -> Store:
        return BridgedStore("python-lmdb", name="tier", path=str(path), **config)


class TestPlugin(StoreContract):
    """Somebody else's class, by its dotted path."""

    def open_store(
        self,
        path: Path,
        *,
        size_bytes: int,
        frame_bytes_max: int,
        options: Mapping[str, str],
    ) -> Store:
        cls = find_store(f"{__package__ or 'tests.contract'}.plugin_store:DictStore")
        return cls(
            name="tier", size_bytes=size_bytes, frame_bytes_max=frame_bytes_max, options=options
        )
