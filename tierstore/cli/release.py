# SPDX-License-Identifier: Apache-2.0
"""``tierstore release VM``: a manager brings a VM fully back and lets go of it, while it runs."""

from __future__ import annotations

import json
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from tierstore.cli.exits import OK, STORE, WRONG_BYTES, complain
from tierstore.control import Client, find_publishers
from tierstore.errors import UsageError
from tierstore.units import format_size

__all__ = ["run"]

POLL_S = 0.1


def _find(vm: str, pid: int | None) -> tuple[Client, str]:
    """The manager that serves this VM, and the VM's name.  Raises ``UsageError``."""
    names: list[str] = []
    for publisher in [pid] if pid is not None else find_publishers():
        try:
            client = Client(publisher)
        except OSError:
            continue
        for report in client.vms():
            if vm in (report["name"], str(report["pid"])):
                return client, str(report["name"])
            names.append(str(report["name"]))
        client.close()
    listed = ", ".join(names) or "none"
    raise UsageError(f'no manager of this user serves a VM "{vm}"; there are: {listed}')


def _wait(client: Client, name: str, progress: Progress | None) -> str:
    """Until the VM is served no more; what went wrong, or ""."""
    task = progress.add_task("", total=None) if progress is not None else None
    whole_bytes = 0
    while True:
        answer = client.ask("vms")
        report = next((r for r in answer["vms"] if r["name"] == name), None)
        if report is None:
            past = [p for p in answer.get("past", ()) if p["name"] == name]
            if any(p["state"] == "ended" for p in past):
                raise UsageError(f"{name} ended before it was released")
            # One that ended right after is there twice.
            return next((str(p["error"]) for p in past if p["error"]), "")
        away_bytes = report.get("away_bytes", 0) + report.get("leaving_bytes", 0)
        whole_bytes = max(whole_bytes, away_bytes)
        if progress is not None and task is not None:
            progress.update(
                task,
                total=whole_bytes or None,
                completed=whole_bytes - away_bytes,
                description=f"{format_size(away_bytes)} are away",
            )
        time.sleep(POLL_S)


def run(vm: str, *, pid: int | None, as_json: bool) -> int:
    """Exit code 1: pages were lost; 2: no such VM, or it ended; 4: the manager ended before."""
    client, name = _find(vm, pid)
    started_s = time.monotonic()
    console = Console(stderr=True, highlight=False)
    with client:
        client.ask("release", vm=name)
        try:
            if console.is_terminal and not as_json:
                columns = (TextColumn(f"releasing {name}"), BarColumn(), TaskProgressColumn(),
                           TextColumn("{task.description}"))  # fmt: skip
                with Progress(*columns, console=console, transient=True) as progress:
                    failure = _wait(client, name, progress)
            else:
                failure = _wait(client, name, None)
        except ConnectionError:
            complain(f"the manager, process {client.pid}, ended before {name} was back")
            return STORE
    took_s = round(time.monotonic() - started_s, 3)
    if as_json:
        answer = {"vm": name, "manager": client.pid, "seconds": took_s, "error": failure}
        print(json.dumps(answer))
    if failure:
        complain(f"{name} was let go of, but not whole: {failure}")
        return WRONG_BYTES
    if not as_json:
        print(f"{name} has all its memory back and runs on without a manager ({took_s:.1f} s)")
    return OK
