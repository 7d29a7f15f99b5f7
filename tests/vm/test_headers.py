# SPDX-License-Identifier: Apache-2.0
"""What os/uapi.h declares for old headers is what new headers say.

The program below prints every constant and the size of every struct; it is compiled against this
machine's headers, and against the newest that Debian has.  The library compiles with both.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.vm import apt

SOURCES = ROOT / "native/src"
STRUCTS = ["uffdio_move", "uffdio_poison", "uffdio_rwprotect", "uffdio_set_mode", "page_region",
           "pm_scan_arg"]  # fmt: skip
FIELDS = ["uffdio_rwprotect, range.start", "uffdio_rwprotect, mode", "uffdio_set_mode, enable",
          "uffdio_set_mode, disable", "uffdio_move, move", "uffdio_poison, updated",
          "pm_scan_arg, walk_end", "pm_scan_arg, return_mask"]  # fmt: skip


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options for gcc: the headers of the newest kernel first."""
    folder = tmp_path_factory.mktemp("headers")
    archive = apt.Archive(apt.NEWER)
    archive.update()
    archive.unpack("linux-libc-dev", folder)
    include = folder / "usr/include"
    machine = apt.run("gcc", "-print-multiarch").strip()
    # An older layout has asm/ in the machine's folder, a newer one a link to it.
    return ["-isystem", str(include), "-isystem", str(include / machine)]


def constants() -> list[str]:
    """What the header may define itself."""
    text = (SOURCES / "os/uapi.h").read_text()
    return re.findall(r"#define (\w+) (?=\(|_IO|\d)", text)


def answers(folder: Path, options: list[str]) -> str:
    """What the program says when it is compiled like this."""
    lines = [f'printf("{name} %llx\\n", (unsigned long long)({name}));' for name in constants()]
    lines += [f'printf("{name} %zu\\n", sizeof(struct {name}));' for name in STRUCTS]
    lines += [f'printf("{name} %zu\\n", offsetof(struct {name}));' for name in FIELDS]
    source, program = folder / "answers.c", folder / "answers"
    source.write_text("#include <stddef.h>\n#include <stdio.h>\n#include \"os/uapi.h\"\n"
                      "int main(void)\n{\n" + "\n".join(lines) + "\n}\n")  # fmt: skip
    subprocess.run(["gcc", "-std=gnu17", f"-I{SOURCES}", *options, source, "-o", program],
                   check=True)  # fmt: skip
    return subprocess.run([program], capture_output=True, text=True, check=True).stdout


def test_newest_headers_are_of_a_kernel_with_rwp(newest: list[str]) -> None:
    """Otherwise the comparison would compare uapi.h with itself."""
    assert "UFFDIO_RWPROTECT" in Path(newest[1], "linux/userfaultfd.h").read_text()


def test_constants_and_structs(newest: list[str], tmp_path: Path) -> None:
    """The same with both headers."""
    here = answers(tmp_path, [])
    assert here.count("\n") == len(constants()) + len(STRUCTS) + len(FIELDS)
    assert len(constants()) > 30
    assert answers(tmp_path, newest) == here


def test_library_compiles_with_both(newest: list[str]) -> None:
    """Every file that includes it."""
    files = [path for path in sorted(SOURCES.rglob("*.c"))
             if re.search(r'"os/(uapi|sys|uffd|pagemap)\.h"', path.read_text())]  # fmt: skip
    assert len(files) > 10
    command = ["gcc", "-std=gnu17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror",
               "-Wno-unused-parameter", "-D_GNU_SOURCE", f"-I{SOURCES}",
               f"-I{ROOT / 'native/include'}", '-DTS_VERSION="0"']  # fmt: skip
    subprocess.run([*command, *newest, *files], check=True)
