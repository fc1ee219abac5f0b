"""Between text and tokens: prompts, chat templates, token names.

Knows a tokenizer; nothing of batches or devices.
"""

from __future__ import annotations

import json
from itertools import groupby
from typing import TYPE_CHECKING, Any

from mlzoo.errors import InvalidParams, MlzooError, Unsupported
from mlzoo.inference.detokenizer import byte_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlzoo.frames import Messages
    from mlzoo.inference.images import Eyes


DETAIL_CHARS = 1000  # of what a template says: it may repeat whole messages


class TemplateRefusal(InvalidParams):
    """The host's fault: the model's chat template does not take these messages. ``detail`` is what it says itself.

    A template is a program of the model's, and may put the messages into its words: they are text, as those are.
    """

    def __init__(self, model: str, detail: str) -> None:
        super().__init__(
            f"the chat template of {model} refuses these messages: their roles, or the order of their turns; "
            "data.detail holds its own words",
            path="messages",
        )
        self.detail = detail[:DETAIL_CHARS]


class Text:
    """One model's tokenizer, in the three ways that serving needs it."""

    def __init__(self, tokenizer: Any, model: str, eyes: Eyes | None = None) -> None:
        self._tokenizer = tokenizer
        self._model = model
        self._eyes = eyes
        vocabulary = tokenizer.get_vocab()
        self.size = max(vocabulary.values(), default=-1) + 1  # Every token is less than this.
        self.byte_tokens = byte_tokens(vocabulary)
        self.silent_tokens = frozenset(tokenizer.all_special_ids)
        self._single: dict[int, str] = {}

    def read(
        self, prompt: str | None, messages: Messages | None, tools: Sequence[dict[str, Any]] = ()
    ) -> tuple[int, ...]:
        """Return the tokens of a prompt, or of messages through the chat template, which is told of the tools.

        Raises:
            InvalidParams: The template refuses the messages, or the prompt is empty and the model has no token to
                begin with.
            Unsupported: The model has no chat template, or a message holds more than text.
        """
        tokens = self._of_messages(messages, tools) if messages is not None else self.encode(prompt or "")
        if not tokens:
            begin = self._tokenizer.bos_token_id
            begin = self._tokenizer.eos_token_id if begin is None else begin
            if begin is None:
                raise InvalidParams("the prompt is empty, and this model has no token to begin with", path="prompt")
            tokens = (begin,)
        return tokens

    def look(
        self, prompt: str | None, messages: Messages | None, tools: Sequence[dict[str, Any]] = ()
    ) -> tuple[tuple[int, ...], dict[str, Any]]:
        """Return the tokens of a prompt or of messages, and what else a model that sees is given with the first.

        Raises:
            MlzooError: As ``read``.
        """
        if messages is None or self._eyes is None:
            return self.read(prompt, messages, tools), {}
        try:
            return self._eyes.read(tuple(map(_with_calls, messages)), tools)
        except MlzooError:
            raise
        except Exception as error:
            # A template is a program of the model's, and so is its processor: they raise what they like.
            raise TemplateRefusal(self._model, str(error)) from error

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text, with those that the tokenizer puts around it."""
        return tuple(self._tokenizer(text, verbose=False)["input_ids"])

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; special tokens leave none."""
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def name(self, token: int) -> str:
        """Return the text of one token on its own, special tokens by their names."""
        if token not in self._single:
            self._single[token] = self._tokenizer.decode([token], clean_up_tokenization_spaces=False)
        return self._single[token]

    def _of_messages(self, messages: Messages, tools: Sequence[dict[str, Any]]) -> tuple[int, ...]:
        if self._eyes is not None:
            return self.look(None, messages, tools)[0]
        if not self._tokenizer.chat_template:
            raise Unsupported(
                f"{self._model} has no chat template; use complete with a prompt", feature="chat", model=self._model
            )
        plain = [_with_calls(_plain(message, self._model)) for message in messages]
        given = {"tools": list(tools)} if tools else {}
        try:
            rendered = self._tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True, **given)
        except Exception as error:
            # A template is a program of the model's: it raises what it likes about messages that it does not take.
            raise TemplateRefusal(self._model, str(error)) from error
        return tuple(self._tokenizer(rendered, add_special_tokens=False, verbose=False)["input_ids"])


def _plain(message: dict[str, Any], model: str) -> dict[str, Any]:
    """Return a message whose content is one string: templates of text models expect no parts."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    if any(part.get("type") != "text" for part in content):
        raise Unsupported(f"{model} sees no images: send parts of the type text", feature="vision", model=model)
    return {**message, "content": "".join(part["text"] for part in content)}


def _with_calls(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message whose calls are as templates have them: OpenAI's, but with arguments that are no text."""
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        function = call.get("function", call)
        named = {"name": function["name"], "arguments": json.loads(function.get("arguments") or "{}")}
        calls.append({"id": call.get("id", ""), "type": "function", "function": named})
    return {**message, "tool_calls": calls}


class Naming:
    """A decoder for which some special tokens have text, their names: of those that say where a call begins, say."""

    def __init__(self, text: Text, named: dict[str, int]) -> None:
        self._text, self._names = text, {token: name for name, token in named.items()}
        self.byte_tokens, self.silent_tokens = text.byte_tokens, text.silent_tokens - self._names.keys()

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        parts = groupby(tokens, lambda token: self._names.get(token, ""))
        return "".join(name * len(list(group)) if name else self._text.decode(list(group)) for name, group in parts)


def end_tokens(module: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end an answer: those of the generation config, else the tokenizer's."""
    ends = module.generation_config.eos_token_id
    if ends is None:
        ends = tokenizer.eos_token_id
    if ends is None:
        return frozenset()
    return frozenset([ends] if isinstance(ends, int) else ends)
