# SPDX-License-Identifier: Apache-2.0
"""``tierstore verify PATH``: every frame of a tier's files, checked without the C engine."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from tierstore.cli.exits import OK, WRONG_BYTES
from tierstore.offline.verify import VerifyProgress, VerifyReport, verify
from tierstore.units import format_size

__all__ = ["run"]

BAD_SHOWN = 20


def _verify_with_bar(path: Path, console: Console) -> VerifyReport:
    """The bar goes to stderr: stdout is for the verdict."""
    columns = (
        TextColumn("verifying"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        def on_progress(look: VerifyProgress) -> None:
            bad = f", {look.nr_bad:,} bad" if look.nr_bad else ""
            progress.update(
                task,
                completed=look.nr_frames,
                total=look.total or None,
                description=f"{look.nr_frames:,} frames, {format_size(look.stored_bytes)}{bad}",
            )

        return verify(path, progress=on_progress)


def _show(report: VerifyReport) -> None:
    ratio = f", ratio {report.raw_bytes / report.stored_bytes:.2f}" if report.stored_bytes else ""
    print(f"{report.path}: a store of kind {report.store}, read in {report.elapsed_s:.1f} s")
    print(
        f"{report.nr_frames:,} frames of {report.nr_pages:,} pages: "
        f"{format_size(report.raw_bytes)} in {format_size(report.stored_bytes)}{ratio}"
    )
    for name, count in sorted(report.codecs.items()):
        print(f"  {name:6} {count.nr_frames:,} frames, {format_size(count.stored_bytes)}")
    for bad in report.bad[:BAD_SHOWN]:
        place = "" if bad.page is None else f" (region {bad.region}, page {bad.page})"
        key = "?" if bad.key is None else bad.key
        print(f"bad frame {key}{place}: {bad.reason}")
    if report.nr_bad > BAD_SHOWN:
        print(f"... and {report.nr_bad - BAD_SHOWN:,} more; --json lists them")
    print("every frame is good" if report.is_ok else f"{report.nr_bad:,} BAD FRAMES")


def run(path: Path, *, as_json: bool) -> int:
    """Exit code 1 if a frame is bad, 4 if there is no store to read."""
    console = Console(stderr=True, highlight=False)
    if console.is_terminal and not console.is_dumb_terminal and not as_json:
        report = _verify_with_bar(path, console)
    else:
        report = verify(path)
    if as_json:
        print(json.dumps(report.to_json()))
    else:
        _show(report)
    return OK if report.is_ok else WRONG_BYTES
