# SPDX-License-Identifier: Apache-2.0
"""Trouble on the medium and in stores, seen from where the user stands: media that are full, bits
that flipped on disk, a store that does not answer, files that are somebody else's.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tierstore import Engine, GuestMemory, Region
from tierstore.abc import Outcome, Store, StoreStat
from tierstore.config import Config
from tierstore.errors import StoreCorrupt, StoreFull, StoreLocked, StoreWrongFile

PAGE = 4096
NR_PAGES = 512
SIZE = NR_PAGES * PAGE
KINDS = ["anon", "memfd"]


def contents(page: int) -> bytes:
    """Unique, and found again in a file that is not compressed."""
    return (f"<page {page:06}>" * 400).encode()[:PAGE]


@pytest.fixture(params=KINDS)
def memory(request: pytest.FixtureRequest) -> Iterator[GuestMemory]:
    """Filled guest memory."""
    make = GuestMemory.anon if request.param == "anon" else GuestMemory.memfd
    with make(SIZE) as allocated:
        for page in range(NR_PAGES):
            allocated.buffer[page * PAGE : (page + 1) * PAGE] = contents(page)
        yield allocated


def check(region: Region, pages: range = range(NR_PAGES)) -> None:
    """Every page holds what was written."""
    for page in pages:
        assert region.read(page * PAGE, PAGE) == contents(page), f"page {page}"


def tier(store: str, path: Path, **keys: Any) -> dict[str, Any]:
    """An engine with one tier on a medium."""
    size = "64MiB" if store == "file" else "16MiB"
    found = {"name": "cold", "store": store, "size": size, "path": str(path), "codec": "raw"}
    return {"tier": [found | keys]}


# ---- Media that are full -------------------------------------------------------------------


@contextlib.contextmanager
def small_tmpfs(folder: Path, size: str) -> Iterator[Path]:
    """A file system of that size."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a tmpfs")
    try:
        yield folder
    finally:
        # A ring that is closed lets go of its files a moment later.
        deadline = time.monotonic() + 60
        while subprocess.run(["umount", str(folder)], capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, "the file system stays busy"
            time.sleep(0.01)


def fill_up(path: Path) -> None:
    """Not one block is left to others."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass


@pytest.mark.parametrize("store", ["file", "lmdb"])
def test_a_full_medium_keeps_pages_in_ram(memory: GuestMemory, tmp_path: Path, store: str) -> None:
    with small_tmpfs(tmp_path / "small", "80m") as folder:
        config = tier(store, folder / "cold")
        with Engine(config) as engine, engine.attach(memory) as region:
            fill_up(folder / "greedy")
            result = region.evict(age_min=0, probation=False)
            assert result.nr_claimed == NR_PAGES
            assert result.nr_evicted + result.nr_failed == NR_PAGES
            check(region)
            assert engine.statistics().failures["poisoned"] == 0
            (folder / "greedy").unlink()
            region.evict(age_min=0, probation=False)
            check(region)
        assert bytes(memory.buffer) == b"".join(contents(page) for page in range(NR_PAGES))


def test_a_file_size_limit(tmp_path: Path) -> None:
    """RLIMIT_FSIZE: opening or writing is refused, and pages stay where they are."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = _under_a_limit(tmp_path / "cold")
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def _under_a_limit(path: Path) -> int:
    """In a child, for the limit can't be raised again.  0: all is right."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    with GuestMemory.anon(SIZE) as memory:
        for page in range(NR_PAGES):
            memory.buffer[page * PAGE : (page + 1) * PAGE] = contents(page)
        try:
            engine = Engine(tier("file", path))
        except StoreFull:
            return 0
        except Exception as error:
            return 0 if "cold" in str(error) else 2
        with engine, engine.attach(memory) as region:
            region.evict(age_min=0, probation=False)
            check(region)
            return 0 if engine.statistics().failures["poisoned"] == 0 else 3


# ---- A bit that flipped on disk ------------------------------------------------------------


def data_files(path: Path) -> list[Path]:
    """Where a store keeps its frames."""
    return [path] if path.is_file() else [found for found in path.rglob("*") if found.is_file()]


def flip(path: Path, marker: bytes) -> int:
    """One bit of every copy of the marker; returns how many there were."""
    nr_copies = 0
    for file in data_files(path):
        data = file.read_bytes()
        at = data.find(marker)
        with file.open("r+b", buffering=0) as handle:
            while at >= 0:
                nr_copies += 1
                handle.seek(at + 3)
                handle.write(bytes([data[at + 3] ^ 0x10]))
                at = data.find(marker, at + PAGE)
            os.fsync(handle.fileno())
    return nr_copies


def verify(path: Path) -> tuple[int, dict[str, Any]]:
    """`tierstore verify`: its exit code and what it says."""
    base = [sys.executable, "-m", "tierstore", "verify", "--json", str(path)]
    done = subprocess.run(base, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("store", ["file", "lmdb"])
def test_a_flipped_bit_is_never_served(memory: GuestMemory, tmp_path: Path, store: str) -> None:
    path = tmp_path / "cold"
    lines: list[str] = []
    with Engine(tier(store, path), log=lambda _, line: lines.append(line)) as engine:
        region = engine.attach(memory, name="vm")
        assert region.evict(age_min=0, probation=False).nr_evicted == NR_PAGES
        lost = 123
        assert flip(path, contents(lost)[:64]) > 0
        # A copy, for the store itself is locked by its engine.
        copy = tmp_path / "copy"
        if path.is_dir():
            shutil.copytree(path, copy)
        else:
            shutil.copy(path, copy)
        code, verdict = verify(copy)
        assert code == 1
        (report,) = verdict.get("stores", (verdict,))
        assert report["nr_bad"] == 1
        assert report["bad"][0]["page"] == lost
        for _ in range(2):
            with pytest.raises(StoreCorrupt, match="vm"):
                region.read(lost * PAGE, PAGE)
        check(region, range(lost))
        check(region, range(lost + 1, NR_PAGES))
        statistics = engine.statistics()
        assert statistics.failures["corrupt"] == statistics.failures["poisoned"] == 1
        assert statistics.pages.gone == 1
        region.detach()
    assert any("poisoned" in line for line in lines)


def test_a_bit_that_flips_in_ram(memory: GuestMemory) -> None:
    ram = {"name": "warm", "store": "ram", "size": "64MiB", "wrap": "fault:get=1,error=corrupt"}
    with Engine({"tier": [ram]}) as engine:
        region = engine.attach(memory, name="vm")
        nr_evicted = region.evict(age_min=0, probation=False).nr_evicted
        nr_lost = 0
        for page in range(NR_PAGES):
            # Few bits of a frame mean nothing; then the page is right.
            try:
                assert region.read(page * PAGE, PAGE) == contents(page)
            except StoreCorrupt:
                nr_lost += 1
        assert nr_lost >= 0.9 * nr_evicted
        assert engine.statistics().failures["poisoned"] == nr_lost
        assert region.evict(age_min=0, probation=False).nr_claimed == NR_PAGES - nr_lost
        with contextlib.suppress(StoreCorrupt):
            region.detach()
        assert not region.is_attached


# ---- A store that does not answer ----------------------------------------------------------


class GatedStore(Store):
    """Takes what the gate ``is_taking`` lets in; answers gets when ``answers`` is set."""

    kind = "gated"
    answers = threading.Event()
    asked = threading.Semaphore(0)
    is_taking = True

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.frames: dict[int, bytes] = {}

    def put(self, items: Any) -> list[Outcome]:
        if not self.is_taking:
            return [StoreFull() for _ in items]
        self.frames.update((key, bytes(data)) for key, data in items)
        return [None] * len(items)

    def get(self, key: int) -> bytes:
        self.asked.release()
        assert self.answers.wait(60)
        return self.frames[key]

    def delete(self, keys: Any) -> None:
        for key in keys:
            self.frames.pop(key, None)

    def stat(self) -> StoreStat:
        return StoreStat(capacity_bytes=self.size_bytes, nr_frames=len(self.frames))

    def scan(self) -> Iterator[tuple[int, bytes]]:
        yield from list(self.frames.items())

    def close(self) -> None:
        self.frames.clear()


def test_a_store_without_an_answer_holds_up_its_own_pages_only(memory: GuestMemory) -> None:
    slow = {"name": "slow", "store": f"{__name__}:GatedStore", "size": "64MiB"}
    warm = {"name": "warm", "store": "ram", "size": "64MiB"}
    region_settings = {"restore": "page"}
    GatedStore.answers.clear()
    GatedStore.is_taking = True
    with Engine({"tier": [slow, warm], "region": region_settings}) as engine:
        region = engine.attach(memory)
        assert region.evict(64 * PAGE, age_min=0, probation=False).nr_evicted == 64
        GatedStore.is_taking = False
        region.evict(age_min=0, probation=False)
        assert [found.nr_pages for found in engine.statistics().tiers] == [64, NR_PAGES - 64]
        # More than a fault thread has slots for.
        waiting = [
            threading.Thread(target=check, args=(region, range(p, p + 1))) for p in range(64)
        ]
        try:
            for thread in waiting:
                thread.start()
            assert GatedStore.asked.acquire(timeout=60)
            check(region, range(64, NR_PAGES))
            region.evict(age_min=0, probation=False)
            check(region, range(64, NR_PAGES))
            assert all(thread.is_alive() for thread in waiting)
        finally:
            GatedStore.answers.set()
        for thread in waiting:
            thread.join(60)
            assert not thread.is_alive()
        check(region)
        region.detach()


SLOW_COLD = """
[engine]
interval = "300ms"
[[tier]]
name = "warm"
store = "ram"
size = "4MiB"
[[tier]]
name = "cold"
store = "file"
path = "{folder}/cold"
size = "64MiB"
range = "64KiB"
wrap = "delay:get=30ms"
[region]
budget = "25%"
probation = "100ms"
"""


def test_the_demo_survives_a_slow_tier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    config = tmp_path / "slow.toml"
    config.write_text(SLOW_COLD)
    base = [sys.executable, "-m", "tierstore", "demo", "--json", "--size", "32MiB"]
    # Longer where a busy machine has had no page from there in that time.
    for seconds in ("4", "40"):
        done = subprocess.run(
            [*base, "--seconds", seconds, "--folder", str(tmp_path), "--config", str(config)],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert (found["mismatches"], found["bad_pages"]) == (0, 0)
        if found["served"]["cold"]:
            break
    assert found["served"]["cold"] > 0


# ---- Somebody else's files -----------------------------------------------------------------


@pytest.mark.parametrize("store", ["file", "lmdb"])
def test_a_foreign_file_is_left_alone(tmp_path: Path, store: str) -> None:
    path = tmp_path / "precious"
    path.write_bytes(b"a letter to my aunt\n" * 1000)
    before = (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_mode)
    with pytest.raises(StoreWrongFile, match="precious"):
        Engine(tier(store, path))
    assert (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_mode) == before
    assert [found.name for found in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("store", ["file", "lmdb"])
def test_two_engines_do_not_share_a_path(tmp_path: Path, store: str) -> None:
    with Engine(tier(store, tmp_path / "cold")):
        for _ in range(2):
            with pytest.raises(StoreLocked, match="cold"):
                Engine(tier(store, tmp_path / "cold"))
    Engine(tier(store, tmp_path / "cold")).close()


def test_more_compressed_ram_than_the_host_has() -> None:
    """Taken, for it fills as it is needed; and said, for the host would end first."""
    lines: list[str] = []
    config = Config.from_dict(
        {
            "tier": [
                {"name": "warm", "store": "ram", "size": "16MiB"},
                {"name": "vast", "store": "ram", "size": "100TiB"},
            ]
        }
    )
    with Engine(config, log=lambda _, line: lines.append(line)):
        pass
    [line] = [line for line in lines if "this host has" in line]
    assert line.startswith("tier vast: 104857600 MiB of RAM")
