"""The core's state as plain data: what the header of a segment, or of a recording, holds of all that came before it.

Beside the core, which itself knows no encoding. A state that an older version folded is upcast, as records are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlzoo.core.state import State
from mlzoo.events.codec import Codec

if TYPE_CHECKING:
    from mlzoo.events.commands import JsonObject

STATES = Codec(lambda: {"State": ("event", State)}, {})
STATE_VERSION = 1  # of the shape of ``State``


def encode_state(state: State) -> JsonObject:
    """Return a state as a header holds it."""
    return {"version": STATE_VERSION, **STATES.data(state)}


def decode_state(data: JsonObject | None) -> State:
    """Return the state that a header holds; that of a new log where it holds none."""
    if data is None:
        return State()
    fields = {name: value for name, value in data.items() if name != "version"}
    state: State = STATES.decode("State", data.get("version", 1), fields)
    return state
