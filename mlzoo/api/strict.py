"""Plain data -> frozen classes by cattrs, with nothing coerced and every refusal naming its place; and back.

A list is looked at up to its first fault, and only if it is not too long, so that a long one cannot cost more than it
did in bytes. What a host sent is never repeated in an error beyond the names of keys, because errors are recorded.
"""

from __future__ import annotations

import math
from itertools import islice
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import attrs
from cattrs import ClassValidationError, Converter, ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from mlzoo.api.fields import INTEGER_MAX, list_of
from mlzoo.errors import InvalidParams, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Hook = Callable[[Any, Any], Any]

_SHOWN = 3  # faults in one message
_KEY_LENGTH = 64  # of an unknown key that is shown in a path
_SCALARS = {str: "a string", int: "an integer", float: "a number", bool: "true or false", NoneType: "null"}


def structure(plain: dict[str, Any], cls: type) -> Any:
    """Return an instance of cls.

    Raises:
        InvalidParams: Its message has the first faults, its data are of the very first.
    """
    try:
        return _CONVERTER.structure(plain, cls)
    except (ClassValidationError, InvalidParams) as error:
        faults = list(islice(_faults(error, ""), _SHOWN + 1))
    message = "; ".join(f"{fault.data['path'] or '(no name)'}: {fault.message}" for fault in faults[:_SHOWN])
    raise InvalidParams(message + (" (and more)" if len(faults) > _SHOWN else ""), **faults[0].data)


def unstructure(value: Any) -> Any:
    """Return plain data; a field that may be absent and is None is left out."""
    return _CONVERTER.unstructure(value)


# ------------------------------------------------------------------------------------------------------------ faults


def _refusal(expected: str, *, path: str = "", end: str = "", **data: Any) -> InvalidParams:
    return InvalidParams(f"expected {expected}{end}", path=path, expected=expected, **data)


def _mismatch(expected: str, value: object) -> InvalidParams:
    """Return the fault of a value of another kind; it names the kind, never the value."""
    if isinstance(value, dict | list | tuple):
        kind = "an object" if isinstance(value, dict) else "a list"
    else:
        kind = _SCALARS.get(type(value), "something that is not JSON")
    return _refusal(expected, end=f", got {kind}")


def _faults(error: BaseException, path: str) -> Iterator[InvalidParams]:
    """Yield each fault in a tree of them, with the whole path to it."""
    if isinstance(error, InvalidParams):
        yield InvalidParams(error.message, **(error.data | {"path": _join(path, error.data["path"])}))
        return
    if isinstance(error, ClassValidationError):
        noted, others = error.group_exceptions()
        for inner, note in noted:
            at = _join(path, note.name)
            if isinstance(inner, KeyError):
                expected = _describe(note.type)
                yield InvalidParams(f"this is missing, expected {expected}", path=at, expected=expected)
            else:
                yield from _faults(inner, at)
        for inner in others:
            yield from _faults(inner, path)
        return
    if isinstance(error, ForbiddenExtraKeysError):
        known = [field.name for field in attrs.fields(error.cl)]
        for key in sorted(error.extra_fields)[: _SHOWN + 1]:
            message = f"there is no such parameter{nearest(key, known)}"
            expected = f"one of {', '.join(known)}" if known else "no parameters"
            yield InvalidParams(message, path=_join(path, _shown(key)), expected=expected)
        return
    raise error  # Anything else is a bug of ours, and must look like one.


def _shown(key: str) -> str:
    """Return an unknown key where it looks like a name of a program's; a text that came as a key is not repeated."""
    return key if len(key) <= _KEY_LENGTH and key.isascii() and key.replace("-", "_").isidentifier() else ""


def _join(path: str, inner: str) -> str:
    return f"{path}.{inner}" if path and inner and not inner.startswith("[") else path + inner


def _describe(cls: Any) -> str:
    """Return what a type allows, for people."""
    if cls in _SCALARS:
        return _SCALARS[cls]
    if _is_literal(cls):
        return _one_of(get_args(cls))
    if _is_union(cls):
        return " or ".join(dict.fromkeys(_describe(member) for member in get_args(cls) if member is not NoneType))
    return "a list" if _is_tuple(cls) else "an object"


def _one_of(allowed: tuple[str, ...]) -> str:
    quoted = [f'"{value}"' for value in allowed]
    return quoted[0] if len(quoted) == 1 else f"one of {', '.join(quoted)}"


# ------------------------------------------------------------------------------------------------------------- hooks


def _string(value: Any, _: Any) -> str:
    if type(value) is not str:
        raise _mismatch("a string", value)
    return value


def _truth(value: Any, _: Any) -> bool:
    if type(value) is not bool:
        raise _mismatch("true or false", value)
    return value


def _integer(value: Any, _: Any) -> int:
    if type(value) is not int:
        raise _mismatch("an integer", value)
    if not -INTEGER_MAX <= value <= INTEGER_MAX:
        raise _refusal("an integer within +-2^53")
    return value


def _number(value: Any, _: Any) -> float:
    if type(value) is int:
        return float(_integer(value, int))
    if type(value) is not float:
        raise _mismatch("a number", value)
    if not math.isfinite(value):
        raise _refusal("a finite number")
    return value


