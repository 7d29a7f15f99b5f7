# SPDX-License-Identifier: Apache-2.0
"""redis-server, whose allocator (jemalloc) is the process's malloc: its heap leaves, and is right.

The digest of the whole database is compared before and after, while other keys are read and
written, and across a background save, which forks.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.preload.support import (
    away_bytes,
    children_of,
    end_process,
    install,
    statistics,
    tierstore_command,
    wait_until,
    write_config,
)

MIB = 1 << 20
NR_KEYS, VALUE_BYTES = 100_000, 1000
pytestmark = pytest.mark.timeout(300)


class Redis:
    """A connection that speaks just enough of the protocol."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._lines = self._socket.makefile("rb")

    def ask(self, *words: object) -> str:
        """One command, one answer; an error is a failure."""
        parts = [str(word).encode() for word in words]
        request = b"*%d\r\n" % len(parts)
        for part in parts:
            request += b"$%d\r\n%s\r\n" % (len(part), part)
        self._socket.sendall(request)
        line = self._lines.readline().rstrip(b"\r\n")
        assert line[:1] in b"+:$", line
        if line[:1] != b"$":
            return line[1:].decode()
        return self._lines.read(int(line[1:]) + 2)[:-2].decode()

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._socket.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Redis, int]]:
    """The server under `tierstore run`, and its pid."""
    install("redis-server", "redis-tools")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    port = _free_port()
    config = write_config(tmp_path, interval="500ms", budget="10%", warm="8MiB")
    words = tierstore_command("run", "-v", "--config", config, "--region", "size>=2MiB", "--")
    words += ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    words += ["--dir", str(tmp_path), "--enable-debug-command", "yes"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)

    def connect() -> Redis | None:
        assert process.poll() is None, (tmp_path / "log").read_text()
        try:
            return Redis(port)
        except OSError:
            return None

    try:
        redis = wait_until(connect, "the server to answer")
        [pid] = children_of(process.pid)
        yield redis, pid
        redis.close()
    finally:
        end_process(process)


def test_the_database_leaves_and_is_right(server: tuple[Redis, int]) -> None:
    redis, pid = server
    redis.ask("DEBUG", "POPULATE", NR_KEYS, "key", VALUE_BYTES)
    before = redis.ask("DEBUG", "DIGEST")
    half = NR_KEYS * VALUE_BYTES // 2
    wait_until(lambda: away_bytes(pid) >= half, "half of the database away")
    # Reads and writes all the while: other keys, and back to what it was.
    for number in range(0, NR_KEYS, 97):
        assert redis.ask("GET", f"key:{number}").startswith(f"value:{number}")
        redis.ask("SET", f"other:{number}", number)
    assert redis.ask("DEBUG", "DIGEST") != before
    for number in range(0, NR_KEYS, 97):
        redis.ask("DEL", f"other:{number}")
    assert redis.ask("DEBUG", "DIGEST") == before
    wait_until(lambda: away_bytes(pid) >= half, "half of the database away again")
    # A fork: everything comes back first, and leaves again when the child has gone.
    redis.ask("BGSAVE")
    redis.ask("SET", "written", "while saving")
    redis.ask("DEL", "written")
    wait_until(
        lambda: "rdb_bgsave_in_progress:0" in redis.ask("INFO", "persistence"), "the save done"
    )
    assert "rdb_last_bgsave_status:ok" in redis.ask("INFO", "persistence")
    assert redis.ask("DEBUG", "DIGEST") == before
    wait_until(lambda: away_bytes(pid) >= half, "half of the database away after a fork")
    assert redis.ask("DEBUG", "DIGEST") == before
    redis.ask("FLUSHALL")
    redis.ask("DEBUG", "POPULATE", NR_KEYS // 4, "key", VALUE_BYTES)
    found = statistics(pid)
    assert found is not None
    assert found["failures"]["poisoned"] == 0
