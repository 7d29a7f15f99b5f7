# SPDX-License-Identifier: Apache-2.0
"""One picture of all rows, from the JSON alone: each ratio, its spread, and its target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLOURS = {True: "#2a7f62", False: "#c0504d"}


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Writes an SVG or a PNG.  Every ratio is drawn as a share of its bound, so that 1 is the
    target in every row.  Needs matplotlib (dependency group "bench")."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SystemExit("plots need matplotlib: ./dev shell -- pip install matplotlib") from error
    shown = [result for result in results if "skipped" not in result][::-1]
    figure = Figure(figsize=(9, 0.32 * len(shown) + 1.2), layout="constrained")
    axes = figure.subplots()
    for at, result in enumerate(shown):
        bound = float(result["target"].split()[1])
        low, high = (share / bound for share in result["spread"])
        ratio = result["ratio"] / bound
        axes.barh(at, ratio, color=COLOURS[result["met"]], height=0.6)
        axes.plot([low, high], [at, at], color="black", linewidth=1)
        axes.text(0.01, at, f"{result['ratio']:.3g} (target {result['target']})",
                  va="center", fontsize=7, color="white", transform=axes.get_yaxis_transform())
    axes.axvline(1, color="black", linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(shown)), [f"{r['row']} {r['name']}" for r in shown], fontsize=7)
    axes.set_xlabel("ratio as a share of its target (<= targets: left of the line is met; "
                    ">= targets: right)", fontsize=7)
    axes.set_xlim(0, min(3.0, max([2.0, *(r["ratio"] / float(r["target"].split()[1])
                                          for r in shown)])))
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
