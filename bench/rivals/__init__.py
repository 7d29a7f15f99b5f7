# SPDX-License-Identifier: Apache-2.0
"""What a user would otherwise pick: set up for a row, and always taken down again."""
