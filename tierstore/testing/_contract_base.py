# SPDX-License-Identifier: Apache-2.0
"""What the parts of the contract suite share: how a store is opened, and frames to put in it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

import pytest

from tierstore.abc import FRAME_BYTES_MAX, Store
from tierstore.errors import StoreNotFound

__all__ = ["ContractBase", "applies_if", "check_frames", "get_or_none", "make_frame", "random_len"]


def make_frame(key: int, version: int, len_bytes: int) -> bytes:
    """Bytes that tell which frame they are of, at every place: no two frames share a stretch."""
    seed = hashlib.blake2b(f"{key}.{version}.{len_bytes}".encode(), digest_size=61).digest()
    return (seed * (len_bytes // len(seed) + 1))[:len_bytes]


def get_or_none(store: Store, key: int) -> bytes | None:
    """The frame, or ``None`` if the store says that there is none."""
    try:
        return store.get(key)
    except StoreNotFound:
        return None


def check_frames(store: Store, model: Mapping[int, bytes | None], keys: Iterable[int]) -> None:
    """Every key holds what the model says (``None`` or missing: nothing)."""
    for key in keys:
        got, want = get_or_none(store, key), model.get(key)
        if got != want:
            pytest.fail(f"frame {key}: {_describe(got)} instead of {_describe(want)}")


def _describe(frame: bytes | None) -> str:
    return "nothing" if frame is None else f"{len(frame)} bytes {frame[:16].hex()}..."


def random_len(rng: random.Random, len_max: int) -> int:
    """Lengths as they occur: mostly a compressed page, now and then a large range."""
    share = rng.random()
    if share < 0.7:
        return rng.randint(1, min(4200, len_max))
    return rng.randint(1, min(65536 if share < 0.95 else len_max, len_max))


_Test = TypeVar("_Test", bound=Callable[..., None])


def applies_if(attribute: str) -> Callable[[_Test], _Test]:
    """A test that exists only in classes whose ``attribute`` is set (not ``None`` or ``False``)."""

    def mark(test: _Test) -> _Test:
        test.__dict__["applies_if"] = attribute
        return test

    return mark


class ContractBase:
    """Derive from :class:`tierstore.testing.contract.StoreContract`, not from this."""

    path_kind: ClassVar[Literal["file", "folder"] | None] = None
    """What the store makes at its path; ``None``: it has no path."""

    size_bytes: ClassVar[int] = 8 << 20
    """Size of the stores under test: small enough to be filled."""

    frame_bytes_max: ClassVar[int] = FRAME_BYTES_MAX

    slack_bytes: ClassVar[int] = 0
    """What a frame may count for in ``frame_bytes`` besides its own bytes (rounding)."""

    can_overwrite_beside_gets: ClassVar[bool] = True
    """The engine never overwrites a key that is being got; the C wrapper "verify" relies on it."""

    can_keep: ClassVar[bool] = False
    """Whether ``keep=True`` makes the frames outlive ``close``."""

    injects: ClassVar[bool] = False
    """Set for stores of the C core: its calls are made to fail one after the other."""

    _conditional: ClassVar[Mapping[str, Callable[..., None]]] = {}

    def __init_subclass__(cls) -> None:
        """Leave out the tests that don't apply, so that none has to be skipped."""
        super().__init_subclass__()
        own = {name: test for name, test in vars(cls).items() if hasattr(test, "applies_if")}
        cls._conditional = {**cls._inherited_conditional(), **own}
        for name, test in cls._conditional.items():
            if name not in own:
                applies = getattr(cls, test.__dict__["applies_if"])
                setattr(cls, name, test if applies else None)

    @classmethod
    def _inherited_conditional(cls) -> dict[str, Callable[..., None]]:
        found: dict[str, Callable[..., None]] = {}
        for base in reversed(cls.__mro__[1:]):
            found |= vars(base).get("_conditional", {})
        return found

    def open_store(
        self,
        path: Path,
        *,
        size_bytes: int,
        frame_bytes_max: int,
        options: Mapping[str, str],
    ) -> Store:
        """Open a store of the kind under test; ``path`` does not exist at first.

        ``options`` is empty, or ``{"keep": "1"}`` if ``can_keep``.
        """
        raise NotImplementedError

    def open(self, path: Path, *, keep: bool = False, size_bytes: int | None = None) -> Store:
        """The store with the suite's own settings."""
        return self.open_store(
            path / "store",
            size_bytes=size_bytes or self.size_bytes,
            frame_bytes_max=self.frame_bytes_max,
            options={"keep": "1"} if keep else {},
        )

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        """An empty store, closed after the test."""
        with self.open(tmp_path) as store:
            yield store
