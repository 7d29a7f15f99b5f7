# SPDX-License-Identifier: Apache-2.0
"""Messages between controller and shim: ``native/preload/wire.h``, whose structs cffi knows."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

from tierstore._native import ffi, lib
from tierstore._tiers import set_numbers
from tierstore.config import BUILTIN_STORES, Config, TierConfig
from tierstore.errors import ConfigError, RegionGone, Status, error_from_status

__all__ = ["Channel", "config_struct", "receive", "send", "to_bytes"]

HEAD_BYTES = ffi.sizeof("struct tsp_head")


def to_bytes(struct: Any) -> bytes:
    """The bytes of what a cffi pointer points at."""
    return bytes(ffi.buffer(struct))


def _receive_exactly(connection: socket.socket, nr_bytes: int) -> bytes:
    data = bytearray()
    while len(data) < nr_bytes:
        part = connection.recv(min(nr_bytes - len(data), 1 << 20))
        if not part:
            raise ConnectionResetError("the program has gone")
        data += part
    return bytes(data)


def receive(connection: socket.socket) -> tuple[Any, bytes]:
    """One message: its head and its payload.  Raises ``OSError`` when the other side has gone."""
    head = ffi.new("struct tsp_head *")
    ffi.memmove(head, _receive_exactly(connection, HEAD_BYTES), HEAD_BYTES)
    if head.len_bytes > lib.TSP_PAYLOAD_MAX:
        raise ConnectionAbortedError(f"a message of {head.len_bytes} bytes")
    return head, _receive_exactly(connection, head.len_bytes)


def send(
    connection: socket.socket, kind: int, payload: bytes = b"", *, rc: int = 0, region: int = 0
) -> None:
    """One message."""
    head = ffi.new("struct tsp_head *", [kind, rc, region, len(payload)])
    connection.sendall(to_bytes(head) + payload)


class Channel:
    """Requests and answers on one connection, one at a time; for any thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def ask(self, kind: int, payload: bytes = b"", *, region: int = 0) -> tuple[int, bytes]:
        """The answer's result and payload.

        Raises what the result stands for, and ``RegionGone`` when the process has gone.
        """
        try:
            with self._lock:
                send(self._connection, kind, payload, region=region)
                head, answer = receive(self._connection)
        except OSError as error:
            raise RegionGone(f"the program has gone ({error})") from None
        if head.rc < 0:
            text = answer.decode("utf-8", "replace")
            if head.rc == Status.ESTATE:
                raise RegionGone(text)
            raise error_from_status(int(head.rc), text)
        return int(head.rc), answer

    def close(self) -> None:
        """Ends requests under way, too."""
        with contextlib.suppress(OSError):  # it has gone already
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


def _text(value: object, what: str, limit: int) -> bytes:
    data = str(value).encode()
    if len(data) >= limit:
        raise ConfigError(f"{what} is longer than {limit - 1} bytes: {value}")
    return data


def _fill_tier(out: Any, tier: TierConfig) -> None:
    if tier.store not in BUILTIN_STORES:
        raise ConfigError(
            f'tier "{tier.name}": the store "{tier.store}" is written in Python, which does not '
            f"run inside of the program; {', '.join(BUILTIN_STORES)} would do"
        )
    out.name = _text(tier.name, "a tier's name", 32)
    out.store = tier.store.encode()
    out.options = _text(tier.options_text, f'options of the tier "{tier.name}"', 256)
    out.wrap = _text(tier.wrap, f'wrap of the tier "{tier.name}"', 128)
    if tier.path is not None:
        # The program may have another working directory by the time it opens this.
        out.path = _text(tier.path.absolute(), f'path of the tier "{tier.name}"', 1024)
    set_numbers(out, tier)


def config_struct(config: Config) -> bytes:
    """A configuration as the shim takes it.  Raises ``ConfigError`` for what it can't do."""
    out = ffi.new("struct tsp_config *")
    engine, region = config.engine, config.region_for(None)
    if region.serve != "message":
        raise ConfigError(
            'region: serve = "in-thread" is not for other programs: their system calls on evicted '
            'pages would fail; "message" would do'
        )
    out.nr_fault_threads = engine.fault_threads
    out.placement = getattr(lib, f"TS_PLACEMENT_{engine.placement.upper()}")
    out.fault_cpus = sum(1 << cpu for cpu in set(engine.fault_cpus))
    out.spin_us = int(engine.spin * 1e6)
    out.nr_evict_threads = engine.evict_threads
    out.staging_bytes = engine.staging or 0
    out.settle_ms = int(engine.interval * 1000)
    out.tracker = getattr(lib, f"TS_TRACKER_{region.tracker.upper()}")
    out.restore = getattr(lib, f"TS_RESTORE_{region.restore.upper()}")
    out.nr_shards = region.shards
    out.probation_ms = max(int(region.probation * 1000), 1)
    out.guard_scans = max(region.guard_scans, 1)
    out.collapse = region.collapse
    out.nr_tiers = len(config.tier)
    for number, tier in enumerate(config.tier):
        _fill_tier(out.tiers[number], tier)
    return to_bytes(out)
