# SPDX-License-Identifier: Apache-2.0
"""Dictionary training: pays on a real heap, says why where it does not."""

from __future__ import annotations

import random
import sysconfig
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zstandard

from tierstore import training
from tierstore._training import SAMPLES_MIN
from tierstore.config import Config
from tierstore.errors import RegionGone
from tierstore.offline import frames
from tierstore.preload.session import Cycle

PAGE = 4096


def pages_of(data: bytes, nr_max: int = 1500) -> list[bytes]:
    """Whole pages."""
    return [data[i : i + PAGE] for i in range(0, min(len(data) // PAGE, nr_max) * PAGE, PAGE)]


@pytest.fixture(scope="module")
def sources() -> list[bytes]:
    """Python's library, as text that a guest's page cache might hold."""
    folder = Path(sysconfig.get_path("stdlib"))
    return pages_of(b"".join(path.read_bytes() for path in sorted(folder.glob("*.py"))))


def heap() -> bytes:
    """This process's own heap, once it holds something worth the name."""
    keep = [{"name": f"item{i}", "value": [i, i * 2], "tags": ("a", "b")} for i in range(20000)]
    with Path("/proc/self/maps").open() as maps:
        line = next(line for line in maps if line.rstrip().endswith("[heap]"))
    start, end = (int(part, 16) for part in line.split()[0].split("-"))
    with Path("/proc/self/mem").open("rb", buffering=0) as memory:
        memory.seek(start)
        data = memory.read(min(end - start, 6 << 20))
    assert keep
    return data


def test_pays_on_sources(sources: list[bytes]) -> None:
    """And what it promises on held-out pages holds on frames."""
    result = training.train_dictionary(sources, level=1)
    assert result.dictionary is not None
    assert result.gain >= training.GAIN_MIN
    assert result.dictionary_bytes < result.plain_bytes
    assert "saves" in result.reason
    assert len(result.dictionary) <= training.DICT_BYTES
    ordinary = with_dictionary = 0
    for page in sources[48:64]:
        ordinary += len(frames.encode(page, codec=frames.ZSTD))
        with_dictionary += len(
            frames.encode(page, codec=frames.ZSTD, dictionary=(1, result.dictionary))
        )
    assert with_dictionary < ordinary


def test_a_heap_is_judged() -> None:
    """Whatever the verdict, it agrees with its own figures."""
    result = training.train_dictionary(pages_of(heap()), level=3)
    assert result.nr_pages >= training.PAGES_MIN
    assert (result.dictionary is not None) == (result.gain >= training.GAIN_MIN)
    assert result.plain_bytes > 0


def test_random_pages_do_not_pay() -> None:
    """The reason names the saving and the bound."""
    rng = random.Random(3)
    result = training.train_dictionary([rng.randbytes(PAGE) for _ in range(256)])
    assert result.dictionary is None
    assert "nothing in common" in result.reason or "does not pay" in result.reason


def test_filled_pages_teach_nothing() -> None:
    """They are stored nowhere, so they don't count."""
    filled = [bytes(PAGE), b"\xff" * PAGE, b"12345678" * 512] * 100
    result = training.train_dictionary(filled)
    assert result == training.Training(None, "0 usable pages; 128 are needed")


def test_the_bound_decides(sources: list[bytes]) -> None:
    """The same dictionary is dropped when more is asked of it."""
    result = training.train_dictionary(sources, gain_min=0.9)
    assert result.dictionary is None
    assert "less than 90.0%" in result.reason
    assert 0 < result.gain < 0.9


def test_ranges_gain_less(sources: list[bytes]) -> None:
    """A long range has its own context; the judgement must see that."""
    short = training.train_dictionary(sources, range_bytes=PAGE)
    long = training.train_dictionary(sources, range_bytes=16 * PAGE)
    assert long.gain < short.gain


def test_the_short_form(sources: list[bytes]) -> None:
    """What the engine's trainer calls."""
    data = training.train(sources, level=1)
    assert data is not None
    assert zstandard.ZstdCompressionDict(data).dict_id() != 0
    assert training.train(sources[:10]) is None


def test_odd_arguments() -> None:
    """Programmer errors are not verdicts."""
    with pytest.raises(ValueError, match="whole pages"):
        training.train_dictionary([b"short"])
    with pytest.raises(ValueError, match="not whole pages"):
        training.train_dictionary([], range_bytes=5000)


def test_a_program_that_forks_does_not_wait_for_its_dictionary(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its session ends while one is trained; what comes of that is no news."""
    begun, goes_on = threading.Event(), threading.Event()

    def train(*_: Any, **__: Any) -> bytes:
        begun.set()
        assert goes_on.wait(60)
        return b"too late"

    def gone(*_: Any) -> int:
        raise RegionGone("the program has gone")

    monkeypatch.setattr(training, "train", train)
    tier = {"name": "t", "store": "ram", "size": "8MiB", "codec": "zstd", "dictionary": "auto"}
    region = SimpleNamespace(can_evict=False, sample=lambda *_, **__: [bytes(PAGE)] * SAMPLES_MIN)
    config = Config.from_dict({"engine": {"interval": "10ms"}, "tier": [tier]})
    engine: Any = SimpleNamespace(config=config, regions=[region], set_dictionary=gone)
    cycle = Cycle(engine, print)
    cycle.start()
    assert begun.wait(60)
    cycle.stop()
    training_thread = cycle._trainer._thread
    assert training_thread is not None and training_thread.is_alive()
    goes_on.set()
    training_thread.join(60)
    assert not training_thread.is_alive() and not caplog.records
