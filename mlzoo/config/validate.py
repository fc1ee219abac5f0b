"""Plain data -> frozen classes, strictly: nothing is coerced, unknown keys are refused with the nearest name.

Only composing uses this; a start from the cache does not import it, and cattrs neither.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

import attrs
from cattrs import ClassValidationError, Converter, ForbiddenExtraKeysError, IterableValidationError

from mlzoo.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")

_NAMES = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
_VALIDATOR = re.compile(r"'(?P<name>\w+)' must be (?P<bound>.*): (?P<got>.*)")  # what attrs' validators say


def structure(plain: object, cls: type[T]) -> T:
    """Return an instance of cls.

    Raises:
        ConfigError: With all that is wrong in its message; ``data.path`` and ``data.expected`` are of the first.
    """
    try:
        return _converter().structure(plain, cls)
    except (BaseExceptionGroup, TypeError, ValueError, ForbiddenExtraKeysError) as error:
        faults = list(_faults(error, ""))
        lines = [f"{path}: {expected}" if path else expected for path, expected in faults]
        path, expected = faults[0]
        raise ConfigError("\n".join(lines), path=path, expected=expected) from error


def _converter() -> Converter:
    converter = Converter(forbid_extra_keys=True, detailed_validation=True)
    for primitive in _NAMES:
        converter.register_structure_hook(primitive, _exactly)
    converter.register_structure_hook_func(lambda cls: _is(cls, Literal), _one_of)
    converter.register_structure_hook_func(lambda cls: _is(cls, tuple), _items)
    return converter


def _is(cls: Any, origin: Any) -> bool:
    return get_origin(cls) is origin


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
    return tuple(_exactly(item, get_args(cls)[0]) for item in value)


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
        known = [field.name for field in attrs.fields(error.cl)]
        for key in sorted(error.extra_fields, key=str):
            yield _join(path, key), "there is no such setting" + nearest(str(key), known)
    elif isinstance(error, KeyError):
        yield path or str(error.args[0]), "this setting is missing"
    elif found := _VALIDATOR.fullmatch(str(error)):
        yield _join(path, found["name"]), f"expected {found['bound']}, got {found['got']}"
    else:
        yield path, str(error)


def _join(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)
