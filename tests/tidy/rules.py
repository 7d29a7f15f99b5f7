# SPDX-License-Identifier: Apache-2.0
"""The rules of the tree that no compiler and no linter checks, each a small pure function.

A rule takes a file's path relative to the checkout and its text, and gives back what is wrong with
it, one line of text each.  test_tree.py applies them all; test_rules.py proves that each one
catches what it is for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

Rule = Callable[[PurePosixPath, str], Iterator[str]]

C_FUNCTION_LINES_MAX = 70
COLUMNS_MAX = 100
FILE_LINES_MAX = {".c": 500, ".h": 500, ".py": 400}

# The public headers are the manual: prose, which no reader wants in pieces.
LENGTH_EXEMPT = {PurePosixPath("native/include/tierstore/tierstore.h")}

BANNED_CALLS = {
    "strcpy": "snprintf, or memcpy with a length",
    "strncpy": "snprintf, or memcpy with a length",
    "strcat": "snprintf",
    "sprintf": "snprintf",
    "vsprintf": "vsnprintf",
    "gets": "fgets",
    "atoi": "strtol with its end pointer checked",
    "atol": "strtol with its end pointer checked",
    "alloca": "an array with a bound from util/limits.h",
    "system": "posix_spawn",
}

# What the files of a part may include, itself aside.
BELOW_MIDDLE = {"page", "os", "util"}
MIDDLE = {"memory", "track", "codec", "store"}
MAY_INCLUDE = {
    "util": set[str](),
    "os": {"util"},
    "page": {"os", "util"},
    **dict.fromkeys(MIDDLE, BELOW_MIDDLE),
    "core": MIDDLE | BELOW_MIDDLE,
    "evict": {"core"} | MIDDLE | BELOW_MIDDLE,
    "fault": {"core"} | MIDDLE | BELOW_MIDDLE,
    "engine": {"core", "evict", "fault"} | MIDDLE | BELOW_MIDDLE,
}


def is_c(path: PurePosixPath) -> bool:
    """Whether the rules for C apply."""
    return path.suffix in {".c", ".h"}


def is_code(path: PurePosixPath) -> bool:
    """Whether this is a program of any language, or a file that a program reads."""
    suffixes = {".c", ".h", ".py", ".pyi", ".sh", ".toml", ".map", ".build", ".txt"}
    return path.suffix in suffixes or is_script(path)


def is_script(path: PurePosixPath) -> bool:
    """Whether this is a script without a suffix."""
    return path.as_posix() in {"dev", ".ci/run", "native/fuzz/run"}


def strip_comments(text: str) -> str:
    """C without comments and string contents, with the same line numbers."""

    def blank(match: re.Match[str]) -> str:
        found = match.group(0)
        return '""' if found[0] == '"' else "\n" * found.count("\n")

    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', blank, text, flags=re.S)


def c_functions(path: PurePosixPath, text: str) -> Iterator[str]:
    """A C function fits on a screen.  Bodies start and end with a brace in column 0."""
    if not is_c(path):
        return
    start = 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("{"):
            start = number
        elif line.startswith("}") and start:
            if number - start + 1 > C_FUNCTION_LINES_MAX:
                yield f"{path}:{start}: function of {number - start + 1} lines"
            start = 0


def columns(path: PurePosixPath, text: str) -> Iterator[str]:
    """Lines fit a window; a tab is 8 columns."""
    if not is_code(path):
        return
    for number, line in enumerate(text.splitlines(), 1):
        if len(line.expandtabs(8)) > COLUMNS_MAX:
            yield f"{path}:{number}: {len(line.expandtabs(8))} columns"


def file_length(path: PurePosixPath, text: str) -> Iterator[str]:
    """A file has one subject."""
    limit = FILE_LINES_MAX.get(path.suffix)
    lines = text.count("\n")
    if limit and lines > limit and path not in LENGTH_EXEMPT:
        yield f"{path}: {lines} lines, at most {limit}"


def licence(path: PurePosixPath, text: str) -> Iterator[str]:
    """The licence stands in the first line, or below the line that names the interpreter."""
    if path.suffix not in {".c", ".h", ".py", ".pyi", ".sh", ".map"} and not is_script(path):
        return
    head = [line for line in text.splitlines()[:2] if not line.startswith("#!")]
    if not head or "SPDX-License-Identifier: Apache-2.0" not in head[0]:
        yield f"{path}:1: no SPDX line"


def white_space(path: PurePosixPath, text: str) -> Iterator[str]:
    """No space at the end of a line, no carriage returns, one newline at the end of the file."""
    for number, line in enumerate(text.split("\n"), 1):
        if line != line.rstrip():
            yield f"{path}:{number}: trailing space"
    if text and (not text.endswith("\n") or text.endswith("\n\n")):
        yield f"{path}: does not end in one newline"


def leftovers(path: PurePosixPath, text: str) -> Iterator[str]:
    """What is left to do belongs in an issue."""
    words = "|".join(["FIX" + "ME", "TO" + "DO", "XX" + "X"])
    for number, line in enumerate(text.splitlines(), 1):
        if re.search(rf"\b(?:{words})\b", line):
            yield f"{path}:{number}: a note to oneself"


def banned_calls(path: PurePosixPath, text: str) -> Iterator[str]:
    """Functions that can't be used safely."""
    if not is_c(path):
        return
    call = re.compile(r"(?<![\w.>])(" + "|".join(BANNED_CALLS) + r")\s*\(")
    for number, line in enumerate(strip_comments(text).splitlines(), 1):
        for match in call.finditer(line):
            name = match.group(1)
            yield f"{path}:{number}: {name}() is banned; use {BANNED_CALLS[name]}"


