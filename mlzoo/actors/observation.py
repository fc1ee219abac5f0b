"""What a host may look at: the sidecar itself, its log and its figures. Nothing here changes what was decided.

Models and devices are in ``inventory`` beside this file.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import attrs
import orjson
import trio

import mlzoo
from mlzoo import errors
from mlzoo.actors import elsewhere, inventory
from mlzoo.actors.cursors import Subscription
from mlzoo.actors.metrics import Metrics
from mlzoo.actors.outcomes import Answer, Later
from mlzoo.api.methods import METHODS, PROTOCOL_VERSION
from mlzoo.views import event_params, event_types

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlzoo.actors.outcomes import Outcome
    from mlzoo.actors.services import Peer, Services
    from mlzoo.api import observation as api
    from mlzoo.events.commands import JsonObject

FEATURES = (
    *("stream", "keys", "logprobs", "deadline", "priority", "cancel", "progress", "events", "forget"),
    *("conversations", "personas", "response_format", "tools", "vision", "adapters"),
)
PROBLEM = frozenset({"reason", "remedy", "path", "segment", "offset", "log_seq"})
PHASES = ("queued", "running", "suspended")
SUBSCRIPTIONS = 64  # of one connection
TURN_GROUPS = 64  # read from the log before other tasks get their turn


def answer(services: Services, connection: Peer, method: str, params: Any) -> Outcome:
    """Return what becomes of a call of one of these methods."""
    match method:
        case "initialize":
            return Answer(initialize(services, connection.name))
        case "status":
            return Answer(status(services))
        case "metrics":
            return Answer(_metrics(services))
        case "models.list":
            return Answer(inventory.models(services))
        case "models.info":
            return Answer(inventory.model(services, params.model))
        case "models.estimate":
            return Later(partial(inventory.estimate, services, params.model, params.context))
        case "devices.list":
            return Later(partial(inventory.devices, services))
        case "providers.list":
            return Answer(elsewhere.providers(services))
        case "events.read":
            return Later(partial(_read_events, services, params), recorded=False)
        case "events.subscribe":
            return Answer(_subscribe(services, connection, params))
        case "events.unsubscribe":
            return _unsubscribe(connection, params)
        case "rpc.discover":
            return Later(partial(trio.to_thread.run_sync, discover), recorded=False)
        case _:
            message = f"{method} is in the table of methods and nobody serves it"
            raise AssertionError(message)


def view(services: Services, _connection: Peer, method: str, params: Any) -> Any:
    """Return once more what a view of the log showed, for a host that did not take it the first time."""
    if method == "rpc.discover":
        return discover()
    turns = list(read_events(services, params))
    return turns[-1]


def initialize(services: Services, connection: str) -> JsonObject:
    """Return what is agreed on with a host."""
    log = services.log
    result: JsonObject = {
        "protocol_version": PROTOCOL_VERSION,
        "server": {"name": "mlzoo", "version": mlzoo.__version__},
        "capabilities": {
            "methods": list(METHODS),
            "features": list(FEATURES),
            "providers": ["local", *services.config.providers],
            "devices": [device.name for device in services.devices if device.usable],
        },
        "limits": attrs.asdict(services.config.limits),
        "connection": connection,
    }
    if services.unusable is None:
        result["log"] = {"id": log.id, "format": log.format, "oldest": log.oldest_seq, "last": log.last_seq}
    return result


def status(services: Services) -> JsonObject:
    """Return what a person would ask first."""
    state = services.state
    config = services.config
    phases: Counter[str] = Counter(request.phase for request in state.requests.values())
    log: JsonObject = {"id": None, "last": None, "bytes": 0, "budget_bytes": config.log.budget_bytes}
    if services.unusable is None:
        log |= {"id": services.log.id, "last": services.log.last_seq, "bytes": services.log.size_bytes()}
    else:
        log["unusable"] = {name: value for name, value in services.unusable.data.items() if name in PROBLEM}
    actors = services.actors()
    return {
        "version": mlzoo.__version__,
        "pid": services.pid,
        "ready": bool(actors) or services.unusable is not None,
        "uptime_ms": services.world.clock.awake_ms() - services.started_ms,
        "actors": [
            {
                "name": actor.name,
                "state": actor.state,
                "restarts": actor.restarts,
                "mailbox_depth": actor.depth,
                **({} if actor.failure is None else {"failure": actor.failure}),
            }
            for actor in actors
        ],
        "models": [
            {"name": name, "state": inventory.phase(model), "device": model.device, "bytes": model.memory_bytes or None}
            for name, model in state.models.items()
        ],
        "devices": [
            {
                "name": device.name,
                "worker": inventory.worker_phase(state, device.name),
                "models": inventory.models_on(state, device.name),
                **({"pid": state.workers[device.name].pid} if device.name in state.workers else {}),
            }
            for device in services.devices
        ],
        "providers": [{"name": name, **elsewhere.health(services, name)} for name in config.providers],
        "requests": {phase: phases[phase] for phase in PHASES},
        "conversations": len(state.conversations),
        "personas": len(state.personas.keys() | config.personas.keys()),
        "log": log,
    }


def _metrics(services: Services) -> JsonObject:
    metrics = services.metrics or Metrics()
    return metrics.shown(services.log.size_bytes(), services.log.last_seq)


def discover() -> JsonObject:
    """Return the OpenRPC document."""
    from mlzoo.api.openrpc import document  # noqa: PLC0415 (only needed here, and large)

    return document(events=event_types())


async def _read_events(services: Services, params: api.EventsReadParams) -> JsonObject:
    shown: JsonObject = {}
    for grown in read_events(services, params):
        shown = grown
        await trio.lowlevel.checkpoint()
    return shown


def read_events(services: Services, params: api.EventsReadParams) -> Iterator[JsonObject]:
    """Yield the answer to ``events.read`` as it grows, so that whoever has other things to do can do them between.

    It ends before what is not durable yet, and before it is too long for a line.
    """
    log = services.log
    last = log.oldest_seq - 1 if params.after is None or params.after < 0 else params.after
    room_bytes = services.config.limits.line_bytes // 2
    events: list[JsonObject] = []
    more = True
    while more:
        more = False
        for group in takewhile(log.is_shown, log.read(last, TURN_GROUPS)):
            for index in range(max(0, last + 1 - group.first_seq), len(group.events) + 1):
                shown = event_params(group, index)
                if _wanted(shown, params):
                    room_bytes -= len(orjson.dumps(shown))
                    if events and room_bytes < 0:
                        yield {"events": events, "last": last}
                        return
                    events.append(shown)
                last = shown["log_seq"]
                if len(events) == params.limit:
                    yield {"events": events, "last": last}
                    return
            more = True
        yield {"events": events, "last": last}


def _wanted(shown: JsonObject, params: api.EventsReadParams) -> bool:
    if params.types is not None and shown["type"] not in params.types:
        return False
    return params.request is None or shown.get("request") == params.request


def _subscribe(services: Services, connection: Peer, params: api.EventsSubscribeParams) -> JsonObject:
    log = services.log
    after_seq = log.last_seq if params.after is None else max(params.after, 0)
    if after_seq > log.last_seq:
        message = f"the log ends at {log.last_seq}, before {after_seq}"
        raise errors.OutOfRange(message, type="ahead", durable=log.synced)
    if after_seq < log.oldest_seq - 1 and params.after is not None and params.after > 0:
        raise errors.OutOfRange(f"the log keeps what follows {log.oldest_seq - 1}", oldest=log.oldest_seq)
    if connection.outbox.cursors.subscribed >= SUBSCRIPTIONS:
        message = f"this connection has {SUBSCRIPTIONS} subscriptions: end one first"
        raise errors.Overloaded(message, retry_after_ms=0, queued=SUBSCRIPTIONS, limit=SUBSCRIPTIONS)
    name = services.world.ids.new("sub")
    types = None if params.types is None else frozenset(params.types)
    connection.outbox.cursors.subscribe(Subscription(name, max(after_seq, log.oldest_seq - 1), types))
    return {"subscription": name}


def _unsubscribe(connection: Peer, params: api.EventsUnsubscribeParams) -> Answer:
    if not connection.outbox.cursors.unsubscribe(params.subscription):
        message = f"there is no subscription {params.subscription} on this connection"
        raise errors.NotFound(message, what="subscription", id=params.subscription)
    return Answer({})
