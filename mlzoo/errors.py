"""The error tree: what can go wrong, whose fault it is, and the code that the wire carries for it.

Knows nothing of JSON-RPC framing, of the log or of models: an error here is a code, a message and data.
Codes are those of the wire protocol, version 1; they are part of the contract and never change their meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import attrs


@attrs.frozen
class Failure:
    """An error as a value: what the log records and the wire sends. Text of the user's never stands in it."""

    code: int
    message: str
    data: Mapping[str, Any] = attrs.field(factory=dict)


class MlzooError(Exception):
    """Anything that mlzoo refuses or fails at and can explain. Each subclass says whose fault it is.

    ``message`` says what was wrong and what to do; ``data`` is structured, for programs.
    """

    code: ClassVar[int] = -32603
    type: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.data = data

    def failure(self) -> Failure:
        """Return the error as a value for log and wire; our own (positive) codes always name type and retryable."""
        if self.code < 0:
            return Failure(self.code, self.message, self.data)
        return Failure(self.code, self.message, {"type": self.type, "retryable": self.retryable, **self.data})


class ParseError(MlzooError):
    """The host's fault: the line is not JSON as RFC 8259 and the protocol's limits have it."""

    code = -32700
    type = "parse_error"


class InvalidRequest(MlzooError):
    """The host's fault: the line is JSON, but no JSON-RPC 2.0 request, or its id cannot be used."""

    code = -32600
    type = "invalid_request"


class MethodNotFound(MlzooError):
    """The host's fault: no such method. ``data.available`` lists those there are."""

    code = -32601
    type = "method_not_found"


class InvalidParams(MlzooError):
    """The host's fault: a parameter is missing, unknown or wrong. ``data`` holds path and expected."""

    code = -32602
    type = "invalid_params"


class InternalError(MlzooError):
    """Our fault, always: an incident with this number stands in the log, the host gets no traceback."""

    code = -32603
    type = "internal_error"


class Cancelled(MlzooError):
    """Nobody's fault: the host asked for it (the code is LSP's). ``data.partial`` holds the text so far."""

    code = -32800
    type = "cancelled"


class Overloaded(MlzooError):
    """The load's fault: refused at the door, nothing was started. ``data.retry_after_ms`` is an honest estimate."""

    code = 1001
    type = "overloaded"
    retryable = True


class DeadlineExceeded(MlzooError):
    """The deadline's fault: the host's own limit passed first. ``data.partial`` holds the text so far."""

    code = 1002
    type = "deadline_exceeded"
    retryable = True


class ModelNotFound(MlzooError):
    """The host's fault: no configuration names this model. ``data.available`` lists those there are."""

    code = 1003
    type = "model_not_found"


class ModelLoadFailed(MlzooError):
    """The weights' or the machine's fault: the model is known and installed, yet it would not load."""

    code = 1004
    type = "model_load_failed"


class OutOfMemory(MlzooError):
    """The machine's fault: the device has not the memory that this needs."""

    code = 1005
    type = "out_of_memory"
    retryable = True


class ContextLengthExceeded(MlzooError):
    """The host's fault: the prompt is longer than the model's context (``data.limit``, ``data.got``, in tokens)."""

    code = 1006
    type = "context_length_exceeded"


class ProviderError(MlzooError):
    """The provider's fault, or a missing key's: it answered with an error, or not at all, or could not be asked.

    ``data`` has provider, and where they are known status (of HTTP) and retry_after_ms.
    """

    code = 1007
    type = "provider_error"
    retryable = True


class Interrupted(MlzooError):
    """Our fault or the machine's: worker or sidecar died under the request. ``data.partial`` is what was said."""

    code = 1008
    type = "interrupted"
    retryable = True


class ShuttingDown(MlzooError):
    """Nobody's fault: the sidecar takes no new work, it is leaving."""

    code = 1009
    type = "shutting_down"


class Unsupported(MlzooError):
    """The host's fault, mildly: this model or this version cannot do that (``data.feature``, ``data.model``)."""

    code = 1010
    type = "unsupported"


class TooLarge(MlzooError):
    """The host's fault: a line, an upload or a batch is over its limit (``data.limit``, ``data.got``)."""

    code = 1011
    type = "too_large"


class NotFound(MlzooError):
    """The host's fault: what it names does not exist (``data.what``, ``data.id``)."""

    code = 1012
    type = "not_found"


class OutOfRange(MlzooError):
    """The host's fault: the place lies before what is kept (expired) or after what exists (ahead)."""

    code = 1013
    type = "expired"


class StorageFailed(MlzooError):
    """The disk's fault: ``data.reason`` is disk_low, keys_full or conversations_full (retryable), or failed (final)."""

    code = 1014
    type = "storage_failed"


class LogUnusable(MlzooError):
    """The log's fault: locked, newer than this version, damaged, inconsistent (an error of ours) or unwritable.

    ``data.remedy`` says the way on.
    """

    code = 1015
    type = "log_unusable"


class ModelNotInstalled(MlzooError):
    """The host's to mend: the model is known, its weights are not here. ``models.pull`` brings them."""

    code = 1016
    type = "model_not_installed"


class PullFailed(MlzooError):
    """The network's, the disk's or the source's fault, as ``data.reason`` says.

    It is offline, gated, licence, disk, digest, source (nothing usable is there), conversion, or busy (it is being
    pulled while it should be removed).
    """

    code = 1017
    type = "pull_failed"


class ConfigError(MlzooError):
    """The user's fault, before anything ran: a configuration does not hold. Commands exit with status 2."""

    type = "config_error"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the one that was probably meant, or nothing."""
    import difflib  # noqa: PLC0415 (only errors need it)

    close = difflib.get_close_matches(name[:64], list(known), n=1, cutoff=0.7)  # A wild guess is worse than none.
    return f"; did you mean {close[0]}?" if close else ""