def reserved_names(path: PurePosixPath, text: str) -> Iterator[str]:
    """Names that start with an underscore belong to the compiler and the C library (_mm_* are
    the compiler's, for vectors)."""
    if not is_c(path):
        return
    define = re.compile(r"^\s*#\s*define\s+(_\w+)|^(?:static\s)?[\w\s*]*?\b(_[a-z]\w*)\(")
    for number, line in enumerate(strip_comments(text).splitlines(), 1):
        match = define.match(line)
        name = match and (match.group(1) or match.group(2))
        if name and name not in {"_GNU_SOURCE", "_exit"} and not name.startswith("_mm"):
            yield f"{path}:{number}: {name} starts with an underscore"


def includes(path: PurePosixPath, text: str) -> Iterator[str]:
    """Parts include only what lies below them (ARCHITECTURE.md)."""
    if not is_c(path) or path.parts[:2] != ("native", "src") or len(path.parts) < 4:
        return
    part = path.parts[2]
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
        if not match:
            continue
        target = PurePosixPath(match.group(1)).parts[0]
        if len(PurePosixPath(match.group(1)).parts) == 1:
            yield f'{path}:{number}: "{match.group(1)}" without its part: write "{part}/..."'
        elif target != part and target not in MAY_INCLUDE.get(part, set()):
            yield f"{path}:{number}: {part} must not include {target}"


def kernel_headers(path: PurePosixPath, text: str) -> Iterator[str]:
    """What the kernel offers is found out at run time; os/uapi.h alone knows what headers lack."""
    is_ours = path.parts[:2] in {("native", "src"), ("native", "tests")}
    if not is_c(path) or not is_ours or path == PurePosixPath("native/src/os/uapi.h"):
        return
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"\s*#\s*include\s+<linux/userfaultfd\.h>", line):
            yield f'{path}:{number}: include "os/uapi.h" instead'
        elif re.match(r"\s*#\s*(?:el)?if.*\b(?:UFFD|PAGE_IS_|PAGEMAP_SCAN|PM_SCAN|MADV_)", line):
            yield f"{path}:{number}: a kernel's ability chosen when compiling; see os/uapi.h"


def foreign_paths(path: PurePosixPath, text: str) -> Iterator[str]:
    """No path of somebody's machine."""
    for number, line in enumerate(text.splitlines(), 1):
        if re.search(r"(?<![\w.}/)])/(?:home|root|work|Users)/\w", line):
            yield f"{path}:{number}: a path of one machine"


def conflict_markers(path: PurePosixPath, text: str) -> Iterator[str]:
    """What git leaves behind when a merge failed."""
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"(?:<{7}|>{7}|\|{7})(?: |$)|={7}$", line):
            yield f"{path}:{number}: conflict marker"


RULES: list[Rule] = [
    banned_calls,
    c_functions,
    columns,
    conflict_markers,
    file_length,
    foreign_paths,
    includes,
    kernel_headers,
    leftovers,
    licence,
    reserved_names,
    white_space,
]


def executable(path: PurePosixPath, text: str, is_executable: bool) -> Iterator[str]:
    """Executable is what names its interpreter, and nothing else."""
    if is_executable and not text.startswith("#!"):
        yield f"{path}: executable, but no script"
    if text.startswith("#!") and not is_executable:
        yield f"{path}: a script that is not executable"


def symbols(nm_output: str) -> Iterator[str]:
    """`nm -g --defined-only` of the static library: every global name has our prefix."""
    for line in nm_output.splitlines():
        fields = line.split()
        if len(fields) == 3 and not fields[2].startswith("ts_"):
            yield f"libtierstore.a: global symbol {fields[2]} lacks the prefix ts_"
