# SPDX-License-Identifier: Apache-2.0
"""``tierstore serve``: options over the configuration, then the manager until a signal."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from tierstore.cli.exits import OK, STORE, complain
from tierstore.errors import ConfigError
from tierstore.manager.config import ServeConfig
from tierstore.units import parse_size

__all__ = ["run"]


def _resolve(
    path: Path | None,
    listen: list[Path],
    users: list[str],
    state: Path | None,
    snapshot: str | None,
    ram: str | None,
) -> ServeConfig:
    """The file's settings with the command line's over them."""
    if path is not None:
        if ram is not None:
            raise ConfigError("--ram: the tiers are those of --config; say one of both")
        data = ServeConfig.load(path).model_dump(mode="json", exclude_none=True, exclude_unset=True)
        source = str(path)
    else:
        data, source = _default_tiers(ram or "1GiB"), "command line"
    manager: dict[str, Any] = data.setdefault("manager", {})
    if listen:
        manager["listen"] = [str(each) for each in listen]
    if users:
        manager["users"] = users
    if state is not None:
        manager["state"] = str(state)
    if snapshot is not None:
        # Behind the file's own entries: what is said last is what holds.
        data["vm"] = [*data.get("vm", []), {"snapshot": snapshot}]
    resolved = ServeConfig.from_dict(data, source=source)
    in_ram = [tier.name for tier in resolved.tier if tier.store == "ram"]
    if in_ram and resolved.manager.state is not None:
        raise ConfigError(
            f"{source}: with a state folder no tier may be in RAM, which ends with the manager; "
            f'"{in_ram[0]}" is: use the store file, on a tmpfs for compressed RAM, or lmdb'
        )
    return resolved


def _default_tiers(ram: str) -> dict[str, Any]:
    try:
        size_bytes = parse_size(ram)
    except ValueError as error:
        raise ConfigError(f"--ram: {error}") from None
    tier = {"name": "warm", "store": "ram", "size": size_bytes, "codec": "zstd", "range": "16KiB"}
    return {"tier": [tier]}


def run(
    *,
    listen: list[Path],
    config: Path | None,
    users: list[str],
    state: Path | None,
    snapshot: str | None,
    ram: str | None,
    verbose: bool,
) -> int:
    """Exit code 4 if VMs were left without their memory."""
    resolved = _resolve(config, listen, users, state, snapshot, ram)
    # Imported late: --help and a wrong option need no engine.
    from tierstore.manager import service

    service.log_to_stderr(verbose=verbose)
    left = service.serve(resolved)
    if left:
        complain(
            f"ended before these had their memory back, and they wait for it: {', '.join(left)}"
        )
    if left or resolved.manager.state is not None:
        # What an orderly end would do, bring memory back, must not be done, or can't.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(STORE if left else OK)
    return OK
