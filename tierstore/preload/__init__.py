# SPDX-License-Identifier: Apache-2.0
"""Stock programs under tierstore: ``tierstore run -- COMMAND``.

The program gets a shim by LD_PRELOAD (``native/preload``), which attaches its memory to an engine
inside of the program.  No Python runs there: configuration is parsed and policies decide here,
over a socket (``native/preload/wire.h``).
"""

from tierstore.preload.launch import Outcome, run_command
from tierstore.preload.rule import Rule

__all__ = ["Outcome", "Rule", "run_command"]
