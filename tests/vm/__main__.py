# SPDX-License-Identifier: Apache-2.0
"""./dev kernel VERSION [COMMAND...]: the command on another kernel.

Exit code: the command's; 124 if it did not end in time; 125 if the guest died; 2 for bad usage or
an archive without such a kernel.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from tests.vm import apt, boot, image
from tests.vm.problem import Problem

TIMEOUT_S = 1200


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="./dev kernel", description=__doc__)
    parser.add_argument("version", help="such as 7.3, 6.12 or 6.1: the newest of that series")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, metavar="SECONDS",
                        help="for the command, once the kernel has started")  # fmt: skip
    parser.add_argument("--results", type=Path, metavar="FOLDER",
                        help="where the console and what the guest left in /results go; "
                             "default: build-dev/vm-RELEASE")  # fmt: skip
    parser.add_argument("command", nargs=argparse.REMAINDER,
                        help="default: pytest tests/kernel")  # fmt: skip
    return parser.parse_args()


def keep(outcome: boot.Outcome, release: str, folder: Path | None) -> None:
    """Console and result files; by default beside the build, where an earlier run's go."""
    if folder is None:
        folder = image.ROOT / "build-dev" / f"vm-{release}"
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "console.log").write_text(outcome.console)
    for name, data in outcome.files.items():
        (folder / Path(name).name).write_bytes(data)
    names = ["console.log", *outcome.files]
    print(f"kernel {release}: {' '.join(names)} in {folder}", file=sys.stderr)


def main() -> int:
    """Runs it; see the module's text for the exit code."""
    words = parse()
    boot.nice_if_asked()
    try:
        release, kernel = apt.fetch(words.version)
        print(f"kernel {release}", file=sys.stderr)
        outcome = boot.run_command(
            kernel, words.command or ["pytest", "tests/kernel"], timeout_s=words.timeout, live=True
        )
    except Problem as problem:
        print(f"kernel {words.version}: {problem}", file=sys.stderr)
        return 2
    keep(outcome, release, words.results)
    if outcome.status is not None:
        return outcome.status
    print(outcome.console, file=sys.stderr)
    is_late = "sysrq" in outcome.console
    print(f"kernel {release}: {'too late' if is_late else 'the guest died'}", file=sys.stderr)
    return 124 if is_late else 125


sys.exit(main())
