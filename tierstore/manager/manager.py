# SPDX-License-Identifier: Apache-2.0
"""The manager: sockets, connections and VMs around one engine.

Everything about connections happens on the loop's thread.  What may block (taking a VM over, adding
to it, letting it go) happens on workers, and its outcome is posted back.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tierstore.engine import Engine
from tierstore.errors import RegionGone, TierstoreError, UsageError
from tierstore.images import forget_orphan, list_images, list_orphans
from tierstore.manager.bounds import WORKERS
from tierstore.manager.config import ServeConfig
from tierstore.manager.connection import Connection
from tierstore.manager.cycle import SharedTrainer, build_policy
from tierstore.manager.importer import Importer
from tierstore.manager.loop import Loop
from tierstore.manager.peer import Peer
from tierstore.manager.protocol import Added, Handoff, Message
from tierstore.manager.reception import Reception
from tierstore.manager.share import FairShare
from tierstore.manager.succession import Succession
from tierstore.manager.vm import Vm, VmOptions

__all__ = ["Manager"]

logger = logging.getLogger("tierstore.manager")

HANG_UP_S = 0.5
PAST_MAX = 64
"""So many VMs that have left are remembered, for whoever asks what became of one."""


class Manager:
    """Serves VMs with an engine that the caller opened, and closes afterwards.

    Constructing one opens the sockets; ``run`` serves until ``stop``; ``close`` ends it.  ``vms``
    and ``release`` may be called from any thread.
    """

    def __init__(self, config: ServeConfig, engine: Engine) -> None:
        self.config = config
        self.engine = engine
        self._check_policies()
        self._lock = threading.Lock()  # guards _vms; never held while an engine is asked
        self._vms: dict[int, Vm] = {}
        self._arriving: set[int] = set()
        self._returning: dict[int, list[tuple[Connection, Message, list[int]]]] = {}
        self._past: deque[dict[str, Any]] = deque(maxlen=PAST_MAX)
        self._is_ending = False
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="tierstore-hand")
        self._trainer = SharedTrainer(engine)
        self._share = FairShare(self._weights, config.manager.share_above)
        self.importer = Importer(engine)
        state = config.manager.state
        self._succession = Succession(state) if state is not None else None
        self.loop = Loop()
        try:
            self._reception = Reception(
                config.manager, self.loop, deliver=self._on_message, left=self._on_left
            )
        except BaseException:
            self._workers.shutdown()
            self.loop.close()
            raise
        self._take_back()
        self._look_for_snapshots()
        self._reception.listen()

    def _check_policies(self) -> None:
        """A wrong name is told at the start, not when the first VM comes."""
        share = FairShare(dict, 100)
        for entry in self.config.vm:
            build_policy(entry.region("check"), self.config.engine.interval, share)

    def _look_for_snapshots(self) -> None:
        """One that is not there may yet be imported, or be a slip of the pen."""
        known = {image.name for image in list_images(self.engine)}
        for name in sorted({entry.snapshot for entry in self.config.vm if entry.snapshot} - known):
            logger.warning(
                "no snapshot %s is in the tiers: a VM that begins as it is refused until "
                "`tierstore import FILE --name %s` has been here", name, name
            )  # fmt: skip

    def run(self) -> None:
        """Serve until ``stop``."""
        self.loop.run()

    def stop(self) -> None:
        """Let ``run`` return.  From any thread, and from signal handlers."""
        self.loop.stop()

    # ---- VMs come: the loop's thread ----------------------------------------------------

    def _vm_of(self, pid: int) -> Vm | None:
        with self._lock:
            return self._vms.get(pid)

    def _on_left(self, connection: Connection) -> None:
        peer = connection.peer
        vm = self._vm_of(peer.pid)
        if vm is not None and vm.peer is peer:
            vm.is_connected = False
            # A process that ends hangs up a moment before.
            self.loop.after(HANG_UP_S, lambda: self._on_hung_up(vm))
        elif peer.pid not in self._arriving:
            peer.close()

    def _on_hung_up(self, vm: Vm) -> None:
        if vm.state == "serving" and not vm.is_connected and vm.peer.is_alive:
            logger.warning("%s: hung up, and lives: it is served as before", vm)

    def _on_message(self, connection: Connection, message: Message) -> None:
        self._obey(connection, message, connection.take_fds())

    def _obey(self, connection: Connection, message: Message, fds: list[int]) -> None:
        try:
            if self._is_ending:
                raise UsageError("the manager ends")
            if isinstance(message, Added):
                self._plug(connection, message, fds)
            else:
                self._hand_over(connection, message, fds)
            fds = []
        except TierstoreError as error:
            connection.refuse(str(error))
        finally:
            for fd in fds:
                os.close(fd)

    def _plug(self, connection: Connection, message: Added, fds: list[int]) -> None:
        vm = self._vm_of(connection.peer.pid)
        if vm is None:
            raise UsageError("memory was plugged into a VM that is not served")
        self._workers.submit(self._add, connection, vm, message, fds)

    def _hand_over(self, connection: Connection, message: Handoff, fds: list[int]) -> None:
        peer = connection.peer
        vm = self._vm_of(peer.pid)
        if vm is not None:
            self._hand_over_again(connection, vm, message, fds[0])
            for fd in fds:
                os.close(fd)
            return
        if peer.pid in self._returning:
            logger.info("%s: is being taken back, and is answered then", peer.name)
            self._returning[peer.pid].append((connection, message, fds))
            return
        if peer.pid in self._arriving:
            raise UsageError("it is being handed over on another connection")
        if self._succession is not None:
            pieces = self._succession.in_order(peer, message.pieces)
            message = dataclasses.replace(message, pieces=pieces)
        vm = Vm(peer, connection.path, message, fds[0], self._options(peer, connection.path))
        if message.is_snapshot and vm.options.config.snapshot is None:
            raise UsageError(
                "it restores a snapshot, and which is not known here: import its memory file "
                "(`tierstore import FILE --name X`), and say --snapshot X"
            )
        self._arriving.add(peer.pid)
        self._workers.submit(self._start, connection, vm, fds[1:])

    def _options(self, peer: Peer, path: Path) -> VmOptions:
        manager = self.config.manager
        return VmOptions(
            config=self.config.vm_for(peer.name, str(path), peer.pid),
            share=self._share,
            trainer=self._trainer,
            restored=self._on_restored,
            hot_add_bytes=manager.hot_add,
            restore_bytes_per_s=manager.restore_rate,
            state=manager.state,
        )

    def _hand_over_again(self, connection: Connection, vm: Vm, message: Handoff, uffd: int) -> None:
        if vm.is_connected:
            raise UsageError("this VM is served already, and its connection is open")
        if not vm.is_same(message, uffd):
            raise UsageError(
                "this VM is served already, with another userfaultfd or other memory: release "
                f"it first (`tierstore release {vm}`)"
            )
        logger.info("%s: is back on %s", vm, connection.path)
        vm.is_connected = True
        connection.peer.close()
        connection.peer = vm.peer
        connection.proceed()

    def _take_back(self) -> None:
        """The VMs of the manager before this one, as far as they can be had without asking."""
        if self._succession is None:
            return
        for peer, record, uffd in self._succession.heirs():
            vm = Vm(peer, Path(record.socket), record.handoff(), uffd,
                    self._options(peer, Path(record.socket)))  # fmt: skip
            self._arriving.add(peer.pid)
            self._returning[peer.pid] = []
            self._workers.submit(self._start, None, vm, [])
        orphans = {orphan.name for orphan in list_orphans(self.engine)}
        for name in orphans.intersection(self._succession.gone):
            try:
                forget_orphan(self.engine, name)
            except TierstoreError as error:
                logger.warning("%s: what is stored of it stays: %s", name, error)

    # ---- Workers ------------------------------------------------------------------------

    def _start(self, connection: Connection | None, vm: Vm, memfds: list[int]) -> None:
        failure = self._attempt(lambda: vm.start(self.engine, memfds), memfds)
        self.loop.post(lambda: self._on_started(connection, vm, failure))

    def _add(self, connection: Connection, vm: Vm, message: Added, memfds: list[int]) -> None:
        failure = self._attempt(lambda: vm.add(message.piece, memfds), memfds)
        self.loop.post(lambda: self._on_done(connection, vm, failure))

    def _attempt(self, what: Callable[[], None], fds: list[int]) -> str | None:
        """Why it failed, or ``None``."""
        try:
            what()
        except (TierstoreError, OSError) as error:
            return str(error)
        except Exception as error:
            logger.exception("a bug of ours")
            return f"internal error: {type(error).__name__}"
        finally:
            for fd in fds:
                os.close(fd)
        return None

    def _on_done(self, connection: Connection | None, vm: Vm, failure: str | None) -> None:
        if failure is None:
            self._write_down()
            if connection is not None:
                connection.proceed()
        elif connection is not None and connection.is_open:
            connection.refuse(failure)
        else:
            logger.error("%s: refused: %s", vm, failure)

    def _on_started(self, connection: Connection | None, vm: Vm, failure: str | None) -> None:
        self._arriving.discard(vm.peer.pid)
        vm.is_connected = connection is not None and connection.is_open
        if failure is None:
            with self._lock:
                self._vms[vm.peer.pid] = vm
            self.loop.watch(vm.peer.pidfd, lambda: self._on_exit(vm))
        self._on_done(connection, vm, failure)
        if failure is not None:
            self._leave(vm, vm.end, is_served=False)
            if not vm.is_connected:
                vm.peer.close()
        elif vm.state not in ("serving", "releasing"):
            self._on_gone(vm)  # it had all its memory at once, and was let go of before this
        for waiting in self._returning.pop(vm.peer.pid, []):
            self._obey(*waiting)

    def _on_restored(self, vm: Vm) -> None:
        """On a thread of the VM's: its memory is all there, and it needs us no more."""
        logger.info("%s: all of its snapshot's memory is there", vm)
        if vm.options.config.when_restored == "release" and vm.state == "serving":
            self._leave(vm, vm.release)

    # ---- The end of a VM ----------------------------------------------------------------

    def _on_exit(self, vm: Vm) -> None:
        self.loop.forget(vm.peer.pidfd)
        logger.info("%s: has ended; what is stored of it is freed", vm)
        self._leave(vm, vm.end)

    def _leave(self, vm: Vm, how: Callable[[], None], *, is_served: bool = True) -> None:
        """On a thread of its own: what takes long for one VM holds up no other."""

        def leave() -> None:
            started_s = time.monotonic()
            failure = ""
            try:
                how()
            except RegionGone:
                pass
            except TierstoreError as error:
                failure = str(error)
                logger.error("%s: %s", vm, error)
            except Exception as error:
                failure = f"internal error: {type(error).__name__}"
                logger.exception("%s: a bug of ours", vm)
            if is_served:
                took_s = time.monotonic() - started_s
                logger.info("%s: %s, which took %.1f s", vm, vm.state, took_s)
                self._past.append({"name": vm.name, "state": vm.state, "error": failure})
            self.loop.post(lambda: self._on_gone(vm))

        threading.Thread(target=leave, name=f"tierstore-leave-{vm}", daemon=True).start()

    def _on_gone(self, vm: Vm) -> None:
        with self._lock:
            if self._vms.get(vm.peer.pid) is not vm:
                return
            del self._vms[vm.peer.pid]
        if vm.state != "left":
            self._write_down()
        self.loop.forget(vm.peer.pidfd)
        self._reception.hang_up(vm.peer)
        vm.peer.close()

    def _write_down(self) -> None:
        """Who is served, for the manager after this one."""
        if self._succession is not None:
            with self._lock:
                vms = list(self._vms.values())
            self._succession.save([vm.record() for vm in vms])

    def find(self, key: str) -> Vm:
        """A VM by pid or name.  Raises ``UsageError`` that lists the choices."""
        with self._lock:
            vms = list(self._vms.values())
        for vm in vms:
            if key in (vm.name, str(vm.peer.pid)):
                return vm
        names = ", ".join(vm.name for vm in vms) or "none"
        raise UsageError(f'no VM "{key}" is served here; there are: {names}')

    def release(self, key: str) -> str:
        """Begin to bring a VM back and let go of it; its name.  ``vms`` says how far it is."""
        vm = self.find(key)
        if vm.state != "serving":
            raise UsageError(f"{vm} is {vm.state}")
        logger.info("%s: is released", vm)
        self._leave(vm, vm.release)
        return vm.name

    # ---- What there is to say -----------------------------------------------------------

    def _weights(self) -> dict[str, float]:
        with self._lock:
            return {vm.name: vm.options.config.weight for vm in self._vms.values()}

    def vms(self) -> list[dict[str, Any]]:
        """One report a VM, oldest first."""
        with self._lock:
            vms = sorted(self._vms.values(), key=lambda vm: vm.since_s)
        reports = [vm.report() for vm in vms]
        statistics = self.engine.statistics()
        names = [tier.name for tier in statistics.tiers]
        by_tier = {r.name: dict(zip(names, r.held_bytes, strict=False)) for r in statistics.regions}
        for report in reports:
            held = self._share.holding(report["name"], statistics)
            report |= {"stored_bytes": held.held_bytes, "share_bytes": held.share_bytes}
            report["stored_by_tier"] = by_tier.get(report["name"], {})
        return reports

    def past(self) -> list[dict[str, Any]]:
        """What became of the VMs that were served before, the last ones last."""
        return list(self._past)

    # ---- The end ------------------------------------------------------------------------

    def begin_drain(self) -> None:
        """Take nobody on any more and release every VM; ``still_draining`` says who is left.

        After ``run`` has returned; ``loop.step`` must be called until nobody is.  VMs that the
        state folder knows are left as they are.
        """
        self._is_ending = True
        self._reception.stop_listening()
        # Those that are being handed over come to an end first, one way or the other.
        self._workers.shutdown(wait=True)
        self.loop.step(timeout_s=0.0)
        with self._lock:
            vms = list(self._vms.values())
        for vm in vms:
            if vm.state == "serving":
                self._leave(vm, vm.leave if vm.is_persistent else vm.release)

    def still_draining(self) -> list[str]:
        """The names of VMs that are not let go of yet."""
        with self._lock:
            return [vm.name for vm in self._vms.values()]

    def close(self) -> None:
        """Hang up everywhere and remove the sockets.  VMs that were not released stay waiting."""
        self._reception.close()
        self._workers.shutdown(wait=True)
        self._trainer.close()
        self.importer.close()
        with self._lock:
            self._vms.clear()
        self.loop.close()
