# SPDX-License-Identifier: Apache-2.0
"""Every rule catches what it is for, and lets pass what it must.

The bad examples are put together at run time, so that this file breaks no rule itself.
"""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from tests.tidy import rules

SPDX = "SPDX-License-Identifier: Apache-2.0"
C_HEAD = f"/* {SPDX}\n * a.c — nothing. */\n"
C = "native/src/store/a.c"


def found(rule: rules.Rule, path: str, text: str) -> int:
    """How often the rule objects."""
    return len(list(rule(PurePosixPath(path), text)))


def body(lines: int) -> str:
    """A function whose body takes that many lines, braces included."""
    return "int ts_f(void)\n{\n" + "\treturn 0;\n" * (lines - 2) + "}\n"


@pytest.mark.parametrize(
    ("rule", "path", "bad", "good"),
    [
        (rules.c_functions, C, body(71), body(70)),
        (rules.c_functions, C, body(3) + body(71), "struct a x[] = {\n" + "\t0,\n" * 99 + "};\n"),
        (rules.columns, C, "\t" + "a" * 93 + "\n", "\t" + "a" * 92 + "\n"),
        (rules.columns, "dev", "a" * 101 + "\n", "a" * 100 + "\n"),
        (rules.file_length, C, "\n" * 501, "\n" * 500),
        (rules.file_length, "tierstore/a.py", "\n" * 401, "\n" * 400),
        (rules.licence, C, "/* a.c */\n", C_HEAD),
        (rules.licence, "a.py", f"\n\n# {SPDX}\n", f"# {SPDX}\n"),
        (rules.licence, "dev", "#!/bin/sh\necho\n", f"#!/bin/sh\n# {SPDX}\n"),
        (rules.white_space, C, "a \n", "a\n"),
        (rules.white_space, C, "a\r\n", "a\n"),
        (rules.white_space, "a.md", "a", "a\n"),
        (rules.white_space, "a.md", "a\n\n", "a\n\nb\n"),
        (rules.leftovers, C, "/* TO" + "DO: more */\n", "/* the todolist */\n"),
        (rules.leftovers, "a.py", "# XX" + "X\n", "# XX" + "XX\n"),
        (rules.banned_calls, C, "\tstrcpy(a, b);\n", "/* strcpy(a, b) */\n"),
        (rules.banned_calls, C, "\treturn system (a);\n", "\ttier->system(a);\n"),
        (rules.banned_calls, C, "\tsprintf(a, b);\n", "\tsnprintf(a, 1, b);\n"),
        (rules.banned_calls, C, "\tx = atoi(a);\n", '\tputs("atoi(a)");\n'),
        (rules.banned_calls, C, "\talloca(7);\n", "\tts_alloca(7);\n"),
        (rules.reserved_names, C, "#define _A 1\n", "#define A_ 1\n"),
        (rules.reserved_names, C, "static int _a(void)\n", "\t_exit(1);\n"),
        (rules.includes, C, '#include "evict/evict.h"\n', '#include "page/word.h"\n'),
        (rules.includes, C, '#include "codec/codec.h"\n', '#include "store/wrap.h"\n'),
        (rules.kernel_headers, C, "#include <linux/userfaultfd.h>\n", '#include "os/uapi.h"\n'),
        (rules.kernel_headers, C, "#ifdef UFFDIO_MOVE\n", "\tif (probe.has_move)\n"),
        (rules.includes, C, '#include "wrap.h"\n', "#include <string.h>\n"),
        (
            rules.includes,
            "native/src/evict/a.c",
            '#include "fault/fault.h"\n',
            '#include "codec/codec.h"\n',
        ),
        (
            rules.includes,
            "native/src/fault/a.c",
            '#include "evict/evict.h"\n',
            '#include "store/store.h"\n',
        ),
        (
            rules.includes,
            "native/src/util/a.c",
            '#include "os/sys.h"\n',
            '#include "util/base.h"\n',
        ),
        (rules.foreign_paths, "a.md", "see /ho" + "me/me/x\n", "see a/ho" + "me/x\n"),
        (rules.foreign_paths, "a.py", "# /wo" + "rk/x\n", "# frame/wo" + "rk/x\n"),
        (rules.foreign_paths, "a.py", 'x = "/ro' + 'ot/y"\n', 'x = "/dev/shm"\n'),
        (rules.conflict_markers, C, "<" * 7 + " HEAD\n", "a <" + "<" * 6 + " b\n"),
        (rules.conflict_markers, C, "=" * 7 + "\n", "=" * 8 + "\n"),
        (rules.conflict_markers, C, ">" * 7 + " theirs\n", ">>> 1\n"),
    ],
)
def test_rule_catches(rule: rules.Rule, path: str, bad: str, good: str) -> None:
    """The bad text is caught, the good one next to it is not."""
    assert found(rule, path, bad)
    assert not found(rule, path, good)


def test_every_rule_is_tried() -> None:
    """A new rule needs an example above."""
    (mark,) = vars(test_rule_catches)["pytestmark"]
    assert {row[0] for row in mark.args[1]} == set(rules.RULES)


def test_executable() -> None:
    """Both directions."""
    path = PurePosixPath("a")
    assert list(rules.executable(path, "text\n", True))
    assert list(rules.executable(path, "#!/bin/sh\n", False))
    assert not list(rules.executable(path, "#!/bin/sh\n", True))
    assert not list(rules.executable(path, "text\n", False))


def test_symbols() -> None:
    """Members' names and blank lines of nm's output are no symbols."""
    good = "\nbase.o:\n0000000000000000 T ts_version\n"
    assert not list(rules.symbols(good))
    assert list(rules.symbols(good + "0000000000000010 T version\n"))
    assert list(rules.symbols(good + "0000000000000010 D table\n"))
