# SPDX-License-Identifier: Apache-2.0
"""The command line: names and options of the commands.  What they do is imported when they run."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from tierstore.cli.exits import guarded

__all__ = ["app", "main"]

app = typer.Typer(
    name="tierstore",
    help="Moves the cold memory of running guests to tiers of storage, and back on a fault.",
    epilog="Exit codes: 0 fine, 1 wrong bytes, 2 usage or configuration, 3 the host lacks "
    "something, 4 trouble with a store, 130 and 143 ended by a signal.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]
Pid = Annotated[int | None, typer.Option("--pid", help="Which process; default: the only one.")]


def _version(value: bool) -> None:
    if value:
        from tierstore._native import ffi, lib

        typer.echo(bytes(ffi.string(lib.ts_version())).decode())
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and end.")
    ] = False,
) -> None:
    """Options of the program itself."""


@app.command()
@guarded
def probe(json: Json = False) -> None:
    """What this kernel offers, what will be used, and what a fallback can't see."""
    from tierstore.cli.probe import run

    raise typer.Exit(run(as_json=json))


@app.command()
@guarded
def demo(
    seconds: Annotated[float, typer.Option(min=1, help="How long the guest runs.")] = 20,
    size: Annotated[str, typer.Option(help="The guest's memory, such as 512MiB.")] = "512MiB",
    memory: Annotated[
        str, typer.Option(help="anon, memfd, or hugetlb (2 MiB pages, Linux 7.3.4 and later).")
    ] = "memfd",
    config: Annotated[
        Path | None, typer.Option(help="Tiers of your own, in TOML; {folder} in it is the demo's.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=64, help="The guest's threads.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Of contents and pattern.")] = 1,
    touches: Annotated[
        int, typer.Option(min=0, help="Hot touches a second; 0: as fast as it goes.")
    ] = 200_000,
    cold: Annotated[
        int | None,
        typer.Option(min=0, help="Touches anywhere a second, which bring pages back."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where the temporary folder goes; default: /var/tmp.")
    ] = None,
    json: Json = False,
) -> None:
    """A guest's memory leaves for the tiers and comes back, every byte checked.

    The guest is a region filled with this machine's own files, and threads that read and write it
    and check each page they touch.  Exit code 1 on a single wrong byte.
    """
    from tierstore.cli.demo import run

    given: dict[str, Any] = {
        "seconds": seconds,
        "size": size,
        "memory": memory,
        "config": config,
        "nr_threads": threads,
        "seed": seed,
        "touches_per_s": touches,
        "cold_per_s": cold,
        "folder": folder,
    }
    raise typer.Exit(run(as_json=json, **given))


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@guarded
def run(
    command: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="What to run.")],
    config: Annotated[
        Path | None,
        typer.Option(help="Tiers in TOML; {pid} in a path is the process's. Default: RAM, a file."),
    ] = None,
    region: Annotated[
        str, typer.Option(help="Which of its memory, such as size>=64MiB,memory=anon.")
    ] = "size>=64MiB",
    follow: Annotated[
        bool, typer.Option("--follow", help="Programs that it executes get tiers, too.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="On stderr: what is attached, and what for.")
    ] = False,
) -> None:
    """Run a stock program (QEMU, redis, ...) with tiers under its memory.

    Exit code: the program's; 128 and the signal's number if it was killed.
    """
    from tierstore.cli.run import run as run_program

    raise typer.Exit(
        run_program(command, config=config, region=region, follow=follow, verbose=verbose)
    )


@app.command()
@guarded
def serve(
    listen: Annotated[
        list[Path] | None,
        typer.Option("--listen", help="A socket for VMMs; may be given several times."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Tiers, budgets and VMs, in TOML.")] = None,
    users: Annotated[
        list[str] | None,
        typer.Option("--users", help="Whose VMMs are served; default: this user's and root's."),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(help="A folder in which VMs outlive the manager, for the next one."),
    ] = None,
    snapshot: Annotated[
        str | None, typer.Option(help="The image that restored VMs begin as (tierstore import).")
    ] = None,
    ram: Annotated[
        str | None, typer.Option(help="Without --config: one tier of RAM this large; 1GiB.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Manage the memory of VMMs that hand their userfaultfd over, until a signal.

    Speaks to Firecracker (snapshot restore, back end Uffd) and Cloud Hypervisor
    (uffd_handoff_socket).  SIGTERM: every VM gets its memory back, and runs on; with --state it is
    left as it is, and waits where it needs to for the next manager.
    """
    from tierstore.cli.serve import run

    options: dict[str, Any] = {"listen": listen or [], "config": config, "users": users or []}
    raise typer.Exit(run(**options, state=state, snapshot=snapshot, ram=ram, verbose=verbose))


@app.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
)
@guarded
def bench(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[ROW...] [OPTIONS]", help="--help lists them.")
    ] = None,
) -> None:
    """Measure, beside bare limits and rivals; in a checkout of the source."""
    from tierstore.cli.bench import run

    raise typer.Exit(run(arguments or []))


@app.command(name="import")
@guarded
def import_image(
    file: Annotated[Path, typer.Argument(help="The snapshot's memory file.")],
    name: Annotated[str, typer.Option(help="What VMs that begin as it refer to.")],
    config: Annotated[Path, typer.Option(help="The manager's configuration: the tiers.")],
    state: Annotated[
        Path | None, typer.Option(help="The manager's state folder; default: the configuration's.")
    ] = None,
    json: Json = False,
) -> None:
    """Put a snapshot's memory into the tiers, for VMs that are restored from it.

    A manager that runs with this state folder is asked to do it.
    """
    from tierstore.cli.import_image import run

    raise typer.Exit(run(file, name=name, config=config, state=state, as_json=json))


@app.command()
@guarded
def release(
    vm: Annotated[str, typer.Argument(help="The VM's name or pid, as stat shows it.")],
    pid: Pid = None,
    json: Json = False,
) -> None:
    """Bring a served VM fully back and let go of it, while it runs."""
    from tierstore.cli.release import run

    raise typer.Exit(run(vm, pid=pid, as_json=json))


@app.command()
@guarded
def stat(pid: Pid = None, json: Json = False) -> None:
    """The statistics of a running engine, once."""
    from tierstore.cli.stat import run

    raise typer.Exit(run(pid=pid, as_json=json))


@app.command()
@guarded
def top(
    pid: Pid = None,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 1.0,
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="Looks; 0: on.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line and look.")] = False,
) -> None:
    """A running engine, live: pages, tiers, faults a second, latencies, health."""
    from tierstore.cli.top import run

    raise typer.Exit(run(pid=pid, interval_s=interval, count=count, as_json=json))


@app.command()
@guarded
def verify(
    path: Annotated[Path, typer.Argument(help="A tier's file or folder.")],
    json: Json = False,
) -> None:
    """Check every frame of a tier's files, offline, without the C engine."""
    from tierstore.cli.verify import run

    raise typer.Exit(run(path, as_json=json))


def main() -> None:
    """Ends the process with the exit code."""
    try:
        app(prog_name="tierstore")
    finally:
        # All is said: Ctrl-C while the interpreter ends is no traceback.
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
