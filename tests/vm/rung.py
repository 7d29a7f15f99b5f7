# SPDX-License-Identifier: Apache-2.0
"""Runs in the virtual machine: each command's exit code and output, as one JSON object."""

from __future__ import annotations

import json
import subprocess
import sys

DEMO = ["tierstore", "demo", "--seconds", "5", "--size", "64MiB", "--json", "--memory"]
COMMANDS = {
    "probe": ["tierstore", "probe", "--json"],
    "anon": [*DEMO, "anon"],
    "memfd": [*DEMO, "memfd"],
}


def main() -> None:
    """All commands, one after the other."""
    answers = {}
    for name, command in COMMANDS.items():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        answers[name] = {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
    json.dump(answers, sys.stdout)


main()
