# SPDX-License-Identifier: Apache-2.0
"""Running commands and making clean Python environments, for the tests of what users install."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# What the development environment sets and a user's machine does not.
OURS = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "TIERSTORE_BUILD_DIR", "LD_LIBRARY_PATH"}


def run(command: list[str | Path], *, cwd: Path, **env: str) -> str:
    """Runs a command with a user's environment plus env; its stdout.  Fails with all it said."""
    clean = {name: value for name, value in os.environ.items() if name not in OURS}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**clean, **env},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def make_venv(folder: Path) -> Path:
    """A new virtual environment with nothing but pip; its python."""
    base = Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}")
    run([base, "-m", "venv", folder], cwd=folder.parent)
    return folder / "bin" / "python"
