"""From what a host sent to params, and from results to what is sent.

Importing this is cheap and a method without params stays so; cattrs and the classes of a group come in with the first
call of a method that has some.
"""

from __future__ import annotations

from typing import Any

import attrs
import orjson

from mlzoo.api.methods import METHODS, NOTHING, OWN, Empty, find
from mlzoo.errors import InvalidParams

SECRET = "[secret]"  # noqa: S105 - what is recorded in the place of one
DIGEST = "_digest"  # The one key of recorded params that a host cannot send: theirs are not kept, only their digest.


def structure(method: str, params: dict[str, Any] | list[Any] | None) -> Any:
    """Return the params of a method as an instance of its class.

    Nothing is coerced, except that an integer is taken for a number. A field that may be absent may also be null.

    Raises:
        MethodNotFound: There is no such method.
        InvalidParams: ``data.path`` says where (``messages[0].role``), ``data.expected`` what should stand there. No
            value of the host's is repeated, since the error is recorded.
    """
    spec = find(method)
    if params is None:
        params = {}
    if not isinstance(params, dict):
        raise InvalidParams("params go by name: send an object, not an array", path="", expected="an object")
    if spec.params_name == "Empty" and not params.keys() - {OWN}:
        return NOTHING
    from mlzoo.api import strict  # noqa: PLC0415 - brings in cattrs, which a start does without

    return strict.structure({key: value for key, value in params.items() if key != OWN}, spec.params)


def unstructure(result: Any) -> dict[str, Any]:
    """Return a result, or the params of a notification, as plain data; what is absent is left out."""
    if isinstance(result, Empty):
        return {}
    from mlzoo.api import strict  # noqa: PLC0415 - brings in cattrs, which a start does without

    plain: dict[str, Any] = strict.unstructure(result)
    return plain


def shown(method: str, params: dict[str, Any] | list[Any] | None) -> dict[str, Any] | list[Any] | None:
    """Return params as they may be recorded: secrets are replaced, and what is not known is left out."""
    spec = METHODS.get(method)
    if spec is None or not spec.secret or params is None:
        return params
    if isinstance(params, list):
        return [SECRET] * len(params)
    known = {field.name: field for field in attrs.fields(spec.params)}
    public = {name for name, field in known.items() if not field.metadata["secret"]}
    return {name: value if name in public else SECRET for name, value in params.items() if name in known}


def digest(params: dict[str, Any] | list[Any]) -> str:
    """Return the SHA-256 of params, the host's own part left out, whatever the order of their keys."""
    import hashlib  # noqa: PLC0415 - 3 ms that a start does without

    named = {key: value for key, value in params.items() if key != OWN} if isinstance(params, dict) else params
    return hashlib.sha256(orjson.dumps(named, option=orjson.OPT_SORT_KEYS)).hexdigest()
