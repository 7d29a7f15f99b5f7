# SPDX-License-Identifier: Apache-2.0
"""Tools for stores that no engine has open: they read what C wrote, without a line of C.

:mod:`~tierstore.offline.frames` takes frames apart and puts them together;
:mod:`~tierstore.offline.verify` checks every frame of a store.
"""

from __future__ import annotations

from tierstore.offline.frames import Decoder, FrameHead, encode, encode_dictionary, parse
from tierstore.offline.verify import BadFrame, VerifyProgress, VerifyReport, verify

__all__ = [
    "BadFrame",
    "Decoder",
    "FrameHead",
    "VerifyProgress",
    "VerifyReport",
    "encode",
    "encode_dictionary",
    "parse",
    "verify",
]
