"""The shape of everything that is stored, as JSON: ``python tests/events/schema_shapes.py`` writes it to replay/logs.

Run when a class or a field was added, never to silence the test that compares: what is stored is read for ever.
"""

from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import attrs
import orjson

from mlzoo.core.state import State
from mlzoo.events import commands, types

FROZEN = Path(__file__).parent.parent.parent / "replay" / "logs" / "schema.json"


def shapes():
    """Return class name -> version and fields, of every command, event and state, and of all that they hold."""
    found = {}
    for kind in (*get_args(commands.Command), *get_args(types.Event), State):
        _add(found, kind)
    return dict(sorted(found.items()))


def _add(found, kind):
    if kind.__name__ in found:
        return
    attrs.resolve_types(kind)
    fields = found[kind.__name__] = {"version": getattr(kind, "VERSION", 1), "fields": {}}
    for field in attrs.fields(kind):
        fields["fields"][field.name] = {"type": _described(found, field.type), "default": _default(field)}


def _default(field):
    if field.default is attrs.NOTHING:
        return "none: it is required"
    made = field.default.factory() if isinstance(field.default, attrs.Factory) else field.default
    return repr(made)


def _described(found, kind):
    origin, members = get_origin(kind), get_args(kind)
    if origin is Literal:
        return {"one of": sorted(map(repr, members))}
    if origin in (Union, UnionType):
        return {"any of": sorted((_described(found, member) for member in members), key=repr)}
    if origin is not None:
        return {origin.__name__: [_described(found, member) for member in members]}
    if attrs.has(kind):
        _add(found, kind)
    return {NoneType: "None", Any: "Any", ...: "..."}.get(kind) or kind.__name__


def reads(new, old):
    """Whether what was stored as the old type is read by the new one: a closed set may grow, a union too."""
    if isinstance(old, str) or isinstance(new, str):
        if isinstance(new, dict) and "any of" in new:
            return any(reads(member, old) for member in new["any of"])
        return new in (old, "Any")
    [(head, members)] = old.items()
    if head == "any of":
        return all(reads(new, member) for member in members)
    if "any of" in new:
        return any(reads(member, old) for member in new["any of"])
    if head not in new:
        return False
    if head == "one of":
        return set(members) <= set(new[head])
    return len(members) == len(new[head]) and all(map(reads, new[head], members))


if __name__ == "__main__":
    FROZEN.write_bytes(orjson.dumps(shapes(), option=orjson.OPT_INDENT_2) + b"\n")
