"""Plain data -> frozen classes, strictly: nothing is coerced, unknown keys are refused with the nearest name.

Only composing uses this; a start from the cache does not import it, and cattrs neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from cattrs import ClassValidationError, Converter, ForbiddenExtraKeysError, IterableValidationError

from mlzoo.config.load import nearest
from mlzoo.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")

_NAMES = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


def structure(plain: object, cls: type[T]) -> T:
    """Return an instance of cls.

    Raises:
        ConfigError: With all that is wrong in its message; ``data.path`` and ``data.expected`` are of the first.
    """
    try:
        return _converter().structure(plain, cls)
    except Exception as error:
        faults = list(_faults(error, ""))
        path, text = faults[0]
        lines = [f"{place}: {told}" if place else told for place, told in faults]
        raise ConfigError("\n".join(lines), path=path, expected=text) from error


def _converter() -> Converter:
    converter = Converter(forbid_extra_keys=True, detailed_validation=True)
    for primitive in _NAMES:
        converter.register_structure_hook(primitive, _exactly)
    return converter


def _exactly(value: Any, cls: type) -> Any:
    """Return value where it is of the type; an integer is a number too, but a truth value is neither."""
    fits = isinstance(value, cls) and (cls is bool or not isinstance(value, bool))
    if cls is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not fits:
        raise TypeError(f"expected {_NAMES[cls]}, got {value!r}")
    return value


def _faults(error: BaseException, path: str) -> Iterator[tuple[str, str]]:
    """Yield the path and the description of each fault in a tree of them."""
    if isinstance(error, ClassValidationError | IterableValidationError):
        noted, others = error.group_exceptions()
        for inner, note in noted:
            place = getattr(note, "name", None) or getattr(note, "index", None)
            yield from _faults(inner, f"{path}.{place}" if path else str(place))
        for inner in others:
            yield from _faults(inner, path)
    elif isinstance(error, ForbiddenExtraKeysError):
        known = [field.name for field in attrs.fields(error.cl)]
        for key in sorted(error.extra_fields, key=str):
            yield (f"{path}.{key}" if path else str(key)), "there is no such setting" + nearest(str(key), known)
    elif isinstance(error, KeyError):
        yield path, f"{error.args[0]} is missing"
    else:
        yield path, str(error)
