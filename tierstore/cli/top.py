# SPDX-License-Identifier: Apache-2.0
"""``tierstore top``: a running engine, live.

On a terminal the block is drawn over itself; without one, a plain line is printed for each look,
and with ``--json`` an object.  It ends well when the watched process does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from tierstore.cli.ask import connect
from tierstore.cli.exits import OK
from tierstore.cli.render import engine_block, plain_line, rates_between
from tierstore.cli.vms import vm_line, vm_table
from tierstore.control import Client
from tierstore.statistics import Statistics

__all__ = ["run"]


Look = tuple[list[dict[str, Any]], list[dict[str, Any]]]
"""Engines, and the VMs of a manager."""


def _looks(client: Client, interval_s: float, count: int) -> Iterator[Look]:
    """Every interval, ``count`` times or until the process ends."""
    due_s = time.monotonic()
    done = 0
    while True:
        try:
            yield client.statistics(), client.vms()
        except ConnectionError:
            return
        done += 1
        if done == count:
            return
        due_s = max(due_s + interval_s, time.monotonic())
        time.sleep(max(due_s - time.monotonic(), 0.0))


class _Screen:
    """The engines of one process, with rates since the look before."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before: list[Statistics] = []

    def _pairs(self, engines: list[Statistics]) -> list[tuple[Statistics | None, Statistics]]:
        before: list[Statistics | None] = list(self._before)
        # An engine that came or went: no rates for one look.
        same = len(before) == len(engines)
        self._before = engines
        return list(zip(before if same else [None] * len(engines), engines, strict=True))

    def block(
        self, engines: list[Statistics], vms: list[dict[str, Any]], width: int
    ) -> Group:
        title = f"tierstore  process {self._pid}  {time.strftime('%H:%M:%S')}"
        parts: list[Any] = [Text(title, style="bold", no_wrap=True, overflow="ellipsis")]
        for before, now in self._pairs(engines):
            parts.append(engine_block(now, rates_between(before, now), width))
        if vms:
            parts.append(vm_table(vms, width))
        return Group(*parts)

    def lines(self, engines: list[Statistics]) -> list[str]:
        return [plain_line(now, rates_between(before, now)) for before, now in self._pairs(engines)]


def run(*, pid: int | None, interval_s: float, count: int, as_json: bool) -> int:
    """Ends with the watched process, after ``count`` looks, or by Ctrl-C."""
    console = Console(highlight=False)
    with connect(pid) as client:
        screen = _Screen(client.pid)
        looks = _looks(client, interval_s, count)
        if as_json:
            for engines, vms in looks:
                answer = {"pid": client.pid, "engines": engines, "vms": vms}
                print(json.dumps(answer), flush=True)
        elif console.is_terminal and not console.is_dumb_terminal:
            with Live(console=console, auto_refresh=False) as live:
                for engines, vms in looks:
                    known = [Statistics.from_dict(engine) for engine in engines]
                    live.update(screen.block(known, vms, console.width), refresh=True)
        else:
            for engines, vms in looks:
                known = [Statistics.from_dict(engine) for engine in engines]
                for line in (*screen.lines(known), *map(vm_line, vms)):
                    print(line, flush=True)
    return OK
