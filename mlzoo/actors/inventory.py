"""What a host may know of models and devices: configuration, store and state, put together.

Reads only. A model is absent where its weights are not here, whatever its last state said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from mlzoo.actors import candidates, elsewhere
from mlzoo.config.schema import LOCAL
from mlzoo.core.placement import Place, choose, needed_by
from mlzoo.core.replicas import replicas_of
from mlzoo.core.state import ModelPhase, ModelState, State, WorkerState, calls_on
from mlzoo.events.commands import DeviceFacts
from mlzoo.store import estimate_of, token_bytes

if TYPE_CHECKING:
    from mlzoo.actors.services import Services
    from mlzoo.adapter_facts import AdapterFacts
    from mlzoo.config import Config, ModelEntry
    from mlzoo.devices import Device
    from mlzoo.events.commands import JsonObject


def models(services: Services) -> JsonObject:
    """Return every model that is configured, and how it is; apart from them those whose configuration does not hold."""
    return {
        "models": [
            _summary(services, entry) if entry.provider == LOCAL else elsewhere.summary(services, entry)
            for entry in services.config.models.values()
        ],
        "broken": [{"name": name, "error": why} for name, why in services.config.broken.items()],
    }


def model(services: Services, name: str) -> JsonObject:
    """Return all about one model.

    Raises:
        ModelNotFound: no configuration names it.
    """
    entry = services.config.model(name)
    if entry.provider != LOCAL:
        return elsewhere.model(services, entry)
    replicas = replicas_of(services.state, entry.name)
    state = _foremost(replicas)
    installed = services.store.find(entry)
    info = _summary(services, entry) | {
        "source": entry.source,
        "digest": None if installed is None else installed.digest,
        "disk_bytes": None if installed is None else installed.size_bytes,
        "licence": {"spdx": entry.licence.spdx, "url": entry.licence.url},
        "aliases": list(entry.aliases),
        "pinned": any(replica.pinned for replica in replicas),
        "replicas": [{"device": m.device, "state": phase(m), "bytes": m.memory_bytes or None} for m in replicas],
        "chosen": {},
        "why": [],
    }
    loaded = {} if state is None or state.phase != "ready" else {facts.name: facts for facts in state.adapters}
    info["adapters"] = [_adapter(name, source, loaded.get(name)) for name, source in entry.adapters.items()]
    if state is not None and state.phase == "ready":
        info["chosen"] = {
            "dtype": state.dtype,
            "context": state.context,
            "slots": state.slots,
            "architecture": state.architecture,
            "batching": state.batching,
        }
        if state.labels:
            info["chosen"]["labels"] = list(state.labels)
        info["why"] = list(state.why)
    return info


def _adapter(name: str, source: str, facts: AdapterFacts | None) -> JsonObject:
    if facts is None:
        return {"name": name, "source": source}
    return {
        "name": name,
        "source": source,
        "digest": facts.digest,
        "rank": facts.rank,
        "targets": list(facts.targets),
        "bytes": facts.size_bytes,
        "exact": bool(facts.fingerprint),
    }


def _summary(services: Services, entry: ModelEntry) -> JsonObject:
    state = _foremost(replicas_of(services.state, entry.name))
    loaded = state is not None and state.phase in {"loading", "ready", "unloading"}
    summary: JsonObject = {
        "name": entry.name,
        "kind": entry.kind,
        "provider": "local",
        "state": _state_of(services, entry, state),
        "device": state.device if state is not None and loaded else None,
        "bytes": state.memory_bytes if state is not None and loaded else None,
        "loaded_at": None,
        "last_used_at": None,
    }
    if state is not None:
        summary["last_used_at"] = services.wall_ms(state.last_used_ms)
        if state.loaded_at_ms is not None:
            summary["loaded_at"] = services.wall_ms(state.loaded_at_ms)
        if state.phase == "failed" and state.failure is not None:
            summary["error"] = state.failure.message
    return summary


def _foremost(replicas: list[ModelState]) -> ModelState | None:
    """Return the replica that tells how a model is: one that is ready, else one that is about to be."""
    order: tuple[ModelPhase, ...] = ("ready", "loading", "placing", "unloading", "failed", "available")
    return min(replicas, key=lambda replica: order.index(replica.phase), default=None)


def _state_of(services: Services, entry: ModelEntry, state: ModelState | None) -> str:
    if calls_on(services.state, entry.name, "pull"):
        return "downloading"
    if state is not None and state.phase != "available":
        return phase(state)
    return "available" if services.store.find(entry) is not None else "absent"


def phase(state: ModelState) -> str:
    """Return a model's phase as the protocol names it: a host need not know of placement."""
    return "loading" if state.phase == "placing" else state.phase


async def estimate(services: Services, name: str, context: int | None) -> JsonObject:
    """Return what a model needs, and whether it fits somewhere now: as it was measured, where it was loaded before.

    With a context: what its weights take, and all its rows if each is as long.

    Raises:
        ModelNotFound: no configuration names it.
    """
    entry = services.config.model(name)
    if entry.provider != LOCAL:
        return {"download_bytes": 0, "disk_bytes": 0, "memory_bytes": 0, "fits": True}
    installed = services.store.find(entry)
    needs, wanted = estimate_of(entry, installed), candidates.facts_of(services, entry, installed)
    if context is not None:
        row_bytes = 0 if installed is None else context * token_bytes(installed.path, entry.dtype)
        wanted = attrs.evolve(wanted, memory_bytes=needs.disk_bytes + entry.slots * row_bytes)
    needs = attrs.evolve(needs, memory_bytes=needed_by(services.state, wanted))
    found = tuple(facts_of(device, services.config) for device in await services.probe())
    return attrs.asdict(needs) | {"fits": isinstance(choose(services.state, wanted, found, None), Place)}


async def devices(services: Services) -> JsonObject:
    """Return every device as it is now, those that cannot be used too, with the reason."""
    state = services.state
    shown = []
    for device in await services.probe():
        fields: JsonObject = {
            "name": device.name,
            "kind": device.kind,
            "description": device.description,
            "memory_total_bytes": device.memory_total_bytes,
            "memory_free_bytes": device.memory_free_bytes,
            "dtypes": list(device.dtypes),
            "worker": worker_phase(state, device.name),
            "models": models_on(state, device.name),
            "usable": device.usable,
        }
        if not device.usable:
            fields |= {"reason": device.reason, "remedy": device.remedy}
        shown.append(fields)
    return {"devices": shown}


def facts_of(device: Device, config: Config) -> DeviceFacts:
    """Return what decisions need to know of a device; free is what models may take of it."""
    from mlzoo.devices import room_bytes  # noqa: PLC0415 (not on the way to the first ping)

    return DeviceFacts(
        name=device.name,
        kind=device.kind,
        memory_total_bytes=device.memory_total_bytes,
        memory_free_bytes=room_bytes(device, config.devices),
        usable=device.usable,
        reason=device.reason,
    )


def models_on(state: State, device: str) -> list[str]:
    """Return the models whose memory a device holds."""
    held = {"loading", "ready", "unloading"}
    return [m.facts.name for m in state.models.values() if m.device == device and m.phase in held]


def worker_phase(state: State, device: str) -> str:
    """Return how a device's worker process is."""
    worker = state.workers.get(device, WorkerState())
    if worker.retiring:
        return "retiring"
    if worker.up:
        return "up"
    loading = any(m.device == device and m.phase == "loading" for m in state.models.values())
    return "starting" if loading else "absent"
