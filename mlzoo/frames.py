"""What the sidecar and a worker process say to each other: the only door between the two wings of the house.

One frame is one JSON object on one line: ``{"type": <class name>, ...fields}``, in both directions of a socketpair.
Frames are values without behaviour or version: both sides are one installation. Knows neither trio nor torch.
"""

from __future__ import annotations

from typing import Any, Literal

import attrs

from mlzoo.adapter_facts import AdapterFacts

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
Doing = Literal["start", "load", "work", "idle"]
Resumption = Literal["exact", "prefill"]
Messages = tuple[dict[str, Any], ...]


@attrs.frozen(kw_only=True)
class Truncation:
    """What becomes of a history that is too long: its oldest turns go (some, all but some, into a summary), or none."""

    policy: Literal["drop_oldest", "keep_last", "none", "summarise"] = "none"
    keep_last: int = 0  # turns


@attrs.frozen(kw_only=True)
class Sampling:
    """How the next token is chosen; greedily where temperature is 0.

    The order is that of transformers: repetition penalty (Keskar et al. 2019), temperature, top-k, top-p (Holtzman et
    al. 2020), min-p (Nguyen et al. 2024), then one draw from Philox4x32-10 by (seed, position) (Salmon et al. 2011).
    """

    temperature: float = 0.0
    top_k: int = 0  # 0: off
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    logprobs: bool = False
    top_logprobs: int = 0


# ------------------------------------------------------------------------------------------ sidecar -> worker


@attrs.frozen(kw_only=True)
class Load:
    """Load a model from a directory of converted weights. Answered by LoadProgress, then Loaded or LoadFailed."""

    model: str
    path: str
    kind: Literal["chat", "embed", "predict"]
    dtype: str = "auto"  # auto | float32 | bfloat16 | float16
    quantization: Literal["auto", "none", "int4"] = "auto"  # auto: where the weights lose nothing by it
    compile: Literal["auto", "none"] = "auto"  # own kernels, whole steps; none: no compiler runs
    slots: int = 16  # rows that may decode together
    context: int = 0  # tokens of cache a row has; 0: what the model and a sensible bound allow
    trust_remote_code: bool = False
    speculation: bool = True  # tokens that a text seems to repeat are read ahead; what is answered is the same
    digest: str = ""  # of the weights; empty: not known, so that nothing that was found out about them is remembered
    zoo: dict[str, Any] | None = None  # the parts of one that predicts, as configured; None: its artifact says
    answer_bytes: int = 16 * 1024 * 1024  # the longest line to a host: what surely makes a longer one is refused
    adapters: dict[str, str] = attrs.field(factory=dict)  # name -> the directory in which peft has saved it


@attrs.frozen(kw_only=True)
class Unload:
    """Drop a model and give its memory back. Answered by Unloaded."""

    model: str


@attrs.frozen(kw_only=True)
class Generate:
    """Generate from messages (through the chat template) or from a plain prompt; exactly one of the two is set.

    Answered by rows in Stepped frames until one of them has a finish reason, or by WorkFailed.

    One that was interrupted goes on: its tokens so far, and the text that they brought, are not said again. exact
    gives what follows to the bit, if need be by decoding them once more; prefill reads them as a prompt, fast.
    """

    request: str
    model: str
    messages: Messages | None = None
    prompt: str | None = None
    sampling: Sampling
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None  # None: as many as the context still holds; those of before an interruption count
    exact: bool = False  # the same bits in every company, at the price of the kernels that give them
    batch: bool = False  # prompts of others are read before its own
    ephemeral: bool = False  # nothing of it is kept beyond its end, neither for others nor for its next turn
    leading: int = 0  # messages that stand before the history of a conversation
    turns: tuple[int, ...] = ()  # of how many messages each turn of that history is, oldest first
    truncation: Truncation = Truncation()
    summary: int = 0  # messages that a summary of earlier turns is; they are the last of those that lead
    left_out: int = 0  # turns for which it does not stand, though they were before its end
    asks: str = ""  # for a summary; this and the next two where there may be one
    numbers: tuple[int, ...] = ()  # of the conversation's turns up to and with each of turns
    names: tuple[str, ...] = ()  # of the requests that these turns were
    cut: int = 0  # turns that were left out when it began
    resume: Resumption | None = None  # None: it begins
    tokens: tuple[int, ...] = ()
    said: str = ""
    tools: tuple[dict[str, Any], ...] = ()  # that the model may call, as OpenAI has them
    tool_choice: Any = None  # a word or an object, as OpenAI has it
    response_format: dict[str, Any] | None = None  # as OpenAI has it; None: any text
    adapter: str = ""  # of the model's; empty: the model as it is
    fingerprint: str = ""  # of the way in which an exact one has begun, of those that the model has; empty: its first


