# SPDX-License-Identifier: Apache-2.0
"""`pip install .` for the package, `meson install` for the C library: both from the sources."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.setup.support import make_venv, run

pytestmark = pytest.mark.timeout(600)

# ruff: noqa: E101 — the C program below is indented as C is here
PROGRAM = r"""
#include <stdio.h>
#include <string.h>
#include <tierstore/store.h>

int main(void)
{
	struct ts_probe probe;
	int status;

	memset(&probe, 0, sizeof(probe));
	probe.size = sizeof(probe);
	status = ts_probe(&probe);
	printf("%s %d %s %s\n", ts_version(), status, probe.kernel_release,
	       ts_store_find("ram")->name);
	return 0;
}
"""


def test_pip_install(root_dir: Path, tmp_path: Path) -> None:
    """With build isolation, so pyproject.toml's build requirements are complete."""
    python = make_venv(tmp_path / "env")
    run([python, "-m", "pip", "install", "-q", root_dir], cwd=tmp_path)
    code = "from tierstore._native import ffi, lib; print(ffi.string(lib.ts_strerror(0)))"
    run([python, "-c", code], cwd=tmp_path)
    assert "Usage" in run([python.parent / "tierstore", "--help"], cwd=tmp_path)


@pytest.fixture(scope="module")
def prefix(root_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C library, installed without Python's part."""
    folder = tmp_path_factory.mktemp("c")
    meson: list[str | Path] = [sys.executable, "-m", "mesonbuild.mesonmain"]
    options = [f"-Dprefix={folder / 'prefix'}", "-Dlibdir=lib", "-Dpython=disabled"]
    run([*meson, "setup", *options, folder / "build", root_dir], cwd=folder)
    run([*meson, "install", "-C", folder / "build", "--quiet"], cwd=folder)
    return folder / "prefix"


@pytest.mark.parametrize("standard", ["-std=c99", "-std=c17", "-xc++"])
def test_program_against_installed_library(prefix: Path, tmp_path: Path, standard: str) -> None:
    """pkg-config finds the library, and a small program that uses it runs; C++ can read it."""
    (tmp_path / "main.c").write_text(PROGRAM)
    compiler = run(["gcc", "-print-prog-name=cc1plus"], cwd=tmp_path).strip()
    if standard == "-xc++" and not Path(compiler).is_absolute():
        pytest.skip("gcc has no C++ compiler here (package g++)")
    path = str(prefix / "lib" / "pkgconfig")
    flags = run(
        ["pkg-config", "--cflags", "--libs", "tierstore"], cwd=tmp_path, PKG_CONFIG_PATH=path
    ).split()
    check = ["-fsyntax-only"] if standard == "-xc++" else ["-o", "main"]
    run(
        ["gcc", standard, "-Wall", "-Wextra", "-Werror", "-pedantic", "main.c", *check, *flags],
        cwd=tmp_path,
    )
    if standard == "-xc++":
        return
    output = run([tmp_path / "main"], cwd=tmp_path, LD_LIBRARY_PATH=str(prefix / "lib"))
    version, status, release, store = output.split()
    assert (version, store) == ("0.1.0", "ram")
    assert int(status) == 0
    assert release


def test_example_against_installed_library(prefix: Path, root_dir: Path, tmp_path: Path) -> None:
    """A whole cycle of an engine, in a program that has seen nothing but what was installed."""
    path = str(prefix / "lib" / "pkgconfig")
    command: list[str | Path] = ["pkg-config", "--cflags", "--libs", "tierstore"]
    flags = run(command, cwd=tmp_path, PKG_CONFIG_PATH=path).split()
    example = root_dir / "native" / "examples" / "minimal.c"
    run(["gcc", "-D_GNU_SOURCE", "-Werror", example, "-o", "minimal", *flags], cwd=tmp_path)
    output = run([tmp_path / "minimal"], cwd=tmp_path, LD_LIBRARY_PATH=str(prefix / "lib"))
    assert 'the guest reads "guest' in output
    linked = run(["ldd", tmp_path / "minimal"], cwd=tmp_path)
    assert "python" not in linked


def test_pkg_config_names_no_private_library(prefix: Path, tmp_path: Path) -> None:
    """What links the shared library needs none of the libraries below it."""
    path = str(prefix / "lib" / "pkgconfig")
    libs = run(["pkg-config", "--libs", "tierstore"], cwd=tmp_path, PKG_CONFIG_PATH=path)
    assert [word for word in libs.split() if word.startswith("-l")] == ["-ltierstore"]
