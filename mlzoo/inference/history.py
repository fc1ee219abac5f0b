"""A prompt with a history, as far as it fits: turns are counted, and the oldest left out as the plan says.

The plan is in ``mlzoo.pipelines.context``; here it is carried out, with the tokens that the model's own chat template
really makes of what is left. Knows nothing of batches.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from mlzoo.pipelines.context import room_for_prompt, turns_to_cut

if TYPE_CHECKING:
    from mlzoo.frames import Generate, Messages
    from mlzoo.inference.text import Text
    from mlzoo.inference.tool_forms import Tools


def read_prompt(
    text: Text, frame: Generate, context: int, tools: Tools = ()
) -> tuple[tuple[int, ...], dict[str, Any], int]:
    """Return the tokens of a request's prompt, its images, and how many turns of its history were left out.

    One that goes on leaves out as many as when it began. What is still too long is the caller's to refuse. Summaries
    are made before (``summaries``): where there is none, turns go all the same.

    Args:
        text: The model's tokenizer.
        frame: The request.
        context: Tokens that prompt and answer may have together.
        tools: That it may call.

    Raises:
        MlzooError: As ``Text.look`` does.
    """
    if frame.messages is None or not frame.turns:
        return (*text.look(frame.prompt, frame.messages, tools), 0)
    if frame.resume is not None:
        return (*text.look(None, _without(frame, frame.cut), tools), frame.cut)
    tokens, images = text.look(None, frame.messages, tools)
    room = room_for_prompt(context, frame.max_tokens)
    if frame.truncation.policy == "none" or (frame.truncation.policy != "keep_last" and len(tokens) <= room):
        return tokens, images, 0
    cut = turns_to_cut(counts(text, frame, len(tokens)), len(tokens), room, frame.truncation)
    while cut:
        tokens, images = text.look(None, _without(frame, cut), tools)
        if len(tokens) <= room or cut == len(frame.turns):
            break
        cut += 1  # The counts were estimates.
    return tokens, images, cut


def _without(frame: Generate, cut: int) -> Messages:
    messages = frame.messages or ()
    return (*messages[: frame.leading], *messages[frame.leading + sum(frame.turns[:cut]) :])


def counts(text: Text, frame: Generate, tokens: int) -> list[int]:
    """Return about how many tokens each turn has: its texts, and its share of what the template puts around them."""
    messages = frame.messages or ()
    each = [len(text.encode(_words(message.get("content")))) for message in messages]
    around = max(0, tokens - sum(each)) // len(messages)
    ends = list(accumulate(frame.turns, initial=frame.leading))
    return [sum(each[start:end]) + around * (end - start) for start, end in pairwise(ends)]


def _words(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(part.get("text", "") for part in parts if isinstance(part, dict))
