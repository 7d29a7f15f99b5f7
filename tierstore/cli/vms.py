# SPDX-License-Identifier: Apache-2.0
"""The VMs of a manager as a person reads them: a table, and what can't be done with each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tierstore.units import format_size

__all__ = ["limit_lines", "vm_line", "vm_table"]

_COLUMNS = (
    *("vm", "vmm", "does", "size", "resident", "budget", "cold", "stored", "share", "faults"),
    "state",
)
_DROPPED_FIRST = ("vmm", "cold", "budget", "faults", "share", "stored", "state", "does")


def _size(value: object) -> str:
    return format_size(value) if isinstance(value, int | float) else "-"


def _row(vm: Mapping[str, Any]) -> dict[str, str]:
    return {
        "vm": escape(str(vm["name"])),
        "vmm": escape(str(vm["vmm"])),
        "does": "+".join(vm.get("abilities", ())),
        "size": _size(vm.get("region_bytes")),
        "resident": _size(vm.get("resident_bytes")),
        "budget": _size(vm.get("budget_bytes")),
        "cold": _size(vm.get("cold_bytes")),
        "stored": _size(vm.get("stored_bytes")),
        "share": _size(vm.get("share_bytes")),
        "faults": f"{vm.get('faults', 0):,}",
        "state": str(vm["state"]) + ("" if vm["is_connected"] else ", hung up"),
    }


def vm_table(vms: Sequence[Mapping[str, Any]], width: int) -> RenderableType:
    """One row a VM; columns go where the width is short, least important first."""
    rows = [_row(vm) for vm in vms]
    columns = list(_COLUMNS)
    droppable = iter(_DROPPED_FIRST)
    while True:
        needed = sum(max([len(c), *(len(row[c]) for row in rows)]) + 2 for c in columns)
        dropped = next(droppable, None) if needed > width else None
        if dropped is None:
            break
        columns.remove(dropped)
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*(row[column] for column in columns))
    return table


def limit_lines(vms: Sequence[Mapping[str, Any]]) -> Group:
    """What can't be done with each VM, why, and what would have to change."""
    texts = [(vm["name"], [*vm.get("remarks", ()), vm.get("limits", "")]) for vm in vms]
    lines = [Text(f"{name}: {text}") for name, own in texts for text in own if text]
    return Group(*lines)


def vm_line(vm: Mapping[str, Any]) -> str:
    """One plain line."""
    row = _row(vm)
    return (
        f"{vm['name']}: resident {row['resident']} of {row['size']}, "
        f"stored {row['stored']} of {row['share']}, "
        f"{row['faults']} faults, {row['does']}, {row['state']}"
    )
