"""Plain data -> frozen classes, strictly: nothing is coerced, unknown keys are refused with the nearest name.

Only composing uses this; a start from the cache does not import it, and cattrs neither.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

import attrs
from cattrs import ClassValidationError, Converter, ForbiddenExtraKeysError, IterableValidationError
from cattrs.gen import make_dict_structure_fn

from mlzoo.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

FOUND = {"models", "defaults", "broken", "providers", "broken_providers", "routes", "personas", "broken_personas"}
"""Settings of ``Config`` that follow from others."""
_NAMES = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
_VALIDATOR = re.compile(r"'(?P<name>\w+)' must be (?P<bound>.*): (?P<got>.*)")  # what attrs' validators say


def structure(plain: object, cls: type[T], *, at: str = "", label: Callable[[str], str] = str) -> T:
    """Return an instance of cls.

    Args:
        plain: What it is made of.
        cls: What is wanted.
        at: The path at which it stands.
        label: Returns a path as it is called in the message.

    Raises:
        ConfigError: With all that is wrong in its message, on one line; ``data.path`` and ``data.expected`` are of the
            first.
    """
    try:
        return _converter().structure(plain, cls)
    except (BaseExceptionGroup, TypeError, ValueError, KeyError, ForbiddenExtraKeysError) as error:
        faults = list(_faults(error, at))
        path, expected = faults[0]
        told = [f"{label(path)}: {expected}" if path else expected for path, expected in faults]
        raise ConfigError("; ".join(told), path=path, expected=expected) from error


def _converter() -> Converter:
    converter = Converter(forbid_extra_keys=True, detailed_validation=True)
    for primitive in _NAMES:
        converter.register_structure_hook(primitive, _exactly)
    converter.register_structure_hook_factory(attrs.has, lambda cls: _settings(cls, converter))
    converter.register_structure_hook_func(lambda cls: _is(cls, Literal), _one_of)
    converter.register_structure_hook_func(lambda cls: _is(cls, tuple), _items)
    return converter


def _is(cls: Any, origin: Any) -> bool:
    return get_origin(cls) is origin


def _settings(cls: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    """Return what makes an instance of a class; it refuses what is no settings at all."""
    make = make_dict_structure_fn(cls, converter, _cattrs_forbid_extra_keys=True)

    def structure_(value: Any, cls_: Any) -> Any:
        if not isinstance(value, dict):
            raise TypeError(f"expected settings, a line KEY: VALUE each, got {value!r}")
        return make(value, cls_)

    return structure_


def _exactly(value: Any, cls: type) -> Any:
    """Return value where it is of the type; an integer is a number too, but a truth value is neither."""
    if cls is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, cls) or (isinstance(value, bool) and cls is not bool):
        raise TypeError(f"expected {_NAMES[cls]}, got {value!r}")
    return value


def _one_of(value: Any, cls: Any) -> Any:
    if value not in get_args(cls):
        raise ValueError(f"expected one of {', '.join(get_args(cls))}, got {value!r}")
    return value


def _items(value: Any, cls: Any) -> tuple[Any, ...]:
    """Return the items of a list; a string is none, though Python would take it for a sequence of letters."""
    if not isinstance(value, list | tuple):
        raise TypeError(f"expected a list, got {value!r}")
    kind = get_args(cls)[0]
    check = _one_of if _is(kind, Literal) else _exactly
    return tuple(check(item, kind) for item in value)


def _faults(error: BaseException, path: str) -> Iterator[tuple[str, str]]:
    """Yield each fault in a tree of them: its path, and what was expected there."""
    if isinstance(error, ClassValidationError):
        noted, others = error.group_exceptions()
        for inner, note in noted:
            yield from _faults(inner, _join(path, note.name))
        for inner in others:
            yield from _faults(inner, path)
    elif isinstance(error, IterableValidationError):
        for inner, at in error.group_exceptions()[0]:
            yield from _faults(inner, _join(path, at.index))
    elif isinstance(error, ForbiddenExtraKeysError):
        known = [field.name for field in attrs.fields(error.cl) if field.name not in FOUND]
        for key in sorted(error.extra_fields, key=str):
            meant = f"there is no such setting{nearest(str(key), known)}"
            yield _join(path, key), f"{meant} (there are {', '.join(known)})"
    elif isinstance(error, KeyError):
        yield path or str(error.args[0]), "this setting is missing"
    elif found := _VALIDATOR.fullmatch(str(error)):
        yield _join(path, found["name"]), f"expected {found['bound']}, got {found['got']}"
    else:
        yield path, str(error)


def _join(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)
