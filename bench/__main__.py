# SPDX-License-Identifier: Apache-2.0
"""`./dev bench [NAME ...]`: measure all rows or some, smoke sizes unless --real."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console

from bench import machine, plots, report
from bench.build import release_build
from bench.harness import REAL, SMOKE, Bench
from bench.result import Skipped
from bench.rivals.group import is_alive
from bench.rows import all_rows

ERRORS = Console(stderr=True)
SCRATCH = "bench-of-"
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def stop(number: int, frame: FrameType | None) -> None:
    """SIGTERM as an exception, so that swap and groups are taken down."""
    sys.exit(128 + number)


def scratch(build: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder for this run, beside the build and not below /tmp, which may be memory: the file
    tier and swap want the disk.  Those of killed runs are removed."""
    for old in build.glob(f"{SCRATCH}*"):
        if not is_alive(old.name.removeprefix(SCRATCH).split("-")[0]):
            shutil.rmtree(old, ignore_errors=True)  # but for a swap file that is still on
    return tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{os.getpid()}-", dir=build)


def measure_row(name: str, bench: Bench) -> list[dict[str, Any]]:
    """A row's results as JSON; a row that can't run says why."""
    module = all_rows()[name]
    ERRORS.print(f"{time.strftime('%H:%M:%S')} row {module.NUMBER}: {name}", style="dim")
    try:
        return [result.as_json() for result in module.measure(bench)]
    except Skipped as skipped:
        got = [result.as_json() for result in skipped.results]
        return [*got, {"row": str(module.NUMBER), "name": name, "skipped": str(skipped)}]


def read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What an earlier run printed with --json."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return lines[0], lines[1:]


def run(names: list[str], real: bool, build: Path | None, emit: bool) -> tuple[Any, Any]:
    """Measures; with emit every result is printed as soon as it is there."""
    build = build.resolve() if build else release_build()
    head = machine.header(build, "real" if real else "smoke")
    results: list[dict[str, Any]] = []
    if emit:
        print(json.dumps(head), flush=True)
    with scratch(build) as folder:
        bench = Bench(build, Path(folder), REAL if real else SMOKE)
        for name in names:
            found = measure_row(name, bench)
            results += found
            for result in found if emit else []:
                print(json.dumps(result), flush=True)
        head["corpora"] = bench.corpora
    head["load_after"] = [round(load, 2) for load in os.getloadavg()]
    return head, results


@app.command()
def main(
    names: Annotated[list[str] | None, typer.Argument(help="rows by name or number")] = None,
    real: Annotated[bool, typer.Option("--real", help="real sizes, several turns")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on stdout")] = False,
    build: Annotated[Path | None, typer.Option(help="an existing build to measure")] = None,
    plot: Annotated[Path | None, typer.Option(help="write a picture (.svg, .png)")] = None,
    table: Annotated[Path | None, typer.Option(help="write the table as Markdown")] = None,
    results_of: Annotated[
        Path | None, typer.Option("--from", help="measure nothing: show this JSON")
    ] = None,
    only_list: Annotated[bool, typer.Option("--list", help="the rows and what they say")] = False,
) -> None:
    """Measurements beside bare limits and rivals; bench/README.md says how to read them."""
    rows = all_rows()
    if only_list:
        for name, module in rows.items():
            print(f"{name:12} {(module.__doc__ or '').splitlines()[0]}")
        return
    by_number = {str(module.NUMBER): name for name, module in rows.items()}
    chosen = [by_number.get(name, name) for name in names or rows]
    if unknown := [name for name in chosen if name not in rows]:
        raise typer.BadParameter(f"no such row: {', '.join(unknown)} (see --list)")
    signal.signal(signal.SIGTERM, stop)
    head, results = read(results_of) if results_of else run(chosen, real, build, as_json)
    if not as_json:
        report.show(results, Console(width=None if sys.stdout.isatty() else 160))
    if table:
        table.write_text(report.markdown(head, results))
    if plot:
        plots.plot(results, plot)


if __name__ == "__main__":
    app()