@attrs.frozen(kw_only=True)
class Embed:
    """Embed texts. Answered by Embedded or WorkFailed."""

    request: str
    model: str
    texts: tuple[str, ...]
    normalize: bool = True
    batch: bool = False  # texts of others are embedded before its own


@attrs.frozen(kw_only=True)
class Predict:
    """Have a custom model answer inputs, which its pipeline reads. Answered by Predicted or WorkFailed."""

    request: str
    model: str
    inputs: tuple[Any, ...]
    batch: bool = False  # inputs of others are read before its own


@attrs.frozen(kw_only=True)
class Tokenize:
    """Count and name the tokens of a text, or of messages through the chat template. Answered by Tokenized."""

    request: str
    model: str
    text: str | None = None
    messages: Messages | None = None


@attrs.frozen(kw_only=True)
class Detokenize:
    """Turn tokens into text. Answered by Detokenized."""

    request: str
    model: str
    tokens: tuple[int, ...]


@attrs.frozen(kw_only=True)
class Abandon:
    """Stop working on a request, within one decode step or prefill chunk. Not answered, also where it is unknown."""

    request: str


@attrs.frozen(kw_only=True)
class Forget:
    """Drop what is kept of earlier requests to serve later ones: one of them is to be forgotten. Not answered."""


@attrs.frozen(kw_only=True)
class Leave:
    """End the process, now; what is running is lost."""


@attrs.frozen(kw_only=True)
class Beat:
    """Show that you live. Answered at once by Beating, whatever is being computed."""


ToWorker = Load | Unload | Generate | Embed | Predict | Tokenize | Detokenize | Abandon | Forget | Leave | Beat

# ------------------------------------------------------------------------------------------ worker -> sidecar


@attrs.frozen(kw_only=True)
class Up:
    """The first frame of a worker: torch is imported, the device answers."""

    pid: int
    device: str
    versions: dict[str, str]  # torch, transformers, python
    threads: int
    wait_policy: str
    held_bytes: int = 0  # by the process, before it has loaded anything; 0: not known


@attrs.frozen(kw_only=True)
class Beating:
    """What the main thread is doing. The turn changes with each step, load and frame: one that stays is stuck."""

    turn: int
    doing: Doing


@attrs.frozen(kw_only=True)
class LoadProgress:
    """How far a load is."""

    model: str
    stage: str
    done: int
    total: int
    unit: str = "bytes"


@attrs.frozen(kw_only=True)
class Loaded:
    """A model is ready. Said again where what was chosen for it, ``why``, has changed."""

    model: str
    memory_bytes: int  # measured: growth of the process, or of the device's allocator
    peak_bytes: int = 0  # the most that it took while it was loaded; 0: not known
    context: int  # tokens a row may hold, prompt and answer together
    slots: int
    dtype: str
    architecture: str
    batching: Literal["slots", "serial"]  # serial: one request at a time through transformers' own generate
    fingerprint: str = ""  # of all that an answer's bits depend on; empty: they may differ from one time to the next
    fingerprints: tuple[str, ...] = ()  # of further ways in which it can go on with what has begun in one of them
    why: tuple[str, ...] = ()  # what was chosen and for what reason, for people
    labels: tuple[str, ...] = ()  # that a custom model tells apart
    adapters: tuple[AdapterFacts, ...] = ()


