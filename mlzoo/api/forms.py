"""What an answer must be: its form, and the tools that it may, or must, call; most of it as OpenAI's.

Knows shapes alone; what they lead to is the engine's business.
"""

from __future__ import annotations

from typing import Any, Literal

import attrs

from mlzoo.api.fields import about, checked, naming


@attrs.frozen(kw_only=True)
class TextFormat:
    """Any text."""

    type: Literal["text"]


@attrs.frozen(kw_only=True)
class JsonObjectFormat:
    """Any JSON object."""

    type: Literal["json_object"]


@attrs.frozen(kw_only=True)
class JsonSchema:
    """A JSON Schema (draft 2020-12), and what it is called."""

    schema: dict[str, Any] = attrs.field(
        metadata=about("The schema. It is kept to, whatever strict says; one that cannot be is refused.")
    )
    name: str | None = attrs.field(default=None, validator=checked, metadata=naming("What the form is called."))
    description: str | None = None
    strict: bool | None = None


@attrs.frozen(kw_only=True)
class JsonSchemaFormat:
    """JSON that a schema allows."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


@attrs.frozen(kw_only=True)
class RegexFormat:
    """A text that a regular expression matches as a whole."""

    type: Literal["regex"]
    pattern: str = attrs.field(
        validator=checked, metadata=about("In the syntax of Rust's regex: no look-around, no references.", min_length=1)
    )


@attrs.frozen(kw_only=True)
class GrammarFormat:
    """A text of a context-free grammar."""

    type: Literal["grammar"]
    grammar: str = attrs.field(
        validator=checked, metadata=about("As llguidance's Lark has it, or as llama.cpp's GBNF.", min_length=1)
    )


ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat | RegexFormat | GrammarFormat


# ---------------------------------------------------------------------------------------------------------------- tools


@attrs.frozen(kw_only=True)
class Function:
    """A function of the host's."""

    name: str = attrs.field(validator=checked, metadata=naming("What the model calls it."))
    description: str | None = None
    parameters: dict[str, Any] | None = attrs.field(
        default=None, metadata=about("JSON Schema of its arguments, which are an object.")
    )
    strict: bool | None = None


@attrs.frozen(kw_only=True)
class Tool:
    """What the model may call."""

    type: Literal["function"]
    function: Function


@attrs.frozen(kw_only=True)
class NamedFunction:
    """A function by its name."""

    name: str = attrs.field(validator=checked, metadata=naming("Name of the function."))


@attrs.frozen(kw_only=True)
class NamedTool:
    """The one tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedTool


@attrs.frozen(kw_only=True)
class WrittenFunction:
    """A function as it was called."""

    name: str = attrs.field(validator=checked, metadata=naming("Name of the function."))
    arguments: str = attrs.field(default="{}", metadata=about("The text of a JSON object."))


@attrs.frozen(kw_only=True)
class WrittenCall:
    """A call of an earlier turn: as an answer of ours has it, or as OpenAI's."""

    id: str = attrs.field(default="", metadata=about("What the tool's turn names it by."))
    type: Literal["function"] | None = None
    function: WrittenFunction | None = None
    name: str | None = attrs.field(
        default=None, validator=checked, metadata=naming("Name of the function.") | {"instead_of": "function"}
    )
    arguments: str | None = attrs.field(default=None, metadata=about("The text of a JSON object."))
