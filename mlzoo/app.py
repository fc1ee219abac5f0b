"""The sidecar, wired: every actor and every channel between them on one screen.

``serve`` is the whole life of the process: it takes up the log, listens to its host at once, brings up the actors while
the first lines are answered already, and leaves when everything that was due has been said.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import trio

import mlzoo
from mlzoo.actors.connection import Connection
from mlzoo.actors.flushing import FLUSH_S, Flushing
from mlzoo.actors.handler import Handler
from mlzoo.actors.hub import Hub
from mlzoo.actors.mailbox import Backpressure, Mailbox
from mlzoo.actors.outbox import Outbox
from mlzoo.actors.services import Services
from mlzoo.actors.unrecorded import Unrecorded
from mlzoo.config import load
from mlzoo.errors import ConfigError, LogUnusable, StorageFailed, Unsupported
from mlzoo.events.log import Log
from mlzoo.providers.opening import open_provider
from mlzoo.providers.secrets import Secrets
from mlzoo.transport.blocking import BlockingStream
from mlzoo.transport.stderr import StderrLog
from mlzoo.world import real_world

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from mlzoo.actors.messages import EngineMessage
    from mlzoo.actors.process import Spawn
    from mlzoo.actors.services import ProbeDevices
    from mlzoo.config import Config
    from mlzoo.devices import Device
    from mlzoo.providers.opening import Connect
    from mlzoo.transport.stdio import ClaimedStdio
    from mlzoo.transport.stream import ByteStream
    from mlzoo.world import World

EXIT_DONE, EXIT_BROKEN, EXIT_WRONG_USAGE, EXIT_STORAGE_FAILED = 0, 1, 2, 3
EXIT_PIPE_CLOSED = 141  # as shells have it
FIRST_LINE_S = 0.05  # that the first lines get to be answered before the rest of the house is imported
PROBE_S = 10.0  # that looking at the devices may take: a driver may hang
PROBES = 4  # threads that drivers may keep for themselves; those that sync the log are not among them
ENGINE_ORDERS = 1024
OWN_LOGS = 64  # sidecars of one user without --log that may run at once


def serve(
    claimed: ClaimedStdio,
    *,
    overrides: Sequence[str] = (),
    log: Path | None = None,
    parent_pid: int | None = None,
    socket: Path | None = None,
    config_dir: Path | None = None,
) -> int:
    """Run a sidecar on claimed stdio until its host is done with it; return the exit status.

    Raises:
        ConfigError: the configuration does not hold; nothing was started.
    """
    config = load(overrides, config_dir=config_dir)
    sidecar = Sidecar(config, real_world())
    return trio.run(partial(sidecar.run, claimed, log=log, parent_pid=parent_pid, socket=socket))


async def probe_devices(cpu_workers: int = 1) -> tuple[Device, ...]:
    """Look at the devices; in a thread, since drivers take their time, and one that hangs is left to itself."""
    from mlzoo import devices  # noqa: PLC0415 (not on the way to the first ping)

    with trio.move_on_after(PROBE_S):
        probe = partial(devices.probe, cpu_workers=cpu_workers)
        return await trio.to_thread.run_sync(probe, abandon_on_cancel=True, limiter=_PROBING)
    silent = f"its driver did not answer within {PROBE_S:.0f} s"
    return await trio.to_thread.run_sync(devices.without_drivers, silent, cpu_workers)


_PROBING = trio.CapacityLimiter(PROBES)


class Sidecar:
    """One life of the process.

    Args:
        config: how it is to work.
        world: clock, ids, seeds and disk.
        probe: looks at the devices; without it at the real ones.
        spawn: starts worker processes; without it the real ones.
        stderr: where it tells of itself; without it the process's stderr.
        connect: makes the provider of an entry; without it the real one.
    """

    def __init__(
        self,
        config: Config,
        world: World,
        *,
        probe: ProbeDevices | None = None,
        spawn: Spawn | None = None,
        stderr: StderrLog | None = None,
        connect: Connect = open_provider,
    ) -> None:
        self._config = config
        self._world = world
        self._probe = partial(probe_devices, config.devices.cpu_workers) if probe is None else probe
        self._spawn = spawn
        self._connect = connect
        self._jitter_seed = world.seeds.new()  # Before a host says anything: what is drawn later is for its requests.
        self._secrets = Secrets(os.environ, config.providers)
        self._engine: Mailbox[EngineMessage] = Mailbox("engine", Backpressure(ENGINE_ORDERS))
        self._stderr = StderrLog() if stderr is None else stderr
        self._leaving = trio.Event()
        late = partial(self._stderr.log, "warning", "host did not read", waited_s=FLUSH_S)
        self._flushing = Flushing(late, world.disk)
        self._status = EXIT_DONE
        self._services: Services

    async def run(self, claimed: ClaimedStdio, *, log: Path | None, parent_pid: int | None, socket: Path | None) -> int:
        """Live on the stdio of this process, under its signals and its parent's eyes."""
        stdio = BlockingStream(claimed.stdin_fd, claimed.stdout_fd)
        beside = [self._obey_signals]
        if parent_pid is not None:
            beside.append(partial(self._watch_parent, parent_pid))
        return await self.live(stdio, log=log, socket=socket, beside=beside, unwritten=lambda: stdio.failure)

    async def live(
        self,
        stdio: ByteStream,
        *,
        log: Path | None,
        socket: Path | None = None,
        beside: Sequence[Callable[[], Awaitable[None]]] = (),
        unwritten: Callable[[], OSError | None] = lambda: None,
    ) -> int:
        """Take up the log, listen, work, leave; what is ``beside`` runs for as long.

        ``unwritten`` says at the end why something that was due to the host could not be written, if so.
        """
        self._services = await self._open(log)
        async with trio.open_nursery() as nursery:
            host = self._connection(stdio)
            nursery.start_soon(self._serve_host, host)
            for task in beside:
                nursery.start_soon(task)
            if socket is not None:
                nursery.start_soon(self._serve_clients, socket)
            if self._services.unusable is None:
                nursery.start_soon(self._keep_durable)
                with trio.move_on_after(FIRST_LINE_S):
                    await host.heard.wait()
                await self._work()
            else:
                await self._leaving.wait()
            await self._flushing.run(self._services, host)
            nursery.cancel_scope.cancel()
        with trio.move_on_after(FLUSH_S):
            await stdio.aclose()  # Cancelled, it closes at once.
        if self._services.unusable is None and self._services.log.failed is None:
            try:
                await self._services.log.close()
            except StorageFailed as error:
                self._stderr.log("error", "storage failed", message=error.message)
                self._status = EXIT_STORAGE_FAILED
        self._look_at_what_is_unwritten(unwritten())
        self._stderr.close()
        return self._status

    def _look_at_what_is_unwritten(self, failure: OSError | None) -> None:
        """A host that was due an answer and did not get it has not been served well."""
        if failure is not None and self._status == EXIT_DONE:
            self._stderr.log("error", "stdout cannot be written", message=failure.strerror or str(failure))
            self._status = EXIT_PIPE_CLOSED if isinstance(failure, BrokenPipeError) else EXIT_STORAGE_FAILED

    # ---------------------------------------------------------------------------------------- start

    async def _open(self, path: Path | None) -> Services:
        """Open the log, or find out why it cannot be used; both make a sidecar that answers."""
        unusable: LogUnusable | None = None
        try:
            log = await (self._open_own() if path is None else self._open_at(path))
        except LogUnusable as error:
            unusable = error
            log = cast("Log", Unrecorded())
            self._stderr.log("error", "log unusable", message=error.message, **error.data)
        else:
            for repair in log.repaired:
                self._stderr.log("warning", "log repaired", message=repair)
        return Services(
            config=self._config,
            world=self._world,
            log=log,
            hub=Hub(log),
            engine=self._engine,
            probe=self._probe,
            report=self._incident,
            leave=self._leaving.set,
            pid=self._world.pid,
            secrets=self._secrets,
            started_ms=self._world.clock.awake_ms(),
            unusable=unusable,
        )

    async def _open_at(self, path: Path) -> Log:
        return await Log.open(path, self._world, self._config.log, version=mlzoo.__version__)

    async def _open_own(self) -> Log:
        """Open the first of this user's own logs that no other sidecar holds."""
        import platformdirs  # noqa: PLC0415 (not needed where the host names a log)

        state = Path(platformdirs.user_state_dir("mlzoo"))
        for number in range(1, OWN_LOGS):
            try:
                return await self._open_at(state / f"log-{number}")
            except LogUnusable as error:
                if error.data.get("reason") != "locked":
                    raise
        return await self._open_at(state / f"log-{OWN_LOGS}")

    async def _work(self) -> None:
        """Recover the state, run the actors, and stop them once everything has ended."""
        from random import Random  # noqa: PLC0415 (as the next)

        from mlzoo.wiring import build  # noqa: PLC0415 (the first line is answered before all this is imported)

        try:
            supervisor = await build(
                self._services,
                self._engine,
                observe=self._stderr.log,
                jitter=Random(self._jitter_seed),  # noqa: S311 (no secret)
                spawn=self._spawn,
                connect=self._connect,
            )
        except LogUnusable as error:
            self._refuse_from_now_on(error)
            await self._leaving.wait()
            return
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(supervisor.run)
                self._services.actors = supervisor.snapshot
                await self._leaving.wait()
                supervisor.stop()
        except* Exception as group:  # noqa: BLE001 (what no supervisor could mend: the process leaves and says so)
            self._incident("".join(traceback.format_exception(group)))
            if self._status == EXIT_DONE:
                self._status = EXIT_BROKEN

    def _refuse_from_now_on(self, error: LogUnusable) -> None:
        """Say 1015 to those who wait already; if one of them had asked for the end, this is it."""
        from mlzoo.actors.messages import Order  # noqa: PLC0415 (as above)
        from mlzoo.events.commands import Shutdown  # noqa: PLC0415

        self._services.refuse(error)
        self._stderr.log("error", "log unusable", message=error.message, **error.data)
        for connection in self._services.connections.values():
            connection.outbox.fail(error.failure())
        while isinstance(order := self._engine.take({}), Order):
            if isinstance(order.command, Shutdown):
                self._leaving.set()

    # ---------------------------------------------------------------------------------------- hosts

    def _connection(self, stream: ByteStream) -> Connection:
        services = self._services
        name = self._world.ids.new("con")
        limit_bytes = self._config.limits.line_bytes
        handler = Handler(services)
        outbox = Outbox(name, stream, services.log, services.hub, lambda a: handler.again(connection, a), limit_bytes)
        connection = Connection(name, stream, outbox, handler, services)
        services.connections[name] = connection
        return connection

    async def _serve_host(self, connection: Connection) -> None:
        """Serve the host that spawned this process; its end is the end of the process."""

        async def ended() -> None:
            self._flushing.be_patient()
            with trio.move_on_after(self._config.limits.drain_s):
                await connection.none_slow()  # What was asked before the end may still have something to decide.
            await self._shut_down("eof")

        try:
            await connection.run(on_eof=ended)
        finally:
            del self._services.connections[connection.name]
        await self._shut_down("eof")

    async def _serve_clients(self, path: Path) -> None:
        from mlzoo.transport.socket import serve_socket  # noqa: PLC0415 (only a service needs it)

        try:
            await serve_socket(path, self._serve_client)
        except (ConfigError, Unsupported) as error:
            self._stderr.log("error", "no socket", message=error.message)
            self._status = EXIT_WRONG_USAGE
            self._leaving.set()

    async def _serve_client(self, stream: ByteStream) -> None:
        """Serve one of several clients; its end is the end of what it asked for."""
        from mlzoo.actors.messages import Order  # noqa: PLC0415 (as above)
        from mlzoo.events.commands import HostGone  # noqa: PLC0415

        connection = self._connection(stream)

        async def gone() -> None:
            if self._services.unusable is None:
                await self._engine.tell(Order(HostGone(connection=connection.name)))

        try:
            await connection.run(on_eof=gone)
        finally:
            del self._services.connections[connection.name]
        await gone()  # Where the stream broke, instead of ending, nobody has said so yet.

    async def _shut_down(self, reason: Literal["eof", "signal", "parent"]) -> None:
        """Have the engine finish what runs; it says when that is done."""
        from mlzoo.actors.messages import Order  # noqa: PLC0415 (as above)
        from mlzoo.events.commands import Shutdown  # noqa: PLC0415

        if self._services.unusable is not None:
            self._leaving.set()
            return
        await self._engine.tell(Order(Shutdown(request=self._world.ids.new("req"), caller=None, reason=reason)))

    # ---------------------------------------------------------------------------------------- the world outside

    async def _keep_durable(self) -> None:
        """Run the log's flusher; when the disk fails, tell everybody who waits, and leave with status 3."""
        log = self._services.log
        failed = trio.Event()
        log.on_progress.append(lambda: failed.set() if log.failed is not None else None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._flush_log)
            await failed.wait()
            nursery.cancel_scope.cancel()
        failure = log.failed
        assert failure is not None
        self._stderr.log("error", "storage failed", message=failure.message)
        self._status = EXIT_STORAGE_FAILED
        for connection in self._services.connections.values():
            connection.outbox.fail(failure.failure())
        self._leaving.set()

    async def _flush_log(self) -> None:
        try:
            await self._services.log.run_flusher()
        except StorageFailed:
            return  # ``_keep_durable`` has heard of it.

    async def _obey_signals(self) -> None:
        """A first SIGTERM, SIGINT or SIGHUP lets what runs finish; a second one does not wait for it."""
        kinds = [signal.SIGTERM, signal.SIGINT]
        if sys.platform == "win32":
            kinds.append(signal.SIGBREAK)
        else:
            # Ignored, as under nohup: then a closed terminal is no end.
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                kinds.append(signal.SIGHUP)
            signal.pthread_sigmask(
                signal.SIG_UNBLOCK, kinds
            )  # A parent may have blocked them, and so for its children.
        with trio.open_signal_receiver(*kinds) as signals:
            async for _ in signals:
                self._flushing.hurry()
                if self._services.unusable is not None or self._leaving.is_set():
                    break
                await self._shut_down("signal")
                async for _again in signals:
                    self._flushing.insist()
                    break
                break
        self._leaving.set()

    async def _watch_parent(self, pid: int) -> None:
        from mlzoo.actors.parent import wait_for_end  # noqa: PLC0415 (as above)

        await wait_for_end(pid)
        self._flushing.hurry()
        await self._shut_down("parent")

    def _incident(self, story: str, number: int | None = None) -> None:
        numbered = {} if number is None else {"incident": number}
        self._stderr.log("error", "incident", **numbered, traceback=story)
