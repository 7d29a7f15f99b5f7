# SPDX-License-Identifier: Apache-2.0
"""The real Firecracker: restored by the manager from a snapshot in the tiers, and under the shim.

Debian has no package of it, so these tests run where you name one, TIERSTORE_FIRECRACKER=PATH: a
build of its sources (for the shim with glibc, not musl).  Its guest is ours
(native/tests/vmm/bare_guest.c), which checks its memory itself and says so on the console.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.conftest import ROOT
from tests.manager.support import CONFIG, Serve, until
from tests.preload.support import write_config

FIRECRACKER = os.environ.get("TIERSTORE_FIRECRACKER", "")
MIB = 96
CFLAGS = [
    *("-O1", "-ffreestanding", "-static", "-nostdlib", "-fno-pic", "-no-pie"),
    *("-mgeneral-regs-only", "-mno-red-zone", "-fno-stack-protector", "-fcf-protection=none"),
    *("-fno-asynchronous-unwind-tables", "-Wl,-Ttext=0x1000000,--build-id=none"),
]

pytestmark = pytest.mark.skipif(
    not FIRECRACKER, reason="TIERSTORE_FIRECRACKER names no firecracker program"
)


class Api(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: Path):
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        """In place of TCP."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Firecracker:
    """A Firecracker process; what its guest says goes to a file."""

    def __init__(self, folder: Path, name: str, *before: str, env: dict[str, str] | None = None):
        self._socket = folder / f"{name}.sock"
        self._console = folder / f"{name}.out"
        with self._console.open("wb") as out:
            self.process = subprocess.Popen(
                [*before, FIRECRACKER, "--api-sock", str(self._socket), "--no-seccomp"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=env,
                cwd=ROOT,
            )
        until(lambda: self._socket.exists() or self.process.poll() is not None, "its socket")

    def ask(self, method: str, path: str, **body: Any) -> None:
        """One request of its API, which must succeed."""
        connection = Api(self._socket)
        connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        assert answer.status == 204, (path, answer.status, text, self.said)

    @property
    def said(self) -> str:
        """All of its output."""
        return self._console.read_text(encoding="utf-8", errors="replace")

    def passes(self) -> list[tuple[int, int]]:
        """(pass, wrong pages) as the guest counted."""
        found = re.findall(r"^pass (\d+) bad (\d+)$", self.said, re.MULTILINE)
        return [(int(number), int(bad)) for number, bad in found]

    def verified(self, times: int) -> None:
        """The guest has been through its memory that often, and found every byte."""
        until(lambda: len(self.passes()) >= times or self.process.poll() is not None, "passes")
        assert len(self.passes()) >= times, self.said
        assert all(bad == 0 for _, bad in self.passes()), self.said

    def boot(self, kernel: Path) -> None:
        """Starts a VM with one vCPU."""
        self.ask("PUT", "/boot-source", kernel_image_path=str(kernel), boot_args="")
        self.ask("PUT", "/machine-config", vcpu_count=1, mem_size_mib=MIB)
        self.ask("PUT", "/actions", action_type="InstanceStart")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(timeout=60)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest."""
    path = tmp_path_factory.mktemp("guest") / "guest.elf"
    source = ROOT / "native" / "tests" / "vmm" / "bare_guest.c"
    subprocess.run(["cc", *CFLAGS, f"-DMIB={MIB}", "-o", str(path), str(source)], check=True)
    return path


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Serve]:
    """``tierstore serve`` with a file as its tier, for one snapshot."""
    store = f'store = "file"\npath = "{tmp_path / "cold"}"'
    config = CONFIG.replace('store = "ram"', store) + '[[vm]]\nrecord_for = "2s"\n'
    options = ("--state", str(tmp_path / "state"), "--snapshot", "base")
    with Serve(tmp_path, *options, config=config) as serve:
        yield serve


def test_a_restored_vm_finds_every_byte(manager: Serve, kernel: Path, tmp_path: Path) -> None:
    """Its snapshot's memory is served from the tiers, and the VM let go of once all is there."""
    memory, state = tmp_path / "vm.mem", tmp_path / "vm.state"
    with Firecracker(tmp_path, "first") as first:
        first.boot(kernel)
        first.verified(times=1)
        first.ask("PATCH", "/vm", state="Paused")
        first.ask("PUT", "/snapshot/create", snapshot_type="Full", snapshot_path=str(state),
                  mem_file_path=str(memory))  # fmt: skip
        before = len(first.passes())
    done = manager.run("import", str(memory), "--name", "base",
                       "--config", str(manager.folder / "manager.toml"),
                       "--state", str(manager.folder / "state"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    backend = {"backend_type": "Uffd", "backend_path": str(manager.socket)}
    with Firecracker(tmp_path, "second") as second:
        second.ask("PUT", "/snapshot/load", snapshot_path=str(state), mem_backend=backend,
                   resume_vm=True)  # fmt: skip
        pid = second.process.pid
        second.verified(times=2)
        assert second.passes()[0][0] == before + 1, "it began anew instead of going on"
        until(lambda: manager.vm(pid) is None, "the VM to be let go of")
        assert "all of its snapshot's memory is there" in manager.log
        second.verified(times=len(second.passes()) + 1)
    assert manager.stat()["engines"][0]["tiers"][0]["nr_faults"] > 0


def test_a_vm_under_the_shim_finds_every_byte(kernel: Path, tmp_path: Path) -> None:
    """Most of its memory leaves while the guest reads and writes all of it."""
    config = write_config(tmp_path, budget="30%")
    run = (sys.executable, "-m", "tierstore", "run", "--verbose", "--config", str(config), "--")
    env = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
    with Firecracker(tmp_path, "vm", *run, env=env) as vm:
        vm.boot(kernel)
        vm.verified(times=4)
    left = re.search(r"([\d,]+) pages left, ([\d,]+) faults", vm.said)
    assert left is not None, vm.said
    assert all(int(count.replace(",", "")) > 1000 for count in left.groups()), vm.said
