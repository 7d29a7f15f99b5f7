# SPDX-License-Identifier: Apache-2.0
"""Configuration: TOML, checked as a whole before anything is opened.

A ladder of tiers in order, defaults for the regions, a few settings of the engine::

    [engine]
    interval = "30s"            # deactivate .. scan

    [[tier]]
    name = "warm"; store = "ram"; size = "512MiB"; codec = "lz4"

    [[tier]]
    name = "cold"; store = "file"; path = "/var/lib/vm/cold"; size = "20GiB"
    codec = "zstd:3"; range = "64KiB"; demote_after = "10min"

    [region]
    budget = "25%"

(One key a line in a real file.)  Every object here is frozen and compares by value; an error names
the key, the value, and what would do.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    field_validator,
    model_validator,
)

from tierstore import _config_text, _plugins, units
from tierstore.errors import ConfigError
from tierstore.stores.registry import store_names

__all__ = ["BUILTIN_STORES", "Codec", "Config", "EngineConfig", "RegionConfig", "TierConfig"]

BUILTIN_STORES = ("ram", "file", "lmdb")
"""Stores of the C core; ``tierstore.stores.registry`` knows those in Python."""

TIER_MAX = 8
DAY_S = 86400.0
PAGE_BYTES = 4096


def _dump_size(value: int | None) -> str | None:
    return None if value is None else units.format_size(value, exact=True)


def _dump_duration(value: float | None) -> str | float | None:
    if value is None:
        return None
    text = units.format_duration(value)
    return text if units.parse_duration_s(text) == value else value


Size = Annotated[int, BeforeValidator(units.parse_size), PlainSerializer(_dump_size)]
Rate = Annotated[int, BeforeValidator(units.parse_rate), PlainSerializer(_dump_size)]
Duration = Annotated[
    float, BeforeValidator(units.parse_duration_s), PlainSerializer(_dump_duration)
]
ShareOrSize = Annotated[
    units.Share | int,
    BeforeValidator(units.parse_share_or_size),
    PlainSerializer(lambda v: str(v) if isinstance(v, units.Share) else _dump_size(v)),
]


def _parse_pct(value: object) -> int:
    share = units.parse_share_or_size(value) if isinstance(value, str) else value
    if isinstance(share, units.Share) and 1 <= share.pct <= 100 and share.pct == int(share.pct):
        return int(share.pct)
    raise ValueError(f'{value!r} is not a whole share from "1%" to "100%"')


Pct = Annotated[int, BeforeValidator(_parse_pct), PlainSerializer(lambda v: f"{v}%")]


class Codec(BaseModel):
    """How frames are compressed: written ``"raw"``, ``"lz4"``, ``"lz4:8"``, ``"zstd:3"``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Literal["raw", "lz4", "zstd"] = "lz4"
    level: int = 1
    """lz4: acceleration, higher is faster, 1 if not given; zstd: level, 3 if not given."""

    def __str__(self) -> str:
        return self.name if self.level == _LEVEL[self.name] else f"{self.name}:{self.level}"


_LEVELS = {"raw": (1, 1), "lz4": (1, 64), "zstd": (-50, 19)}
_LEVEL = {"raw": 1, "lz4": 1, "zstd": 3}
_CODEC_HINT = 'write "raw", "lz4", "lz4:ACCELERATION", "zstd" or "zstd:LEVEL"'


def _parse_codec(value: object) -> Codec:
    if isinstance(value, Codec):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a codec; {_CODEC_HINT}")
    name, colon, level_text = value.partition(":")
    if name not in _LEVELS:
        raise ValueError(f"{value!r} is not a codec; {_CODEC_HINT}")
    low, high = _LEVELS[name]
    try:
        level = int(level_text) if colon else _LEVEL[name]
    except ValueError:
        raise ValueError(f"{value!r} has no whole number as its level; {_CODEC_HINT}") from None
    if not low <= level <= high or (name == "zstd" and level == 0):
        raise ValueError(f"{value!r}: {name} takes a level from {low} to {high}, not {level}")
    return Codec.model_validate({"name": name, "level": level})


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False)


