# SPDX-License-Identifier: Apache-2.0
"""Prints the files of the package `tierstore`, one a line, relative to it; meson runs it.

So a new module is installed without a word in a build file.  Build scripts stay out.
"""

from pathlib import Path

SUFFIXES = {".py", ".pyi", ".typed", ".toml"}
BUILD_ONLY = {"_native/build_ffi.py", "_native/list_sources.py"}

package = Path(__file__).resolve().parent.parent
names = (path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file())
print("\n".join(sorted(n for n in names if Path(n).suffix in SUFFIXES and n not in BUILD_ONLY)))
