# SPDX-License-Identifier: Apache-2.0
"""Frames in a file or on a block device, from Python: the twin of the C store "file".

Both write one format (FORMAT.md, "File store") and each reads what the other wrote.  This one is
for plug-in authors to read, for the offline tools (``readonly=1``), and works as a tier.

How it works.  The medium is cut into segments of 1 MiB.  A put packs frames into blocks, appends
them to the open segment, and only when they are on the medium do they enter the index.  Nothing is
changed in place: a frame that is deleted or replaced leaves a dead record behind.  A segment
without live records is free; when there is no free one, the segment with most dead bytes is
emptied by appending its live rest elsewhere.  ``_RESERVE`` segments are kept so that this can
always be done.  One lock around everything is simple, and right.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Mapping, Sequence

from tierstore.abc import FRAME_BYTES_MAX, Buffer, Outcome, Store, StoreStat
from tierstore.errors import (
    ConfigError,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreNotFound,
    UsageError,
)
from tierstore.stores import _file_format as fmt
from tierstore.stores._file_medium import FileMedium
from tierstore.stores._file_ring import FileRing

__all__ = ["FileStore"]

_RESERVE = 2
_SIZE_MIN = 4 * fmt.SEGMENT
_GAIN_MIN = fmt.SEGMENT // 8
_SCAN_BATCH = 32
_DISCARD_BATCH = 64


@dataclasses.dataclass(slots=True)
class _Segment:
    sequence: int = 0
    next_block: int = 0
    live_bytes: int = 0
    dead_bytes: int = 0
    """Of records that died, and of padding that packing again could win."""
    is_spent: bool = False
    """Was collected once; what is left of it can't be read."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    segment: int
    at: int
    """Of the record's head, from the start of the segment."""
    len_bytes: int
    """Of the frame."""


