# SPDX-License-Identifier: Apache-2.0
"""``python -m tierstore`` is the program ``tierstore``."""

from tierstore.cli import main

main()