class EngineConfig(_Model):
    """Settings of the engine as a whole.  The defaults are right for most hosts."""

    interval: Duration = 30.0
    """From deactivate to scan, seconds: what a page's age is counted in."""
    fault_threads: int = Field(default=0, ge=0, le=16)
    placement: Literal["auto", "fixed"] = "auto"
    """``fixed``: on ``fault_cpus``; ``auto``: with the faults, where their threads are pinned."""
    fault_cpus: tuple[Annotated[int, Field(ge=0, le=63)], ...] = ()
    spin: Duration = 0.0
    """An idle fault thread polls at least this long before it sleeps."""
    evict_threads: int = Field(default=0, ge=0, le=16)
    state: Path | None = None
    """A folder of the engine's own, best below /run: what persistent regions have evicted outlives
    the process, however it ends.  Tiers: ``file`` and ``lmdb``, ``file`` also on a tmpfs."""
    staging: Size | None = None
    """Address space for anonymous pages on their way out; ``None``: the core's choice."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not 0.01 <= self.interval <= 86400:
            raise ValueError("interval must lie between 10ms and 24h")
        if self.spin > 0.001:
            raise ValueError("spin must not be longer than 1ms: it burns a CPU")
        if (self.placement == "fixed") != bool(self.fault_cpus):
            raise ValueError('fault_cpus and placement = "fixed" go together')
        return self


class TierConfig(_Model):
    """One rung of the ladder."""

    name: str = Field(min_length=1, max_length=31, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    store: str
    """``ram``, ``file``, ``lmdb``; ``python-file``, ``python-lmdb``; a name that an installed
    package provides; or ``package.module:Class``."""
    size: Size
    path: Path | None = None
    codec: Annotated[Codec, BeforeValidator(_parse_codec), PlainSerializer(str)] = Codec()
    range: Size = PAGE_BYTES
    """Neighbouring pages that are compressed together."""
    demote_after: Duration | None = None
    demote_above: Pct = 90
    admit_ratio: Pct = 100
    """Admits frames of at most this share of their raw size."""
    keep: bool = True
    """Keep the copy of a page that was read back, so that it can leave again for nothing."""
    dictionary: str = "none"
    """``none``; ``auto``: trained from this guest's cold pages; or the path of one (zstd only)."""
    wrap: str = ""
    """Wrappers around the store, outermost first, such as ``verify,stats``."""
    options: dict[str, str | int | float | bool] = {}
    """What is special to this store."""

    @field_validator("store")
    @classmethod
    def _check_store(cls, value: str) -> str:
        names = store_names()
        if value in names or _plugins.is_dotted(value):
            return value
        raise ValueError(
            f'no store "{value}"; there are {", ".join(names)}{_plugins.nearest(value, names)} '
            f'(your own: "package.module:Class")'
        )

    @field_validator("size")
    @classmethod
    def _check_size(cls, value: int) -> int:
        if value < 1 << 20:
            raise ValueError(f"{value} bytes are too few; at least 1MiB")
        return value

    @field_validator("path")
    @classmethod
    def _check_path(cls, value: Path | None) -> Path | None:
        if value is not None and "\0" in str(value):
            raise ValueError(f"{str(value)!r} has a byte 0 in it, which no path can have")
        return value

    @field_validator("demote_after")
    @classmethod
    def _check_demote_after(cls, value: float | None) -> float | None:
        if value is not None and value > 30 * DAY_S:
            raise ValueError("longer than 720h; without it nothing moves down for its age")
        return value

    @field_validator("range")
    @classmethod
    def _check_range(cls, value: int) -> int:
        if not PAGE_BYTES <= value <= 64 * PAGE_BYTES or value & (value - 1):
            raise ValueError(f"{value} bytes; a power of two from 4KiB to 256KiB would do")
        return value

    @field_validator("options")
    @classmethod
    def _check_options(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key, item in value.items():
            if any(mark in f"{key}{item}" for mark in ",="):
                raise ValueError(f'{key!r}: neither key nor value may contain "," or "="')
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.store.removeprefix("python-") in ("file", "lmdb") and self.path is None:
            raise ValueError(f'path is missing: the store "{self.store}" needs one')
        if self.dictionary != "none" and self.codec.name != "zstd":
            raise ValueError(f'dictionary is for codec "zstd", and this is "{self.codec}"')
        return self

    @property
    def options_text(self) -> str:
        """The options as the C library takes them: ``key=value,...``; true is 1, false 0."""
        return ",".join(
            f"{key}={int(value) if isinstance(value, bool) else value}"
            for key, value in self.options.items()
        )


class RegionConfig(_Model):
    """How one region, or every region without an entry of its own, is treated."""

    name: str | None = None
    """The region this is for; ``None``: all others."""
    budget: ShareOrSize = units.Share(25)
    """Resident bytes that a region may keep."""
    min_age: Duration | None = None
    """A page must not have been touched for this long; default: two intervals."""
    evict_rate: Rate | None = None
    """At most so many bytes a second leave."""
    refault_limit: int | None = Field(default=None, ge=1)
    """Above so many refaults a second nothing more leaves."""
    policy: tuple[str, ...] = ("default",)
    """``default`` (what the four keys above say), names of installed policies, or
    ``package.module:Class``; several are combined: all must agree."""
    policy_options: dict[str, str | int | float | bool] = {}
    tracker: Literal["auto", "zap", "wp", "rwp"] = "auto"
    serve: Literal["message", "in-thread"] = "message"
    restore: Literal["auto", "page", "range"] = "auto"
    shards: int = Field(default=0, ge=0, le=16)
    probation: Duration = 1.0
    guard_scans: int = Field(default=2, ge=1, le=15)
    """A page that came back is left alone for this many scans."""
    collapse: bool = False

    @field_validator("probation")
    @classmethod
    def _check_probation(cls, value: float) -> float:
        if value > 3600:
            raise ValueError("longer than 1h: pages in probation are still in RAM")
        return value

    @field_validator("policy", mode="before")
    @classmethod
    def _one_policy(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class Config(_Model):
    """The whole configuration: ``engine``, ``tier`` (the ladder, top first), ``region``."""

    engine: EngineConfig = EngineConfig()
    tier: tuple[TierConfig, ...]
    region: tuple[RegionConfig, ...] = (RegionConfig(),)

    @field_validator("tier")
    @classmethod
    def _check_tiers(cls, value: tuple[TierConfig, ...]) -> tuple[TierConfig, ...]:
        names = [tier.name for tier in value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f'two tiers are called "{twice[0]}"; names must differ')
        if not 1 <= len(value) <= TIER_MAX:
            raise ValueError(f"{len(value)} tiers; from 1 to {TIER_MAX} would do")
        return value

    @field_validator("region", mode="before")
    @classmethod
    def _one_region(cls, value: object) -> object:
        return (value,) if isinstance(value, Mapping | RegionConfig) else value

    @field_validator("region")
    @classmethod
    def _check_regions(cls, value: tuple[RegionConfig, ...]) -> tuple[RegionConfig, ...]:
        names = [region.name for region in value]
        twice = next((name for name in names if names.count(name) > 1), "")
        if twice is None:
            raise ValueError("two are for all regions, without a name; one of them can hold")
        if twice:
            raise ValueError(f'two are for the region "{twice}"; one of them can hold')
        return value

    def region_for(self, name: str | None) -> RegionConfig:
        """The settings for the region of that name, else those for all."""
        default = RegionConfig()
        for region in self.region:
            if region.name is not None and region.name == name:
                return region
            if region.name is None:
                default = region
        return default

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, source: str = "configuration") -> Self:
        """Check a parsed configuration.  ``source`` stands in front of each message."""
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            raise ConfigError(_config_text.explain(error, cls, source, data)) from None

    @classmethod
    def from_text(cls, text: str, *, source: str = "configuration") -> Self:
        """Parse and check TOML."""
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{source}: not TOML: {error}") from None
        return cls.from_dict(data, source=source)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read, parse and check a file.  Raises ``ConfigError`` if it can't be read, too."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: can't be read: {error}") from None
        return cls.from_text(text, source=str(path))

    @classmethod
    def default(cls, folder: str | Path, *, region_bytes: int = 4 << 30) -> Self:
        """A ladder of ram, lmdb and file below ``folder``, sized for this much guest memory."""
        folder = Path(folder)
        mib = 1 << 20

        def share(part: float) -> int:
            return max(int(region_bytes * part) // mib, 4) * mib

        warm: dict[str, Any] = {"store": "ram", "codec": "lz4", "size": share(1 / 16)}
        cool: dict[str, Any] = {"store": "lmdb", "codec": "lz4", "size": share(1 / 8)}
        cold: dict[str, Any] = {"store": "file", "codec": "zstd", "size": share(5 / 4)}
        cool |= {"path": folder / "cool.lmdb"}
        cold |= {"path": folder / "cold.frames", "range": 64 << 10}
        tiers = [warm | {"name": "warm"}, cool | {"name": "cool"}, cold | {"name": "cold"}]
        return cls.from_dict({"tier": tiers}, source="default configuration")

    def to_dict(self) -> dict[str, Any]:
        """What ``from_dict`` takes, every key present that is not ``None``; JSON can hold it."""
        return self.model_dump(mode="json", exclude_none=True)

    def to_toml(self) -> str:
        """The resolved configuration as TOML; ``from_text`` of it equals this object."""
        return _config_text.dump_toml(self.to_dict())

    def with_engine(self, **changes: Any) -> Self:
        """A copy with settings of the engine changed, checked again."""
        data = self.to_dict()
        data["engine"] |= changes
        return self.from_dict(data)
