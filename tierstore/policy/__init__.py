# SPDX-License-Identifier: Apache-2.0
"""Policies: what decides how much leaves a region, how old it must be, at what rate.

The base class is :class:`tierstore.abc.Policy`.  Built in: a resident budget, a minimum age, a
limit on evicted bytes a second, a limit on refaults; ``default`` combines what the region's
settings name.  Installed packages add theirs as entry points of ``tierstore.policies``.
"""

from tierstore.policy.builtin import Budget, EvictRate, MinAge, RefaultLimit
from tierstore.policy.combine import AllOf, policy_for_region

__all__ = ["AllOf", "Budget", "EvictRate", "MinAge", "RefaultLimit", "policy_for_region"]
