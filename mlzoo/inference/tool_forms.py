"""How a model writes a call of a tool, found out from its own chat template.

The template is given an answer with a call in it, and two; what it puts around names and arguments is what the model
was trained to write: ``<tool_call>`` and JSON, a list of objects, ``[TOOL_CALLS]name[ARGS]``, and so on. So no list of
models is needed. Knows templates and grammars; nothing of streams (``tool_calls``).
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import attrs

from mlzoo.errors import Unsupported
from mlzoo.inference.constraint import JSON_OPTIONS, Grammar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlzoo.frames import Generate

Tools = tuple[dict[str, Any], ...]

NAME, OTHER_NAME, ARGUMENT, SAID = "probe_it", "probe_other", "probed", "Probing."
CALL_ID, OTHER_ID = "callprobe", "callother"  # nine letters and digits: some templates insist on that
PROBE: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": "Probes.",
        "parameters": {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]},
    },
}
ASKED = {"role": "user", "content": "Probe it."}
NOTHING_TOLD = {"type": "object"}  # what a tool takes that says nothing of its parameters
JSON_HEAD = re.compile(r"(?P<list>\[\s*)?\{\s*\"name\"\s*:\s*\"$")  # what is before a name in the text of an object
IDENTITY = re.compile(r',\s*"id"\s*:\s*"(callprobe|callother)"')  # Models write none, even where templates do.


@attrs.frozen
class ToolForm:
    """How calls are written: ``before name middle {arguments} (between name middle {arguments})* after``.

    Attributes:
        between: None: there is no more than one call in an answer.
        is_json: Whether name and arguments are members of an object; its place may be a list.
        marker: With what a call begins, up to its object or its name; empty: with the object itself.
        special: Tokens that leave no text, but are a part of this.
    """

    before: str
    middle: str
    between: str | None
    after: str
    is_json: bool
    marker: str
    special: dict[str, int]

    @property
    def closing(self) -> str:
        """What stands after the last call, without the end of its own object and list."""
        return re.sub(r"^\s*\}\s*\]?", "", self.after).strip() if self.is_json else self.after.strip()

    @property
    def why(self) -> str:
        """What is said of it to people."""
        example = self.before + "NAME" + self.middle + "{ARGUMENTS}" + self.after
        several = "" if self.between is not None else ", one in an answer"
        return f"tools: its chat template writes calls as {' '.join(example.split())}{several}"


def tool_form(tokenizer: Any) -> ToolForm | str:
    """Return how a model writes calls of tools; in words why not, where it does not or in no way that is known."""
    if not tokenizer.chat_template:
        return "no tools: it has no chat template"
    try:
        told = _rendered(tokenizer, [ASKED], begins=True)
        if NAME not in told:
            return "no tools: its chat template does not take them"
    except Exception:  # noqa: BLE001 - a template is a program of the model's: it raises what it likes
        return "no tools: its chat template does not take them"
    try:
        one, end = _answer(tokenizer, told, [_called(NAME, CALL_ID)])
    except Exception:  # noqa: BLE001 - as above
        return "no tools: its chat template does not take answers with calls"
    try:
        two: str | None = _answer(tokenizer, told, [_called(NAME, CALL_ID), _called(OTHER_NAME, OTHER_ID)])[0]
    except Exception:  # noqa: BLE001 - as above: some allow for one call alone
        two = None
    return (
        _form(one, two, end, _special(tokenizer)) or "no tools: its chat template writes calls in a way not known here"
    )


def tools_of(frame: Generate, form: ToolForm | str) -> Tools:
    """Return the tools that the answer to a request may call.

    Raises:
        Unsupported: The model calls none, or cannot be asked for a call and for a form of its text at once.
    """
    tools = () if frame.tool_choice == "none" else frame.tools
    is_told_of_calls = any(one.get("role") == "tool" or one.get("tool_calls") for one in frame.messages or ())
    if isinstance(form, str) and (tools or is_told_of_calls):
        raise Unsupported(f"{frame.model} cannot be asked to call tools: {form}", feature="tools", model=frame.model)
    if tools and (frame.response_format or {"type": "text"})["type"] != "text":
        message = "an answer has a response_format or calls tools, not both: set tool_choice to none, or leave one out"
        raise Unsupported(message, feature="response_format", model=frame.model)
    return tools


def forced(form: ToolForm, tools: Tools, name: str | None) -> Grammar:
    """Return the grammar of an answer that calls tools: the one that is named, once, or one at least of any."""
    chosen = [tool["function"] for tool in tools if name in {None, tool["function"]["name"]}]
    lines = [f"call: {' | '.join(f'call_{n}' for n in range(len(chosen)))}"]
    for number, function in enumerate(chosen):
        schema = {**(function.get("parameters") or NOTHING_TOLD), "x-guidance": JSON_OPTIONS}
        lines.append(f"call_{number}: {_literal(function['name'] + form.middle, form)} arguments_{number}")
        lines.append(f"arguments_{number}: %json {json.dumps(_object(schema))}")
    more = "" if name is not None or form.between is None else f" ({_literal(form.between, form)} call)*"
    end = _literal(form.after, form)
    return Grammar("\n".join([f"start: {_literal(form.before, form)} call{more} {end}", *lines]), "tools")


def _object(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of arguments: these are an object, whatever else a schema would allow."""
    return schema if "type" in schema or "$ref" in schema else {"type": "object", **schema}


