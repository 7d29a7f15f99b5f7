# SPDX-License-Identifier: Apache-2.0
"""``tierstore stat``: one look at a running engine."""

from __future__ import annotations

import json

from rich.console import Console
from rich.table import Table

from tierstore.cli.ask import connect
from tierstore.cli.exits import OK
from tierstore.cli.render import engine_block, latency_text
from tierstore.cli.vms import limit_lines, vm_table
from tierstore.statistics import Statistics

__all__ = ["run"]


def _show(console: Console, statistics: Statistics) -> None:
    console.print(engine_block(statistics, None, console.width))
    stages = Table("stage", "count", "latency", box=None, pad_edge=False)
    for name, latency in statistics.stages.items():
        if latency.count:
            stages.add_row(name, f"{latency.count:,}", latency_text(latency))
    console.print(stages)
    for region in statistics.regions:
        console.print(
            f"region {region.name}: {region.memory}, tracker {region.tracker}, "
            f"{region.pages.resident:,} of {region.pages.total:,} pages resident",
            markup=False,
        )


def run(*, pid: int | None, as_json: bool) -> int:
    """Exit code 2 if there is no such engine."""
    with connect(pid) as client:
        engines, vms = client.statistics(), client.vms()
    if as_json:
        print(json.dumps({"pid": client.pid, "engines": engines, "vms": vms}))
        return OK
    console = Console(highlight=False)
    console.print(f"process {client.pid}", style="bold")
    for engine in engines:
        _show(console, Statistics.from_dict(engine))
    if vms:
        console.print(vm_table(vms, console.width))
        console.print(limit_lines(vms), markup=False)
    return OK
