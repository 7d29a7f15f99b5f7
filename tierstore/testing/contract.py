# SPDX-License-Identifier: Apache-2.0
"""The contract suite: what every store must do, in C or Python, built in or a plug-in.

Derive a test class, say how to open a store, and run it with pytest::

    class TestMyStore(StoreContract):
        path_kind = "file"     # what it makes at its path; None if it has none
        can_keep = True        # options {"keep": "1"} make the frames outlive close

        def open_store(self, path, **config):
            return MyStore(name="mine", path=str(path), **config)

It asks: get after put returns the same bytes, at every length; an unknown key is not found, never
zeros; overwriting is atomic, and linearisable beside gets; delete is idempotent; a bad item of a
batch is reported alone; a full store refuses without losing anything, and accepts again after
deletes; the size is a limit; numbers add up; maintenance changes nothing; close keeps or drops, and
a crash is reclaimed; other people's files are left alone; and for stores of the C core, that any
one call may fail.
"""

from __future__ import annotations

from tierstore.testing._contract_basic import BasicContract
from tierstore.testing._contract_life import LifeContract
from tierstore.testing._contract_threads import ThreadContract

__all__ = ["StoreContract"]


class StoreContract(BasicContract, ThreadContract, LifeContract):
    """See the module.  Each test opens a store of its own in a folder of its own."""