@attrs.frozen(kw_only=True)
class LoadFailed:
    """A model could not be loaded; the worker lives on. reason is load or memory."""

    model: str
    message: str
    reason: Literal["load", "memory"] = "load"
    needed_bytes: int = 0
    free_bytes: int = 0


@attrs.frozen(kw_only=True)
class Unloaded:
    """A model is gone."""

    model: str
    held_bytes: int = 0  # by the whole process, after; 0: not known


@attrs.frozen(kw_only=True)
class TokenLogprob:
    """A chosen token, its log-probability under the unmodified distribution, and its best rivals."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@attrs.frozen(kw_only=True)
class ToolCallDelta:
    """A piece of a call that the model wants made; the pieces of one index are to be joined, field by field."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""  # of the text of a JSON object


@attrs.frozen(kw_only=True)
class Summary:
    """What a model says in short of a conversation's oldest turns, which are too long for its context."""

    text: str
    turns: int  # from the conversation's beginning
    left_out: int = 0  # of those; they did not fit even for this
    of: tuple[str, ...] = ()  # the requests whose turns were read for it, beside the summary before


@attrs.frozen(kw_only=True)
class Row:
    """What a token brought to a request, or several in their order.

    content is whole UTF-8 text, empty while a character or a stop string may be open. An API gives no token ids.
    """

    request: str
    content: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_tokens: int | None = None  # set in the first row of a request, or when an API tells
    cached_tokens: int = 0
    truncated: int = 0  # turns of the history that were left out; set in the first row
    finish_reason: FinishReason | None = None
    tool_calls: tuple[ToolCallDelta, ...] = ()
    reasoning: str = ""
    completion_tokens: int | None = None  # of the whole request so far; None: those of its rows are counted
    summary: Summary | None = None  # the row is this, and no piece of the answer


@attrs.frozen(kw_only=True)
class Stepped:
    """What decode steps of the batch brought, or the first token of a request whose prompt is read.

    A request whose next tokens were guessed right may have a row for each of them, in their order.
    """

    rows: tuple[Row, ...]


@attrs.frozen(kw_only=True)
class Prefilled:
    """A chunk of a long prompt has been read: progress, not content."""

    request: str
    done: int
    total: int


@attrs.frozen(kw_only=True)
class Replayed:
    """Some of a request's earlier tokens have been decoded again: progress, not content."""

    request: str
    done: int
    total: int


@attrs.frozen(kw_only=True)
class Embedded:
    """Embeddings: the rows as the text of a JSON array, with the fewest digits that give back each float32."""

    request: str
    vectors: str
    count: int
    dimensions: int
    prompt_tokens: int
    truncated: int = 0  # texts that were longer than the model reads, and were cut


@attrs.frozen(kw_only=True)
class Predicted:
    """What a custom model answers: the outputs as the text of a JSON array, one for each input."""

    request: str
    outputs: str
    count: int
    prompt_tokens: int = 0  # that were read; 0 where there are none


@attrs.frozen(kw_only=True)
class Tokenized:
    """The tokens of a text."""

    request: str
    tokens: tuple[int, ...]


@attrs.frozen(kw_only=True)
class Detokenized:
    """The text of tokens."""

    request: str
    text: str


@attrs.frozen(kw_only=True)
class WorkFailed:
    """One request failed; the others go on.

    code is one of the wire's: 1003, 1005, 1006, 1007, 1008, 1010, 1011, -32602 or -32603.

    Nothing of message and data comes from the request's text; what may, stands in detail, and is recorded as text.
    """

    request: str
    code: int
    message: str
    data: dict[str, Any] = attrs.field(factory=dict)
    detail: str = ""
    story: str = ""  # the traceback of a fault of ours, for the sidecar's own log


FromWorker = (
    Up
    | Beating
    | LoadProgress
    | Loaded
    | LoadFailed
    | Unloaded
    | Stepped
    | Prefilled
    | Replayed
    | Embedded
    | Predicted
    | Tokenized
    | Detokenized
    | WorkFailed
)
