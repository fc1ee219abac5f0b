"""What a host does in a story, one thing after the other: values, of which plans are made.

Knows nothing of how any of it is done (``hosts``), nor of when it is drawn (``plans``).
"""

from __future__ import annotations

from typing import Any

import attrs


@attrs.frozen
class Ask:
    """Call a method; pieces is how many the answer has, where it has any. Under a key the prompt is the key's."""

    method: str
    params: dict[str, Any] = attrs.field(factory=dict)
    pieces: int = 0
    key: str = ""


@attrs.frozen
class Together:
    """Call several in one batch."""

    asks: tuple[Ask, ...]


@attrs.frozen
class Cancel:
    """Cancel one of the generations so far, counted from the last, or a call that never was."""

    back: int
    notify: bool


@attrs.frozen
class Forget:
    """Have one of the generations so far forgotten, counted from the last; only one that was answered has a name."""

    back: int


@attrs.frozen
class Fork:
    """Fork a conversation at one of the messages that it was last told to have, counted from the last."""

    conversation: str
    into: str
    back: int


@attrs.frozen
class Say:
    """Send bytes that are no request: garbage by name."""

    garbage: str


@attrs.frozen
class Repeat:
    """Use the id of a call that may still be open."""

    back: int


@attrs.frozen
class Pause:
    """Do nothing."""

    for_s: float


@attrs.frozen
class Settle:
    """Read, and wait for the answers, as long as a patient host does."""


@attrs.frozen
class Turns:
    """Let so many turns of the scheduler pass: what comes next comes at any checkpoint of anybody's."""

    count: int


@attrs.frozen
class Stop:
    """Stop reading."""


@attrs.frozen
class Take:
    """Read so many bytes, and then again no more."""

    size_bytes: int


@attrs.frozen
class ReadOn:
    """Read whatever comes."""


@attrs.frozen
class CloseOutput:
    """Close the reading end, and go on asking."""


@attrs.frozen
class EndInput:
    """Close the writing end, perhaps in the middle of a line, without waiting for answers."""

    in_mid_line: bool


Action = (
    Ask
    | Together
    | Cancel
    | Forget
    | Fork
    | Say
    | Repeat
    | Pause
    | Settle
    | Turns
    | Stop
    | Take
    | ReadOn
    | CloseOutput
    | EndInput
)
