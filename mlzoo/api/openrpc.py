"""The OpenRPC document (https://spec.open-rpc.org, 1.3), made of the attrs classes: the contract, for programs.

Schemas are JSON Schema draft 7, as OpenRPC has it. Every class is a component of its own, by its name; classes from
outside ``mlzoo.api`` carry their module's name before it. What OpenRPC has no place for stands under ``x-`` keys:
``x-unserved`` is a JSON Schema of those values of a param that this version refuses as unsupported (1010).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs

from mlzoo import __version__, errors
from mlzoo.api.fields import INTEGER_MAX
from mlzoo.api.methods import METHODS, OWN, PROTOCOL_VERSION, Empty, MethodSpec
from mlzoo.api.notifications import NOTIFICATIONS

if TYPE_CHECKING:
    from collections.abc import Container

Schema = dict[str, Any]

_SCALARS: dict[Any, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer", "minimum": -INTEGER_MAX, "maximum": INTEGER_MAX},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    NoneType: {"type": "null"},
}


def document(events: Mapping[str, type] | None = None) -> dict[str, Any]:
    """Return the document.

    Args:
        events: The public types of events by their names on the wire; this module may not know them by itself.
    """
    taken = Schemas()
    for spec in METHODS.values():
        taken.of(spec.params)
    schemas = Schemas(closed=taken.components.keys())
    made: dict[str, Any] = {
        "openrpc": "1.3.2",
        "info": {
            "title": "mlzoo",
            "version": __version__,
            "description": "JSON-RPC 2.0, one object a line, on stdin and stdout. Hosts ignore what they do not know: "
            "fields, notifications, enum values and event types may be added.",
            "license": {"name": "AGPL-3.0-or-later"},
        },
        "x-protocol-version": PROTOCOL_VERSION,
        "methods": [_method(spec, schemas) for spec in METHODS.values()],
        "x-notifications": [_notification(name, cls, schemas) for name, cls in NOTIFICATIONS.items()],
        "x-events": {name: schemas.of(cls) for name, cls in (events or {}).items()},
    }
    made["components"] = {
        "schemas": dict(sorted(schemas.components.items())),
        "errors": {error.type: _error(error) for error in wire_errors()},
    }
    return made


def _method(spec: MethodSpec, schemas: Schemas) -> dict[str, Any]:
    done: Schema = {"type": "object"}
    method = {
        "name": spec.name,
        "summary": spec.summary,
        "description": _prose(spec.params),
        "paramStructure": "by-name",
        "params": _descriptors(spec.params, schemas),
        "result": {"name": "result", "schema": done if spec.result is Empty else schemas.of(spec.result)},
        "x-params": schemas.of(spec.params),
    }
    if spec.wait or spec.private:  # What asks for something may fail in every way; looking only by params and log.
        method["errors"] = [{"$ref": f"#/components/errors/{error.type}"} for error in wire_errors() if error.code > 0]
    return method


def _notification(name: str, cls: type, schemas: Schemas) -> dict[str, Any]:
    return {
        "name": name,
        "summary": _prose(cls),
        "paramStructure": "by-name",
        "params": _descriptors(cls, schemas),
        "x-params": schemas.of(cls),
    }


def _descriptors(cls: type, schemas: Schemas) -> list[dict[str, Any]]:
    """Return the fields of a class as content descriptors, the required ones first as OpenRPC wants them."""
    schemas.of(cls)
    whole = schemas.components[component_name(cls)]
    descriptors = []
    for field_name, schema in whole["properties"].items():
        if field_name == OWN:
            continue
        inner = {key: value for key, value in schema.items() if key != "description"}
        descriptor = {"name": field_name, "required": field_name in whole["required"], "schema": inner}
        if "description" in schema:
            descriptor["description"] = schema["description"]
        descriptors.append(descriptor)
    return sorted(descriptors, key=lambda descriptor: not descriptor["required"])


def wire_errors() -> list[type[errors.MlzooError]]:
    """Return every error that has a code of its own on the wire, in the order of ``mlzoo.errors``."""
    found = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.MlzooError)]
    return [cls for cls in found if cls is not errors.MlzooError and "code" in vars(cls)]


def _error(error: type[errors.MlzooError]) -> dict[str, Any]:
    return {
        "code": error.code,
        "message": _prose(error),
        "data": {"type": error.type, "retryable": error.retryable},
    }


def component_name(cls: type) -> str:
    """Return the name of a class's schema: unique, and of the characters that OpenRPC allows."""
    module = cls.__module__.removeprefix("mlzoo.")
    return cls.__name__ if module.startswith("api.") else f"{module}.{cls.__name__}"