def _plain(value: Any, _: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _mismatch("an object", value)
    return value


def _chosen(value: Any, cls: Any) -> str:
    allowed = get_args(cls)
    if type(value) is str and value in allowed:
        return value
    if type(value) is not str:
        raise _mismatch(_one_of(allowed), value)
    raise _refusal(_one_of(allowed), end=nearest(value, list(allowed)), allowed=list(allowed))


def _list_hook(cls: Any) -> Hook:
    item_cls = get_args(cls)[0]
    item_hook = _CONVERTER.get_structure_hook(item_cls)

    def structure_list(value: Any, _: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _mismatch("a list", value)
        if _is_all(item_cls, value):
            return tuple(value)
        items = []
        for index, item in enumerate(value):
            try:
                items.append(item_hook(item, item_cls))
            except (ClassValidationError, InvalidParams) as error:
                raise next(_faults(error, f"[{index}]")) from None
        return tuple(items)

    return structure_list


def _is_all(cls: Any, values: list[Any]) -> bool:
    """Say whether all are good strings or integers, at the speed of C: a million tokens may come at once."""
    if cls not in {str, int} or set(map(type, values)) != {cls}:
        return False
    return cls is str or (min(values) >= -INTEGER_MAX and max(values) <= INTEGER_MAX)


def _union_hook(cls: Any) -> Hook:
    """Return the hook of a union, whose members are told apart by the kind of JSON, objects by their ``type``."""
    members = [member for member in get_args(cls) if member is not NoneType]
    is_nullable = NoneType in get_args(cls)
    hooks = [(member, _CONVERTER.get_structure_hook(member)) for member in members]
    tags = tuple(tag for member in members if attrs.has(member) and len(members) > 1 for tag in _tags(member))

    def structure_union(value: Any, _: Any) -> Any:
        if value is None and is_nullable:
            return None
        for member, hook in hooks:
            if len(hooks) == 1 or _fits(value, member):
                return hook(value, member)
        if isinstance(value, dict) and tags:
            raise _refusal(_one_of(tags), path="type", allowed=list(tags))
        raise _mismatch(_describe(cls), value)

    return structure_union


def _fits(value: object, member: Any) -> bool:
    """Say whether a value is of the kind of JSON that a member of a union is written as."""
    if attrs.has(member):
        return isinstance(value, dict) and value.get("type") in _tags(member)
    if _is_tuple(member):
        return isinstance(value, list)
    if _is_literal(member):
        return type(value) is str
    return type(value) is (get_origin(member) or member)


def _tags(cls: Any) -> tuple[str, ...]:
    return get_args(attrs.fields_dict(attrs.resolve_types(cls))["type"].type)


def _class_hook(cls: Any) -> Hook:
    hook = make_dict_structure_fn(cls, _CONVERTER, _cattrs_forbid_extra_keys=True, _cattrs_detailed_validation=True)

    bounds = {field.name: field.metadata.get("bounds", {}) for field in attrs.fields(cls)}
    bounds = {name: bound for name, bound in bounds.items() if "maxItems" in bound}

    def structure_class(value: Any, _: Any) -> Any:
        if not isinstance(value, dict):
            raise _mismatch("an object", value)
        for name, bound in bounds.items():
            items = value.get(name)
            if isinstance(items, list) and len(items) > bound["maxItems"]:
                raise _refusal(list_of(bound), path=name)
        return hook(value, cls)

    return structure_class


def _class_unhook(cls: Any) -> Callable[[Any], dict[str, Any]]:
    absent: dict[str, Any] = {f.name: override(omit_if_default=True) for f in attrs.fields(cls) if f.default is None}
    return make_dict_unstructure_fn(cls, _CONVERTER, **absent)


def _is_literal(cls: Any) -> bool:
    return get_origin(cls) is Literal


def _is_dict(cls: Any) -> bool:
    return get_origin(cls) is dict


def _is_tuple(cls: Any) -> bool:
    return get_origin(cls) is tuple


def _is_union(cls: Any) -> bool:
    return get_origin(cls) in {Union, UnionType}


def _is_numbers(cls: Any) -> bool:
    """Say whether this is a list of scalars, or a list of such lists: millions of floats are not worth a copy."""
    if not _is_tuple(cls):
        return False
    item = get_args(cls)[0]
    return item in {int, float, str} or _is_numbers(item)


def _converter() -> Converter:
    converter = Converter(detailed_validation=True)
    converter.register_structure_hook(str, _string)
    converter.register_structure_hook(bool, _truth)
    converter.register_structure_hook(int, _integer)
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook_func(_is_dict, _plain)
    converter.register_structure_hook_func(_is_literal, _chosen)
    converter.register_structure_hook_factory(_is_tuple, _list_hook)
    converter.register_structure_hook_factory(_is_union, _union_hook)
    converter.register_structure_hook_factory(attrs.has, _class_hook)
    converter.register_unstructure_hook_factory(attrs.has, _class_unhook)
    converter.register_unstructure_hook_func(_is_numbers, lambda value: value)
    return converter


_CONVERTER = _converter()
