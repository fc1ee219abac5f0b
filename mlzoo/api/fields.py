"""What a field of params may hold beyond its type: said once, checked by attrs and printed by the schema.

Bounds are kept as JSON Schema's own keywords in the metadata of a field; ``checked`` is the validator that reads them.
Knows neither cattrs nor any method.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mlzoo.errors import InvalidParams

if TYPE_CHECKING:
    from collections.abc import Mapping

    import attrs

INTEGER_MAX = 2**53  # Beyond it a reader that keeps numbers as doubles sees another one.
NOT_NULL = "a string or a list"  # where null has a meaning beside certain neighbours alone
NAME_LENGTH = 256  # Names come back in answers and in the log, so they have an end.


def about(
    description: str,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    min_length: int | None = None,
    max_length: int | None = None,
    min_items: int | None = None,
    max_items: int | None = None,
    each: Mapping[str, Any] | None = None,
    needs: str | None = None,
    instead_of: str | None = None,
    secret: bool = False,
    unserved: Mapping[str, Any] | bool = False,
) -> dict[str, Any]:
    """Return the metadata of a field. All but the description is checked only where its validator is ``checked``.

    Args:
        description: What it means, for people.
        minimum: Least number that is allowed.
        above: Number that must be exceeded.
        maximum: Greatest number that is allowed.
        min_length: Least length of a string, in characters.
        max_length: Greatest length of a string, in characters.
        min_items: Least length of a list.
        max_items: Greatest length of a list.
        each: The bounds of each item of a list, as JSON Schema keywords.
        needs: A truth value beside it that must be true where this field is given.
        instead_of: The field beside it of which, with this one, exactly one must be given.
        secret: Whether it is replaced before anything is recorded.
        unserved: The values that this version refuses as unsupported, as a JSON Schema; True: every value.
    """
    bounds = {
        "minimum": minimum,
        "exclusiveMinimum": above,
        "maximum": maximum,
        "minLength": min_length,
        "maxLength": max_length,
        "minItems": min_items,
        "maxItems": max_items,
        "items": each,
    }
    return {
        "description": description,
        "bounds": {keyword: bound for keyword, bound in bounds.items() if bound is not None},
        "needs": needs,
        "instead_of": instead_of,
        "secret": secret,
        "unserved": unserved,
    }


def naming(description: str, *, unserved: Mapping[str, Any] | bool = False) -> dict[str, Any]:
    """Return the metadata of a field that names something: not empty, not endless."""
    return about(description, min_length=1, max_length=NAME_LENGTH, unserved=unserved)


def checked(instance: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    """Validate one field by its metadata (a validator as attrs has them).

    Raises:
        InvalidParams: With path and expected.
    """
    other = attribute.metadata["instead_of"]
    if other is not None and (value is None) == (getattr(instance, other) is None):
        expected = f"exactly one of {other} and {attribute.name}"
        raise InvalidParams(f"expected {expected}", path=attribute.name, expected=expected)
    if value is None:
        allows = attribute.metadata.get("null_where")
        if allows is not None and not getattr(instance, allows):
            raise InvalidParams(f"expected {NOT_NULL}, got null", path=attribute.name, expected=NOT_NULL)
        return
    needs = attribute.metadata["needs"]
    if needs is not None and not getattr(instance, needs):
        expected = f"{attribute.name} only where {needs} is true"
        raise InvalidParams(f"expected {expected}", path=attribute.name, expected=expected)
    _check(value, attribute.metadata["bounds"], attribute.name)


def _check(value: Any, bounds: Mapping[str, Any], path: str) -> None:
    if not _is_within(value, bounds):
        expected = _allowed(value, bounds)
        raise InvalidParams(f"expected {expected}", path=path, expected=expected)
    if isinstance(value, tuple) and value and "items" in bounds:
        size = len if isinstance(value[0], str) else None
        if all(_is_within(item, bounds["items"]) for item in (min(value, key=size), max(value, key=size))):
            return  # All others lie between the two: a million tokens are not looked at one by one.
        for index, item in enumerate(value):
            _check(item, bounds["items"], f"{path}[{index}]")


def _is_within(value: Any, bounds: Mapping[str, Any]) -> bool:
    """Say whether a value is allowed; NaN compares false to everything and never is."""
    if isinstance(value, str):
        is_long_enough: bool = len(value) >= bounds.get("minLength", 0)
        return is_long_enough and len(value) <= bounds.get("maxLength", math.inf)
    if isinstance(value, tuple):
        is_full_enough: bool = len(value) >= bounds.get("minItems", 0)
        return is_full_enough and len(value) <= bounds.get("maxItems", math.inf)
    if isinstance(value, int | float):
        low: float = bounds.get("minimum", -math.inf)
        above: float = bounds.get("exclusiveMinimum", -math.inf)
        return low <= value <= bounds.get("maximum", math.inf) and value > above
    return True


def _allowed(value: Any, bounds: Mapping[str, Any]) -> str:
    if isinstance(value, str):
        return _span("a string", "character", bounds.get("minLength"), bounds.get("maxLength"))
    if isinstance(value, tuple):
        return list_of(bounds)
    return _range(value, bounds)


def list_of(bounds: Mapping[str, Any]) -> str:
    """Return how long a list may be, for people."""
    return _span("a list", "item", bounds.get("minItems"), bounds.get("maxItems"))


def _range(value: float, bounds: Mapping[str, Any]) -> str:
    parts = [f"above {bounds['exclusiveMinimum']}"] if "exclusiveMinimum" in bounds else []
    parts += [f"at least {bounds['minimum']}"] if "minimum" in bounds else []
    parts += [f"at most {bounds['maximum']}"] if "maximum" in bounds else []
    return ("an integer " if isinstance(value, int) else "a number ") + " and ".join(parts)


def _span(what: str, unit: str, low: int | None, high: int | None) -> str:
    least = f"at least {low} {unit}{'' if low == 1 else 's'}" if low else ""
    most = f"at most {high} {unit}s" if high is not None else ""
    return f"{what} of {' and '.join(part for part in (least, most) if part)}"
