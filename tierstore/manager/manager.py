# SPDX-License-Identifier: Apache-2.0
"""The manager: sockets, connections and VMs around one engine.

Everything about connections happens on the loop's thread.  What may block (taking a VM over, adding
to it, letting it go) happens on workers, and its outcome is posted back.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tierstore.engine import Engine
from tierstore.errors import ConfigError, RegionGone, TierstoreError, UsageError
from tierstore.manager.bounds import CONNECTIONS_MAX, CONNECTIONS_PER_PID_MAX, WORKERS
from tierstore.manager.config import ServeConfig
from tierstore.manager.connection import Connection
from tierstore.manager.cycle import build_policy
from tierstore.manager.listener import Listener
from tierstore.manager.loop import Loop
from tierstore.manager.peer import Peer, group_id, user_ids
from tierstore.manager.protocol import Added, Handoff, Message, protocol_names
from tierstore.manager.share import FairShare, holding
from tierstore.manager.vm import Vm, VmOptions

__all__ = ["Manager"]

logger = logging.getLogger("tierstore.manager")

PAST_MAX = 64
"""So many VMs that have left are remembered, for whoever asks what became of one."""


class Manager:
    """Serves VMs with an engine that the caller opened, and closes afterwards.

    Constructing one opens the sockets; ``run`` serves until ``stop``; ``close`` ends it.  ``vms``
    and ``release`` may be called from any thread.
    """

    def __init__(
        self, config: ServeConfig, engine: Engine, *, is_persistent: bool = False
    ) -> None:
        self.config = config
        self.engine = engine
        self.is_persistent = is_persistent
        settings = config.manager
        if not settings.listen:
            raise ConfigError("no socket to listen on: say --listen PATH")
        self._users = user_ids(settings.users) or frozenset({os.geteuid(), 0})
        self._check_policies()
        self._lock = threading.Lock()  # guards _vms; never held while an engine is asked
        self._vms: dict[int, Vm] = {}
        self._arriving: set[int] = set()
        self._connections: set[Connection] = set()
        self._leaving: set[threading.Thread] = set()
        self._past: deque[dict[str, Any]] = deque(maxlen=PAST_MAX)
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="tierstore-hand")
        self.loop = Loop()
        group = None if settings.group is None else group_id(settings.group)
        self._listeners: list[Listener] = []
        try:
            for path in settings.listen:
                self._listeners.append(Listener(path, mode=settings.mode, group=group))
        except BaseException:
            self.close()
            raise
        for listener in self._listeners:
            self._watch(listener)

    def _check_policies(self) -> None:
        """A wrong name is told at the start, not when the first VM comes."""
        share = FairShare(dict, 100)
        for entry in self.config.vm:
            build_policy(entry.region("check"), self.config.engine.interval, share)

    def _watch(self, listener: Listener) -> None:
        self.loop.watch(listener.socket.fileno(), lambda: self._on_accept(listener))
        logger.info("listening on %s for %s", listener.path, ", ".join(protocol_names()))

    def run(self) -> None:
        """Serve until ``stop``."""
        self.loop.run()

    def stop(self) -> None:
        """Let ``run`` return.  From any thread, and from signal handlers."""
        self.loop.stop()

    # ---- Connections: the loop's thread -------------------------------------------------

    def _on_accept(self, listener: Listener) -> None:
        try:
            connected, _ = listener.socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            # Out of descriptors, most likely: wait, or this is asked again at once, for ever.
            logger.error("%s: %s", listener.path, error.strerror or error)
            self.loop.forget(listener.socket.fileno())
            self.loop.after(1.0, lambda: self._watch(listener))
            return
        try:
            self._admit(connected, listener.path)
        except (TierstoreError, OSError) as error:
            logger.error("%s: a connection was refused: %s", listener.path, error)
            connected.close()

    def _admit(self, connected: socket.socket, path: Path) -> None:
        peer = Peer.of(connected)
        try:
            if peer.uid not in self._users:
                users = ", ".join(str(uid) for uid in sorted(self._users))
                raise UsageError(
                    f"process {peer.pid} is of user {peer.uid}, and only VMMs of the users "
                    f"{users} are served: see --users"
                )
            same = sum(each.peer.pid == peer.pid for each in self._connections)
            if same >= CONNECTIONS_PER_PID_MAX or len(self._connections) >= CONNECTIONS_MAX:
                raise UsageError(f"process {peer.pid}: too many connections")
        except BaseException:
            peer.close()
            raise
        self._connections.add(
            Connection(
                self.loop, connected, peer, path, deliver=self._on_message, left=self._on_left
            )
        )

    def _on_left(self, connection: Connection) -> None:
        self._connections.discard(connection)
        vm = self._vm_of(connection)
        if vm is not None:
            vm.is_connected = False
            if vm.state == "serving" and vm.peer.is_alive:
                logger.warning("%s: hung up, and lives: it is served as before", vm)
        if connection.peer.pid not in self._arriving and (
            vm is None or vm.peer is not connection.peer
        ):
            connection.peer.close()

    def _vm_of(self, connection: Connection) -> Vm | None:
        with self._lock:
            return self._vms.get(connection.peer.pid)

    def _on_message(self, connection: Connection, message: Message) -> None:
        if isinstance(message, Added):
            self._on_added(connection, message)
            return
        fds = connection.take_fds()
        vm = self._vm_of(connection)
        try:
            if vm is not None:
                self._hand_over_again(connection, vm, message, fds)
                return
            if connection.peer.pid in self._arriving:
                raise UsageError("it is being handed over on another connection")
            self._hand_over(connection, message, fds)
            fds = []
        except TierstoreError as error:
            connection.refuse(str(error))
        finally:
            for fd in fds:
                os.close(fd)

    def _hand_over(self, connection: Connection, message: Handoff, fds: list[int]) -> None:
        peer = connection.peer
        config = self.config.vm_for(peer.name, str(connection.path), peer.pid)
        if message.is_snapshot and config.snapshot is None:
            raise UsageError(
                "it restores a snapshot, and which is not known here: import its memory file "
                "(`tierstore import FILE --name X`), and say --snapshot X"
            )
        manager = self.config.manager
        options = VmOptions(
            config=config,
            share=FairShare(self._weights, manager.share_above),
            hot_add_bytes=manager.hot_add,
            is_persistent=self.is_persistent,
        )
        vm = Vm(peer, connection.path, message, fds[0], options)
        self._arriving.add(peer.pid)
        self._workers.submit(self._start, connection, vm, fds[1:])

    def _hand_over_again(
        self, connection: Connection, vm: Vm, message: Handoff, fds: list[int]
    ) -> None:
        if vm.is_connected:
            raise UsageError("this VM is served already, and its connection is open")
        if not vm.is_same(message, fds[0]):
            raise UsageError(
                "this VM is served already, with another userfaultfd or other memory: release "
                f"it first (`tierstore release {vm}`)"
            )
        logger.info("%s: is back on %s", vm, connection.path)
        vm.is_connected = True
        connection.peer.close()
        connection.peer = vm.peer
        connection.proceed()

    def _on_added(self, connection: Connection, message: Added) -> None:
        vm = self._vm_of(connection)
        fds = connection.take_fds()
        if vm is None:
            connection.refuse("memory was plugged into a VM that is not served")
            for fd in fds:
                os.close(fd)
            return
        self._workers.submit(self._add, connection, vm, message, fds)

    # ---- Workers ------------------------------------------------------------------------

    def _start(self, connection: Connection, vm: Vm, memfds: list[int]) -> None:
        failure = self._attempt(lambda: vm.start(self.engine, memfds), memfds)
        self.loop.post(lambda: self._on_started(connection, vm, failure))

    def _add(self, connection: Connection, vm: Vm, message: Added, memfds: list[int]) -> None:
        failure = self._attempt(lambda: vm.add(message.piece, memfds), memfds)
        self.loop.post(lambda: self._on_done(connection, failure))

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

    def _on_done(self, connection: Connection, failure: str | None) -> None:
        if failure is None:
            connection.proceed()
        elif connection.is_open:
            connection.refuse(failure)
        else:
            logger.error("%s: refused: %s", connection, failure)

    def _on_started(self, connection: Connection, vm: Vm, failure: str | None) -> None:
        self._arriving.discard(vm.peer.pid)
        if failure is not None:
            was_open = connection.is_open
            self._on_done(connection, failure)
            self._leave(vm, vm.end, is_served=False)
            if not was_open:
                vm.peer.close()
            return
        with self._lock:
            self._vms[vm.peer.pid] = vm
        vm.is_connected = connection.is_open
        self.loop.watch(vm.peer.pidfd, lambda: self._on_exit(vm))
        connection.proceed()

    # ---- The end of a VM ----------------------------------------------------------------

    def _on_exit(self, vm: Vm) -> None:
        self.loop.forget(vm.peer.pidfd)
        logger.info("%s: has ended; what is stored of it is freed", vm)
        self._leave(vm, vm.end)

    def _leave(
        self, vm: Vm, how: Callable[[], None], *, is_served: bool = True
    ) -> threading.Thread:
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
            self.loop.post(lambda: self._on_gone(vm, thread))

        thread = threading.Thread(target=leave, name=f"tierstore-leave-{vm}", daemon=True)
        self._leaving.add(thread)
        thread.start()
        return thread

    def _on_gone(self, vm: Vm, thread: threading.Thread) -> None:
        self._leaving.discard(thread)
        with self._lock:
            if self._vms.get(vm.peer.pid) is not vm:
                return
            del self._vms[vm.peer.pid]
        self.loop.forget(vm.peer.pidfd)
        for connection in list(self._connections):
            if connection.peer is vm.peer:
                connection.close()
        vm.peer.close()

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
        weights = self._weights()
        for report in reports:
            held = holding(report["name"], statistics, weights)
            report["stored_bytes"] = held.held_bytes
            report["share_bytes"] = held.share_bytes
        return reports

    def past(self) -> list[dict[str, Any]]:
        """What became of the VMs that were served before, the last ones last."""
        return list(self._past)

    # ---- The end ------------------------------------------------------------------------

    def begin_drain(self) -> None:
        """Take nobody on any more and release every VM; ``still_draining`` says who is left.

        After ``run`` has returned; ``loop.step`` must be called until nobody is.  With a state
        folder VMs are left as they are.
        """
        self._close_listeners()
        # Those that are being handed over come to an end first, one way or the other.
        self._workers.shutdown(wait=True)
        self.loop.step(timeout_s=0.0)
        with self._lock:
            vms = list(self._vms.values())
        for vm in vms:
            if vm.state == "serving":
                self._leave(vm, vm.leave if self.is_persistent else vm.release)

    def still_draining(self) -> list[str]:
        """The names of VMs that are not let go of yet."""
        with self._lock:
            return [vm.name for vm in self._vms.values()]

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            self.loop.forget(listener.socket.fileno())
            listener.close()
        self._listeners.clear()

    def close(self) -> None:
        """Hang up everywhere and remove the sockets.  VMs that were not released stay waiting."""
        self._close_listeners()
        for connection in list(self._connections):
            connection.close()
        self._workers.shutdown(wait=True)
        with self._lock:
            self._vms.clear()
        self.loop.close()
