"""How a request's failure is said: as a frame, with the wire's code.

Knows errors and frames; nothing of what failed. A traceback goes to the sidecar's own log, never to a host; and what a
library says of an error is not passed on, since it may repeat the text that it was given.
"""

from __future__ import annotations

import traceback

import attrs

from mlzoo.errors import InternalError, MlzooError, OutOfMemory
from mlzoo.frames import WorkFailed
from mlzoo.inference.memory import is_out_of_memory


def failed(request: str, error: MlzooError) -> WorkFailed:
    """Say what mlzoo refused or failed at, and can explain."""
    failure = error.failure()
    return WorkFailed(
        request=request,
        code=failure.code,
        message=failure.message,
        data=dict(failure.data),
        detail=getattr(error, "detail", ""),
    )


def broken(request: str, error: Exception) -> WorkFailed:
    """Say that a request failed: for want of memory, or by our own fault."""
    if isinstance(error, MlzooError):
        return failed(request, error)
    if is_out_of_memory(error):
        return failed(request, OutOfMemory("the device has no memory left for this request"))
    ours = failed(request, InternalError(f"the model could not do this: {type(error).__name__}"))
    return attrs.evolve(ours, story="".join(traceback.format_exception(error)))
