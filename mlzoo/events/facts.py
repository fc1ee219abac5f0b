"""What commands and events are made of: who asks, which model, which device, which limits, which key.

The rules are those of ``mlzoo.events.commands``, and whoever reads or writes these names them by that module.
"""

from __future__ import annotations

from typing import Literal

import attrs

from mlzoo.errors import Failure
from mlzoo.frames import FinishReason, Sampling

Method = Literal["chat", "complete", "embed", "tokenize", "detokenize", "predict"]
Priority = Literal["interactive", "batch"]
Determinism = Literal["fast", "exact"]


@attrs.frozen(kw_only=True)
class Caller:
    """Where an answer goes: a connection, and the id that the host gave its call there.

    after_aside is the last call of the connection that had been answered by an aside when this one came: an aside is
    recorded at once, and a command when its turn comes, so that their places alone do not tell which came first.
    """

    connection: str
    rpc: str | int
    after_aside: int = 0


@attrs.frozen(kw_only=True)
class ModelFacts:
    """What the core needs to know of a model; the shell reads it from configuration and store."""

    name: str
    kind: Literal["chat", "embed", "predict"]
    provider: str = "local"
    digest: str = ""
    memory_bytes: int = 0  # an estimate, replaced by what is measured once it is loaded
    slots: int = 1
    keep_alive_ms: int = 300_000
    replicas: int = 1  # of it, each on another device, as far as there is room
    # Where a provider answers, slots is how many requests it takes at once, of all its models together.


@attrs.frozen(kw_only=True)
class Candidate:
    """A model that may answer a request in the place of another; refused is why it cannot, where that is known."""

    model: ModelFacts
    sampling: Sampling | None = None
    refused: Failure | None = None


@attrs.frozen(kw_only=True)
class DeviceFacts:
    """One device as it was probed."""

    name: str
    kind: str
    memory_total_bytes: int
    memory_free_bytes: int
    usable: bool = True
    reason: str = ""


@attrs.frozen(kw_only=True)
class Bounds:
    """The limits that decisions depend on, recorded at each start."""

    max_queued: int
    max_running: int
    queued_bytes: int
    drain_ms: int
    key_ms: int = 0  # of the log's clock, for which the result of a keyed request is kept
    max_conversations: int = 0  # this and the next two: 0 is without a bound
    conversation_bytes: int = 0  # of text, about, in one conversation
    conversations_bytes: int = 0  # of text, about, in all conversations and personas


@attrs.frozen(kw_only=True)
class KeyFacts:
    """What is known of a key whose request has ended.

    A key is the SHA-256 of the host's own words, as hexadecimal digits; the words are text. next_seq is how many
    pieces the answer has.
    """

    request: str
    params_digest: str
    accepted_seq: int
    ended_seq: int
    next_seq: int
    ended_at_ms: int


@attrs.frozen(kw_only=True)
class TurnRef:
    """A turn of a conversation by its place: its request, the log_seq of its acceptance and that of its end."""

    request: str
    accepted_seq: int
    ended_seq: int


@attrs.frozen(kw_only=True)
class SummaryFacts:
    """What a worker made of turns that were too long: it stands for the oldest ``turns`` of the conversation.

    Of those, left_out are in no summary, as they did not fit into the context either. What was read to make it are the
    turns of these requests, and the summary that there was before.
    """

    turns: int
    left_out: int = 0
    of: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class SummaryRef:
    """The summary of a conversation by its place: the event that told of it, and the turn for which it was made.

    Its text is the row of that event; once it was copied, it is the last item in the text of the command at base_seq.
    """

    request: str
    seq: int
    turns: int
    left_out: int = 0
    is_copied: bool = False


@attrs.frozen(kw_only=True)
class History:
    """What came before a turn: the latest one that has records of its own, and what all before those lie in.

    The turns that have records of their own are a list that is linked backwards: each was dispatched with its history.
    base_seq is the command that holds the turns before the first of them, and from_seq the lowest log_seq that is
    needed to read it all. A conversation's first turn has none of the three. A summary is read in the place of the
    oldest turns.
    """

    head: TurnRef | None = None
    base_seq: int | None = None
    from_seq: int | None = None
    summary: SummaryRef | None = None


@attrs.frozen(kw_only=True)
class TurnFacts:
    """A turn of a conversation that is copied: where question and answer stood first, by which they are known.

    Its text, {messages, content, tool_calls?, greeting?}, is the item of the same number in the text of its command.
    """

    request: str
    asked_seq: int
    ended_seq: int
    asked_at_ms: int  # of the wall clock, as ended_at_ms
    ended_at_ms: int
    cancelled: bool = False
    forked: bool = False  # whether it was a turn of another conversation at first


@attrs.frozen(kw_only=True, slots=False)  # It is made for each token: with slots that takes longer.
class RowFacts:
    """What one step brought to one request: counts, never text."""

    request: str
    tokens: int
    size_bytes: int
    logprobs: int = 0
    prompt_tokens: int | None = None
    cached_tokens: int = 0
    truncated: int = 0  # turns of its history that were left out, said with prompt_tokens
    finish_reason: FinishReason | None = None
    digest: str = ""  # of the whole answer, where finish_reason is set
    tool_calls: int = 0  # pieces of calls
    reasoning_bytes: int = 0
    completion_tokens: int | None = None  # of the whole request so far; None: tokens are added up
    summary: SummaryFacts | None = None  # the row is no piece of the answer, but {summary} of its conversation
