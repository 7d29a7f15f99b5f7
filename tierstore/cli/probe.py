# SPDX-License-Identifier: Apache-2.0
"""``tierstore probe``: the kernel's answers for a person, or as JSON."""

from __future__ import annotations

import json
import textwrap

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tierstore.cli.exits import HOST, OK
from tierstore.probe import FEATURES, Probe, probe

__all__ = ["run"]

_SEES = {
    "rwp": "sees reads and writes",
    "zap": "sees reads and writes",
    "wp": "sees writes only, hence a probation",
    None: "can't be served here",
}


def _show(answer: Probe, console: Console) -> None:
    console.print(f"Linux {escape(answer.kernel_release)}", style="bold")
    features = Table("feature", "", "what for", box=None, pad_edge=False)
    for flag, meaning in FEATURES.items():
        has = answer.flags[flag]
        mark = "[green]yes[/]" if has else "[yellow]no[/]"
        features.add_row(flag.removeprefix("has_"), mark, meaning)
    console.print(features)
    console.print("\nWhat will be used", style="bold")
    for memory in ("anon", "memfd"):
        tracker = answer.tracker_for(memory)
        console.print(f"  {memory:6} tracker [bold]{tracker or 'none'}[/]: {_SEES[tracker]}")
    console.print("\nWhat it can't see", style="bold")
    for spot in answer.blind_spots:
        text = textwrap.fill(spot, max(console.width - 4, 20), subsequent_indent="    ")
        console.print("  - " + text, markup=False, highlight=False)


def run(*, as_json: bool) -> int:
    """Exit code 3 if no memory of any kind can be served here."""
    answer = probe()
    if as_json:
        print(json.dumps(answer.as_dict(), indent=2))
    else:
        _show(answer, Console(highlight=False))
    return OK if answer.tracker_for("anon") or answer.tracker_for("memfd") else HOST
