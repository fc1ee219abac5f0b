"""Params and results of inference: chat, complete, tokenize, detokenize, and cancel.

The classes hold all that the protocol has, also what this version does not serve yet; ``mlzoo.api.content`` says
which of it a request asks for.
"""

from __future__ import annotations

from typing import Literal

import attrs

from mlzoo.api.fields import INTEGER_MAX, about, checked, naming
from mlzoo.api.forms import ResponseFormat, Tool, ToolChoice, WrittenCall
from mlzoo.api.routing import Rerouted

Role = Literal["system", "user", "assistant", "tool"]
Priority = Literal["interactive", "batch"]
Determinism = Literal["fast", "exact"]
Retention = Literal["keep", "ephemeral"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
RpcId = str | int

MESSAGES_MAX = 10_000  # More are a mistake, and reading them would hold everybody up.
TOKENS_MAX = 1_000_000  # to be turned into text at once: a third of a second, in which nothing else is generated
TOKEN_MAX = 2**31 - 1  # No tokenizer has more; which of them are tokens, the model's own tokenizer says.

MODEL = naming("Name of the model or one of its aliases; without it the configured default.")
KEYED = naming("Key of the request.")


# --------------------------------------------------------------------------------------------------------- messages


@attrs.frozen(kw_only=True)
class TextPart:
    """A piece of a message's text."""

    type: Literal["text"]
    text: str


@attrs.frozen(kw_only=True)
class ImageUrl:
    """Where an image is: a data: URL, or one that the model's provider can fetch."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"


@attrs.frozen(kw_only=True)
class ImagePart:
    """An image in a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


@attrs.frozen(kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role = attrs.field(metadata=about("Who speaks."))
    content: str | tuple[TextPart | ImagePart, ...] | None = attrs.field(
        validator=checked,
        metadata=about(
            "Text, or parts, joined by newlines. Beside tool_calls of the assistant null is taken for no text.",
            min_items=1,
            max_items=MESSAGES_MAX,
        )
        | {"null_where": "is_call"},
    )
    tool_calls: tuple[WrittenCall, ...] | None = attrs.field(
        default=None, metadata=about("The calls that the assistant made in this turn.")
    )
    tool_call_id: str | None = attrs.field(
        default=None, validator=checked, metadata=naming("The call that this turn of role tool answers.")
    )

    @property
    def is_call(self) -> bool:
        """Whether this is a turn of the assistant that calls tools, and may say nothing."""
        return self.role == "assistant" and bool(self.tool_calls)


_MESSAGES = about("The turns so far, oldest first.", min_items=1, max_items=MESSAGES_MAX)


# ----------------------------------------------------------------------------------------------------------- params


@attrs.frozen(kw_only=True)
class WorkParams:
    """What can be said of any work for a model: what is kept of it, and when and where it is done."""

    retention: Retention = attrs.field(
        default="keep", metadata=about("ephemeral: the text of request and answer never reaches the disk.")
    )
    key: str | None = attrs.field(
        default=None,
        validator=checked,
        metadata=naming("A string of the host's choosing, unique for ever: a request with it runs exactly once."),
    )
    deadline_ms: int | None = attrs.field(
        default=None,
        validator=checked,
        metadata=about(
            "Milliseconds that the request may take while the machine is awake.", minimum=1, maximum=INTEGER_MAX
        ),
    )
    priority: Priority = attrs.field(
        default="interactive", metadata=about("Interactive requests go before batch ones.")
    )
    require_device: str | None = attrs.field(
        default=None,
        validator=checked,
        metadata=naming("Refuse the request where the model does not run on this device or kind of device."),
    )


@attrs.frozen(kw_only=True)
class GenerationParams(WorkParams):
    """What chat and complete have in common. Where sampling fields are absent, the model's own defaults hold."""

    model: str | None = attrs.field(default=None, validator=checked, metadata=MODEL)
    stream: bool = attrs.field(
        default=False, metadata=about("Send each piece as a stream notification before the response.")
    )
    max_tokens: int | None = attrs.field(
        default=None,
        validator=checked,
        metadata=about("Most tokens to generate; without it as many as fit.", minimum=1, maximum=INTEGER_MAX),
    )
    temperature: float | None = attrs.field(
        default=None, validator=checked, metadata=about("Flatness of the distribution; 0 is greedy.", minimum=0)
    )
    top_p: float | None = attrs.field(
        default=None,
        validator=checked,
        metadata=about("Sample from the likeliest tokens that hold this much probability.", above=0, maximum=1),
    )
    top_k: int | None = attrs.field(
        default=None,
        validator=checked,
        metadata=about("Sample from this many likeliest tokens; 0: all.", minimum=0, maximum=INTEGER_MAX),
    )
    min_p: float | None = attrs.field(
        default=None,
        validator=checked,
        metadata=about("Drop tokens less likely than this share of the likeliest one.", minimum=0, maximum=1),
    )
    repetition_penalty: float | None = attrs.field(
        default=None, validator=checked, metadata=about("Above 1 makes repeating less likely; 1 is neutral.", above=0)
    )
    stop: str | tuple[str, ...] | None = attrs.field(
        default=None,
        validator=checked,
        metadata=about(
            "Strings at which the text ends; they are not part of it.",
            min_length=1,
            max_items=16,
            each={"minLength": 1},
        ),
    )
    seed: int | None = attrs.field(
        default=None,
        validator=checked,
        metadata=about("Seed of the draws; without it a fresh one, named in the result.", minimum=0, maximum=2**53 - 1),
    )
    logprobs: bool = attrs.field(default=False, metadata=about("Give the log-probability of each token."))
    top_logprobs: int | None = attrs.field(
        default=None,
        validator=checked,
        metadata=about("How many rivals of each token to give as well.", minimum=0, maximum=20, needs="logprobs"),
    )
    determinism: Determinism = attrs.field(
        default="fast",
        metadata=about("exact: equal text in any company, also after an interruption."),
    )
    response_format: ResponseFormat | None = attrs.field(
        default=None, metadata=about("The form that the answer must have, as OpenAI's, or an expression, or a grammar.")
    )
    provider: str | None = attrs.field(
        default=None,
        validator=checked,
        metadata=naming("Who answers; without it the model's own provider."),
    )
    adapter: str | None = attrs.field(
        default=None,
        validator=checked,
        metadata=naming("Adapter of the model, by its name in the model's entry; without it the model as it is."),
    )


@attrs.frozen(kw_only=True)
class ChatParams(GenerationParams):
    """A conversation that is to be answered."""

    messages: tuple[Message, ...] = attrs.field(validator=checked, metadata=_MESSAGES)
    persona: str | None = attrs.field(
        default=None,
        validator=checked,
        metadata=naming("Persona whose system prompt and defaults hold; without it that of the conversation."),
    )
    conversation: str | None = attrs.field(
        default=None,
        validator=checked,
        metadata=naming('Conversation whose history comes first, or "new".'),
    )
    tools: tuple[Tool, ...] | None = attrs.field(default=None, metadata=about("What the model may call, as OpenAI's."))
    tool_choice: ToolChoice | None = attrs.field(
        default=None, metadata=about("Whether, and which, tool must be called, as OpenAI's; without it auto.")
    )


@attrs.frozen(kw_only=True)
class CompleteParams(GenerationParams):
    """A text that is to be continued, without any template."""

    prompt: str = attrs.field(metadata=about("The text."))


@attrs.frozen(kw_only=True)
class TokenizeParams:
    """A text or messages whose tokens are asked for; exactly one of the two."""

    model: str | None = attrs.field(default=None, validator=checked, metadata=MODEL)
    text: str | None = attrs.field(default=None, metadata=about("The text, without any template."))
    messages: tuple[Message, ...] | None = attrs.field(
        default=None,
        validator=checked,
        metadata=about(
            "Messages, put through the model's chat template.",
            min_items=1,
            max_items=MESSAGES_MAX,
            instead_of="text",
        ),
    )


@attrs.frozen(kw_only=True)
class DetokenizeParams:
    """Tokens whose text is asked for."""

    model: str | None = attrs.field(default=None, validator=checked, metadata=MODEL)
    tokens: tuple[int, ...] = attrs.field(
        validator=checked,
        metadata=about("The tokens.", max_items=TOKENS_MAX, each={"minimum": 0, "maximum": TOKEN_MAX}),
    )


@attrs.frozen(kw_only=True)
class CancelParams:
    """The request that is to end: by its id on this connection or by its key; exactly one of the two."""

    request: RpcId | None = attrs.field(default=None, metadata=about("Id of the request on this connection."))
    key: str | None = attrs.field(default=None, validator=checked, metadata=KEYED | {"instead_of": "request"})


# ---------------------------------------------------------------------------------------------------------- results


@attrs.frozen(kw_only=True)
class TopLogprob:
    """A token that might have been chosen."""

    token: str
    logprob: float


@attrs.frozen(kw_only=True)
class TokenLogprob:
    """A chosen token, its log-probability under the unmodified distribution, and its likeliest rivals."""

    token: str
    logprob: float
    top: tuple[TopLogprob, ...] | None = None


@attrs.frozen(kw_only=True)
class ToolCall:
    """A call that the model wants made."""

    id: str
    name: str
    arguments: str = attrs.field(metadata=about("JSON, as the model wrote it."))


@attrs.frozen(kw_only=True)
class AnswerMessage:
    """The assistant's turn."""

    content: str
    role: Literal["assistant"] = "assistant"
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] | None = None


@attrs.frozen(kw_only=True)
class Usage:
    """Tokens that a request took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int = attrs.field(metadata=about("Tokens of the prompt that did not have to be read again."))


@attrs.frozen(kw_only=True)
class Timing:
    """Where the time went, in milliseconds."""

    queue_ms: int = attrs.field(metadata=about("From arrival to a place in the batch."))
    ttft_ms: int = attrs.field(metadata=about("From arrival to the first token."))
    total_ms: int


@attrs.frozen(kw_only=True)
class Truncated:
    """What of a history that was too long was not read as it was said."""

    turns: int = attrs.field(metadata=about("How many of the oldest turns."))
    summarised: int | None = attrs.field(
        default=None, metadata=about("For how many of them a summary was read; the others were left out.")
    )


@attrs.frozen(kw_only=True)
class GenerationResult:
    """What chat and complete answer in common."""

    id: str = attrs.field(metadata=about("The request's name in the log."))
    model: str
    provider: str
    device: str
    finish_reason: FinishReason
    usage: Usage
    seed: int
    determinism: Determinism
    timing: Timing
    degraded: str | None = attrs.field(default=None, metadata=about("Why a slower device was used than the best."))
    resumed: Literal["exact", "prefill"] | None = None
    rerouted: tuple[Rerouted, ...] | None = None
    conversation: str | None = None
    truncated: Truncated | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    adapter: str | None = None


@attrs.frozen(kw_only=True)
class ChatResult(GenerationResult):
    """The answer to a conversation."""

    message: AnswerMessage


@attrs.frozen(kw_only=True)
class CompleteResult(GenerationResult):
    """The continuation of a text."""

    text: str


@attrs.frozen(kw_only=True)
class TokenizeResult:
    """The tokens of a text."""

    tokens: tuple[int, ...]
    count: int


@attrs.frozen(kw_only=True)
class DetokenizeResult:
    """The text of tokens."""

    text: str


@attrs.frozen(kw_only=True)
class CancelResult:
    """Whether there was a request to end; what is unknown or finished is no error."""

    cancelled: bool
