# SPDX-License-Identifier: Apache-2.0
"""From one manager to the next: who was served, and whose userfaultfd can be had again.

The VMs of the manager before wait, at their next missing page.  Those that live on are taken back
at once where the kernel lets us have their userfaultfd (``pidfd_getfd``, which wants the right to
trace them); the others come back with their own message, where their protocol has one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from tierstore.manager.peer import Peer
from tierstore.manager.protocol import Piece
from tierstore.manager.state import StateFile, VmRecord, take_userfaultfd

__all__ = ["Succession"]

logger = logging.getLogger("tierstore.manager")


class Succession:
    """The state folder's VMs: those of the manager before, and of this one.  One thread."""

    def __init__(self, folder: Path) -> None:
        self._file = StateFile(folder)
        self._before = {record.pid: record for record in self._file.load()}
        self.gone: list[str] = []
        """The names of those that ``heirs`` found to have ended."""

    def heirs(self) -> Iterator[tuple[Peer, VmRecord, int]]:
        """Processes that live on, with a userfaultfd of each; both are the caller's."""
        for record in list(self._before.values()):
            try:
                peer = Peer.of_process(record.pid, record.uid, record.start_time)
            except OSError:
                logger.info("%s: has ended since the last manager did", record.name)
                del self._before[record.pid]
                self.gone.append(record.name)
                continue
            if not record.is_persistent:
                logger.error("%s: waits for ever: its memory is private, and what the last manager "
                             "knew of it is lost; end it", record.name)  # fmt: skip
                peer.close()
                continue
            try:
                uffd = take_userfaultfd(peer.pid, peer.pidfd)
            except (OSError, LookupError) as error:
                peer.close()
                logger.warning("%s: waits, and can't be taken back (%s): it must hand itself over "
                               "again (vm.uffd-attach)", record.name, error)  # fmt: skip
                continue
            yield peer, record, uffd

    def in_order(self, peer: Peer, pieces: Iterable[Piece]) -> tuple[Piece, ...]:
        """A VM's memory in the order in which the manager before numbered it."""
        record = self._before.get(peer.pid)
        if record is None or record.start_time != peer.start_time:
            return tuple(pieces)
        return record.in_order(pieces)

    def save(self, served: Iterable[VmRecord]) -> None:
        """These are served; who has not come back is still expected."""
        now = {record.pid: record for record in served}
        waiting = [record for pid, record in self._before.items() if pid not in now]
        for pid in now:
            self._before.pop(pid, None)
        try:
            self._file.save([*now.values(), *waiting])
        except OSError as error:
            logger.error("%s: %s: a later manager won't know who was served",
                         self._file.path, error.strerror or error)  # fmt: skip
