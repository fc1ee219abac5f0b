"""What the sidecar sends without being asked again: stream, progress and event."""

from __future__ import annotations

from typing import Any

import attrs

from mlzoo.api.fields import about
from mlzoo.api.inference import RpcId, TokenLogprob
from mlzoo.api.observation import EventRecord


@attrs.frozen(kw_only=True)
class ToolCallDelta:
    """A piece of a tool call: those of one index concatenate to it."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str | None = None


@attrs.frozen(kw_only=True)
class Delta:
    """A piece of an answer: each field concatenates to the same one of the final message."""

    content: str | None = attrs.field(default=None, metadata=about("Never splits a character."))
    reasoning: str | None = None
    tool_calls: tuple[ToolCallDelta, ...] | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None


@attrs.frozen(kw_only=True)
class Stream:
    """A piece of the answer to a request that asked for stream."""

    request: RpcId = attrs.field(metadata=about("Id of the request on this connection."))
    seq: int = attrs.field(metadata=about("The stream's own number, from 0 without gaps."))
    delta: Delta


@attrs.frozen(kw_only=True)
class Progress:
    """How far long work is that a request of this connection waits for; may be coalesced."""

    request: RpcId = attrs.field(metadata=about("Id of the request on this connection."))
    model: str = attrs.field(metadata=about("The model that the work is about."))
    stage: str = attrs.field(
        metadata=about("download and more of a pull, start (of a worker process), weights, prefill; more may come.")
    )
    done: int
    total: int = attrs.field(metadata=about("0 where it is not known."))
    unit: str
    message: str


@attrs.frozen(kw_only=True)
class Event(EventRecord):
    """An event that a subscription asked for."""

    subscription: str


@attrs.frozen(kw_only=True)
class SubscriptionEnded:
    """Nothing more comes of a subscription: what was next for it is not kept any more, or is damaged."""

    subscription: str
    error: dict[str, Any] = attrs.field(metadata=about("Code, message and data, as in a response."))


NOTIFICATIONS: dict[str, type] = {
    "stream": Stream,
    "progress": Progress,
    "event": Event,
    "subscription_ended": SubscriptionEnded,
}
