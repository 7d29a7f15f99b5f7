# SPDX-License-Identifier: Apache-2.0
"""The bench suite: every figure is a ratio to a bare limit or a rival, taken in one run.

`./dev bench` walks through bench.__main__; README.md in this folder says how to measure.
"""
