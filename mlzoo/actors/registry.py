"""The registry: carries out what the engine decided about devices and weights, and reports what came of it.

It probes the devices, hands loads to the workers, pulls and removes weights. It decides nothing: which model goes
where, and what has to make room, is the core's.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, assert_never

import attrs
import trio

from mlzoo import errors
from mlzoo.actors.inventory import facts_of
from mlzoo.actors.messages import AbandonPull, LoadOn, Order, Probe, Pull, Remove, Send
from mlzoo.core.state import model_of
from mlzoo.events import commands as cmd
from mlzoo.frames import Load
from mlzoo.store.pulling import pull

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlzoo.actors.mailbox import Ref
    from mlzoo.actors.messages import EngineMessage, RegistryMessage, WorkerMessage
    from mlzoo.actors.progress import Progress
    from mlzoo.actors.runtime import Inbox
    from mlzoo.actors.services import ProbeDevices
    from mlzoo.config import Config
    from mlzoo.config.schema import ModelEntry
    from mlzoo.devices import Device
    from mlzoo.store import Store
    from mlzoo.store.layout import Installed
    from mlzoo.store.layout import Progress as PullProgress

PROBE_S = 20.0  # that looking at the devices may take: a driver may hang, and nobody shall wait for it for ever


class Registry:
    """One instance of the registry.

    Args:
        config: the models there are, and how devices are used.
        store: their weights.
        probe: looks at the devices.
        engine: hears what came of it.
        workers: the worker actor of each device.
        progress: hears how far pulls are.
    """

    def __init__(
        self,
        *,
        config: Config,
        store: Store,
        probe: ProbeDevices,
        engine: Ref[EngineMessage],
        workers: Mapping[str, Ref[WorkerMessage]],
        progress: Progress,
    ) -> None:
        self._config = config
        self._store = store
        self._probe_devices = probe
        self._engine = engine
        self._workers = workers
        self._progress = progress
        self._pulls: dict[str, trio.CancelScope] = {}

    async def run(self, inbox: Inbox[RegistryMessage]) -> None:
        """Carry out one thing after the other; only pulls, which take minutes, run beside them."""
        async with trio.open_nursery() as nursery:
            async for message in inbox:
                try:
                    await self._carry_out(message, nursery)
                except Exception as error:
                    await self._give_up(message, error)  # Whoever waits for it hears so before this crashes.
                    raise
            nursery.cancel_scope.cancel()

    async def _carry_out(self, message: RegistryMessage, nursery: trio.Nursery) -> None:
        match message:
            case Probe():
                await self._probe(message)
            case LoadOn():
                await self._load(message)
            case Pull():
                scope = self._pulls[message.pull] = trio.CancelScope()
                nursery.start_soon(self._pull, message, scope)
            case AbandonPull():
                if message.pull in self._pulls:
                    self._pulls[message.pull].cancel()
            case Remove():
                await self._remove(message)
            case _:
                assert_never(message)

    async def _give_up(self, message: RegistryMessage, error: Exception) -> None:
        failure = errors.InternalError(f"mlzoo made an error: {type(error).__name__}.").failure()
        story = "".join(traceback.format_exception(error))
        match message:
            case Probe() | LoadOn():
                device = message.device if isinstance(message, LoadOn) else ""
                await self._tell(cmd.ReportLoadFailed(model=message.model, device=device, failure=failure), story)
            case Pull():
                await self._tell(cmd.ReportPullEnded(model=message.model, pull=message.pull, failure=failure), story)
            case Remove():
                await self._tell(cmd.ReportRemoved(model=message.model, failure=failure), story)
            case AbandonPull():
                return
            case _:
                assert_never(message)

    async def _probe(self, message: Probe) -> None:
        devices: tuple[Device, ...] = ()
        with trio.move_on_after(PROBE_S) as waiting:
            devices = await self._probe_devices()
        if waiting.cancelled_caught:
            why = f"the devices did not answer within {PROBE_S:.0f} s"
            failure = errors.ModelLoadFailed(f"{why}: a driver hangs.", model=message.model, reason=why).failure()
            await self._tell(cmd.ReportLoadFailed(model=message.model, device="", failure=failure))
            return
        order = {kind: place for place, kind in enumerate(self._config.devices.auto)}
        found = [
            facts_of(d, self._config) for d in devices if d.kind in order and (d.name in self._workers or not d.usable)
        ]
        found.sort(key=lambda facts: order[facts.kind])
        await self._tell(cmd.ReportDevices(model=message.model, devices=tuple(found)))

    async def _load(self, message: LoadOn) -> None:
        try:
            entry, installed = self._find(model_of(message.model))
        except errors.MlzooError as error:  # It was there when the request came, in this life or in an earlier one.
            failure = error.failure()
            await self._tell(cmd.ReportLoadFailed(model=message.model, device=message.device, failure=failure))
            return
        load = Load(
            model=entry.name,
            path=str(installed.path),
            kind=entry.kind,
            dtype=entry.dtype,
            slots=entry.slots,
            context=entry.context,
            quantization=entry.quantization,
            compile=entry.compile,
            speculation=entry.speculation,
            trust_remote_code=entry.trust_remote_code,
            digest=installed.digest,
            zoo=entry.zoo(),
            answer_bytes=self._config.limits.line_bytes,
            adapters={adapter.name: str(adapter.path) for adapter in installed.adapters},
        )
        self._workers[message.device].tell_nowait(Send(message.epoch, load))

    def _find(self, model: str) -> tuple[ModelEntry, Installed]:
        entry = self._config.model(model)
        installed = self._store.find(entry)
        if installed is None:
            raise errors.ModelNotInstalled(
                f"The weights of {entry.name} have gone; bring them with models.pull.", model=entry.name
            )
        return entry, installed

    async def _pull(self, message: Pull, scope: trio.CancelScope) -> None:
        def on_progress(progress: PullProgress) -> None:
            self._progress.of_model(
                message.model, progress.stage, progress.done, progress.total, progress.unit, progress.message
            )

        broken = errors.InternalError("The pull was broken off by an error of mlzoo; try again.").failure()
        ended = cmd.ReportPullEnded(model=message.model, pull=message.pull, failure=broken)
        story = ""
        try:
            with scope:
                entry = self._config.model(message.model)
                installed = await pull(self._store, entry, on_progress, accept_license=message.accept_license)
                ended = attrs.evolve(ended, failure=None, digest=installed.digest)
        except errors.MlzooError as error:
            ended = attrs.evolve(ended, failure=error.failure())
        except Exception:
            story = traceback.format_exc()
            raise
        finally:
            del self._pulls[message.pull]
            if not scope.cancelled_caught:  # Whoever abandoned it does not wait for its end.
                self._engine.signal(Order(ended, story=story))

    async def _remove(self, message: Remove) -> None:
        story = ""
        try:
            await trio.to_thread.run_sync(self._store.remove, self._config.model(message.model))
            removed = cmd.ReportRemoved(model=message.model)
        except errors.MlzooError as error:
            removed = cmd.ReportRemoved(model=message.model, failure=error.failure())
        except OSError as error:
            failure = errors.InternalError(f"Some files could not be removed: {error}.").failure()
            removed = cmd.ReportRemoved(model=message.model, failure=failure)
            story = traceback.format_exc()
        await self._tell(removed, story)

    async def _tell(self, command: cmd.Command, story: str = "") -> None:
        await self._engine.tell(Order(command, story=story))
