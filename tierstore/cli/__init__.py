# SPDX-License-Identifier: Apache-2.0
"""The program ``tierstore``: a module for each command; exit codes are in ``exits``."""

from tierstore.cli.app import main

__all__ = ["main"]
