# SPDX-License-Identifier: Apache-2.0
"""One module a row of the table; its docstring says what is measured, against what, and why the
comparison is fair.  A module has NUMBER and measure(bench)."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType


def all_rows() -> dict[str, ModuleType]:
    """By name, in the table's order."""
    modules = [
        importlib.import_module(f"{__name__}.{found.name}")
        for found in pkgutil.iter_modules(__path__)
    ]
    modules.sort(key=lambda module: int(module.NUMBER))
    return {module.__name__.rsplit(".", 1)[1]: module for module in modules}
