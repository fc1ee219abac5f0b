"""What was asked, and what was reported: the inputs of the core, each recorded before anything acts on it.

A command is structure only. Text that people wrote or a model said travels beside it, in the ``text`` of its group
(``mlzoo.events.types.Group``), so that it can be forgotten without touching what was decided. The docstring of each
command says what its text holds. The shell stamps ids, seeds and digests into commands; time stands in the group.

This schema is stored for years: a field is only ever added, with a default; anything else is a new version of the
class and an upcaster in ``mlzoo.events.codec``.
"""

from __future__ import annotations

from typing import Any, Literal

import attrs

from mlzoo.adapter_facts import AdapterFacts
from mlzoo.errors import Failure
from mlzoo.events.conversations import ConversationCommand
from mlzoo.events.facts import (
    Bounds,
    Caller,
    Candidate,
    Determinism,
    DeviceFacts,
    KeyFacts,
    Method,
    ModelFacts,
    Priority,
    RowFacts,
)
from mlzoo.events.fitting import BeginFit, EndFit, FitCommand, ReportFitEpoch
from mlzoo.frames import Sampling, Truncation

# ------------------------------------------------------------------------------------------------ from hosts


@attrs.frozen(kw_only=True)
class Submit:
    """A host asks for inference. Text: {messages | prompt | texts | text | tokens | inputs, stop?, params}.

    params are the others as they were sent, also the words of its key. system and greeting are those of its persona.

    The shell stamps what it found under the key: known is a request that ended and is in the state no more, and
    kept_from the first log_seq that is kept. refused is why it cannot run, which matters only if its key is free, or
    why nobody can say what became of the request under it: where the log is damaged.
    """

    request: str
    caller: Caller
    method: Method
    model: ModelFacts
    stream: bool = False
    sampling: Sampling | None = None
    max_tokens: int | None = None
    normalize: bool = True
    deadline_ms: int | None = None
    priority: Priority = "interactive"
    require_device: str | None = None
    params_digest: str = ""
    size_bytes: int = 0
    key: str = ""
    determinism: Determinism = "fast"
    ephemeral: bool = False  # its text, and that of its answer, is not recorded
    known: KeyFacts | None = None
    kept_from: int = 0
    refused: Failure | None = None
    prefixes: tuple[str, ...] = ()  # short digests of how its text begins, where replicas are chosen by them
    conversation: str = ""  # whose next turn it is
    persona: str = ""
    truncation: Truncation | None = None  # of the conversation's history, where there is one
    chain: tuple[Candidate, ...] = ()  # who may answer in the place of the model, in this order, until a token has come
    unfit: Failure | None = None  # why the model cannot answer, where others may
    adapter: str = ""  # of the model; empty: the model as it is


@attrs.frozen(kw_only=True)
class Resume:
    """A host wants to hear of the request under a key, from the piece after ``after`` on. Text: {params}.

    known, kept_from and refused are as in ``Submit``.
    """

    request: str
    caller: Caller
    key: str
    after: int = -1
    known: KeyFacts | None = None
    kept_from: int = 0
    refused: Failure | None = None


@attrs.frozen(kw_only=True)
class Cancel:
    """A host wants a request ended: its target, or the one under a key. Text: {params}, where it named a key.

    target is None where it named one that the connection does not know, or a key. Where it named a call that came with
    a key, that may have been attached to another request by now: key and params_digest are those of the call.
    """

    request: str
    caller: Caller | None
    target: str | None
    key: str = ""
    params_digest: str = ""  # the key's request is meant only if it has the same one; empty: whichever it has


@attrs.frozen(kw_only=True)
class LoadModel:
    """A host wants a model ready."""

    request: str
    caller: Caller
    model: ModelFacts
    device: str | None = None
    pin: bool = False


@attrs.frozen(kw_only=True)
class UnloadModel:
    """A host wants a model's memory back; what runs on it finishes first."""

    request: str
    caller: Caller
    model: ModelFacts


@attrs.frozen(kw_only=True)
class PullModel:
    """A host wants a model's weights brought to this machine."""

    request: str
    caller: Caller
    model: ModelFacts
    accept_license: bool = False


@attrs.frozen(kw_only=True)
class RemoveModel:
    """A host wants a model's weights removed from this machine."""

    request: str
    caller: Caller
    model: ModelFacts


@attrs.frozen(kw_only=True)
class Shutdown:
    """A host (caller), the end of stdin or a signal (no caller) asks the sidecar to finish what runs and leave."""

    request: str
    caller: Caller | None
    reason: Literal["asked", "eof", "signal", "parent"]


@attrs.frozen(kw_only=True)
class HostGone:
    """A connection of several has ended; what it asked for has nobody to go to."""

    connection: str


# ------------------------------------------------------------------------------------------------ from the shell


@attrs.frozen(kw_only=True)
class Start:
    """A sidecar begins on this log. What answers depend on is recorded here."""

    version: str
    core_version: int
    bounds: Bounds
    config_digest: str = ""
    platform: str = ""
    python: str = ""
    time_ms: int = 0  # the wall clock's, for people: the log's clock stands still between two sidecars


