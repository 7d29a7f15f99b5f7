# SPDX-License-Identifier: Apache-2.0
"""Runs in the virtual machine: C programs, the probe, short demonstrations and the examples.

What the programs said goes to /results/junit.xml, each of their tests a case, with the reason of a
skip; what the commands answered, to standard output as one JSON object.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

from tests.vm.expected import PROGRAMS, facts

BUILD = Path("build-dev/native/tests")
JUNIT = Path("/results/junit.xml")
SKIPPED = 77
# One that hangs must leave the others their time, and the report a way home.
PROGRAM_S = 400

DEMO = ["tierstore", "demo", "--seconds", "5", "--size", "32MiB", "--json", "--memory"]
COMMANDS = {
    "probe": ["tierstore", "probe", "--json"],
    "anon": [*DEMO, "anon"],
    "memfd": [*DEMO, "memfd"],
    "c anon": ["build-dev/native/examples/seed_workflow", "anon"],
    "c memfd": ["build-dev/native/examples/seed_workflow", "memfd"],
}
# Before memory is in pieces, which the programs leave it in.
FIRST_COMMANDS = {"hugetlb": [*DEMO, "hugetlb"]}
# Starting an interpreter takes long here: only where they show what no other rung does.
PYTHON_COMMANDS = {
    "python anon": ["python", "-P", "examples/seed_workflow.py", "anon"],
    "python memfd": ["python", "-P", "examples/seed_workflow.py", "memfd"],
    "serve": ["pytest", "-q", "--junit-xml=/results/serve.xml", "tests/manager/test_rwp.py"],
}


def run_program(name: str) -> tuple[int, str]:
    """Exit code and output of one C test; 124 and what it had said if it hangs."""
    [path] = BUILD.glob(f"**/{name}")
    try:
        done = subprocess.run([path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace", timeout=PROGRAM_S, check=False)  # fmt: skip
    except subprocess.TimeoutExpired as late:
        return 124, (late.stdout or b"").decode("utf-8", "replace")
    return done.returncode, done.stdout


def add_cases(suite: ElementTree.Element, name: str, status: int, said: str, took_s: float) -> None:
    """The program's cases: itself, and those of its tests that skipped."""
    case = ElementTree.SubElement(suite, "testcase", classname="programs", name=name,
                                  time=f"{took_s:.1f}")  # fmt: skip
    last = (said.strip().splitlines() or ["(no output)"])[-1]
    if status == SKIPPED:
        ElementTree.SubElement(case, "skipped", message=last)
        return
    if status:
        ElementTree.SubElement(case, "failure", message=f"exit code {status}").text = said[-4000:]
        return
    for test, reason in re.findall(r"^SKIP (\w+): (.*)$", said, re.M):
        part = ElementTree.SubElement(suite, "testcase", classname="programs",
                                      name=f"{name}.{test}")  # fmt: skip
        ElementTree.SubElement(part, "skipped", message=reason)


def run_programs(names: list[str]) -> None:
    """All of them, one after the other; each is reported as soon as it has ended."""
    suite = ElementTree.Element("testsuite", name="programs")
    for name in names:
        start = time.monotonic()
        status, said = run_program(name)
        took_s = time.monotonic() - start
        print(f"{name}: {status} in {took_s:.1f} s", file=sys.stderr, flush=True)
        add_cases(suite, name, status, said, took_s)
        ElementTree.ElementTree(suite).write(JUNIT, encoding="utf-8", xml_declaration=True)


def answers(commands: dict[str, list[str]]) -> dict[str, dict[str, object]]:
    """What the commands said."""
    found: dict[str, dict[str, object]] = {}
    for name, command in commands.items():
        start = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        took_s = time.monotonic() - start
        print(f"{name}: {done.returncode} in {took_s:.1f} s", file=sys.stderr, flush=True)
        found[name] = {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
    return found


def main() -> None:
    """Programs and commands; with --python, the Python ones as well."""
    has_python = "--python" in sys.argv
    found = answers(FIRST_COMMANDS if has_python else {})
    run_programs([*facts(), *PROGRAMS])
    found |= answers(COMMANDS | (PYTHON_COMMANDS if has_python else {}))
    json.dump(found, sys.stdout)


main()
