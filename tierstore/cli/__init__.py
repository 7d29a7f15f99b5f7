# SPDX-License-Identifier: Apache-2.0
"""The program ``tierstore``.  Each command lives in a module of its own; exit codes in ``exits``."""

from tierstore.cli.app import main

__all__ = ["main"]