@attrs.frozen(kw_only=True)
class ReportDevices:
    """The devices as they are now, probed because this model needs a place."""

    model: str
    devices: tuple[DeviceFacts, ...]


@attrs.frozen(kw_only=True)
class ReportWorkerUp:
    """A worker process answers."""

    device: str
    pid: int
    threads: int
    versions: dict[str, str]
    held_bytes: int = 0  # by the process, before it has loaded anything; 0: not known


@attrs.frozen(kw_only=True)
class ReportWorkerLost:
    """A worker process ended: by itself (expected), or it crashed."""

    device: str
    reason: str
    expected: bool = False


@attrs.frozen(kw_only=True)
class ReportLoaded:
    """A worker has a model ready."""

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
    peak_bytes: int = 0  # the most that it took while it was loaded; 0: not known
    labels: tuple[str, ...] = ()  # that a custom model tells apart
    adapters: tuple[AdapterFacts, ...] = ()
    fingerprints: tuple[str, ...] = ()  # of further ways in which it goes on with what has begun in one of them


@attrs.frozen(kw_only=True)
class ReportLoadFailed:
    """A worker could not load a model and lives on; without a device, the devices could not be looked at."""

    model: str
    device: str
    failure: Failure


@attrs.frozen(kw_only=True)
class ReportUnloaded:
    """A worker has dropped a model."""

    model: str
    device: str
    held_bytes: int = 0  # by its whole process, after; 0: not known


@attrs.frozen(kw_only=True)
class ReportStep:
    """One step of a worker's batch. Text: a list, a row: {content, tokens, logprobs?, reasoning?, tool_calls?}."""

    device: str
    rows: tuple[RowFacts, ...]


@attrs.frozen(kw_only=True)
class ReportAnswer:
    """What comes whole. Text: {tokens}, {text} or {outputs}; embeddings and long outputs lie in a blob."""

    request: str
    prompt_tokens: int = 0
    count: int = 0
    dimensions: int = 0
    blob: str | None = None
    truncated: int = 0  # texts that were longer than the model reads, and were cut


@attrs.frozen(kw_only=True)
class ReportFailure:
    """One request failed in its worker; the others go on. Text: {detail}, what may repeat the request's own words."""

    request: str
    failure: Failure


@attrs.frozen(kw_only=True)
class ReportPullEnded:
    """A pull came to its end, well or not."""

    model: str
    failure: Failure | None = None
    digest: str = ""
    pull: str = ""


@attrs.frozen(kw_only=True)
class ReportRemoved:
    """A model's weights are gone from the store, or could not be removed."""

    model: str
    failure: Failure | None = None


@attrs.frozen(kw_only=True)
class ReportStorage:
    """The disk has come under its reserve, or has room again."""

    low: bool
    free_bytes: int = 0


@attrs.frozen(kw_only=True)
class ReportKeysFiled:
    """Keys of requests that ended up to a log_seq are in the log's index of keys, durably."""

    upto_seq: int


@attrs.frozen(kw_only=True)
class ReportIncident:
    """A command could not be decided: a fault of ours. The request that it was about, if any, fails."""

    command: str
    error: str
    request: str | None = None
    caller: Caller | None = None


@attrs.frozen(kw_only=True)
class Strike:
    """The clock reached a moment that the state was waiting for: a deadline, an idle model, the end of the drain."""


Command = (
    Submit
    | Resume
    | Cancel
    | LoadModel
    | UnloadModel
    | PullModel
    | RemoveModel
    | Shutdown
    | HostGone
    | Start
    | ReportDevices
    | ReportWorkerUp
    | ReportWorkerLost
    | ReportLoaded
    | ReportLoadFailed
    | ReportUnloaded
    | ReportStep
    | ReportAnswer
    | ReportFailure
    | ReportPullEnded
    | ReportRemoved
    | ReportStorage
    | ReportKeysFiled
    | ReportIncident
    | Strike
    | FitCommand
    | ConversationCommand
)

JsonObject = dict[str, Any]

__all__ = [
    "BeginFit",
    "Bounds",
    "Caller",
    "Cancel",
    "Candidate",
    "Command",
    "Determinism",
    "DeviceFacts",
    "EndFit",
    "HostGone",
    "JsonObject",
    "KeyFacts",
    "LoadModel",
    "Method",
    "ModelFacts",
    "Priority",
    "PullModel",
    "RemoveModel",
    "ReportAnswer",
    "ReportDevices",
    "ReportFailure",
    "ReportFitEpoch",
    "ReportIncident",
    "ReportKeysFiled",
    "ReportLoadFailed",
    "ReportLoaded",
    "ReportPullEnded",
    "ReportRemoved",
    "ReportStep",
    "ReportStorage",
    "ReportUnloaded",
    "ReportWorkerLost",
    "ReportWorkerUp",
    "Resume",
    "RowFacts",
    "Shutdown",
    "Start",
    "Strike",
    "Submit",
    "UnloadModel",
]
