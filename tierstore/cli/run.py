# SPDX-License-Identifier: Apache-2.0
"""``tierstore run``: a stock program with tiers under its memory."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

from tierstore.cli.exits import complain
from tierstore.config import Config
from tierstore.errors import UsageError
from tierstore.preload import Rule, run_command

__all__ = ["run"]


def run(
    command: Sequence[str], *, config: Path | None, region: str, follow: bool, verbose: bool
) -> int:
    """The program's own exit code, 128 and the signal's number if it was killed."""
    if not command:
        raise UsageError("what should run?  tierstore run [OPTIONS] -- COMMAND ARGUMENTS")

    def say(level: int, line: str) -> None:
        if verbose or level >= logging.WARNING:
            with contextlib.suppress(OSError):  # nobody reads it, and the program goes on
                complain(line)

    outcome = run_command(
        command,
        config=None if config is None else Config.load(config),
        rule=Rule.parse(region),
        follow=follow,
        say=say,
    )
    return outcome.exit_code
