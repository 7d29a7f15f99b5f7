# SPDX-License-Identifier: Apache-2.0
"""What a plug-in author needs: the base classes of stores (and policies) written in Python.

A store keeps *frames*: opaque strings of bytes under integer keys.  It knows nothing of guests,
pages or compression.  The engine owns the keys: small dense integers, reused after a delete has
returned.  This is the contract of ``store.h`` in Python terms; the same suite
(:mod:`tierstore.testing`) holds stores of both kinds to it.

Caveats first

* What you acknowledge you must be able to give back.  ``None`` as an item's outcome is a promise:
  the engine drops the guest's page on the strength of it.
* Never answer a ``get`` with other bytes than were put.  If in doubt, raise ``StoreCorrupt``.
* A store in Python runs on a thread of its own and may block.  It is never asked between a guest's
  fault and the answer of *another* tier, but its own faults wait for the interpreter: about 1 us
  when it is idle, 5 ms and more while another Python thread computes.
* Durability across a host crash is not asked for (the guest is gone then, too).  But what a crash
  left behind must be recognised and reclaimed at the next open, and a file that is not yours must
  never be overwritten (``StoreWrongFile``).
* The contents are a guest's memory: files are private (0600, folders 0700).
"""

from __future__ import annotations

import dataclasses
import errno
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Self, TypeAlias

from tierstore.errors import StoreError

if TYPE_CHECKING:
    from tierstore.statistics import Statistics

__all__ = [
    "FRAME_BYTES_MAX",
    "Buffer",
    "Decision",
    "Outcome",
    "Policy",
    "Store",
    "StoreStat",
    "Tick",
]

FRAME_BYTES_MAX = 64 * 4096 + 64
"""The longest frame the engine ever puts: 64 pages that did not compress, and a header."""

Buffer: TypeAlias = bytes | bytearray | memoryview
"""What a frame may come in.  Borrowed for the call: copy what you keep."""

Outcome: TypeAlias = StoreError | None
"""What became of one item of a put: ``None`` (stored) or why it was not (not raised)."""


@dataclasses.dataclass(frozen=True, slots=True)
class StoreStat:
    """How full, how busy, how well.  Bytes; current values unless they are called totals."""

    capacity_bytes: int = 0
    nr_frames: int = 0
    frame_bytes: int = 0
    """The frames' own bytes."""
    used_bytes: int = 0
    """All that the frames cost: metadata, padding and holes included; <= ``capacity_bytes``."""
    memory_bytes: int = 0
    """The RAM this store occupies."""
    index_bytes: int = 0
    """RAM for the map from key to place alone."""
    written_bytes: int = 0
    """Total written by put, before amplification."""
    device_bytes: int = 0
    """Total written to the medium."""
    moved_bytes: int = 0
    """Total moved by compaction or garbage collection."""
    discarded_bytes: int = 0
    """Total given back to the medium or the host."""
    nr_errors: int = 0
    """Total of failed puts and gets; not-found and full are no failures."""


class Store(ABC):
    """Base class of stores in Python.  Constructing one opens it.

    Threads: every method but the constructor, ``close`` and ``scan`` may be called from several
    threads at a time, ``get`` from up to ``reader_max`` of them.  One lock around everything is a
    correct answer.  ``close`` comes after all else has returned.

    A failure is an exception from :mod:`tierstore.errors`; any other exception counts as an I/O
    error of this store (an ``OSError`` keeps its errno).  It never leaves half a frame
    visible: a get sees the old bytes, the new ones, or ``StoreNotFound``; and after a failed put of
    a new key, ``StoreNotFound``.

    A complete store, to start from (run it: ``python -m doctest tierstore/abc.py``)::

        >>> from tierstore.errors import StoreFull, StoreNotFound
        >>> class DictStore(Store):
        ...     kind = "dict"
        ...
        ...     def __init__(self, **config):
        ...         super().__init__(**config)
        ...         self.frames, self.used = {}, 0
        ...
        ...     def put(self, items):
        ...         outcomes = []
        ...         for key, data in items:
        ...             grows = len(data) - len(self.frames.get(key, b""))
        ...             if self.used + grows > self.size_bytes:
        ...                 outcomes.append(StoreFull())
        ...                 continue
        ...             self.frames[key] = bytes(data)
        ...             self.used += grows
        ...             outcomes.append(None)
        ...         return outcomes
        ...
        ...     def get(self, key):
        ...         try:
        ...             return self.frames[key]
        ...         except KeyError:
        ...             raise StoreNotFound(f"no frame {key}") from None
        ...
        ...     def delete(self, keys):
        ...         for key in keys:
        ...             self.used -= len(self.frames.pop(key, b""))
        ...
        ...     def stat(self):
        ...         return StoreStat(self.size_bytes, len(self.frames), self.used, self.used)
        ...
        ...     def scan(self):
        ...         yield from list(self.frames.items())
        ...
        ...     def close(self):
        ...         self.frames.clear()
        >>> with DictStore(name="demo", size_bytes=10) as store:
        ...     print(store.put([(1, b"hello"), (2, b"too long")]))
        ...     print(store.get(1), store.stat().nr_frames)
        [None, StoreFull('no room left in the store')]
        b'hello' 1

    (With several threads it also needs a lock around ``put`` and ``delete``.)
    """

    kind: ClassVar[str]
    """The name that configuration uses for this store."""

    persistent: ClassVar[bool] = False
    """What was put outlives ``close`` under the options in force; see ``is_persistent``."""

    def __init__(
        self,
        *,
        name: str,
        size_bytes: int,
        path: str | None = None,
        frame_bytes_max: int = FRAME_BYTES_MAX,
        options: Mapping[str, str] | None = None,
    ) -> None:
        """Open the store.  May block.  On failure raise, and leave nothing behind.

        ``name`` is the tier's, for messages.  ``size_bytes`` bounds all bytes that the store may
        use, metadata included.  No put is longer than ``frame_bytes_max``.  ``options`` is what is
        special to this store; reject what you don't know with ``ConfigError``.
        """
        self.name = name
        self.path = path
        self.size_bytes = size_bytes
        self.frame_bytes_max = frame_bytes_max
        self.options: Mapping[str, str] = dict(options or {})

    def reject(self, key: int, data: Buffer, key_max: int = (1 << 63) - 1) -> Outcome:
        """For ``put``: why an item can't be stored by any store, or ``None`` if it can."""
        if 0 <= key <= key_max and 0 < len(data) <= self.frame_bytes_max:
            return None
        return StoreError(
            f"{self.name}: frame {key} of {len(data)} bytes; a frame has 1 to "
            f"{self.frame_bytes_max} bytes and a key of 0 to {key_max}",
            status=-errno.EINVAL,
        )

    @property
    def is_persistent(self) -> bool:
        """Whether what was put outlives ``close``; may depend on an option."""
        return self.persistent

    @abstractmethod
    def put(self, items: Sequence[tuple[int, Buffer]]) -> list[Outcome]:
        """Store every item that can be stored; return one outcome for each, in order.

        Replaces what a key held, atomically.  An item without room gets ``StoreFull`` (the engine
        looks further down the ladder), one that no store could take (see ``reject``) a
        ``StoreError``, and what its key held before stays.  Raises only when nothing at all was
        stored.  May block.
        """

    @abstractmethod
    def get(self, key: int) -> bytes:
        """The bytes that were put last.  Raises ``StoreNotFound`` or ``StoreCorrupt``."""

    @abstractmethod
    def delete(self, keys: Sequence[int]) -> None:
        """Forget these keys; one that is not there is no error.  May block."""

    @abstractmethod
    def stat(self) -> StoreStat:
        """Cheap enough to be called every second."""

    @abstractmethod
    def scan(self) -> Iterator[tuple[int, bytes]]:
        """Every key and its frame, in any order, for offline tools.

        Nothing is put or deleted meanwhile.  Raises ``StoreCorrupt`` where the store can tell.
        """

    @abstractmethod
    def close(self) -> None:
        """Release everything.  Idempotent; never fails visibly."""

    def maintain(self) -> bool:
        """One bounded step (about 1 MiB of moving) of compaction or discarding.

        Returns ``True`` when there is more to do now.  The default has nothing to do.
        """
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(name={self.name!r}, size_bytes={self.size_bytes!r}, "
            f"path={self.path!r}, options={self.options!r})"
        )


