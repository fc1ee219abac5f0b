"""What happened to models, their weights and the workers that run them: one half of ``mlzoo.events.types``.

The rules are told there, and whoever reads or writes events names them by that module.
"""

from __future__ import annotations

from typing import Literal

import attrs

from mlzoo.adapter_facts import AdapterFacts
from mlzoo.errors import Failure
from mlzoo.events.commands import DeviceFacts, ModelFacts


@attrs.frozen(kw_only=True)
class PlacementAsked:
    """Instructs: probe the devices, this model needs a place; its further replicas are numbered from 1."""

    model: ModelFacts
    replica: int = 0


@attrs.frozen(kw_only=True)
class ModelLoadStarted:
    """Instructs: have the worker of this device load the model."""

    model: str
    device: str
    memory_bytes: int
    degraded: str | None = None


@attrs.frozen(kw_only=True)
class ModelReady:
    """A model can work."""

    model: str
    device: str
    memory_bytes: int
    context: int
    slots: int
    dtype: str = ""
    architecture: str = ""
    batching: str = ""
    why: tuple[str, ...] = ()
    fingerprint: str = ""  # of all that its numbers depend on: weights, kernels, threads, versions
    peak_bytes: int = 0
    labels: tuple[str, ...] = ()
    adapters: tuple[AdapterFacts, ...] = ()
    fingerprints: tuple[str, ...] = ()  # of further ways in which it goes on with what has begun in one of them


@attrs.frozen(kw_only=True)
class ModelExplained:
    """What was chosen for a model and why is another than when it got ready."""

    model: str
    why: tuple[str, ...]


@attrs.frozen(kw_only=True)
class ModelFailed:
    """A model could not be placed or loaded; the next request for it tries again."""

    model: str
    failure: Failure


@attrs.frozen(kw_only=True)
class ModelPinned:
    """A model is never unloaded by itself, or may be again."""

    model: str
    pinned: bool


@attrs.frozen(kw_only=True)
class ModelUnloadStarted:
    """Instructs: have the worker drop the model."""

    model: str
    device: str
    reason: Literal["asked", "idle", "evicted"]


@attrs.frozen(kw_only=True)
class ModelUnloadAsked:
    """A model is to be unloaded as soon as what runs on it has ended."""

    model: str


@attrs.frozen(kw_only=True)
class ModelUnloaded:
    """A model holds no memory any more: in order, or because its worker died.

    The device is empty where it had not been given any yet, and nobody waits for it any more.
    """

    model: str
    device: str
    held_bytes: int = 0  # by the worker's whole process, after; 0: not known


@attrs.frozen(kw_only=True)
class DevicesSeen:
    """The devices and their memory, as decisions since then saw them."""

    devices: tuple[DeviceFacts, ...]


@attrs.frozen(kw_only=True)
class WorkerWentUp:
    """A device's worker process answers."""

    device: str
    pid: int
    held_bytes: int = 0  # before it has loaded anything; 0: not known


@attrs.frozen(kw_only=True)
class WorkerWentDown:
    """A device's worker process is gone."""

    device: str
    reason: str
    expected: bool


@attrs.frozen(kw_only=True)
class WorkerRetired:
    """Instructs: the worker process has nothing loaded; it is to leave and give its memory back.

    The reason is memory where it kept much more of it than it held before it loaded anything, and has to leave although
    a model may be about to come: a new process will load that.
    """

    device: str
    reason: Literal["empty", "memory"] = "empty"
    kept_bytes: int = 0  # told where that is the reason


@attrs.frozen(kw_only=True)
class PullStarted:
    """Instructs: bring the model's weights."""

    model: str
    accept_license: bool
    pull: str = ""  # which one it is: the id of the request that began it


@attrs.frozen(kw_only=True)
class PullAbandoned:
    """Instructs: nobody waits for this pull any more, end it; what has arrived stays for the next one."""

    model: str
    pull: str = ""


@attrs.frozen(kw_only=True)
class PullEnded:
    """A pull is over."""

    model: str
    failure: Failure | None = None
    pull: str = ""


@attrs.frozen(kw_only=True)
class RemoveStarted:
    """Instructs: remove the model's weights from the store."""

    model: str


@attrs.frozen(kw_only=True)
class RemoveEnded:
    """A removal is over."""

    model: str
    failure: Failure | None = None


@attrs.frozen(kw_only=True)
class ProviderFaulted:
    """A provider has failed, so often in a row; where a moment is told, it is left alone until then."""

    provider: str
    faults: int
    open_until_ms: int | None = None  # of the log's clock


@attrs.frozen(kw_only=True)
class ProviderRecovered:
    """A provider that had failed has answered."""

    provider: str


ModelEvent = (
    ModelLoadStarted
    | ModelReady
    | ModelExplained
    | ModelFailed
    | ModelPinned
    | ModelUnloadAsked
    | ModelUnloadStarted
    | ModelUnloaded
)