class FileStore(Store):
    """``options``: ``keep=1`` keeps the frames at close and finds them at the next open; ``init=1``
    overwrites whatever the path holds; ``readonly=1`` (offline tools) changes nothing."""

    kind = "python-file"

    def __init__(
        self,
        *,
        name: str,
        size_bytes: int,
        path: str | None = None,
        frame_bytes_max: int = FRAME_BYTES_MAX,
        options: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            name=name,
            size_bytes=size_bytes,
            path=path,
            frame_bytes_max=frame_bytes_max,
            options=options,
        )
        flags = self._flags()
        self._keep, self._readonly = flags["keep"] or flags["readonly"], flags["readonly"]
        if path is None:
            raise ConfigError(f"{name}: path is missing: a file or a block device")
        if frame_bytes_max > FRAME_BYTES_MAX:
            raise ConfigError(f"{name}: frames have at most {FRAME_BYTES_MAX} bytes")
        if size_bytes < _SIZE_MIN and not self._readonly:
            raise ConfigError(f"{name}: size is {size_bytes} bytes; the least is {_SIZE_MIN}")
        self._lock = threading.Lock()  # guards everything below
        self._index: dict[int, _Place] = {}
        self._segments: dict[int, _Segment] = {}  # those in use
        self._open: int | None = None
        self._sequence = 0  # the last one given out
        self._frame_bytes = self._written = self._device = self._moved = 0
        self._discarded = self._nr_errors = 0
        self._medium: FileMedium | None = FileMedium(path, size_bytes, **flags)
        self._layout = self._medium.layout
        nr_segments = self._layout.capacity_bytes // fmt.SEGMENT
        try:
            self._ring = FileRing(self._medium.fd, path)
            if self._medium.is_kept:
                self._load(nr_segments)
        except BaseException:
            self._medium.close()
            raise
        self._free = [i for i in range(nr_segments)[::-1] if i not in self._segments]
        self._stale: set[int] = set()  # of the free ones: not yet given back to the medium

    def _flags(self) -> dict[str, bool]:
        flags = {"keep": False, "init": False, "readonly": False}
        for key, value in self.options.items():
            if key not in flags:
                raise ConfigError(f"{self.name}: no option {key!r}; there are: {', '.join(flags)}")
            if value not in ("0", "1"):
                raise ConfigError(f"{self.name}: {key}={value} is neither 0 nor 1")
            flags[key] = value == "1"
        return flags

    @property
    def is_persistent(self) -> bool:
        return self._keep

    @property
    def is_clean(self) -> bool:
        """For ``readonly=1``: the store was closed in order.  If not, frames that were deleted
        may show up again."""
        return self._medium is None or self._medium.is_clean

    # ---- Reading ------------------------------------------------------------------------------

    def _blocks_of(self, place: _Place) -> tuple[int, int]:
        """Offset and length of the blocks that a record lies in."""
        start = place.segment * fmt.SEGMENT + place.at
        end = start + fmt.HEAD + place.len_bytes
        first = start // fmt.BLOCK * fmt.BLOCK
        return first, -(-end // fmt.BLOCK) * fmt.BLOCK - first

    def _check(self, key: int, place: _Place, blocks: bytearray | OSError) -> bytes:
        """The frame, if that is what was read."""
        if isinstance(blocks, OSError):
            self._nr_errors += 1
            raise StoreError(
                f"{self.name}: get {key}: {blocks.strerror}", status=-(blocks.errno or 5)
            ) from blocks
        at = place.at % fmt.BLOCK
        record = fmt.head_at(self._layout, blocks, at)
        sequence = self._segments[place.segment].sequence
        if record != fmt.Record(sequence, key, place.len_bytes, at):
            self._nr_errors += 1
            raise StoreCorrupt(f"{self.name}: frame {key} is damaged")
        return bytes(blocks[at + fmt.HEAD : at + fmt.HEAD + place.len_bytes])

    def get(self, key: int) -> bytes:
        with self._lock:
            place = self._index.get(key)
            if place is None:
                raise StoreNotFound(f"{self.name}: no frame {key}")
            return self._check(key, place, self._ring.read([self._blocks_of(place)])[0])

    def scan(self) -> Iterator[tuple[int, bytes]]:
        items = sorted(self._index.items(), key=lambda item: (item[1].segment, item[1].at))
        for start in range(0, len(items), _SCAN_BATCH):
            batch = items[start : start + _SCAN_BATCH]
            with self._lock:
                blocks = self._ring.read([self._blocks_of(place) for _, place in batch])
                frames = [
                    (key, self._check(key, place, read))
                    for (key, place), read in zip(batch, blocks, strict=True)
                ]
            yield from frames

    def _image(self, number: int) -> bytearray:
        return self._ring.read_one(number * fmt.SEGMENT, fmt.SEGMENT)

    def _load(self, nr_segments: int) -> None:
        """Make the index from the records.  After a crash the newest record of a key counts."""
        for number in range(nr_segments):
            image = self._image(number)
            for record in fmt.walk(self._layout, image, number):
                segment = self._segments.setdefault(
                    number, _Segment(record.sequence, fmt.SEGMENT // fmt.BLOCK)
                )
                if not self._sequence or fmt.newer(record.sequence, self._sequence):
                    self._sequence = record.sequence
                size = self._layout.record_bytes(record.len_bytes)
                old = self._index.get(record.key)
                if record.key == fmt.KEY_DEAD or (
                    old is not None
                    and fmt.newer(self._segments[old.segment].sequence, segment.sequence)
                ):
                    segment.dead_bytes += size
                else:
                    self._publish(record.key, _Place(number, record.at, record.len_bytes))

    # ---- Index --------------------------------------------------------------------------------

    def _publish(self, key: int, place: _Place) -> None:
        self._forget(key)
        self._index[key] = place
        self._segments[place.segment].live_bytes += self._layout.record_bytes(place.len_bytes)
        self._frame_bytes += place.len_bytes

    def _forget(self, key: int) -> None:
        place = self._index.pop(key, None)
        if place is None:
            return
        segment = self._segments[place.segment]
        size = self._layout.record_bytes(place.len_bytes)
        segment.live_bytes -= size
        segment.dead_bytes += size
        self._frame_bytes -= place.len_bytes

    def _release_empty(self) -> None:
        empty = [i for i, s in self._segments.items() if not s.live_bytes and i != self._open]
        for number in empty:
            del self._segments[number]
            self._free.append(number)
            self._stale.add(number)

    # ---- Writing ------------------------------------------------------------------------------

    def _need_segment(self, reserve: int) -> _Segment:
        """The open segment, or a new one.  Raises ``StoreFull``."""
        while self._open is None and len(self._free) <= reserve:
            self._collect()
        if self._open is not None:
            return self._segments[self._open]
        number = self._free.pop()
        self._stale.discard(number)
        self._sequence = (self._sequence + 1) % (1 << 32)
        self._segments[number] = _Segment(self._sequence, fmt.first_block(number))
        self._open = number
        return self._segments[number]

    def _append_some(
        self, items: Sequence[tuple[int, Buffer]], todo: list[int], reserve: int
    ) -> list[int]:
        """Write what fits into the open segment; returns the items that did not.

        Raises ``StoreFull``, or ``OSError``: then nothing of this stretch is visible, and the
        next one goes to another segment.
        """
        segment, number = self._need_segment(reserve), self._open
        assert number is not None
        room = fmt.SEGMENT // fmt.BLOCK - segment.next_block
        packed = fmt.pack(self._layout, segment.sequence, items, todo, room)
        if not packed.spots:
            self._open = None  # full: look for another
            self._release_empty()
            return todo
        base = segment.next_block * fmt.BLOCK
        try:
            self._ring.write_one(number * fmt.SEGMENT + base, packed.data)
        except OSError:
            self._open = None
            segment.dead_bytes += fmt.SEGMENT - base
            self._release_empty()
            raise
        segment.next_block += len(packed.data) // fmt.BLOCK
        segment.dead_bytes += packed.pad_bytes
        self._device += len(packed.data)
        # In the order of the batch: of two items with one key the last one counts.
        for i in sorted(packed.spots):
            key, data = items[i]
            self._publish(key, _Place(number, base + packed.spots[i], len(data)))
        return [i for i in todo if i not in packed.spots]

    def put(self, items: Sequence[tuple[int, Buffer]]) -> list[Outcome]:
        if self._readonly:
            raise UsageError(f"{self.name}: {self.path} was opened with readonly=1")
        outcomes: list[Outcome] = [self.reject(key, data, fmt.KEY_DEAD - 1) for key, data in items]
        todo = [i for i, outcome in enumerate(outcomes) if outcome is None]
        with self._lock:
            while todo:
                before = todo
                try:
                    todo = self._append_some(items, todo, _RESERVE)
                except (OSError, StoreError) as error:
                    outcome = error if isinstance(error, StoreError) else self._failed(error)
                    for i in todo:
                        outcomes[i] = outcome
                    break
                finally:
                    self._written += sum(len(items[i][1]) for i in set(before) - set(todo))
            self._release_empty()
        return outcomes

    def _failed(self, error: OSError) -> StoreError:
        self._nr_errors += 1
        return StoreError(
            f"{self.name}: write {self.path}: {error.strerror}", status=-(error.errno or 5)
        )

    def delete(self, keys: Sequence[int]) -> None:
        with self._lock:
            for key in keys:
                self._forget(key)
            self._release_empty()

    # ---- Making room --------------------------------------------------------------------------

    def _collect(self) -> None:
        """Empty the segment with most dead bytes.  Raises ``StoreFull`` if that wins too little."""
        number, victim = max(
            ((i, s) for i, s in self._segments.items() if i != self._open and not s.is_spent),
            key=lambda item: item[1].dead_bytes,
            default=(0, _Segment()),
        )
        if victim.dead_bytes < _GAIN_MIN:
            raise StoreFull(f"{self.name}: no room left in {self.path}")
        image = self._image(number)
        live = [
            (record.key, image[record.at + fmt.HEAD : record.at + fmt.HEAD + record.len_bytes])
            for record in fmt.walk(self._layout, image, number)
            if self._index.get(record.key) == _Place(number, record.at, record.len_bytes)
        ]
        victim.is_spent = True
        todo = list(range(len(live)))
        while todo:
            todo = self._append_some(live, todo, 0)
        self._moved += sum(len(data) for _, data in live)
        self._release_empty()

    def maintain(self) -> bool:
        with self._lock:
            numbers = sorted(self._stale)[:_DISCARD_BATCH]
            for number in numbers:
                skip = fmt.first_block(number) * fmt.BLOCK
                with contextlib.suppress(OSError):  # not every medium can
                    self._ring.discard(number * fmt.SEGMENT + skip, fmt.SEGMENT - skip)
                    self._discarded += fmt.SEGMENT - skip
                self._stale.discard(number)
            return bool(self._stale)

    # ---- The rest -----------------------------------------------------------------------------

    def stat(self) -> StoreStat:
        with self._lock:
            return StoreStat(
                capacity_bytes=self._layout.capacity_bytes,
                nr_frames=len(self._index),
                frame_bytes=self._frame_bytes,
                used_bytes=len(self._segments) * fmt.SEGMENT or fmt.BLOCK,
                written_bytes=self._written,
                device_bytes=self._device,
                moved_bytes=self._moved,
                discarded_bytes=self._discarded,
                nr_errors=self._nr_errors,
            )

    def _mark_dead(self, number: int, segment: _Segment) -> None:
        """Records that are not current must not come back at the next open."""
        image = self._image(number)
        records = list(fmt.walk(self._layout, image, number))
        dead = [
            record
            for record in records
            if self._index.get(record.key) != _Place(number, record.at, record.len_bytes)
        ]
        for record in dead:
            fmt.mark_dead(image, record.at)
        if dead:
            skip = fmt.first_block(number) * fmt.BLOCK
            self._ring.write_one(number * fmt.SEGMENT + skip, image[skip:])

    def _keep_frames(self, medium: FileMedium) -> None:
        for number, segment in self._segments.items():
            if segment.dead_bytes:
                self._mark_dead(number, segment)
        for number in self._free:
            start = number * fmt.SEGMENT + fmt.first_block(number) * fmt.BLOCK
            self._ring.write_one(start, bytes(fmt.BLOCK))
        medium.sync()
        # Only now: this mark vouches for the rest.
        medium.write_super(self._layout.flags | fmt.CLEAN)
        medium.sync()

    def close(self) -> None:
        medium, self._medium = getattr(self, "_medium", None), None
        if medium is None:
            return
        with contextlib.suppress(OSError):
            if self._readonly:
                pass
            elif self._keep:
                self._keep_frames(medium)
            elif medium.is_created and not medium.is_device:
                medium.path.unlink(missing_ok=True)
            else:
                self._ring.discard(fmt.BLOCK, self._layout.capacity_bytes - fmt.BLOCK)
        self._ring.close()
        medium.close()
