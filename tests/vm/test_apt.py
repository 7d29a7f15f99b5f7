# SPDX-License-Identifier: Apache-2.0
"""Which of an archive's kernels is taken."""

from __future__ import annotations

import pytest

from tests.vm.apt import choose
from tests.vm.problem import Problem

NAMES = [
    "linux-image-6.1.0-47-cloud-amd64",
    "linux-image-6.1.0-50-cloud-amd64",
    "linux-image-6.1.0-50-cloud-amd64-dbg",
    "linux-image-6.1.0-50-cloud-amd64-unsigned",
    "linux-image-6.12.9+deb13-cloud-amd64",
    "linux-image-6.12.107+deb13-cloud-amd64",
    "linux-image-7.3.4+deb13-cloud-amd64",
    "linux-binary-7.3.4+deb13-cloud-amd64",
    "linux-modules-7.3.4+deb13-cloud-amd64",
    "linux-image-cloud-amd64",
]


@pytest.mark.parametrize(
    ("version", "package"),
    [
        ("6.1", "linux-image-6.1.0-50-cloud-amd64"),
        ("6.12", "linux-image-6.12.107+deb13-cloud-amd64"),
        ("6.12.9", "linux-image-6.12.9+deb13-cloud-amd64"),
        ("7.3", "linux-binary-7.3.4+deb13-cloud-amd64"),
        ("7.2", "linux-binary-7.3.4+deb13-cloud-amd64"),
    ],
)
def test_newest_of_the_series(version: str, package: str) -> None:
    """Numbers are compared as numbers; a series that has left the archive gives way to a later."""
    assert choose(NAMES, version, "amd64") == package


def test_none() -> None:
    """What is there is named."""
    with pytest.raises(Problem, match=r"7\.3\.4"):
        choose(NAMES, "7.4", "amd64")
