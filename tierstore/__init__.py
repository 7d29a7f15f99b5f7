# SPDX-License-Identifier: Apache-2.0
"""tierstore moves the cold pages of running guest memory to a ladder of storage tiers, and back.

::

    from tierstore import Config, Engine, GuestMemory

    with Engine(Config.load("tiers.toml")) as engine:
        memory = GuestMemory.memfd(1 << 30)
        with engine.attach(memory, name="vm1"):
            engine.run()
            ...

What works without the compiled core (configuration, exceptions, the base classes in
:mod:`tierstore.abc`, offline tools) is imported without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tierstore.abc import Decision, Policy, Store, StoreStat, Tick
from tierstore.config import Config
from tierstore.errors import (
    ConfigError,
    HostError,
    RegionError,
    RegionGone,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreNotFound,
    TierstoreError,
    UsageError,
)
from tierstore.statistics import Statistics

if TYPE_CHECKING:
    from tierstore.engine import Engine
    from tierstore.memory import GuestMemory
    from tierstore.probe import Probe
    from tierstore.region import EvictResult, Region, ScanResult
    from tierstore.remote import Ability, Mode, RemoteRange

__all__ = [
    "Ability",
    "Config",
    "ConfigError",
    "Decision",
    "Engine",
    "EvictResult",
    "GuestMemory",
    "HostError",
    "Mode",
    "Policy",
    "Probe",
    "Region",
    "RegionError",
    "RegionGone",
    "RemoteRange",
    "ScanResult",
    "Statistics",
    "Store",
    "StoreCorrupt",
    "StoreError",
    "StoreFull",
    "StoreNotFound",
    "StoreStat",
    "Tick",
    "TierstoreError",
    "UsageError",
]

_NEEDS_CORE = {
    "Ability": "tierstore.remote",
    "Engine": "tierstore.engine",
    "EvictResult": "tierstore.region",
    "GuestMemory": "tierstore.memory",
    "Mode": "tierstore.remote",
    "Probe": "tierstore.probe",
    "Region": "tierstore.region",
    "RemoteRange": "tierstore.remote",
    "ScanResult": "tierstore.region",
}


def __getattr__(name: str) -> Any:
    if name in _NEEDS_CORE:
        value = getattr(importlib.import_module(_NEEDS_CORE[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
