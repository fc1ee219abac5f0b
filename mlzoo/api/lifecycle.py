"""Params and results of a sidecar's life: initialize and status. ping and shutdown take and give nothing."""

from __future__ import annotations

from typing import Literal

import attrs

from mlzoo.api.devices import Breaker, WorkerPhase
from mlzoo.api.fields import about, checked, naming
from mlzoo.api.models import ModelPhase


@attrs.frozen(kw_only=True)
class Client:
    """The host."""

    name: str = attrs.field(validator=checked, metadata=naming("What the program calls itself."))
    version: str = attrs.field(validator=checked, metadata=naming("Which version of it this is."))


@attrs.frozen(kw_only=True)
class Server:
    """The sidecar."""

    version: str
    name: str = "mlzoo"


@attrs.frozen(kw_only=True)
class InitializeParams:
    """Who the host is, and what it speaks."""

    protocol_version: Literal["1"] = attrs.field(metadata=about("The version of the protocol that the host speaks."))
    client: Client


@attrs.frozen(kw_only=True)
class Capabilities:
    """What this sidecar can do."""

    methods: tuple[str, ...]
    features: tuple[str, ...]
    providers: tuple[str, ...]
    devices: tuple[str, ...]


@attrs.frozen(kw_only=True)
class LogPlace:
    """Which log this sidecar writes, and what of it is kept. Another id means that old cursors are worth nothing."""

    id: str
    format: int
    oldest: int = attrs.field(metadata=about("The first log_seq that is kept."))
    last: int = attrs.field(metadata=about("The last log_seq there is."))


@attrs.frozen(kw_only=True)
class InitializeResult:
    """What was agreed on."""

    server: Server
    capabilities: Capabilities
    limits: dict[str, float]
    connection: str = attrs.field(metadata=about("The connection's name in the log."))
    protocol_version: Literal["1"] = "1"
    log: LogPlace | None = attrs.field(default=None, metadata=about("Absent where the log cannot be used."))


# ----------------------------------------------------------------------------------------------------------- status


@attrs.frozen(kw_only=True)
class ActorStatus:
    """One actor of the sidecar."""

    name: str
    state: str
    restarts: int
    mailbox_depth: int = attrs.field(metadata=about("Messages that wait for it."))
    failure: str | None = attrs.field(default=None, metadata=about("Why it was last restarted, or has ended."))


@attrs.frozen(kw_only=True)
class ModelStatus:
    """One model, shortly."""

    name: str
    state: ModelPhase
    device: str | None
    bytes: int | None = attrs.field(metadata=about("Memory that it holds."))


@attrs.frozen(kw_only=True)
class DeviceStatus:
    """One device, shortly."""

    name: str
    worker: WorkerPhase
    models: tuple[str, ...]
    pid: int | None = attrs.field(default=None, metadata=about("Process id of its worker."))


@attrs.frozen(kw_only=True)
class ProviderStatus:
    """One provider, shortly."""

    name: str
    running: int = attrs.field(metadata=about("Requests that are with it."))
    breaker: Breaker
    faults: int = attrs.field(metadata=about("Times that it has failed, one after the other."))
    retry_after_ms: int | None = attrs.field(default=None, metadata=about("How long it is still left alone."))


@attrs.frozen(kw_only=True)
class RequestCounts:
    """How many requests there are."""

    queued: int
    running: int
    suspended: int


@attrs.frozen(kw_only=True)
class LogProblem:
    """Why the log cannot be used, and the way on."""

    reason: Literal["locked", "newer", "damaged", "inconsistent", "unwritable", "failed"]
    remedy: str
    path: str
    segment: str | None = None
    offset: int | None = None
    log_seq: int | None = None


@attrs.frozen(kw_only=True)
class LogStatus:
    """How the log is."""

    id: str | None
    last: int | None
    bytes: int
    budget_bytes: int
    unusable: LogProblem | None = None


@attrs.frozen(kw_only=True)
class StatusResult:
    """What a person would ask first."""

    version: str
    pid: int
    uptime_ms: int
    actors: tuple[ActorStatus, ...]
    models: tuple[ModelStatus, ...]
    devices: tuple[DeviceStatus, ...]
    requests: RequestCounts
    log: LogStatus
    conversations: int = attrs.field(default=0, metadata=about("How many there are."))
    ready: bool = attrs.field(
        default=True,
        metadata=about("False for a moment after the start, while the log is read: until then nothing is counted."),
    )
    providers: tuple[ProviderStatus, ...] = ()
    personas: int = attrs.field(default=0, metadata=about("How many there are, configured or described by hosts."))
