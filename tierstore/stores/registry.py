# SPDX-License-Identifier: Apache-2.0
"""Stores by name: built in, from an installed package, or ``package.module:Class``.

A package adds its own with an entry point::

    [project.entry-points."tierstore.stores"]
    mystore = "mypackage.mystore:MyStore"
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tierstore._plugins import STORE_GROUP, _import, find_class, plugin_names
from tierstore.abc import Store

__all__ = ["find_store", "store_names"]


class _Lazy(Mapping[str, type]):
    """Name to class; a module is imported when its class is asked for.

    The C stores need the compiled core, the Python ones their own packages; a tool that wants one
    of them must not need them all.
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = places

    def __getitem__(self, name: str) -> type:
        found = _import("store", self._places[name])
        assert isinstance(found, type)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


_BUILTIN = _Lazy(
    {
        "ram": "tierstore.stores.native:RamNative",
        "file": "tierstore.stores.native:FileNative",
        "lmdb": "tierstore.stores.native:LmdbNative",
        "python-file": "tierstore.stores.file:FileStore",
        "python-lmdb": "tierstore.stores.lmdb:LmdbStore",
    }
)


def store_names() -> list[str]:
    """Every name that ``find_store`` knows, sorted."""
    return sorted({*_BUILTIN, *plugin_names(STORE_GROUP)})


def find_store(name: str) -> type[Store]:
    """The class of stores called ``name``.  Raises ``ConfigError`` that lists the choices."""
    return find_class("store", STORE_GROUP, name, _BUILTIN, Store)