class Schemas:
    """JSON Schemas of types; those of classes are collected as components and referred to.

    Args:
        closed: Names of the components that hosts send, in which what is unknown is refused.
    """

    def __init__(self, closed: Container[str] = ()) -> None:
        self.components: dict[str, Schema] = {}
        self._closed = closed

    def of(self, cls: Any) -> Schema:
        """Return the schema of a type.

        Raises:
            TypeError: It has no schema: a bug of ours.
        """
        if cls is Any:
            return {}
        if cls in _SCALARS:
            return dict(_SCALARS[cls])
        if attrs.has(cls):
            return self._reference(cls)
        origin, args = get_origin(cls), get_args(cls)
        if origin is Literal:
            return {"type": "string", "enum": list(args)}
        if origin in {Union, UnionType}:
            return {"anyOf": [self.of(member) for member in args]}
        if origin is tuple and args[-1] is not Ellipsis:
            return {"type": "array", "items": [self.of(item) for item in args], **_length(len(args))}
        if origin is tuple:
            return {"type": "array", "items": self.of(args[0])}
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return {"type": "object", "additionalProperties": self.of(args[1])}
        raise TypeError(f"no schema for {cls!r}")

    def _reference(self, cls: type) -> Schema:
        name = component_name(cls)
        if name not in self.components:
            self.components[name] = {}  # A class that holds itself finds this and ends here.
            self.components[name] = self._class(cls)
        return {"$ref": f"#/components/schemas/{name}"}

    def _class(self, cls: type) -> Schema:
        hints = get_type_hints(cls)
        fields = attrs.fields(cls)
        is_closed = component_name(cls) in self._closed
        is_result = not is_closed and cls.__module__.startswith("mlzoo.api.")
        schema: Schema = {
            "title": cls.__name__,
            "description": _prose(cls),
            "type": "object",
            "properties": {field.name: self._field(field, hints[field.name]) for field in fields},
            "required": [field.name for field in fields if _is_always_there(field, is_result=is_result)],
        }
        if is_closed:
            schema["additionalProperties"] = False
        if _is_params(cls):
            schema["properties"][OWN] = {"description": "The host's own; never looked at."}
        for field in fields:
            _add_rules(schema, field)
        return schema

    def _field(self, field: attrs.Attribute[Any], hint: Any) -> Schema:
        # A field may be absent, or empty; that null is taken for that is a kindness, not the contract.
        if field.default is None or "null_where" in field.metadata:
            hint = _without_null(hint)
        schema = self.of(hint)
        extra: Schema = dict(field.metadata.get("bounds", {}))
        if "description" in field.metadata:
            extra["description"] = field.metadata["description"]
        if field.metadata.get("secret"):
            extra["x-secret"] = True
        unserved = field.metadata.get("unserved")
        if unserved:
            extra["x-unserved"] = unserved
        if isinstance(field.default, str | int | float):
            extra["default"] = field.default
        elif field.default == ():
            extra["default"] = []
        if extra and "$ref" in schema:  # In draft 7 nothing beside a reference counts.
            schema = {"allOf": [schema]}
        items = extra.pop("items", None)
        return _with_items(schema, items) | extra


def _is_always_there(field: attrs.Attribute[Any], *, is_result: bool) -> bool:
    """Say whether a field may be relied on: a host may leave out what has a default, a result leaves out only None."""
    return field.default is attrs.NOTHING or (is_result and field.default is not None)


def _with_items(schema: Schema, bounds: Mapping[str, Any] | None) -> Schema:
    """Return the schema of a list with bounds put on its items; in a union, on the items of its lists."""
    if bounds is None:
        return schema
    if "anyOf" in schema:
        return schema | {"anyOf": [_with_items(member, bounds) for member in schema["anyOf"]]}
    return schema | {"items": schema["items"] | bounds} if "items" in schema else schema


def _add_rules(schema: Schema, field: attrs.Attribute[Any]) -> None:
    """Put what a field demands of the fields beside it into the schema of its class."""
    other = field.metadata.get("instead_of")
    if other is not None:
        schema["oneOf"] = [{"required": [other]}, {"required": [field.name]}]
    needs = field.metadata.get("needs")
    if needs is not None:
        schema["dependencies"] = {field.name: {"required": [needs], "properties": {needs: {"const": True}}}}


def _without_null(hint: Any) -> Any:
    if get_origin(hint) not in {Union, UnionType}:
        return hint
    members = tuple(member for member in get_args(hint) if member is not NoneType)
    return Union[members]  # noqa: UP007 - the members are only known here


def _is_params(cls: type) -> bool:
    return any(cls is spec.params for spec in METHODS.values())


def _length(items: int) -> Schema:
    return {"minItems": items, "maxItems": items}


def _prose(cls: type) -> str:
    return inspect.cleandoc(cls.__doc__ or "").replace("\n", " ").strip()
