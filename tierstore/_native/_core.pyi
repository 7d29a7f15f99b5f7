# SPDX-License-Identifier: Apache-2.0
# What mypy may know about the generated extension: its contents come from the C headers.
from typing import Any

ffi: Any
lib: Any
