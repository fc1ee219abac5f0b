"""Frames as bytes: one JSON object on one line, tagged by ``type``, the same on both sides of the socket.

Knows the frames and JSON; nothing of sockets, trio or torch. cattrs is imported at the first frame, not before,
so that the sidecar's start does not pay for it. Fields that hold their default are left out of the line.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, get_args, get_origin

import attrs
import orjson

from mlzoo import frames

if TYPE_CHECKING:
    from collections.abc import Callable

Frame = frames.ToWorker | frames.FromWorker


class BrokenFrame(ValueError):
    """The other process's fault, so ours: the line is no frame. ``fields`` is what could be read of it."""

    def __init__(self, message: str, fields: dict[str, Any]) -> None:
        super().__init__(message)
        self.fields = fields


def encode(frame: Frame) -> bytes:
    """Return a frame as one line, newline included."""
    kind = type(frame)
    return orjson.dumps({"type": kind.__name__, **_writers()[kind](frame)}, option=orjson.OPT_APPEND_NEWLINE)


def decode(line: bytes) -> Frame:
    """Return the frame of one line.

    Raises:
        BrokenFrame: The line is not JSON, names no frame, or its fields do not fit.
    """
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BrokenFrame(f"a frame is not JSON: {error}", {}) from error
    if not isinstance(fields, dict):
        raise BrokenFrame("a frame is no JSON object", {})
    read = _readers().get(str(fields.pop("type", None)))
    if read is None:
        raise BrokenFrame("a frame names no known type", fields)
    try:
        return read(fields)
    except Exception as error:
        # cattrs raises whatever a field's type raises: each of them means the same here.
        raise BrokenFrame(f"the fields of a frame do not fit: {error!r}", fields) from error


@functools.cache
def _converter() -> Any:
    from cattrs import Converter  # noqa: PLC0415 - 20 ms that only the first frame pays

    converter = Converter(omit_if_default=True, forbid_extra_keys=True, detailed_validation=False)
    converter.register_structure_hook_factory(_is_of_one_kind)(_of_one_kind)
    return converter


def _is_of_one_kind(kind: Any) -> bool:
    return get_origin(kind) is tuple and get_args(kind)[1:] == (...,)


def _of_one_kind(kind: Any, converter: Any) -> Callable[[Any, Any], tuple[Any, ...]]:
    """Return how a tuple of one kind is read: cattrs itself looks up how, for each element anew."""
    inner = get_args(kind)[0]
    if inner in {int, str}:
        return lambda values, _: tuple(map(inner, values))
    read = converter.get_structure_hook(inner)
    return lambda values, _: tuple([read(value, inner) for value in values])


@functools.cache
def _writers() -> dict[type, Callable[[Any], dict[str, Any]]]:
    converter = _converter()
    kinds = get_args(Frame)
    for kind in kinds:
        attrs.resolve_types(kind)
    return {kind: converter.get_unstructure_hook(kind) for kind in kinds}


@functools.cache
def _readers() -> dict[str, Callable[[dict[str, Any]], Frame]]:
    converter = _converter()

    def reader(kind: type) -> Callable[[dict[str, Any]], Frame]:
        structure = converter.get_structure_hook(kind)
        return lambda fields: structure(fields, kind)

    return {kind.__name__: reader(kind) for kind in get_args(Frame)}
