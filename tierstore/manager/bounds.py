# SPDX-License-Identifier: Apache-2.0
"""Every bound on what a VMM may ask of the manager, with its reason."""

from __future__ import annotations

__all__ = [
    "CONNECTIONS_MAX",
    "CONNECTIONS_PER_PID_MAX",
    "DEPTH_MAX",
    "DIGITS_MAX",
    "MEMFDS_MAX",
    "MESSAGE_BYTES_MAX",
    "PAGE_BYTES",
    "RANGES_MAX",
    "REGIONS_MAX",
    "REGION_BYTES_MAX",
    "WORKERS",
]

PAGE_BYTES = 4096

MESSAGE_BYTES_MAX = 64 << 10
"""Real messages have some hundred bytes a region.  Below 16 MiB, so that the fourth byte of a
length prefix is 0, which no JSON text contains."""

DEPTH_MAX = 8
"""Nesting of arrays and objects; real messages have 3."""

DIGITS_MAX = 20
"""Of a number; 2^64 has 20."""

REGIONS_MAX = 64
"""Regions a message; those that continue each other become one range."""

RANGES_MAX = 16
"""Ranges a VM: the engine's extents of a shard."""

REGION_BYTES_MAX = 512 << 30
"""Of a VM: the engine's bound on a region."""

MEMFDS_MAX = 16
"""Descriptors beside the userfaultfd: one a range."""

CONNECTIONS_MAX = 128
CONNECTIONS_PER_PID_MAX = 4
"""Connections at a time, so that one process can't take the room of the others."""

WORKERS = 8
"""Hand-overs that are worked on at a time: a large VM does not hold up the answer to a small."""
