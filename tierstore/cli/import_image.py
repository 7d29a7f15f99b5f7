# SPDX-License-Identifier: Apache-2.0
"""``tierstore import FILE --name X``: a snapshot's memory file goes into the tiers, compressed.

While a manager runs it has the tiers, and is asked to do it; else they are opened here.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from tierstore.cli.exits import OK
from tierstore.control import Client, find_publishers
from tierstore.engine import Engine
from tierstore.errors import ConfigError, HostError, StoreError, StoreLocked
from tierstore.manager.config import ServeConfig
from tierstore.units import format_size

__all__ = ["run"]

POLL_S = 0.2
Show = Callable[[int, int], None]


@contextlib.contextmanager
def _bar(name: str, as_json: bool) -> Iterator[Show]:
    """On stderr, if that is a terminal: stdout is for the result."""
    console = Console(stderr=True, highlight=False)
    if as_json or not console.is_terminal or console.is_dumb_terminal:
        yield lambda done, total: None
        return
    columns = (TextColumn(f"importing {name}"), BarColumn(), DownloadColumn(binary_units=True),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _import_here(path: Path, name: str, config: ServeConfig, show: Show) -> dict[str, Any]:
    with Engine(config, state=config.manager.state) as engine:
        engine.import_image(path, name, progress=show)
        image = next(image for image in engine.images() if image.name == name)
        tiers = engine.statistics().tiers
    return {
        "length_bytes": image.length_bytes,
        "stored_pages": image.nr_stored,
        "tiers_bytes": sum(tier.used_bytes for tier in tiers),
    }


def _import_there(client: Client, path: Path, name: str, show: Show) -> dict[str, Any]:
    client.ask("import", path=str(path.resolve()), name=name)
    while True:
        look = client.ask("imports")["imports"][name]
        show(look["done_bytes"], look["length_bytes"])
        if look["error"]:
            raise StoreError(look["error"])
        if look["is_done"]:
            return {key: look[key] for key in ("length_bytes", "stored_pages", "tiers_bytes")}
        time.sleep(POLL_S)


def _manager_of(state: Path) -> Client:
    """The manager that holds the folder.  Raises ``StoreLocked`` if it can't be asked."""
    for pid in find_publishers():
        try:
            client = Client(pid)
        except OSError:
            continue
        with contextlib.suppress(HostError, OSError):
            if client.ask("imports")["state"] == str(state.resolve()):
                return client
        client.close()
    raise StoreLocked(f"{state}: in use by a process that can't be asked to import")


def run(path: Path, *, name: str, config: Path, state: Path | None, as_json: bool) -> int:
    """Exit code 4 if the file can't be read or does not fit."""
    resolved = ServeConfig.load(config)
    if state is not None:
        data = resolved.to_dict()
        data["manager"]["state"] = str(state)
        resolved = ServeConfig.from_dict(data)
    if resolved.manager.state is None:
        raise ConfigError("an image needs a state folder to outlive this command: say --state DIR")
    started_s = time.monotonic()
    with _bar(name, as_json) as show:
        try:
            answer = _import_here(path, name, resolved, show)
        except StoreLocked:
            with _manager_of(resolved.manager.state) as client:
                answer = _import_there(client, path, name, show)
    answer |= {"name": name, "seconds": round(time.monotonic() - started_s, 3)}
    if as_json:
        print(json.dumps(answer))
    else:
        print(f"{name}: {format_size(answer['length_bytes'])}, of which "
              f"{format_size(answer['stored_pages'] * 4096)} are stored; the tiers hold "
              f"{format_size(answer['tiers_bytes'])} ({answer['seconds']:.1f} s)")  # fmt: skip
    return OK
