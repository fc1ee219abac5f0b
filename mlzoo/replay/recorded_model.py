"""The model's part of a session that is run again: worker processes that say what a recording says, and its weights.

They live in memory and speak real frames. When they speak is for whoever drives them to say; what they are asked they
only note, so that it can be seen whether an answer is wanted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
import orjson

from mlzoo import frames
from mlzoo.adapter_facts import AdapterFacts
from mlzoo.devices import Device
from mlzoo.simulation.memory_worker import SIGKILL, MemoryWorker
from mlzoo.store import Installed, Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mlzoo.config import ModelEntry
    from mlzoo.events.recording import Line
    from mlzoo.replay.inputs import Reported

GIB = 1 << 30
MEMORY_CODE = 1005
NOT_STARTED = "The worker process could not be started"
_STATUS = re.compile(r"was ended by signal (\d+)|ended with status (-?\d+)")


class RecordedWorker(MemoryWorker):
    """One worker process, as its actor sees it.

    Args:
        device: whose it is.
        facts: what is known of models whose load is not in the recording; those are ready at once.
        notify: called when it was asked something.
        says_up: whether it says at once that it has started.
    """

    def __init__(self, device: str, facts: Mapping[str, Line], notify: Callable[[], None], *, says_up: bool) -> None:
        super().__init__(pid=1)
        self.device = device
        self.asked: set[tuple[str, str]] = set()  # ("load", model) or ("work", request)
        self._notify = notify
        self._facts = facts
        self._turn = 0
        if says_up:
            self.say(frames.Up(pid=self.pid, device=device, versions={}, threads=1, wait_policy="passive"))

    async def send_all(self, data: bytes) -> None:
        """See ``WorkerProcess``."""
        await super().send_all(data)
        self._notify()

    def hear(self, frame: object) -> None:
        """Note what is asked; answer what needs no recording."""
        match frame:
            case frames.Beat():
                self._turn += 1
                self.say(frames.Beating(turn=self._turn, doing="work"))
            case frames.Load():
                self.asked.add(("load", frame.model))
                if frame.model in self._facts:
                    self.say(_ready(frame, self._facts[frame.model]))
            case frames.Unload():
                self.asked.discard(("load", frame.model))
                self.say(frames.Unloaded(model=frame.model))
            case frames.Leave():
                self.end(0)
            case frames.Generate() | frames.Embed() | frames.Predict() | frames.Tokenize() | frames.Detokenize():
                self.asked.add(("work", frame.request))
            case _:
                return  # What was abandoned has been recorded as it ended.


def _ready(load: frames.Load, facts: Line) -> frames.Loaded:
    return frames.Loaded(
        model=load.model,
        memory_bytes=1,
        context=load.context or 1 << 20,
        slots=load.slots,
        dtype=facts.get("dtype", ""),
        architecture=facts.get("architecture", ""),
        batching=facts.get("batching", "slots"),
        fingerprint=facts.get("fingerprint", ""),
        adapters=tuple(
            AdapterFacts(name=name, digest=digest, rank=1, targets=(), size_bytes=0, fingerprint=digest)
            for name, digest in facts.get("adapters", {}).items()
        ),
    )


def death_of(reason: str) -> int:
    """Return the status of a process that died of this."""
    match = _STATUS.fullmatch(reason)
    if match is None:
        return SIGKILL
    return -int(match[1]) if match[1] else int(match[2])


def frame_of(report: Reported, vectors: Mapping[str, Any]) -> frames.FromWorker | None:
    """Return what a worker said, from what was reported of it; None where the recording does not have it.

    Args:
        report: any of ``FROM_WORKERS`` but of a worker's end.
        vectors: request -> its embeddings, or ``{outputs}`` of a prediction, which a recording has on the wire alone.
    """
    data, text = report.data, report.text
    match report.command:
        case "ReportWorkerUp":
            return frames.Up(**data, wait_policy="passive")
        case "ReportLoaded":
            known: Line = {"dtype": "", "architecture": "", "batching": "slots"}
            lists = ("why", "labels", "adapters")
            known |= {name: value for name, value in data.items() if name not in ("device", *lists)}
            adapters = [{**each, "targets": tuple(each["targets"])} for each in data.get("adapters", ())]
            return frames.Loaded(
                **known,
                why=tuple(data.get("why", ())),
                labels=tuple(data.get("labels", ())),
                adapters=tuple(AdapterFacts(**each) for each in adapters),
            )
        case "ReportLoadFailed":
            return _load_failed(data)
        case "ReportStep":
            return frames.Stepped(rows=tuple(map(_row, data["rows"], text or [None] * len(data["rows"]))))
        case "ReportAnswer":
            return _answer(data, text or {}, vectors)
        case "ReportFailure":
            failure = data["failure"]
            own = {name: value for name, value in failure.get("data", {}).items() if name not in ("type", "retryable")}
            detail = (text or {}).get("detail", "")
            return frames.WorkFailed(
                request=data["request"], code=failure["code"], message=failure["message"], data=own, detail=detail
            )
        case _:
            return None


def _row(facts: Line, text: Line | None) -> frames.Row:
    said = text or {}
    logprobs = tuple(
        [
            frames.TokenLogprob(
                token=token["token"],
                logprob=token["logprob"],
                top=tuple([(rival["token"], rival["logprob"]) for rival in token.get("top", ())]),
            )
            for token in said.get("logprobs", ())
        ]
    )
    return frames.Row(
        request=facts["request"],
        content=said.get("content", ""),
        tokens=tuple(said.get("tokens", (0,) * facts["tokens"])),
        logprobs=logprobs,
        prompt_tokens=facts.get("prompt_tokens"),
        cached_tokens=facts.get("cached_tokens", 0),
        truncated=facts.get("truncated", 0),
        finish_reason=facts.get("finish_reason"),
        tool_calls=tuple([frames.ToolCallDelta(**piece) for piece in said.get("tool_calls", ())]),
        reasoning=said.get("reasoning", ""),
        completion_tokens=facts.get("completion_tokens"),
        summary=_summary(facts.get("summary"), said),
    )


def _summary(facts: Line | None, said: Line) -> frames.Summary | None:
    if facts is None:
        return None
    of = tuple(facts.get("of", ()))
    return frames.Summary(text=said.get("summary", ""), turns=facts["turns"], left_out=facts.get("left_out", 0), of=of)


def _load_failed(data: Line) -> frames.LoadFailed:
    failure = data["failure"]
    more = failure.get("data", {})
    if failure["code"] == MEMORY_CODE:
        return frames.LoadFailed(
            model=data["model"],
            message=failure["message"],
            reason="memory",
            needed_bytes=more.get("needed", 0),
            free_bytes=more.get("free", 0),
        )
    return frames.LoadFailed(model=data["model"], message=failure["message"])


def _answer(data: Line, text: Line, vectors: Mapping[str, Any]) -> frames.FromWorker | None:
    request = data["request"]
    if "tokens" in text:
        return frames.Tokenized(request=request, tokens=tuple(text["tokens"]))
    if "text" in text:
        return frames.Detokenized(request=request, text=text["text"])
    if "outputs" in text:
        vectors = {**vectors, request: {"outputs": text["outputs"]}}
    if request not in vectors:
        return None
    tokens = data.get("prompt_tokens", 0)
    if isinstance(vectors[request], dict):
        outputs = orjson.dumps(vectors[request]["outputs"]).decode()
        return frames.Predicted(request=request, outputs=outputs, count=data.get("count", 0), prompt_tokens=tokens)
    return frames.Embedded(
        request=request,
        vectors=orjson.dumps(vectors[request]).decode(),
        count=data.get("count", 0),
        dimensions=data.get("dimensions", 0),
        prompt_tokens=tokens,
        truncated=data.get("truncated", 0),
    )


def devices_of(probe: Line | None, names: Iterable[str]) -> tuple[Device, ...]:
    """Return the devices that a look at them found, else some of these names with room for anything."""
    if probe is None:
        probe = {"devices": [_roomy(name) for name in names]}
    return tuple([Device(**{"description": "recorded", **facts}) for facts in probe["devices"]])


def _roomy(name: str) -> Line:
    room = {"memory_total_bytes": 1024 * GIB, "memory_free_bytes": 1024 * GIB}
    return {"name": name, "kind": name.partition(":")[0], **room}


@attrs.frozen
class RecordedStore(Store):
    """Weights that were there when the recording was made, and no others: model -> their digest."""

    digests: Mapping[str, str]

    def find(self, entry: ModelEntry) -> Installed | None:
        """Return what is installed for an entry."""
        if entry.name not in self.digests:
            return None
        return Installed(
            name=entry.name,
            path=self.root / entry.name,
            digest=self.digests[entry.name],
            source=entry.source,
            source_sha256="",
            size_bytes=entry.memory_bytes,
            converted_by=None,
        )
