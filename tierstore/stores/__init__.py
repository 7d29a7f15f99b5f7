# SPDX-License-Identifier: Apache-2.0
"""Stores: the C ones behind the Python interface, those written in Python, and how to find them.

Nothing is imported here: each module needs something that a user of the others may lack (the
compiled core, the packages ``lmdb`` and ``liburing``).
"""
