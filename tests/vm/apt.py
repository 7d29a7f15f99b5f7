# SPDX-License-Identifier: Apache-2.0
"""Gets a Debian cloud kernel with apt, without touching the machine's own package lists.

Which mirror, and whose signatures are good, follows from what apt is set up with here.  Sources
list, package lists and downloads are private, in a folder under the user's cache, so that no root
is needed and nothing of this machine changes.  A kernel that was fetched once is used again; a new
look at the archive is taken after a day.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from tests.vm.problem import Problem

# Which release of Debian carries which series; everything else is looked for in backports.
SUITES = {"6.1": "bookworm", "6.12": "trixie"}
NEWER = "trixie-backports"
LISTS_KEEP_S = 24 * 3600


def cache_dir() -> Path:
    """Where kernels and images are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tierstore"


def run(*command: str | Path) -> str:
    """What the command printed; Problem with its last words if it failed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Problem(f"{command[0]}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


def own_mirror() -> tuple[str, str]:
    """The address of Debian's archive and the keyring that signs it ("": apt's own keys)."""
    form = "$(REPO_URI) $(SIGNED_BY)"
    found = run("apt-get", "indextargets", "--format", form, "Created-By: Packages",
                "Label: Debian")  # fmt: skip
    if not found:
        raise Problem("apt knows no Debian archive here; run `apt-get update` once")
    uri, _, signed_by = found.splitlines()[0].partition(" ")
    # A field that a target does not have stays as it was written.
    return uri, "" if "$(" in signed_by else signed_by.strip() or keyring_in_sources(uri)


def keyring_in_sources(uri: str) -> str:
    """Signed-By of the stanza that names the mirror, for an apt that does not tell."""
    for path in sorted(Path("/etc/apt/sources.list.d").glob("*.sources")):
        for stanza in path.read_text().split("\n\n"):
            match = re.search(r"^Signed-By:\s*(/\S+)", stanza, re.M)
            if match and uri.rstrip("/") in stanza:
                return match[1]
    return ""


class Archive:
    """One suite of the archive, with package lists of its own."""

    def __init__(self, suite: str) -> None:
        self.folder = cache_dir() / "apt" / suite
        for part in ("lists/partial", "cache/archives/partial"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        uri, keyring = own_mirror()
        keyring = keyring or keyring_in_sources(uri)
        option = f"[signed-by={keyring}] " if keyring else ""
        (self.folder / "sources.list").write_text(f"deb {option}{uri} {suite} main\n")

    @functools.cached_property
    def options(self) -> list[str]:
        """What makes apt look here and nowhere else."""
        return [
            f"-oDir::Etc::sourcelist={self.folder}/sources.list",
            "-oDir::Etc::sourceparts=/dev/null",
            f"-oDir::State::Lists={self.folder}/lists",
            f"-oDir::Cache={self.folder}/cache",
            "-oDir::State::status=/dev/null",
            f"-oAPT::Sandbox::User={'root' if os.geteuid() == 0 else ''}",
            "-oAcquire::Languages=none",
        ]

    def update(self) -> None:
        """Reads the package lists, unless they are fresh.  An old list is better than none."""
        stamp = self.folder / "updated"
        if stamp.exists() and time.time() - stamp.stat().st_mtime < LISTS_KEEP_S:
            return
        try:
            run("apt-get", *self.options, "-qq", "update")
        except Problem:
            if not stamp.exists():
                raise
        stamp.touch()

    def names(self) -> list[str]:
        """All package names."""
        return run("apt-cache", *self.options, "pkgnames").split()

    def unpack(self, package: str, target: Path) -> None:
        """Downloads the package, whose signature apt checks, and unpacks it."""
        downloads = self.folder / "debs"
        shutil.rmtree(downloads, ignore_errors=True)
        downloads.mkdir()
        subprocess.run(["apt-get", *self.options, "-qq", "download", package],
                       cwd=downloads, check=True)  # fmt: skip
        [deb] = downloads.glob("*.deb")
        run("dpkg-deb", "-x", deb, target)
        shutil.rmtree(downloads)


def version_key(release: str) -> tuple[int, ...]:
    """Sorts releases as numbers."""
    return tuple(int(part) for part in re.findall(r"\d+", release.split("-cloud")[0]))


def choose(names: list[str], version: str, arch: str) -> str:
    """The package with the newest kernel of the wanted series; of a later one if it has gone."""
    form = re.compile(rf"linux-(?:image|binary)-(\d+\.\d+\S*)-cloud-{arch}")
    found = {match[1]: match[0] for name in names if (match := form.fullmatch(name))}
    exact = [r for r in found if r == version or r.startswith((version + ".", version + "+"))]
    wanted = exact or [r for r in found if version_key(r) > version_key(version)]
    if not wanted:
        raise Problem(f"no kernel {version} in the archive; it has: {' '.join(sorted(found))}")
    release = max(wanted, key=version_key)
    # Where image and modules are packages of their own, `image` names only both.
    split = f"linux-binary-{release}-cloud-{arch}"
    return split if split in names else f"linux-image-{release}-cloud-{arch}"


def fetch(version: str) -> tuple[str, Path]:
    """Name of the newest kernel of this series, and its image.  Raises Problem."""
    archive = Archive(SUITES.get(version, NEWER))
    archive.update()
    arch = run("dpkg", "--print-architecture").strip()
    package = choose(archive.names(), version, arch)
    release = package.split("-", 2)[2]
    target = cache_dir() / "kernels" / release
    if not target.exists():
        partial = target.parent / f"{os.getpid()}.new"
        partial.mkdir(parents=True)
        archive.unpack(package, partial)
        partial.rename(target)
    images = sorted(target.rglob("vmlinuz*"))
    if not images:
        raise Problem(f"{package} holds no kernel image")
    return release, images[0]
