"""The actors behind the connections, built: engine, registry, and a worker for each device, under one supervisor.

Apart from ``app`` so that a sidecar can answer its first line before any of this is imported.
"""

from __future__ import annotations

import hashlib
import platform
import traceback
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

import mlzoo
from mlzoo.actors.carrying import Carrier
from mlzoo.actors.engine import Engine, epoch_of
from mlzoo.actors.ephemeral import is_kept
from mlzoo.actors.keys import KeyFiler
from mlzoo.actors.ledger import Ledger, recover
from mlzoo.actors.mailbox import Mailbox, Refuse
from mlzoo.actors.messages import Send
from mlzoo.actors.metrics import Metrics
from mlzoo.actors.process import Spawner, SpawnWorker
from mlzoo.actors.progress import Progress
from mlzoo.actors.provider import ProviderActor
from mlzoo.actors.registry import PROBE_S, Registry
from mlzoo.actors.reports import Reports
from mlzoo.actors.specs import Backoff, ChildCrashed, ChildSpec, Intensity, SupervisorSpec
from mlzoo.actors.supervisor import Supervisor
from mlzoo.actors.watchdog import patience_of
from mlzoo.actors.worker import Incarnation, Worker, WorkerDied
from mlzoo.core.state import device_of
from mlzoo.events.commands import Bounds, Start
from mlzoo.events.identity import unwritable
from mlzoo.events.keys import KeyIndex
from mlzoo.events.records import CORE_VERSION
from mlzoo.frames import Forget
from mlzoo.providers.opening import open_provider

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from mlzoo.actors.messages import EngineMessage, RegistryMessage, WorkerMessage
    from mlzoo.actors.process import Spawn
    from mlzoo.actors.services import Services
    from mlzoo.actors.specs import SupervisorEvent
    from mlzoo.config import Config
    from mlzoo.config.schema import ProviderEntry
    from mlzoo.events.records import Group
    from mlzoo.providers.opening import Connect

# What the core lets in bounds what can be in these mailboxes at once: every request that runs may be dispatched and
# abandoned, every model placed, loaded and unloaded. They are never full; if one is, that is a bug, and it is loud.
REGISTRY_MESSAGES = 4096
WORKER_FRAMES = 16384
DAY_MS = 24 * 60 * 60 * 1000
QUEUED_BYTES = 256 * 1024 * 1024  # of text that requests in flight may hold


async def build(
    services: Services,
    engine: Mailbox[EngineMessage],
    *,
    observe: Callable[..., None],
    jitter: Random,
    spawn: Spawn | None = None,
    connect: Connect = open_provider,
) -> Supervisor:
    """Recover the state and return the supervisor of all actors, ready to run.

    Args:
        services: what connections share; completed here.
        engine: where orders go.
        observe: hears of crashes.
        jitter: draws how long is waited before something is tried again.
        spawn: starts worker processes; without it the real ones.
        connect: makes the provider of an entry.

    Raises:
        LogUnusable: the log is damaged where it was read just now.
    """
    config, log = services.config, services.log
    with trio.move_on_after(PROBE_S):  # Without devices there is a sidecar that can say so.
        services.devices = await services.probe()
    ledger = services.ledger = await _take_up(services, observe)
    registry: Mailbox[RegistryMessage] = Mailbox("registry", Refuse(REGISTRY_MESSAGES))
    providers = {device_of(name): entry for name, entry in config.providers.items()}
    names = [*(device.name for device in services.devices if device.usable), *providers]
    workers: dict[str, Mailbox[WorkerMessage]] = {name: Mailbox(name, Refuse(WORKER_FRAMES)) for name in names}
    services.metrics = Metrics()
    services.forget_in_workers = partial(_forget_in, workers, ledger)
    progress = Progress(ledger, services.world.clock, services.connections)
    spawn = spawn or _real_spawn(config)

    def make_engine() -> Engine:
        return Engine(
            ledger,
            registry=registry,
            workers=workers,
            show=partial(_show, services),
            leave=services.leave,
            report=services.report,
            free_bytes=partial(services.world.disk.free_bytes, log.path),
            reserve_bytes=config.limits.disk_reserve_bytes,
        )

    def make_registry() -> Registry:
        store, probe = services.store, services.probe
        return Registry(config=config, store=store, probe=probe, engine=engine, workers=workers, progress=progress)

    def make_worker(incarnation: Incarnation) -> Worker | ProviderActor:
        keeps, device = partial(is_kept, ledger), incarnation.device
        reports = Reports(device, engine=engine, log=log, keeps=keeps, progress=progress)
        if device in providers:
            return _make_provider(services, providers[device], connect, reports, jitter, incarnation)
        return Worker(incarnation, spawn=spawn, patience=patience_of(config.limits), log=log, reports=reports)

    actors: list[ChildSpec[Any]] = [
        ChildSpec(mailbox, partial(_run, partial(make_worker, Incarnation(name))), shutdown_s=10.0)
        for name, mailbox in workers.items()
    ]
    spec = _tree(
        actors,
        ChildSpec(registry, partial(_run, make_registry)),
        *_keepers(services, ledger, engine, observe),
        ChildSpec(engine, partial(_run, make_engine)),
    )
    return Supervisor(spec, random=jitter, observe=partial(_observe, observe))


