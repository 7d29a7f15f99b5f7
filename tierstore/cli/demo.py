# SPDX-License-Identifier: Apache-2.0
"""``tierstore demo``: signals, views and the verdict around :mod:`tierstore.demo`."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from tierstore import units
from tierstore.cli.exits import OK, SIGNALS, WRONG_BYTES, complain
from tierstore.cli.render import Rates, bar, engine_block, latency_text, plain_line, rates_between
from tierstore.demo.guest import GuestOptions
from tierstore.demo.memory import KINDS, Kind
from tierstore.demo.run import DemoOptions, Look, Stop, View
from tierstore.demo.run import run as run_demo
from tierstore.demo.summary import Summary
from tierstore.errors import ConfigError
from tierstore.statistics import Statistics
from tierstore.units import format_size

__all__ = ["run"]

_STEPS = {
    "prepare": "collecting this machine's files",
    "run": "the guest runs",
    "restore": "bringing every page back",
    "compare": "comparing every page",
}
PLAIN_S = 1.0


class _Rating:
    """Rates between looks that are far enough apart to mean something."""

    def __init__(self) -> None:
        self._before: Statistics | None = None
        self._rates = Rates()

    def look(self, now: Statistics) -> Rates:
        if self._before is None or now.uptime_s - self._before.uptime_s >= 0.9:
            self._rates = rates_between(self._before, now)
            self._before = now
        return self._rates


def _live_view(live: Live, console: Console) -> View:
    rating = _Rating()

    def view(look: Look) -> None:
        width = console.width
        parts: list[Any] = [
            Text(
                f"{_STEPS[look.step]} {bar(look.share, max(min(width - 36, 40), 4))}",
                no_wrap=True,
                overflow="ellipsis",
                style="bold",
            )
        ]
        if look.guest is not None:
            checked = f"{look.guest.nr_touches:,} pages checked"
            wrong = look.guest.nr_mismatches + look.guest.nr_lost
            style = "bold red" if wrong else "green"
            text = Text(f"{checked}, {wrong} wrong", style=style, no_wrap=True, overflow="ellipsis")
            parts.append(text)
        if look.resident_bytes:
            kernel = f"the kernel holds {format_size(look.resident_bytes)} of the guest"
            parts.append(Text(kernel, no_wrap=True, overflow="ellipsis"))
        if look.statistics is not None:
            rates = rating.look(look.statistics)
            parts.append(engine_block(look.statistics, rates, width))
        live.update(Group(*parts))

    return view


def _plain_view() -> View:
    rating = _Rating()
    shown: dict[str, Any] = {"step": "", "at_s": 0.0}

    def view(look: Look) -> None:
        now_s = time.monotonic()
        if look.step != shown["step"]:
            print(f"{_STEPS[look.step]} ...", flush=True)
        elif look.step != "run" or now_s - shown["at_s"] < PLAIN_S:
            return
        shown.update(step=look.step, at_s=now_s)
        if look.step == "run" and look.statistics is not None and look.guest is not None:
            line = plain_line(look.statistics, rating.look(look.statistics))
            checked = f"{look.guest.nr_touches:,} pages checked"
            print(f"{look.share:4.0%} {checked}; {line}", flush=True)

    return view


@contextlib.contextmanager
def _view(as_json: bool) -> Iterator[View]:
    console = Console(highlight=False)
    if as_json:
        yield lambda look: None
    elif console.is_terminal and not console.is_dumb_terminal:
        with Live(console=console, refresh_per_second=4, transient=True) as live:
            yield _live_view(live, console)
    else:
        yield _plain_view()


@contextlib.contextmanager
def _signals(stop: Stop) -> Iterator[None]:
    """SIGINT and SIGTERM end the run; the rest of it, the check included, still happens."""

    def on_signal(number: int, _frame: object) -> None:
        stop.set(signal.Signals(number).name)

    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_summary(summary: Summary) -> None:
    statistics, guest = summary.statistics, summary.guest

    def share(part: int) -> str:
        return f"{format_size(part)} ({part / summary.region_bytes:.0%})"

    print(f"guest      {format_size(summary.region_bytes)} of {summary.memory} memory, "
          f"tracker {summary.tracker}, {summary.seconds:.1f} s")  # fmt: skip
    print(f"resident   {share(summary.resident_before_bytes)} before, "
          f"{share(summary.resident_min_bytes)} at the least, "
          f"{share(summary.resident_after_bytes)} at the end")  # fmt: skip
    for tier in statistics.tiers:
        ratio = f"{tier.ratio:.2f}" if tier.ratio else "-"
        print(f"  {tier.name:8} {tier.store:6} holds {format_size(tier.nr_pages * 4096):>9} in "
              f"{format_size(tier.stored_bytes):>9}, ratio {ratio}, served {tier.nr_faults:,} "
              f"faults, {tier.health}")  # fmt: skip
    print(f"faults     {guest.nr_faults:,} waited for, {statistics.faults.refaults:,} refaults")
    print(f"waited     {latency_text(guest.fault)}")
    print(f"checked    {guest.nr_touches:,} touches while it ran, "
          f"{summary.compared_pages:,} pages compared at the end")  # fmt: skip
    if summary.ended_by != "time":
        print(f"ended by   {summary.ended_by}")
    verdict = "every byte was right" if summary.mismatches == 0 else "WRONG BYTES"
    print(f"mismatches {summary.mismatches}: {verdict}")


def run(*, as_json: bool, size: str, memory: str, **given: Any) -> int:
    """Exit code 1 for a wrong byte, 130 or 143 if a signal ended a run without one."""
    try:
        size_bytes = units.parse_size(size)
    except ValueError as error:
        raise ConfigError(f"--size: {error}") from None
    if memory not in KINDS:
        raise ConfigError(f"--memory: {memory!r}; one of {', '.join(KINDS)} would do")
    options = DemoOptions(
        seconds=given["seconds"],
        size_bytes=size_bytes,
        memory=cast(Kind, memory),
        config=cast("Path | None", given["config"]),
        folder=cast("Path | None", given["folder"]),
        cold_per_s=cast("int | None", given["cold_per_s"]),
        guest=GuestOptions(
            nr_threads=given["nr_threads"],
            seed=given["seed"],
            touches_per_s=given["touches_per_s"],
        ),
    )
    stop = Stop()
    with _signals(stop):
        with _view(as_json) as view:
            summary = run_demo(options, view, stop)
        if as_json:
            print(json.dumps(summary.as_dict()))
        else:
            _print_summary(summary)
        sys.stdout.flush()
    if summary.error:
        complain(summary.error)
    if summary.mismatches:
        return WRONG_BYTES
    if stop.reason != "time":
        return SIGNALS + signal.Signals[stop.reason].value
    return OK
