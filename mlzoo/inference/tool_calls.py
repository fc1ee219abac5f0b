"""Calls of tools in what a model says: taken out of the text while it comes, and told as OpenAI has them.

Two readers. Where a grammar holds the answer to calls (``Forced``), names are told as soon as they are there, and
arguments piece by piece. Where a model may call or not (``Free``), nothing keeps it from writing half a call or a
broken one: a call is told once it is whole, is JSON and names a tool; all else is text, as it was said. Knows text
alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, Protocol

from mlzoo.frames import ToolCallDelta

if TYPE_CHECKING:
    from collections.abc import Collection

    from mlzoo.frames import Generate
    from mlzoo.inference.tool_forms import ToolForm

DECODER = json.JSONDecoder()
ARGUMENTS = re.compile(r'"(arguments|parameters)"\s*:\s*')
CLOSERS = "}]"


class Reader(Protocol):
    """What reads an answer; ``calls`` are the pieces of calls that nobody has taken yet."""

    calls: list[ToolCallDelta]

    def feed(self, text: str) -> str:
        """Take the next piece; return the text that is certainly no call."""

    def finish(self) -> str:
        """Return what was held back and is no call after all: nothing follows."""


def call_id(request: str, index: int) -> str:
    """Return the name of a call: the same whenever its request is decided again."""
    return f"call_{hashlib.sha256(f'{request}/{index}'.encode()).hexdigest()[:24]}"


class Free:
    """An answer in which a model may call tools.

    Args:
        form: How it writes calls.
        names: Of the tools that there are.
        request: Whose answer it is.
    """

    def __init__(self, form: ToolForm, names: Collection[str], request: str) -> None:
        self._form, self._names, self._request = form, names, request
        self._held = ""  # what is not told yet: it may be, or begin, a call
        self._is_inside = False
        self._opened = ""  # with what it began, where it is inside of what may be a call
        self._is_after = False  # whether a call has just ended: its closing and white space are no text
        self._closing = form.closing  # what of it is still to come
        self._count = 0
        self._has_begun = False  # whether there was any text before
        self.calls: list[ToolCallDelta] = []

    def feed(self, text: str) -> str:
        """Take the next piece; return the text that is certainly no call."""
        self._held += text
        said = ""
        while True:
            before = (self._held, self._is_inside, self._is_after)
            if self._is_after:
                self._close()
            elif self._is_inside:
                said += self._read(text)
            else:
                said += self._look()
            if (self._held, self._is_inside, self._is_after) == before:
                self._has_begun = self._has_begun or bool(said.strip())
                return said

    def finish(self) -> str:
        """Return what was held back and is no call after all: nothing follows."""
        held, self._held = self._held, ""
        if self._is_after:
            return ""  # A part of its closing, or white space.
        return (self._opened if self._is_inside else "") + held

    def _look(self) -> str:
        """Give out what stands before the next call, as far as that is certain."""
        marker = self._form.marker
        if not marker:  # A call is the whole answer then: its first character tells.
            if self._has_begun or self._count:
                said, self._held = self._held, ""
                return said
            if self._held.strip():
                self._is_inside = self._held.lstrip()[0] in "{["
                self._has_begun = not self._is_inside
            return ""
        text, found, rest = self._held.partition(marker)
        if found:
            self._held, self._is_inside = rest, True
            self._opened = marker if text.strip() else text + marker  # White space before a call is a part of it.
            return text if text.strip() else ""
        keep = next((n for n in range(min(len(marker) - 1, len(text)), 0, -1) if marker.startswith(text[-n:])), 0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _read(self, new: str) -> str:
        """Tell the call that is held, once it is whole; give it out as text once it is certain that it is none."""
        if not any(closer in new for closer in CLOSERS + self._form.closing[-1:]):
            return ""
        found = self._whole()
        if found is None:
            broken, closing, rest = self._held.partition(self._form.closing) if self._form.closing else ("", "", "")
            if not closing:
                return ""
            self._held, self._is_inside = rest, False
            return self._opened + broken + closing
        calls, end = found
        self._is_inside = False
        if calls is None:
            said, self._held = self._opened + self._held[:end], self._held[end:]
            return said
        for name, arguments in calls:
            delta = ToolCallDelta(
                index=self._count, id=call_id(self._request, self._count), name=name, arguments=arguments
            )
            self.calls.append(delta)
            self._count += 1
        self._held, self._is_after, self._closing = self._held[end:], True, self._form.closing
        return ""

    def _whole(self) -> tuple[list[tuple[str, str]] | None, int] | None:
        """Return the calls that are held, and where they end; None as long as they do not, no list if they are none."""
        held = self._held
        name = ""
        start = len(held) - len(held.lstrip())
        if not self._form.is_json:
            name, found, _ = held.partition(self._form.middle.strip())
            if not found:
                return None
            start = len(name) + len(found)
            start += len(held[start:]) - len(held[start:].lstrip())
        try:
            value, end = DECODER.raw_decode(held, start)
        except (ValueError, RecursionError):
            return None
        if not self._form.is_json:
            is_call = isinstance(value, dict) and name.strip() in self._names
            return ([(name.strip(), held[start:end])] if is_call else None), end
        calls = [self._call(one, held[start:end]) for one in (value if isinstance(value, list) else [value])]
        return ([one for one in calls if one is not None] if calls and None not in calls else None), end

    def _call(self, value: Any, text: str) -> tuple[str, str] | None:
        """Return the name and the arguments, as they were written, of what may be the object of a call."""
        if not isinstance(value, dict) or value.get("name") not in self._names:
            return None
        arguments = value.get("arguments", value.get("parameters", {}))
        if isinstance(arguments, str):
            text = ""
            try:
                arguments = DECODER.decode(arguments)
            except ValueError:
                return None
        if not isinstance(arguments, dict):
            return None
        for found in ARGUMENTS.finditer(text):
            try:
                written, end = DECODER.raw_decode(text, found.end())
            except ValueError:
                continue
            if written == arguments:
                return value["name"], text[found.end() : end]
        return value["name"], json.dumps(arguments, ensure_ascii=False)

    def _close(self) -> None:
        """Drop the closing of a call and the white space around it, once they are there, or are known not to be."""
        rest = self._held.lstrip()
        if self._closing and rest.startswith(self._closing):
            self._held, self._closing = rest.removeprefix(self._closing), ""
        elif rest and not self._closing.startswith(rest):
            self._held, self._is_after = rest, False


class Forced:
    """An answer that a grammar holds to calls: what it is made of is known to the letter.

    Args:
        form: How the model writes calls.
        request: Whose answer it is.
    """

    def __init__(self, form: ToolForm, request: str) -> None:
        self._form, self._request = form, request
        self._awaited = form.before  # what comes before the next name
        self._held = ""
        self._index = -1  # of the call that is being written
        self._depth: int | None = None  # of braces and brackets within arguments; None: outside of these
        self._is_text = self._is_escaped = False  # within a string of the arguments
        self.calls: list[ToolCallDelta] = []

    def feed(self, text: str) -> str:
        """Take the next piece; there is no text beside calls."""
        self._held += text
        while self._held:
            before = self._held
            if self._depth is None:
                self._read_name()
            else:
                self._read_arguments()
            if self._held == before:
                break
        return ""

    def finish(self) -> str:
        """Return what was said of a call that has no name yet: whoever cut it, wanted it cut."""
        held, self._held = self._held, ""
        return held if self._index < 0 else ""

    def _read_name(self) -> None:
        if not self._held.startswith(self._awaited):
            return
        name, found, rest = self._held[len(self._awaited) :].partition(self._form.middle)
        if found:
            self._index += 1
            self.calls.append(ToolCallDelta(index=self._index, id=call_id(self._request, self._index), name=name))
            self._held, self._depth = rest, 0
            self._awaited = self._form.between or self._form.after

    def _read_arguments(self) -> None:
        assert self._depth is not None
        end = len(self._held)
        for place, character in enumerate(self._held):
            if self._is_text:
                self._is_text = character != '"' or self._is_escaped
                self._is_escaped = character == "\\" and not self._is_escaped
            elif character == '"':
                self._is_text = True
            elif character in "{[":
                self._depth += 1
            elif character in CLOSERS:
                self._depth -= 1
                if self._depth == 0:
                    end, self._depth = place + 1, None
                    break
        self.calls.append(ToolCallDelta(index=self._index, arguments=self._held[:end]))
        self._held = self._held[end:]


def reader_of(frame: Generate, form: ToolForm | None) -> Reader | None:
    """Return what reads the answer to a request; None where no tools are to be called."""
    if form is None:
        return None
    if is_forced(frame):
        return Forced(form, frame.request)
    return Free(form, {tool["function"]["name"] for tool in frame.tools}, frame.request)


def is_forced(frame: Generate) -> bool:
    """Whether an answer must call a tool."""
    return frame.tool_choice == "required" or isinstance(frame.tool_choice, dict)