def _keepers(
    services: Services, ledger: Ledger, engine: Mailbox[EngineMessage], observe: Callable[..., None]
) -> list[ChildSpec[Any]]:
    """Return who copies what retention would take away: what keys stand for, and conversations."""
    return [
        ChildSpec(Mailbox[None]("keys", Refuse(1)), partial(_run, partial(KeyFiler, ledger, engine))),
        ChildSpec(Mailbox[None]("conversations", Refuse(1)), partial(_run, partial(Carrier, services, observe))),
    ]


def _real_spawn(config: Config) -> Spawn:
    devices = config.devices
    return SpawnWorker(Spawner(), devices.cpu_threads, devices.cpu_wait_policy, devices.cpu_workers)


def _make_provider(
    services: Services,
    entry: ProviderEntry,
    connect: Connect,
    reports: Reports,
    jitter: Random,
    incarnation: Incarnation,
) -> ProviderActor:
    return ProviderActor(
        incarnation,
        entry=entry,
        config=services.config,
        secrets=services.secrets,
        connect=partial(connect, entry, services.secrets),
        log=services.log,
        reports=reports,
        random=jitter,
    )


def _forget_in(workers: dict[str, Mailbox[WorkerMessage]], ledger: Ledger) -> None:
    """Have each worker process drop what it keeps of requests; one that has crashed meanwhile keeps nothing."""
    for device, mailbox in workers.items():
        mailbox.tell_nowait(Send(epoch_of(ledger.state.workers, device), Forget()))


async def _take_up(services: Services, observe: Callable[..., None]) -> Ledger:
    """Recover the state from the log; from then on the log asks the ledger for it."""
    log = services.log
    state = await trio.to_thread.run_sync(recover, log)
    keys = KeyIndex(services.world.disk, log.path / "keys")
    try:
        keys.open()
        log.answers.open()
    except OSError as error:
        raise unwritable(log.path, error) from error
    for fault in keys.faults:
        observe("error", "keys damaged", message=fault)
    ledger = Ledger(log, state, services.world.clock, keys, start_of(services))
    log.bind_state(ledger.snapshot, ledger.needed_from, ledger.kept_from)
    log.claims.keys_bytes = lambda: keys.size_bytes() + log.answers.size_bytes()
    return ledger


def _show(services: Services, groups: list[Group]) -> None:
    services.hub.show(groups)
    if services.metrics is not None:
        services.metrics.observe(groups)


def _tree(workers: list[ChildSpec[Any]], *others: ChildSpec[Any]) -> SupervisorSpec:
    """Return who starts after whom: the engine last, as whom it sends to must be there; it is the first to stop."""
    return SupervisorSpec(
        "sidecar",
        (
            SupervisorSpec(
                "workers",
                tuple(workers),
                # A worker that crashes at every request must not take the sidecar with it: with this backoff no more
                # than a dozen restarts fit into a minute.
                intensity=Intensity(restarts=30, within_s=60.0),
                backoff=Backoff(first_s=0.1, most_s=10.0),
            ),
            *others,
        ),
        intensity=Intensity(restarts=10, within_s=60.0),
    )


async def _run(make: Callable[[], Any], inbox: Any) -> None:
    """Make a fresh instance of an actor and run it."""
    await make().run(inbox)


def _observe(log: Callable[..., None], event: SupervisorEvent) -> None:
    if isinstance(event, ChildCrashed) and isinstance(event.error, WorkerDied):
        log("error", "worker died", actor=event.name, message=str(event.error))  # It has no story of ours to tell.
    elif isinstance(event, ChildCrashed):
        story = "".join(traceback.format_exception(event.error))
        log("error", "actor crashed", actor=event.name, traceback=story)


def start_of(services: Services) -> Start:
    """Return the record of this start: what answers depend on."""
    limits = services.config.limits
    return Start(
        version=mlzoo.__version__,
        core_version=CORE_VERSION,
        bounds=Bounds(
            max_queued=limits.max_queued,
            max_running=limits.max_running,
            queued_bytes=QUEUED_BYTES,
            drain_ms=round(limits.drain_s * 1000),
            key_ms=round(limits.key_days * DAY_MS),
            max_conversations=limits.max_conversations,
            conversation_bytes=limits.conversation_bytes,
            conversations_bytes=services.config.log.budget_bytes // 2,
        ),
        config_digest=hashlib.sha256(repr(services.config).encode()).hexdigest(),
        platform=platform.platform(),
        python=platform.python_version(),
        time_ms=services.world.clock.wall_ms(),
    )
