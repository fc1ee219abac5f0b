"""JSON Schemas of the kinds that applications send, drawn from a seed: the same five hundred everywhere.

The kinds are those that JSONSchemaBench (Geng et al. 2025) found in the wild: nested objects, arrays, enums, constants,
patterns, formats, references, recursion, anyOf and allOf, numbers within bounds, maps. Texts are short, so that a
model of random weights comes to an end, too.
"""

from __future__ import annotations

from random import Random
from typing import Any

Schema = dict[str, Any]

NAMES = [
    "id",
    "name",
    "kind",
    "title",
    "größe",
    "created_at",
    "x-y",
    "a",
    "value",
    "children",
    "unit",
    "is_open",
    "price",
]
NAMES += ["address", "tags", "owner", "count", "état", "名前"]
PATTERNS = (
    "^[a-z]{1,8}$",
    "^[A-Z]{2}-[0-9]{4}$",
    "^#[0-9a-f]{6}$",
    "^(on|off|auto)$",
    r"^\d{3}\s?\d{2}$",
    "^[^@ ]{1,5}@x$",
)
FORMATS = ("date", "date-time", "time", "ipv4", "uuid", "email")
WORDS = ("red", "green", "blue", "north", "south", "on", "off", "größer", "日本", 'with "quotes"', "back\\slash", "")


def schemas(count: int, seed: int = 0) -> list[Schema]:
    """Return so many schemas; the first ones are the same whatever the count."""
    return [_Drawing(Random(f"{seed}/{number}")).whole() for number in range(count)]


class _Drawing:
    """One schema in the making."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._definitions: dict[str, Schema] = {}

    def whole(self) -> Schema:
        """Return the schema: an object mostly, as hosts ask for objects."""
        draw = self._random.random()
        root = self._object(3) if draw < 0.8 else self._array(3) if draw < 0.9 else self._any(3)
        if self._definitions:
            root["$defs"] = self._definitions
        if self._random.random() < 0.3:
            root["title"] = "Thing"
            root["description"] = "What is wanted."
        return root

    def _any(self, depth: int) -> Schema:
        flat = (self._string, self._integer, self._number, self._enum, self._const, self._boolean, self._nullable)
        deep = (self._object, self._object, self._array, self._any_of, self._reference, self._map, self._all_of)
        if depth <= 0 or self._random.random() < 0.6:
            return self._random.choice(flat)()
        return self._random.choice((*deep, self._tree))(depth - 1)

    def _string(self) -> Schema:
        draw = self._random.random()
        if draw < 0.25:
            return {"type": "string", "pattern": self._random.choice(PATTERNS)}
        if draw < 0.45:
            return {"type": "string", "format": self._random.choice(FORMATS)}
        least = self._random.randint(0, 3)
        return {"type": "string", "minLength": least, "maxLength": least + self._random.randint(1, 12)}

    def _integer(self) -> Schema:
        low = self._random.randint(-20, 20)
        bounds: Schema = {"minimum": low, "maximum": low + self._random.randint(0, 1000)}
        if self._random.random() < 0.2:
            bounds = {"exclusiveMinimum": low, "exclusiveMaximum": low + 7}
        if self._random.random() < 0.1:
            bounds = {"minimum": 0, "maximum": 100, "multipleOf": 5}
        return {"type": "integer", **bounds}

    def _number(self) -> Schema:
        low = self._random.choice((-1.5, 0, 0.25, 10))
        return {"type": "number", "minimum": low, "maximum": low + self._random.choice((1, 2.5, 100))}

    def _enum(self) -> Schema:
        values: list[Any] = list(self._random.sample(WORDS, self._random.randint(1, 6)))
        if self._random.random() < 0.2:
            values += [1, 2.5, True, None, {"a": [1, 2]}]
        return {"enum": values}

    def _const(self) -> Schema:
        return {"const": self._random.choice((*WORDS, 0, -3, True, False, None, ["a", 1]))}

    def _boolean(self) -> Schema:
        return {"type": self._random.choice(("boolean", "null"))}

    def _nullable(self) -> Schema:
        if self._random.random() < 0.5:
            return {"type": ["integer", "null"], "minimum": 0, "maximum": 99}
        return {"anyOf": [self._string(), {"type": "null"}]}

    def _object(self, depth: int) -> Schema:
        names = self._random.sample(NAMES, self._random.randint(1, 6))
        properties = {name: self._any(depth) for name in names}
        required = [name for name in names if self._random.random() < 0.7]
        made: Schema = {"type": "object", "properties": properties, "required": required}
        if self._random.random() < 0.8:
            made["additionalProperties"] = False
        return made

    def _array(self, depth: int) -> Schema:
        if self._random.random() < 0.15:
            items = [self._any(depth) for _ in range(self._random.randint(1, 3))]
            return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
        least = self._random.randint(0, 2)
        return {"type": "array", "items": self._any(depth), "minItems": least, "maxItems": least + 2}

    def _any_of(self, depth: int) -> Schema:
        return {"anyOf": [self._any(depth) for _ in range(self._random.randint(2, 3))]}

    def _all_of(self, depth: int) -> Schema:
        one = {"type": "object", "properties": {"a": self._any(depth)}, "required": ["a"]}
        other = {"type": "object", "properties": {"b": self._any(0)}, "required": ["b"]}
        return {"allOf": [one, other]}

    def _map(self, depth: int) -> Schema:
        if self._random.random() < 0.5:
            return {"type": "object", "additionalProperties": self._any(depth), "maxProperties": 2}
        return {"type": "object", "patternProperties": {"^[a-z]{1,4}$": self._any(0)}, "additionalProperties": False}

    def _reference(self, _depth: int) -> Schema:
        name = f"part{self._random.randint(0, 3)}"
        if name not in self._definitions:
            self._definitions[name] = self._object(0)
        return {"$ref": f"#/$defs/{name}"}

    def _tree(self, _depth: int) -> Schema:
        leaf = {"type": "object", "properties": {"value": self._integer()}, "required": ["value"]}
        children = {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}
        self._definitions["tree"] = {
            **leaf,
            "properties": {**leaf["properties"], "children": children},
            "additionalProperties": False,
        }
        return {"$ref": "#/$defs/tree"}
