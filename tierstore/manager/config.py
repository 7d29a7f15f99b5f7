# SPDX-License-Identifier: Apache-2.0
"""Configuration of ``tierstore serve``: that of an engine, and ``[manager]`` and ``[[vm]]``.

::

    [manager]
    listen = "/run/tierstore/vmm.sock"

    [[vm]]                      # no name, no socket, no pid: for all VMs
    budget = "40%"

    [[vm]]
    name = "cloud-hyperviso-*"  # the VMM's program and its pid; * and ? as in a shell
    budget = "2GiB"

Entries of ``[[vm]]`` that match a VM are laid over each other in the order of the file, key by key.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from tierstore import units
from tierstore.config import (
    Config,
    Duration,
    Pct,
    Rate,
    RegionConfig,
    ShareOrSize,
    Size,
)

__all__ = ["ManagerConfig", "ServeConfig", "VmConfig"]


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str | int | Path) else value


def _as_texts(value: object) -> object:
    items = _as_tuple(value)
    return tuple(str(i) for i in items) if isinstance(items, list | tuple) else items


def _mode(value: object) -> int:
    """``"0660"``: as chmod(1) writes it; a bare number would be read as decimal by TOML."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0o777:
        return value
    text = value if isinstance(value, str) else ""
    if 3 <= len(text) <= 4 and set(text) <= set("01234567") and int(text, 8) <= 0o777:
        return int(text, 8)
    raise ValueError(f'{value!r} is not a mode; write it in quotes, such as "0660"')


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ManagerConfig(_Model):
    """What is the manager's own."""

    listen: Annotated[tuple[Path, ...], BeforeValidator(_as_tuple)] = ()
    """Sockets that VMMs connect to."""
    mode: Annotated[int, BeforeValidator(_mode)] = 0o600
    """Of the sockets."""
    group: Annotated[str | None, BeforeValidator(lambda v: str(v) if v is not None else None)] = (
        None
    )
    """Of the sockets; with a mode that lets it in."""
    users: Annotated[tuple[str, ...], BeforeValidator(_as_texts)] = ()
    """Whose VMMs are served, by name or uid; empty: this user's own, and root's."""
    state: Path | None = None
    """A folder of the manager's own: VMs outlive it, and the next manager with the same folder and
    tiers goes on.  On a tmpfs, best below ``/run``; no tier may be ``ram``."""
    hot_add: Size | None = None
    """Room for memory that is plugged into a VM later; default: as much as it begins with."""
    handshake_timeout: Duration = 5.0
    """From a VMM's connection to a whole message with its userfaultfd: who takes longer is closed.
    A VMM sends at once; more than this is for hosts that stop their VMMs or are far too busy."""
    drain_timeout: Duration = 300.0
    """At the end, for VMs that no state folder keeps: so long may they take to come back."""
    share_above: Pct = 80
    """Once the tiers are fuller than this, a VM above its share of them evicts no more, and makes
    room for others that have less than theirs."""
    restore_rate: Rate | None = None
    """Snapshots: bytes a second that come in ahead of the guest's need; default: no limit."""

    @field_validator("handshake_timeout")
    @classmethod
    def _check_handshake_timeout(cls, value: float) -> float:
        if not 0.1 <= value <= 3600:
            raise ValueError("must lie between 100ms and 1h")
        return value


_MATCHERS = ("name", "socket", "pid")


class VmConfig(_Model):
    """How VMs are treated: all of them, or those that ``name``, ``socket`` and ``pid`` match."""

    name: str | None = None
    """Matches the VM's name: the program's, a dash, and its pid; ``*`` and ``?`` as in a shell."""
    socket: str | None = None
    """Matches the path of the socket that it came through, or that path's last part."""
    pid: int | None = Field(default=None, ge=1)
    budget: ShareOrSize = units.Share(25)
    min_age: Duration | None = None
    evict_rate: Rate | None = None
    refault_limit: int | None = Field(default=None, ge=1)
    policy: tuple[str, ...] = ("default",)
    policy_options: dict[str, str | int | float | bool] = {}
    restore: Literal["auto", "page", "range"] = "auto"
    guard_scans: int = Field(default=2, ge=1, le=15)
    weight: float = Field(default=1.0, gt=0, le=1e6)
    """Of its share of the tiers, against the other VMs'."""
    snapshot: str | None = None
    """The image that a VM restored from a snapshot begins as (``tierstore import``)."""
    replay: bool = True
    """Snapshots: what the first restore waited for is written down, and brought in ahead later."""
    record_for: Duration = 10.0
    """Snapshots: so long the first restore loads nothing ahead, to see what the guest wants."""
    when_restored: Literal["release", "keep"] = "release"
    """Snapshots: once all memory is there, let go of the VM; or keep it registered."""

    @field_validator("policy", mode="before")
    @classmethod
    def _one_policy(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    def matches(self, name: str, socket: str, pid: int) -> bool:
        """Whether this entry is for that VM."""
        if self.name is not None and not fnmatch.fnmatchcase(name, self.name):
            return False
        sockets = (socket, Path(socket).name)
        if self.socket is not None and not any(
            fnmatch.fnmatchcase(text, self.socket) for text in sockets
        ):
            return False
        return self.pid is None or self.pid == pid

    def region(self, name: str) -> RegionConfig:
        """What of it is the engine's."""
        keys = RegionConfig.model_fields.keys() & VmConfig.model_fields.keys()
        return RegionConfig(name=name, **{k: getattr(self, k) for k in keys - {"name"}})


class ServeConfig(Config):
    """The whole configuration of ``tierstore serve``."""

    manager: ManagerConfig = ManagerConfig()
    vm: tuple[VmConfig, ...] = ()

    @field_validator("vm", mode="before")
    @classmethod
    def _one_vm(cls, value: object) -> object:
        return (value,) if isinstance(value, Mapping | VmConfig) else value

    def vm_for(self, name: str, socket: str, pid: int) -> VmConfig:
        """The entries that match, laid over each other."""
        merged: dict[str, Any] = {}
        for entry in self.vm:
            if entry.matches(name, socket, pid):
                set_here = entry.model_fields_set - set(_MATCHERS)
                merged |= {key: getattr(entry, key) for key in set_here}
        return VmConfig(**merged)
