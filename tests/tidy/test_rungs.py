# SPDX-License-Identifier: Apache-2.0
"""Every program with an engine in it runs on the ladder of kernels, or is named with a reason."""

from __future__ import annotations

from collections import Counter

from tests.vm.expected import ELSEWHERE, LADDER, PROGRAMS, engine_programs, facts


def test_every_engine_program_is_listed() -> None:
    """Neither a new program that nobody thought of, nor one that is gone, nor one listed twice."""
    elsewhere = [name for names in ELSEWHERE.values() for name in names]
    unlisted = set(engine_programs()) - {*PROGRAMS, *elsewhere}
    assert not unlisted, f"tests/vm/expected.py: neither in PROGRAMS nor in ELSEWHERE: {unlisted}"
    gone = set(elsewhere) - set(engine_programs())
    assert not gone, f"tests/vm/expected.py: ELSEWHERE: no such program: {gone}"
    twice = [name for name, count in Counter([*PROGRAMS, *elsewhere]).items() if count > 1]
    assert not twice, f"tests/vm/expected.py: listed twice: {twice}"


def test_skips_name_programs() -> None:
    """A skip that is listed belongs to a program that a rung runs."""
    known = {*facts(), *PROGRAMS}
    for version, rung in LADDER.items():
        named = {name.partition(".")[0] for names in rung.skips.values() for name in names}
        assert named <= known, f"{version}: {named - known}"
