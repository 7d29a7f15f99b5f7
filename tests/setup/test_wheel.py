# SPDX-License-Identifier: Apache-2.0
"""The wheel works where nothing of ours is installed: it carries its own libraries.

Takes a minute or two, and packages from wherever pip is configured to find them.
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest

from tests.setup.support import make_venv, run

pytestmark = pytest.mark.timeout(600)

CARRIED = ["liburing", "libzstd", "liblz4", "liblmdb", "libxxhash"]


@pytest.fixture(scope="module")
def wheel(root_dir: Path) -> Path:
    """The repaired wheel, built if it is older than the sources."""
    run([root_dir / "dev", "wheel"], cwd=root_dir)
    (found,) = (root_dir / "dist").glob("tierstore-*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of a clean environment with the wheel installed."""
    found = make_venv(tmp_path_factory.mktemp("wheel") / "env")
    run([found, "-m", "pip", "install", "-q", wheel], cwd=found.parent)
    return found


def test_wheel_carries_its_libraries(wheel: Path) -> None:
    """One copy of each, for any Python from 3.11 on."""
    assert re.search(r"-cp311-abi3-manylinux_\d+_\d+_x86_64\.whl$", wheel.name)
    names = zipfile.ZipFile(wheel).namelist()
    for library in CARRIED:
        assert sum(f"tierstore.libs/{library}" in name for name in names) == 1, library
    assert not [name for name in names if "build_ffi" in name or name.endswith("meson.build")]


def test_wheel_has_no_test_hooks(python: Path) -> None:
    """A release can't be told to fail."""
    code = "from tierstore._native import lib; print(hasattr(lib, 'ts_hook_inject'))"
    assert run([python, "-c", code], cwd=python.parent) == "False\n"


def test_version_is_one(python: Path, root_dir: Path) -> None:
    """meson.build's version is the package's, the library's and the program's."""
    match = re.search(r"^  version: '([^']+)'", (root_dir / "meson.build").read_text(), re.M)
    assert match
    code = (
        "import importlib.metadata as m; from tierstore._native import ffi, lib; "
        "print(m.version('tierstore'), ffi.string(lib.ts_version()).decode())"
    )
    assert run([python, "-c", code], cwd=python.parent).split() == [match.group(1)] * 2


def test_run_finds_its_shim(python: Path, tmp_path: Path) -> None:
    """The shim of the wheel is preloaded, and loads an engine with the wheel's libraries."""
    config = tmp_path / "tiers.toml"
    config.write_text(
        '[engine]\ninterval = "50ms"\n[[tier]]\nname = "t"\nstore = "ram"\nsize = "8MiB"\n'
    )
    # Ends when it has been given an engine; without one the test's own time limit ends it.
    code = (
        "import mmap, pathlib, time\n"
        "area = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "area.write(bytes(8 << 20))\n"
        "served = lambda: ' um' in pathlib.Path('/proc/self/smaps').read_text()\n"
        "while not served(): time.sleep(0.05)\n"
        "print('.'.join(sorted(pathlib.Path('/proc/self/maps').read_text().split())))\n"
    )
    words = ["run", "--config", config, "--region", "size>=8MiB", "--", python, "-c", code]
    maps = run([python.parent / "tierstore", *words], cwd=tmp_path)
    assert "libtierstore-agent.so" in maps
    assert "tierstore.libs/liburing" in maps


def test_demo_uses_the_carried_libraries(python: Path, tmp_path: Path) -> None:
    """The demonstration runs, and the dynamic linker took every library out of the wheel."""
    program = python.parent / "tierstore"
    output = run(
        [program, "demo", "--seconds", "3", "--json"],
        cwd=tmp_path,
        LD_DEBUG="files",
        LD_DEBUG_OUTPUT=str(tmp_path / "ld"),
    )
    assert json.loads(output)["mismatches"] == 0
    logs = "".join(path.read_text(errors="replace") for path in tmp_path.glob("ld.*"))
    loaded = set(re.findall(r"calling init: (\S+)", logs))
    for library in CARRIED:
        places = [path for path in loaded if Path(path).name.startswith(library)]
        assert places, library
        assert all("/tierstore.libs/" in path for path in places), places
