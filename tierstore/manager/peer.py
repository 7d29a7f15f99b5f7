# SPDX-License-Identifier: Apache-2.0
"""Who connected: the user, the process, and when it ends.

A process is held by a pidfd from the first moment, which the kernel makes for the very process that
connected where it can (Linux 6.5): a pid that went round can't stand in for it.  What is written
down for later managers is the pid with its start time, which no other process ever has together.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import re
import select
import socket
import struct
from pathlib import Path
from typing import Self

from tierstore.errors import ConfigError, HostError

__all__ = ["Peer", "group_id", "start_time", "user_ids"]

_SO_PEERPIDFD = 77
_CRED = struct.Struct("3i")


def user_ids(names: tuple[str, ...]) -> frozenset[int]:
    """The uids of user names and numbers.  Raises ``ConfigError``."""
    found = set()
    for name in names:
        try:
            found.add(int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid)
        except KeyError:
            raise ConfigError(f'users: there is no user "{name}" on this host') from None
    return frozenset(found)


def group_id(name: str) -> int:
    """The gid of a group's name or number.  Raises ``ConfigError``."""
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f'group: there is no group "{name}" on this host') from None


def start_time(pid: int) -> int:
    """When the process started, in clock ticks since boot.  Raises ``ProcessLookupError``."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        raise ProcessLookupError(f"process {pid} has gone") from None
    # The name may contain anything, brackets too: fields are counted from behind it.
    return int(text.rpartition(")")[2].split()[19])


class Peer:
    """The process at the other end of a connection.  Owns a pidfd; ``close`` it."""

    def __init__(self, pid: int, uid: int, pidfd: int) -> None:
        self.pid = pid
        self.uid = uid
        self.pidfd = pidfd
        self.start_time = 0
        self.program = ""
        if pid > 0:
            self.start_time = start_time(pid)
            self.program = _program(pid)

    @classmethod
    def of(cls, connection: socket.socket) -> Self:
        """Raises ``ProcessLookupError`` if it has ended, ``HostError`` if it can't be known."""
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CRED.size)
        pid, uid, _gid = _CRED.unpack(raw)
        if pid <= 0:
            raise HostError(
                "its process is in another PID namespace: run the manager where it can see the "
                "VMM's processes"
            )
        pidfd = _pidfd(connection, pid)
        try:
            return cls(pid, uid, pidfd)
        except BaseException:
            os.close(pidfd)
            raise

    @classmethod
    def of_process(cls, pid: int, uid: int, started: int) -> Self:
        """A process that is known from before.  Raises ``ProcessLookupError`` if it is not that."""
        pidfd = os.pidfd_open(pid)
        try:
            found = cls(pid, uid, pidfd)
            if found.start_time != started:
                raise ProcessLookupError(f"process {pid} is another one now")
            return found
        except BaseException:
            os.close(pidfd)
            raise

    @property
    def is_alive(self) -> bool:
        """False once the process has ended, reaped or not."""
        if self.pidfd < 0:
            return False
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return not poll.poll(0)

    @property
    def name(self) -> str:
        """What this process is called here: program and pid."""
        return f"{self.program or 'vm'}-{self.pid}"

    def close(self) -> None:
        """Let go of the process.  Idempotent."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def _pidfd(connection: socket.socket, pid: int) -> int:
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, 4)
    except OSError as error:
        if error.errno == errno.ENOPROTOOPT:
            return os.pidfd_open(pid)  # before Linux 6.5
        raise ProcessLookupError(f"process {pid} has gone") from None
    pidfd = int(struct.unpack("i", raw)[0])
    os.set_inheritable(pidfd, False)
    return pidfd


def _program(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text.strip())
