# SPDX-License-Identifier: Apache-2.0
"""The C core as Python sees it: `ffi` and `lib` of cffi, nothing else.

Private: cdata never leaves this package and tierstore.engine.  Calls release the GIL.
"""

from tierstore._native._core import ffi, lib

__all__ = ["ffi", "lib"]
