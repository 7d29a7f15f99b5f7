# SPDX-License-Identifier: Apache-2.0
"""Configuration: what is accepted, that writing is reading's inverse, and every kind of complaint.

An error must name the key, the value, and what would do: that is what is asserted, not wording.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from tierstore.config import Codec, Config
from tierstore.errors import ConfigError
from tierstore.units import Share

DESIGN = """
[engine]
interval = "30s"
[[tier]]
name = "warm"
store = "ram"
size = "512MiB"
codec = "lz4"
[[tier]]
name = "cold"
store = "file"
path = "/var/lib/vm/cold"
size = "20GiB"
codec = "zstd:3"
range = "64KiB"
demote_after = "10min"
[region]
budget = "25%"
"""


def tier(**keys: object) -> dict[str, object]:
    """A tier that is right, but for what is given."""
    return {"name": "t", "store": "ram", "size": "64MiB"} | keys


def complaint(**data: object) -> str:
    """What is said about a configuration that is wrong."""
    with pytest.raises(ConfigError) as caught:
        Config.from_dict({"tier": [tier()]} | data, source="my.toml")
    return str(caught.value)


def test_the_documented_example() -> None:
    config = Config.from_text(DESIGN)
    warm, cold = config.tier
    assert (warm.size, warm.codec, warm.range) == (512 << 20, Codec(name="lz4"), 4096)
    assert (cold.size, cold.range, cold.demote_after) == (20 << 30, 65536, 600.0)
    assert (cold.codec.name, cold.codec.level, cold.path) == ("zstd", 3, Path("/var/lib/vm/cold"))
    assert config.engine.interval == 30.0
    assert config.region_for("any").budget == Share(25)


def test_reads_back_what_it_wrote(tmp_path: Path) -> None:
    full = Config.from_dict(
        {
            "engine": {"interval": "250ms", "placement": "fixed", "fault_cpus": [0, 1]},
            "tier": [
                tier(options={"fast": True, "name": 'a "b" ü', "n": 3}, keep=False),
                tier(name="u", store="lmdb", path="x/y", demote_after=1.25, admit_ratio="80%"),
            ],
            "region": [{"budget": "1GiB"}, {"name": "vm1", "policy": "budget", "min_age": "5s"}],
        }
    )
    for config in (full, Config.default("/x"), Config.from_text(DESIGN)):
        assert Config.from_text(config.to_toml()) == config
        assert Config.from_dict(config.to_dict()) == config
    path = tmp_path / "c.toml"
    path.write_text(full.to_toml())
    assert Config.load(path) == full


def test_regions_by_name() -> None:
    config = Config.from_dict(
        {"tier": [tier()], "region": [{"budget": "30%"}, {"name": "vm1", "budget": "50%"}]}
    )
    assert config.region_for("vm1").budget == Share(50)
    assert config.region_for("other").budget == Share(30)


def test_is_frozen() -> None:
    config = Config.default("/x")
    with pytest.raises(ValidationError):
        config.engine.interval = 1.0


def test_options_as_c_takes_them() -> None:
    config = Config.from_dict({"tier": [tier(options={"keep": True, "depth": 8})]})
    assert config.tier[0].options_text == "keep=1,depth=8"
    assert 'may contain ","' in complaint(tier=[tier(options={"a": "b,c"})])


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"size": "20GX"}, ["tier[0].size", "20GX", "512MiB"]),
        ({"size": "1KiB"}, ["tier[0].size", "1024", "1MiB"]),
        ({"codek": "lz4"}, ["tier[0].codek", "unknown", '"codec"']),
        ({"zzzzz": 1}, ["tier[0].zzzzz", "unknown", "codec, demote_above"]),
        ({"store": "fiel"}, ["tier[0].store", "fiel", '"file"', "lmdb", "ram", "module:Class"]),
        ({"codec": "brotli"}, ["tier[0].codec", "brotli", "zstd:LEVEL"]),
        ({"codec": "zstd:99"}, ["tier[0].codec", "99", "19"]),
        ({"codec": "zstd:0"}, ["tier[0].codec", "zstd:0", "-50"]),
        ({"codec": "zstd:x"}, ["tier[0].codec", "zstd:x", "whole number"]),
        ({"range": "5KiB"}, ["tier[0].range", "5120", "power of two"]),
        ({"range": "512KiB"}, ["tier[0].range", "256KiB"]),
        ({"demote_above": "150%"}, ["tier[0].demote_above", "150%"]),
        ({"demote_above": 90}, ["tier[0].demote_above", "90", "1%"]),
        ({"name": "a b"}, ["tier[0].name", "a b", "letters"]),
        ({"name": 5}, ["tier[0].name", "5", "quotes"]),
        ({"keep": "perhaps"}, ["tier[0].keep", "perhaps", "true or false"]),
        ({"store": "file"}, ["tier[0]", "path"]),
        ({"size": "9" * 400 + "TiB"}, ["tier[0].size", "more than 1048576TiB"]),
        ({"size": 1 << 70}, ["tier[0].size", "more than 1048576TiB"]),
        ({"demote_after": "9" * 400 + "s"}, ["tier[0].demote_after", "too long"]),
        ({"demote_after": "31d"}, ["tier[0].demote_after", "720h"]),
        ({"path": "a\0b"}, ["tier[0].path", "byte 0"]),
        ({"dictionary": "auto"}, ["tier[0]", "dictionary", "zstd", "lz4"]),
    ],
)
def test_complaints_about_a_tier(keys: dict[str, object], expected: list[str]) -> None:
    text = complaint(tier=[tier(**keys)])
    assert text.startswith("my.toml: ")
    for part in expected:
        assert part in text


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"engine": {"interval": "soon"}}, ["engine.interval", "soon", "30s"]),
        ({"engine": {"interval": 0}}, ["engine", "interval", "10ms"]),
        ({"engine": {"fault_threads": 99}}, ["engine.fault_threads", "99", "16"]),
        ({"engine": {"placement": "fixd"}}, ["engine.placement", "fixd", '"fixed"']),
        ({"engine": {"placement": "fixed"}}, ["engine", "fault_cpus"]),
        ({"engine": 3}, ["engine", "3", "table"]),
        ({"regio": {}}, ["regio", "unknown", '"region"']),
        ({"region": {"budget": "125%"}}, ["region.budget", "125%", "25%"]),
        ({"region": [{"tracker": "zapp"}]}, ["region[0].tracker", "zapp", '"zap"']),
        ({"tier": []}, ["tier", "0 tiers"]),
        ({"engine": {"staging": "9999999TiB"}}, ["engine.staging", "more than 1048576TiB"]),
        ({"region": {"probation": "2h"}}, ["region.probation", "1h"]),
        ({"region": {"min_age": "9" * 400}}, ["region.min_age", "too long"]),
        ({"region": {"evict_rate": "9" * 400}}, ["region.evict_rate", "more than"]),
        ({"region": {"budget": "9" * 400}}, ["region.budget", "more than"]),
        ({"region": [{"name": "x"}, {"name": "x"}]}, ["region", '"x"', "two"]),
        ({"region": [{"budget": "1%"}, {"budget": "2%"}]}, ["region", "two", "all regions"]),
        ({"tier": [tier(), tier()]}, ["tier", '"t"', "differ"]),
        ({"tier": {"name": "x"}}, ["tier", "list"]),
    ],
)
def test_complaints_elsewhere(data: dict[str, object], expected: list[str]) -> None:
    text = complaint(**data)
    for part in expected:
        assert part in text


def test_every_mistake_is_named_at_once() -> None:
    lines = complaint(tier=[tier(size="x", codec="y")], engine={"spin": "z"}).splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "engine.spin",
        "tier[0].size",
        "tier[0].codec",
    ]


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing"):
        Config.load(tmp_path / "missing.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[engine\n")
    with pytest.raises(ConfigError, match="line 1"):
        Config.load(broken)
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="broken"):
        Config.load(broken)


def test_without_tiers_nothing_goes() -> None:
    with pytest.raises(ConfigError, match="tier: missing"):
        Config.from_text("")
