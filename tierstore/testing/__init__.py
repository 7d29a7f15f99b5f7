# SPDX-License-Identifier: Apache-2.0
"""What the author of a store tests with: the contract suite, wrappers, failing calls on demand.

::

    from tierstore.testing.contract import StoreContract   # needs pytest
    from mypackage.mystore import MyStore

    class TestMyStore(StoreContract):
        path_kind = "file"

        def open_store(self, path, **config):
            return MyStore(name="mine", path=str(path), **config)

The wrappers work in front of every store in Python, as a tier or in a test; the C core has the
same four for its own (``wrap`` in a tier's configuration).
"""

from tierstore.testing.wrappers import (
    DelayStore,
    FaultStore,
    StatsStore,
    StoreCalls,
    VerifyStore,
    WrapperStore,
)

__all__ = [
    "DelayStore",
    "FaultStore",
    "StatsStore",
    "StoreCalls",
    "VerifyStore",
    "WrapperStore",
]
