# SPDX-License-Identifier: Apache-2.0
"""From a region's settings to the one policy that decides for it."""

from __future__ import annotations

from collections.abc import Sequence

from tierstore import _plugins
from tierstore.abc import Decision, Policy, Tick
from tierstore.config import RegionConfig
from tierstore.errors import ConfigError, TierstoreError
from tierstore.policy.builtin import Budget, EvictRate, MinAge, RefaultLimit

__all__ = ["AllOf", "policy_for_region"]

BUILTIN: dict[str, type] = {
    policy.kind: policy for policy in (Budget, MinAge, EvictRate, RefaultLimit)
}


class AllOf(Policy):
    """Several policies that must all agree: in each respect the strictest one decides."""

    kind = "all-of"

    def __init__(self, policies: Sequence[Policy]) -> None:
        super().__init__(options={})
        self.policies = tuple(policies)

    def decide(self, tick: Tick) -> Decision:
        decision = Decision()
        for policy in self.policies:
            decision &= policy.decide(tick)
        return decision


def _default(region: RegionConfig, interval_s: float) -> list[Policy]:
    min_age_s = 2 * interval_s if region.min_age is None else region.min_age
    policies: list[Policy] = [Budget(budget=region.budget), MinAge(min_age_s=min_age_s)]
    if region.evict_rate is not None:
        policies.append(EvictRate(bytes_per_s=region.evict_rate))
    if region.refault_limit is not None:
        policies.append(RefaultLimit(refaults_per_s=region.refault_limit))
    return policies


def _construct(name: str, cls: type, region: RegionConfig) -> Policy:
    """Somebody's own, too, whose constructor may say no in its own words."""
    try:
        made: Policy = cls(options=region.policy_options)
    except TierstoreError:
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        raise ConfigError(f'the policy "{name}" can\'t be made: {text}') from error
    return made


def policy_for_region(region: RegionConfig, interval_s: float) -> Policy:
    """A new policy object as configured.  Raises ``ConfigError`` for an unknown name or option."""
    policies: list[Policy] = []
    for name in region.policy:
        if name == "default":
            policies += _default(region, interval_s)
            continue
        names = BUILTIN | {"default": Policy}
        cls = _plugins.find_class("policy", _plugins.POLICY_GROUP, name, names, Policy)
        policies.append(_construct(name, cls, region))
    return policies[0] if len(policies) == 1 else AllOf(policies)
