"""Hypothesis strategies for the schema's classes, made from their annotations."""

import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs
from hypothesis import strategies as st

from mlzoo.errors import Failure

SCALARS = {
    str: st.text(max_size=8),
    int: st.integers(-(2**53), 2**53),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    type(None): st.none(),
}
JSON = st.recursive(
    st.one_of(SCALARS.values()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def values(kind):
    """Return a strategy for a type of the schema."""
    if kind in SCALARS:
        return SCALARS[kind]
    if kind is Any:
        return JSON
    if attrs.has(kind):
        # Some modules import names for their annotations only.
        hints = get_type_hints(kind, localns={"Failure": Failure})
        return st.builds(kind, **{field.name: values(hints[field.name]) for field in attrs.fields(kind)})
    origin, members = get_origin(kind), get_args(kind)
    if origin is Literal:
        return st.sampled_from(members)
    if origin in (Union, types.UnionType):
        return st.one_of(*map(values, members))
    if origin is tuple and members[1:] == (...,):
        return st.lists(values(members[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, members))
    if origin in (dict, Mapping):
        return st.dictionaries(values(members[0]), values(members[1]), max_size=3)
    raise TypeError(f"no strategy for {kind}: the schema has a type that the codec was not tested with")
