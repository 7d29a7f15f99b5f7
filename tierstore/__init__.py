# SPDX-License-Identifier: Apache-2.0
"""tierstore moves the cold pages of running guest memory to a ladder of storage tiers, and back.

::

    from tierstore import Config, Engine, GuestMemory

    with Engine(Config.load("tiers.toml")) as engine:
        memory = GuestMemory.memfd(1 << 30)
        with engine.attach(memory, name="vm1"):
            engine.run()
            ...

Each name is imported when it is first used: what works without the compiled core (configuration,
exceptions, the base classes in :mod:`tierstore.abc`, offline tools) is imported without it, and the
program is soon where Ctrl-C ends it in silence.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tierstore.abc import Decision, Policy, Store, StoreStat, Tick
    from tierstore.config import Config
    from tierstore.engine import Engine
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
    from tierstore.memory import GuestMemory
    from tierstore.probe import Probe
    from tierstore.region import EvictResult, Region, ScanResult
    from tierstore.remote import Ability, Mode, RemoteRange
    from tierstore.statistics import Statistics

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

_HOMES = {
    "abc": ("Decision", "Policy", "Store", "StoreStat", "Tick"),
    "config": ("Config",),
    "engine": ("Engine",),
    "errors": (
        "ConfigError",
        "HostError",
        "RegionError",
        "RegionGone",
        "StoreCorrupt",
        "StoreError",
        "StoreFull",
        "StoreNotFound",
        "TierstoreError",
        "UsageError",
    ),
    "memory": ("GuestMemory",),
    "probe": ("Probe",),
    "region": ("EvictResult", "Region", "ScanResult"),
    "remote": ("Ability", "Mode", "RemoteRange"),
    "statistics": ("Statistics",),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            value: object = getattr(importlib.import_module(f"tierstore.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
