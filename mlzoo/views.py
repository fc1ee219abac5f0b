"""Views of the log: what a host hears is a reading of recorded groups, never anything else.

A view folds the groups of one request into the pieces that go to its host: deltas, then one result or one failure. It
can be thrown away and made again from the log at any time; it knows no connection and no framing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never, get_args

import attrs
import orjson

from mlzoo.errors import Cancelled, Failure, Interrupted, NotFound, OutOfRange
from mlzoo.events import types as ev
from mlzoo.events.codec import CODEC
from mlzoo.events.commands import Command, ReportFailure
from mlzoo.events.records import GONE, is_gone, request_of
from mlzoo.events.said import Said, delta_of, size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlzoo.events.commands import ModelFacts
    from mlzoo.events.records import Group
    from mlzoo.events.types import Event

JsonObject = dict[str, Any]


@attrs.frozen
class Delta:
    """The next piece of a stream."""

    seq: int
    delta: JsonObject


@attrs.frozen
class Result:
    """The end: an answer."""

    result: JsonObject


@attrs.frozen
class Refusal:
    """The end: an error."""

    failure: Failure


@attrs.frozen
class Attached:
    """From here on, log_seq ``since``, the call hears the story of the request that the event names."""

    event: ev.RequestAttached
    since: int


@attrs.frozen
class Unheld:
    """The end is here, and belongs to a text too long to be held: its story is to be read once more, by ``whole``."""

    whole: RequestView


Piece = Delta | Result | Refusal | Attached | Unheld
HELD_BYTES = 128 * 1024  # of what was said that a view keeps of a long answer
PIECE_BYTES, LOGPROB_BYTES = 64, 500  # what each costs beside its text, about


class RequestView:
    """Reads the groups of one request in their order and gives what its host is to hear.

    Args:
        request: the id in the log.
        blob: returns the bytes of a blob by its digest.
        after_seq: where its story begins; 0: with the next group.
        since: where the host came to hear of it: how it was suspended before is not its affair.
        held_bytes: how much of what was said is held; None: all of it.
    """

    def __init__(
        self,
        request: str,
        blob: Callable[[str], bytes],
        *,
        after_seq: int = 0,
        since: int = 0,
        held_bytes: int | None = None,
    ) -> None:
        self.request = request
        self.after_seq = after_seq  # the last group that was read, so that a cursor knows where it stands
        self._since = since
        self._blob = blob
        self._began_after = after_seq  # the last group before its acceptance
        self._room_bytes = held_bytes
        self._accepted: ev.RequestAccepted | None = None
        self._said = Said()
        self._seq = -1  # of the last piece
        self._gone = ""  # why some of what was said is not there
        self._model: ModelFacts | None = None  # that is to answer, or has answered
        self._rerouted: list[JsonObject] = []  # those that could not

    @property
    def text(self) -> str:
        """What has been said so far."""
        return self._said.text

    def read(self, group: Group) -> Iterator[Piece]:
        """Yield what a group brings to the host."""
        self.after_seq = group.last_seq
        for seq, event in enumerate(group.events, group.first_seq + 1):
            if request_of(event) == self.request:
                if self._is_unheld and self._is_end(event, seq):
                    again = RequestView(self.request, self._blob, after_seq=self._began_after, since=self._since)
                    yield Unheld(again)
                    return
                if isinstance(event, ev.RequestAccepted):
                    self._began_after = group.first_seq - 1
                yield from self._read(event, group.text)
                if isinstance(event, ev.RequestFailed):
                    yield Refusal(self._failure(event.failure, group))
                elif isinstance(event, ev.RequestAttached):
                    yield Attached(event, seq)
                elif isinstance(event, ev.RequestSuspended) and seq > self._since:
                    failure = self._suspended(event)
                    yield Refusal(failure if self._said.is_empty else self._with_partial(failure))

    def _read(self, event: Event, text: Any) -> Iterator[Piece]:
        match event:
            case ev.RequestStreamed():
                row = text[event.row]
                if self._gone or is_gone(row):
                    self._gone = self._gone or _why_gone(row)  # Nor is anything told that comes after a gap.
                    return
                self._hold(row)
                if event.seq is not None:
                    self._seq = event.seq
                    yield Delta(event.seq, delta_of(row))
            case ev.RequestAccepted():
                self._accepted, self._model, self._rerouted = event, event.model, []
            case ev.RequestRerouted():
                self._rerouted.append(self._passed_over(event.failure))
                self._model = event.model
            case ev.RequestCompleted():
                yield self._ending(event, text)
            case ev.RequestReplied():
                yield Result(event.result)
            case ev.RequestCancelled():
                failure = Cancelled("The request was cancelled.").failure()
                yield Refusal(self._with_partial(failure))
            case ev.RequestRefused():
                yield Refusal(_in_the_hosts_words(event.failure, text))
            case _:
                return  # What moves a request on inside is not the host's to hear.

    def _passed_over(self, failure: Failure) -> JsonObject:
        named = {} if self._model is None else {"model": self._model.name, "provider": self._model.provider}
        reason = failure.data.get("reason") or failure.data.get("type", str(failure.code))
        return {**named, "reason": reason, "message": failure.message}

    def _hold(self, row: JsonObject) -> None:
        """Keep what a row said, while there is room: a host that reads late reads many long answers side by side."""
        if self._is_unheld:
            return
        self._said.add(row)
        ephemeral = self._accepted is not None and self._accepted.ephemeral  # That cannot be read twice.
        if self._room_bytes is not None and not ephemeral:
            self._room_bytes -= size_of(row) + PIECE_BYTES + LOGPROB_BYTES * len(row.get("logprobs", ()))
            if self._room_bytes < 0:
                self._said = Said()

    @property
    def _is_unheld(self) -> bool:
        return self._room_bytes is not None and self._room_bytes < 0

    def _is_end(self, event: Event, seq: int) -> bool:
        """Whether what the host hears of an event holds all that was said."""
        suspended = isinstance(event, ev.RequestSuspended) and seq > self._since
        return suspended or isinstance(event, (ev.RequestCompleted, ev.RequestFailed, ev.RequestCancelled))

    def _ending(self, event: ev.RequestCompleted, text: Any) -> Result | Refusal:
        why = self._gone or (_why_gone(text) if is_gone(text) else "")
        if not why:
            try:
                return Result(self._result(event, text))
            except NotFound:
                why = "forgotten"  # Its blob has gone, and of a blob nothing but forgetting leaves the record.
        what = "it was forgotten" if why == "forgotten" else "it was ephemeral, and is read too late"
        gone = OutOfRange(f"The text of this answer is not kept: {what}.", oldest=self._seq + 1, reason=why)
        return Refusal(gone.failure())

    def _failure(self, failure: Failure, group: Group) -> Failure:
        """Return a failure with the text that belongs to it: what was said so far, and what is said about the fault."""
        if self._rerouted:
            failure = attrs.evolve(failure, data={**failure.data, "rerouted": self._rerouted})
        if not self._said.is_empty:
            failure = self._with_partial(failure)
        if (
            group.text is not None
            and not is_gone(group.text)
            and isinstance(group.command, ReportFailure)
            and group.command.request == self.request
        ):
            failure = attrs.evolve(failure, data={**failure.data, **group.text})
        return failure

    def _suspended(self, event: ev.RequestSuspended) -> Failure:
        why, when = ("worker died", "by itself") if event.reason == "worker" else ("sidecar leaves", "in its next life")
        message = f"The {why} under this request, which goes on {when}: resume it with its key."
        streamed = {"seq": self._seq} if self._seq >= 0 else {}
        return Interrupted(message, **streamed, resumable=True).failure()

    def _with_partial(self, failure: Failure) -> Failure:
        return attrs.evolve(failure, data={**failure.data, "partial": self.text})

    def _result(self, event: ev.RequestCompleted, text: Any) -> JsonObject:
        accepted = self._accepted
        model = self._model
        if accepted is None or model is None:
            message = f"log has no acceptance of {self.request} before its completion"
            raise AssertionError(message)
        kind = accepted.kind
        match kind:
            case "chat" | "complete":
                return self._generated(accepted, model, event)
            case "embed":
                result = {
                    "model": model.name,
                    "device": event.device,
                    # Made by the worker, out of float32: a million numbers are not read, only to be written again.
                    "embeddings": orjson.Fragment(self._blob(event.blob or "")),
                    "usage": {"prompt_tokens": event.prompt_tokens, "total_tokens": event.prompt_tokens},
                }
                if event.truncated:
                    result["truncated"] = {"texts": event.truncated}
                if event.degraded is not None:
                    result["degraded"] = event.degraded
                if model.provider != "local":
                    result["provider"] = model.provider
                if self._rerouted:
                    result["rerouted"] = self._rerouted
                return result
            case "predict":
                return self._predicted(model.name, event, text)
            case "tokenize":
                return {"tokens": text["tokens"], "count": len(text["tokens"])}
            case "detokenize":
                return {"text": text["text"]}
            case "load" | "unload" | "pull" | "remove" | "shutdown":
                message = f"{kind} is replied to, never completed"
                raise AssertionError(message)
            case _:
                assert_never(kind)

    def _predicted(self, model: str, event: ev.RequestCompleted, text: Any) -> JsonObject:
        # A long one is not read, only to be written again.
        outputs = text["outputs"] if event.blob is None else orjson.Fragment(self._blob(event.blob))
        result: JsonObject = {"model": model, "device": event.device, "outputs": outputs}
        if event.prompt_tokens:
            result["usage"] = {"prompt_tokens": event.prompt_tokens, "total_tokens": event.prompt_tokens}
        if event.degraded is not None:
            result["degraded"] = event.degraded
        return result

    def _generated(self, accepted: ev.RequestAccepted, model: ModelFacts, event: ev.RequestCompleted) -> JsonObject:
        result: JsonObject = {
            "id": self.request,
            "model": model.name,
            "provider": model.provider,
            "device": event.device,
            "finish_reason": event.finish_reason,
            "usage": _usage(event),
            "seed": accepted.seed,
            "determinism": accepted.determinism,
            "timing": attrs.asdict(event.timing),
        }
        if accepted.kind == "chat":
            result["message"] = self._said.message()
        else:
            result["text"] = self.text
        if accepted.conversation:
            result["conversation"] = accepted.conversation
        if accepted.adapter:
            result["adapter"] = accepted.adapter
        if event.truncated:
            result["truncated"] = {"turns": event.truncated}
            if event.summarised:
                result["truncated"]["summarised"] = event.summarised
        if event.degraded is not None:
            result["degraded"] = event.degraded
        if event.resumed is not None:
            result["resumed"] = event.resumed
        if self._rerouted:
            result["rerouted"] = self._rerouted
        if self._said.logprobs:
            result["logprobs"] = self._said.logprobs
        return result


def _why_gone(tombstone: JsonObject) -> str:
    return str(tombstone.get(GONE, "forgotten"))  # Where there was little room, forgetting has left an empty one.


def _in_the_hosts_words(failure: Failure, text: Any) -> Failure:
    """Return a refusal that names a key as its host did; the core knows its digest alone."""
    if failure.data.get("what") != "key" or text is None or is_gone(text):
        return failure
    return attrs.evolve(failure, data={**failure.data, "id": text["params"]["key"]})


def _usage(event: ev.RequestCompleted) -> JsonObject:
    return {
        "prompt_tokens": event.prompt_tokens,
        "completion_tokens": event.completion_tokens,
        "total_tokens": event.prompt_tokens + event.completion_tokens,
        "cached_tokens": event.cached_tokens,
    }


def event_params(group: Group, index: int) -> JsonObject:
    """Return record ``index`` of a group (0 is its command) as ``event`` notifications and ``events.read`` show it."""
    record = group.command if index == 0 else group.events[index - 1]
    shown: JsonObject = {
        "log_seq": group.first_seq + index,
        "time_ms": group.time_ms,
        "type": type(record).__name__,
        "version": 1,
        "data": CODEC.data(record),
    }
    request = getattr(record, "request", None)
    if request is not None:
        shown["request"] = request
    if index == 0 and group.text is not None:
        shown["text"] = group.text
    return shown


def event_types() -> dict[str, type]:
    """Return what ``event_params`` can show, by its type on the wire: the commands and the events of the log."""
    return {kind.__name__: kind for union in (Command, ev.Event) for kind in get_args(union)}