# ---- Policies: the base class of what decides budgets and ages --------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Tick:
    """What a policy sees of one region, right after a scan.  Totals are since the engine started.

    Ages count in scans: a page of age 3 was not touched in the last three intervals.
    """

    region_name: str
    region_bytes: int
    resident_bytes: int
    page_bytes: int
    nr_by_age: tuple[int, ...]
    """Resident pages by age, 64 entries; the last one holds all that are older."""
    nr_guarded: int
    """Pages that came back not long ago and are left alone; not among ``nr_by_age[1:]``."""
    interval_s: float
    """From one deactivate to its scan, as configured: what an age counts."""
    passed_s: float
    """Time since the region's last tick; the interval at its first."""
    evicted_bytes: int
    """Total that left."""
    nr_refaults: int
    """Total of pages that came back by a fault shortly after they had left."""
    statistics: Statistics
    """The engine as a whole: tiers, latencies, failures."""

    def bytes_of_age(self, age_min: int) -> int:
        """How much of the region is at least that old."""
        return sum(self.nr_by_age[age_min:]) * self.page_bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """What shall leave in this tick.  The default restricts nothing."""

    bytes_max: int = 1 << 62
    """At most so much, oldest pages first; 0: nothing."""
    age_min: int = 1
    """Only pages that were not touched for so many scans; 0 takes touched ones as well."""
    bytes_per_s_max: float = float("inf")
    """Spread over the time until the next tick."""

    def __and__(self, other: Decision) -> Decision:
        """The stricter of both in every respect."""
        return Decision(
            min(self.bytes_max, other.bytes_max),
            max(self.age_min, other.age_min),
            min(self.bytes_per_s_max, other.bytes_per_s_max),
        )


class Policy(ABC):
    """Base class of policies: how many bytes leave a region, how old, at what rate.

    Each region has an object of its own, asked once a tick on the engine's controller thread, which
    holds no lock: it may take its time, at the price of later ticks.  It is for deciding;
    mechanisms (which pages, how, where to) are the engine's.  An exception counts as
    "nothing leaves", is logged, and the policy is asked again next time.

    A complete policy (run it: ``python -m doctest tierstore/abc.py``)::

        >>> class AtNight(Policy):
        ...     kind = "at-night"
        ...
        ...     def decide(self, tick):
        ...         import time
        ...         return Decision(bytes_max=0 if 8 <= time.localtime().tm_hour < 22 else 1 << 62)
        >>> AtNight(options={}).options
        {}

    Name it in the configuration (``policy = ["default", "mine:AtNight"]``), or register it as an
    entry point of the group ``tierstore.policies``.  Several policies are combined with ``&``.
    """

    kind: ClassVar[str]
    """The name that configuration uses for this policy."""

    def __init__(self, *, options: Mapping[str, object]) -> None:
        """``options`` is the region's ``policy_options``, shared by all its policies."""
        self.options: Mapping[str, object] = dict(options)

    @abstractmethod
    def decide(self, tick: Tick) -> Decision:
        """Called after each scan of the region."""
