# SPDX-License-Identifier: Apache-2.0
"""Makes the guest's disks: a small system, and the built project.

The cloud kernels have NVMe and ext4 built in, so that they start from such disks without an
initramfs and without a single module.  The system disk is made of the machine's own installed
packages, the few that a Python program needs, and is kept as long as their versions stay; the
project's disk is made anew each time.  QEMU discards whatever the guest writes.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

from tests.vm.apt import cache_dir, run
from tests.vm.scratch import scratch

ROOT = Path(__file__).resolve().parents[2]
INIT = Path(__file__).with_name("init.sh")

# The rest follows from what these depend on.
PACKAGES = [
    "bash", "dash", "coreutils", "mount", "util-linux", "procps", "grep", "sed", "findutils",
    "tar", "base-files", "base-passwd", "libc-bin", "python3", "python3-venv", "binutils",
    "liburing2", "libzstd1", "liblz4-1", "liblmdb0", "libxxhash0", "libstdc++6",
]  # fmt: skip
FIELDS = "${binary:Package}|${db:Status-Status}|${Pre-Depends}, ${Depends}|${Version}\n"
SKIPPED = re.compile(
    r"/usr/share/(doc|man|locale|info|lintian|bash-completion)/"
    r"|/usr/lib/(systemd|udev)/|/usr/share/(perl|python-wheels)"
)
SPARE_BYTES = 1 << 30
# The kernel numbers disks as they happen to answer.  Without an initramfs the only other name for
# the one to start from is its partition's, which is made of this.
SIGNATURE = 0x74696572
ROOT_DEVICE = f"PARTUUID={SIGNATURE:08x}-01"
PARTITION_BYTES = 1 << 20


def installed() -> dict[str, tuple[list[str], str]]:
    """Package: what it depends on (the first of alternatives that is there), its version."""
    rows = [line.split("|", 2) for line in run("dpkg-query", "-W", "-f", FIELDS).splitlines()]
    packages = {}
    for name, status, rest in rows:
        if status == "installed":
            depends, _, version = rest.rpartition("|")
            names = re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9.+-]*)", depends)
            packages[name.partition(":")[0]] = (names, version)
    return packages


def closure(roots: list[str]) -> dict[str, str]:
    """These packages and all they need, with versions."""
    packages, found, queue = installed(), dict[str, str](), list(roots)
    while queue:
        name = queue.pop()
        if name in found or name not in packages:
            continue
        names, found[name] = packages[name]
        queue += names
    return found


def files_of(packages: list[str]) -> set[str]:
    """Paths of the packages' files, links in folders resolved (/lib is /usr/lib)."""
    found = set()
    for line in run("dpkg-query", "-L", *packages).splitlines():
        path = Path(line)
        if line.startswith("/") and os.path.lexists(path) and not SKIPPED.match(line + "/"):
            if path.is_dir() and not path.is_symlink():
                continue
            found.add(f"{path.parent.resolve()}/{path.name}")
    return found


def copy_files(paths: set[str], target: Path) -> None:
    """Copies them, links as links, with the machine's own tar."""
    names = "\0".join(sorted(path.lstrip("/") for path in paths)).encode()
    pack = ["tar", "-C", "/", "--null", "--no-recursion", "-T", "-", "-cf", "-"]
    packed = subprocess.run(pack, input=names, stdout=subprocess.PIPE, check=True)
    subprocess.run(["tar", "-C", target, "-xf", "-"], input=packed.stdout, check=True)


def partition_table(nr_bytes: int, signature: int) -> bytes:
    """A first sector with one partition behind it and the signature that PARTUUID consists of."""
    first, length = PARTITION_BYTES // 512, nr_bytes // 512
    entry = struct.pack("<B3sB3sII", 0, b"\xff" * 3, 0x83, b"\xff" * 3, first, length)
    head = bytes(440) + struct.pack("<IH", signature, 0) + entry
    return head.ljust(510, b"\0") + b"\x55\xaa"


def make_filesystem(folder: Path, image: Path, signature: int) -> None:
    """A disk of one partition, ext4 with the folder's contents and some room."""
    used = sum(p.lstat().st_blocks * 512 for p in folder.rglob("*"))
    size = (used * 5 // 4 + SPARE_BYTES) >> 12 << 12
    with image.open("wb") as file:
        file.write(partition_table(size, signature))
        file.truncate(PARTITION_BYTES + size)
    run("mkfs.ext4", "-q", "-F", "-m0", "-O", "^has_journal", "-b", "4096",
        "-E", f"lazy_itable_init=1,offset={PARTITION_BYTES}", "-d", folder, image,
        f"{size >> 10}k")  # fmt: skip


def alias_folders(target: Path) -> None:
    """/bin and its like, as they are here; empty folders for what the kernel mounts."""
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        here = Path("/") / name
        if here.is_symlink():
            (target / name).symlink_to(here.readlink())
            (target / here.resolve().relative_to("/")).mkdir(parents=True, exist_ok=True)
    for name in ("proc", "sys", "dev", "run", "tmp", "root", "etc", "results", "var/tmp"):
        (target / name).mkdir(parents=True, exist_ok=True)
    (target / "tmp").chmod(0o1777)


def system_image() -> Path:
    """The disk to start from."""
    packages = closure(PACKAGES)
    text = repr((sorted(packages.items()), Path(__file__).read_text(), INIT.read_text()))
    image = cache_dir() / f"system-{hashlib.sha256(text.encode()).hexdigest()[:16]}.ext4"
    if image.exists():
        return image
    for old in cache_dir().glob("system-*.ext4"):
        old.unlink()
    with scratch() as folder:
        target = folder / "root"
        target.mkdir(mode=0o755)
        alias_folders(target)
        copy_files(files_of(list(packages)), target)
        for path in ("passwd", "group", "ld.so.conf", "ld.so.cache", "nsswitch.conf"):
            if (Path("/etc") / path).exists():
                shutil.copy(Path("/etc") / path, target / "etc")
        shutil.copy(INIT, target / "vm-init")
        # Under its name once it is whole.
        make_filesystem(target, folder / "system.ext4", SIGNATURE)
        (folder / "system.ext4").rename(image)
    return image


def project_image(image: Path, script: str) -> None:
    """The checkout as it is, its environment and its build, but neither history nor other builds;
    beside them the script that the guest runs."""
    kept = {".venv", "build-dev"}

    def ignored(folder: str, names: list[str]) -> set[str]:
        if Path(folder) == ROOT:
            return {n for n in names if n.startswith((".", "build", "dist")) and n not in kept}
        return {n for n in names if n.endswith((".o", ".p", ".a"))}

    with scratch() as folder:
        target = folder / "root"
        shutil.copytree(ROOT, target, symlinks=True, ignore=ignored)
        (target / "vm-command").write_text(script)
        make_filesystem(target, image, SIGNATURE + 1)
