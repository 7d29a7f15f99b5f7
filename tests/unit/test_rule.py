# SPDX-License-Identifier: Apache-2.0
"""`tierstore run`: which memory it takes, and that its engines look like others."""

from __future__ import annotations

import inspect
import re

import pytest

from tierstore import _controller, _training
from tierstore.errors import ConfigError
from tierstore.preload.remote import RemoteEngine, RemoteRegion
from tierstore.preload.rule import Rule


def test_default_is_large_memory_and_qemus_memfd() -> None:
    rule = Rule.parse("size>=64MiB")
    assert rule == Rule()
    assert rule.settings() == "min=67108864;max=0;anon=1;memfd=1;name=memory-backend-memfd"


def test_conditions_are_combined() -> None:
    rule = Rule.parse("size >= 2MiB, size <= 1GiB, memory=anon")
    assert (rule.bytes_min, rule.bytes_max) == (2 << 20, 1 << 30)
    assert (rule.has_anon, rule.has_memfd) == (True, False)


def test_memfds_are_taken_by_name_or_all() -> None:
    assert Rule.parse("memfd=guest").memfd_name == "guest"
    any_memory = Rule.parse("memory=any")
    assert any_memory.memfd_name == ""
    assert (any_memory.has_anon, any_memory.has_memfd) == (True, True)
    assert not Rule.parse("memory=memfd").has_anon


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", '"" is no condition'),
        ("size>64MiB", "is no condition"),
        ("size>=many", "many"),
        ("size>=4KiB", "at least 64KiB"),
        ("size>=2MiB,size<=1MiB", "no size"),
        ("memory=disk", "is no condition"),
        ("memfd=a;b", "is no condition"),
    ],
)
def test_what_makes_no_sense_names_itself(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match="region rule") as caught:
        Rule.parse(text)
    assert words in str(caught.value)


def test_remote_regions_have_what_the_controller_asks_for() -> None:
    """The controller takes them for regions of an engine: whatever it uses must be there."""
    source = inspect.getsource(_controller) + inspect.getsource(_training)
    used = {name for _, name in re.findall(r"\b(region|r)\.([a-z_]+)\b", source)}
    assert {"scan", "evict", "can_evict"} <= used
    known = set(dir(RemoteRegion)) | {"name", "config", "length_bytes"}
    assert used <= known
    used = set(re.findall(r"\b_engine\.([a-z_]+)\b", source))
    assert {"regions", "statistics"} <= used
    assert used <= set(dir(RemoteEngine)) | {"config"}