def _literal(text: str, form: ToolForm) -> str:
    """Return a text as a grammar has it, tokens that leave no text by their numbers."""
    names = "|".join(map(re.escape, sorted(form.special, key=len, reverse=True)))
    parts = re.split(f"({names})", text) if names else [text]
    return " ".join(
        f"<[{form.special[part]}]>" if part in form.special else json.dumps(part, ensure_ascii=False)
        for part in parts
        if part
    )


# -------------------------------------------------------------------------------------------------------------- probing


def _called(name: str, identity: str) -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": {"x": ARGUMENT}}}


def _rendered(tokenizer: Any, messages: Sequence[dict[str, Any]], *, begins: bool) -> str:
    other = {**PROBE, "function": {**PROBE["function"], "name": OTHER_NAME}}
    text: str = tokenizer.apply_chat_template(
        list(messages), tools=[PROBE, other], tokenize=False, add_generation_prompt=begins
    )
    return text


def _answer(tokenizer: Any, told: str, calls: list[dict[str, Any]]) -> tuple[str, str]:
    """Return what an answer with calls is written as, and what ends any answer.

    Raises:
        ValueError: It cannot be told apart from what is around it.
    """
    plain = _rendered(tokenizer, [ASKED, {"role": "assistant", "content": SAID}], begins=False)
    first, found, end = plain.rpartition(SAID)
    with_calls = _rendered(tokenizer, [ASKED, {"role": "assistant", "content": "", "tool_calls": calls}], begins=False)
    begun = next((head for head in (first, told) if found and with_calls.startswith(head)), None)
    if begun is None:
        raise ValueError("the template writes another conversation where there are calls")
    return with_calls[len(begun) :].removesuffix(end), end


def _form(one: str, two: str | None, end: str, special: dict[str, int]) -> ToolForm | None:
    one = IDENTITY.sub("", one)
    match = re.fullmatch(rf"(.*?){NAME}(.*?)(\{{\s*\"x\"\s*:\s*\"{ARGUMENT}\"\s*\}})(.*)", one, re.DOTALL)
    if match is None:
        return None
    before, middle, arguments, after = match.groups()
    before = before.lstrip()
    head = JSON_HEAD.search(before)
    if head is not None and re.fullmatch(r'"\s*,\s*"\w+"\s*:\s*', middle) is None:
        return None  # Its arguments are no member beside the name.
    if head is None and not (before.strip() and middle.strip()):
        return None  # Nothing tells a call from a text.
    between = None
    if two is not None:
        again = (
            re.escape(before + NAME + middle + arguments) + "(.*?)" + re.escape(OTHER_NAME + middle + arguments + after)
        )
        found = re.fullmatch(rf"\s*{again}", IDENTITY.sub("", two), re.DOTALL)
        between = found.group(1) if found else None
    marker = (before[: head.start()] if head else before).split()[-1:]
    used = {name: token for name, token in special.items() if name in before + middle + (between or "") + after}
    after = after.removesuffix(end)
    return ToolForm(before, middle, between, after.rstrip(), head is not None, "".join(marker), used)


def _special(tokenizer: Any) -> dict[str, int]:
    return dict(_names(tokenizer))


def _names(tokenizer: Any) -> Iterator[tuple[str, int]]:
    """Yield the tokens that leave no text, by their names; those that end an answer are no part of a call."""
    for token in tokenizer.all_special_ids:
        if token != tokenizer.eos_token_id:
            yield tokenizer.convert_ids_to_tokens(token), token
