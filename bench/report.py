# SPDX-License-Identifier: Apache-2.0
"""The table: for a terminal, and as Markdown for README.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

HEADINGS = ["#", "figure", "ours", "beside", "theirs", "ratio", "spread", "target", "met"]


def cells(result: dict[str, Any]) -> list[str]:
    """One line of either table, from a result's JSON or a skipped row's."""
    if "skipped" in result:
        return [result["row"], result["name"], *[""] * 5, "", f"skipped: {result['skipped']}"]
    low, high = result["spread"]
    return [
        result["row"],
        result["name"],
        f"{result['value']:.4g} {result['unit']}",
        result["versus"],
        f"{result['versus_value']:.4g}",
        f"{result['ratio']:.3g}",
        f"{low:.3g} .. {high:.3g}",
        result["target"],
        "yes" if result["met"] else "no",
    ]


def show(results: Iterable[dict[str, Any]], console: Console) -> None:
    """For people at a terminal."""
    table = Table(*HEADINGS, box=None, pad_edge=False)
    for result in results:
        style = None if result.get("met", True) else "red"
        table.add_row(*cells(result), style=style)
    console.print(table)


def markdown(header: dict[str, Any], results: Iterable[dict[str, Any]]) -> str:
    """For README.md."""
    machine = (
        f"Linux {header['kernel']}, {header['cpus']} x {header['cpu']}, {header['memory']}, "
        f"commit {header['commit']}, {header['date']}, load average "
        f"{header['load'][0]} at the start."
    )
    lines = [
        machine,
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|" + "---|" * len(HEADINGS),
    ]
    lines += ["| " + " | ".join(cells(result)) + " |" for result in results]
    return "\n".join(lines) + "\n"
