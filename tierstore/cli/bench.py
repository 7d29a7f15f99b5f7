# SPDX-License-Identifier: Apache-2.0
"""``tierstore bench``: the measurements, which stand in the source tree and are built there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import tierstore
from tierstore.errors import UsageError

__all__ = ["run"]


def run(arguments: Sequence[str]) -> int:
    """Hands over to the suite of the checkout that this package is used from."""
    root = Path(tierstore.__file__).resolve().parent.parent
    if not (root / "bench" / "__main__.py").exists():
        raise UsageError(
            "the measurements need a checkout of the source, where they build their programs: "
            "run ./dev bench there"
        )
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, env=environment, check=False).returncode
