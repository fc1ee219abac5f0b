"""Which part of a JSON Schema a library of forms does not take: it says what is wrong, not where.

So parts are tried alone: the fault is in the innermost of which the library says the same. Knows JSON Schemas; nothing
of the library, which is asked through a function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

UNSATISFIABLE = "Unsatisfiable schema"  # as the library begins to say so
TRIES = 100  # parts of one schema; then the path ends where it is
NAMED = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
SINGLE = ("items", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else")
LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
SHARED = ("$defs", "definitions")  # to which a part may refer


def place_of_fault(schema: dict[str, Any], words: Callable[[dict[str, Any]], str]) -> str:
    """Return the path of the part that is not taken, as it continues the schema's own: empty where it is the whole.

    Args:
        schema: It is not taken.
        words: What the library says of a schema; empty where it takes it.
    """
    told, path, tries = words(schema), "", 0
    if not told:
        return ""
    shared = {name: schema[name] for name in SHARED if name in schema}
    within = True
    while within:
        within = False
        for step, part in _parts(schema):
            tries += 1
            if tries > TRIES:
                return path
            if _is_same(words({**shared, **part}), told):
                schema, path, within = part, path + step, True
                break
    return path


def _is_same(words: str, told: str) -> bool:
    """Whether words are about one fault: of a part without which nothing can be, the library says it otherwise."""
    return words == told or (words.startswith(UNSATISFIABLE) and told.startswith(UNSATISFIABLE))


def _parts(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the schemas in a schema, each with its path there; true and false are in none's way."""
    for name in NAMED:
        named = schema.get(name)
        for key, part in named.items() if isinstance(named, dict) else ():
            if isinstance(part, dict):
                yield f".{name}.{key}", part
    for name in SINGLE:
        part = schema.get(name)
        if isinstance(part, dict):
            yield f".{name}", part
    for name in LISTED:
        listed = schema.get(name)
        for index, part in enumerate(listed if isinstance(listed, list) else ()):
            if isinstance(part, dict):
                yield f".{name}[{index}]", part
