# SPDX-License-Identifier: Apache-2.0
"""What goes wrong around the virtual machine, as opposed to in it."""

from __future__ import annotations


class Problem(Exception):
    """A text for a person: what, and what to do."""
