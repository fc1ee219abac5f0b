"""What can go wrong between a host and its sidecar, and whose fault it is.

Knows nothing of processes and lines. The errors that a sidecar sends are one class, told apart by code or type.
"""

from __future__ import annotations

from typing import Any

_SHOWN_LINES, _SHOWN_CHARACTERS = 10, 500  # Of stderr, in a message; the attribute has more.
_TYPES = {
    -32700: "parse_error",
    -32600: "invalid_request",
    -32601: "method_not_found",
    -32602: "invalid_params",
    -32603: "internal_error",
    -32800: "cancelled",
}


class RemoteError(Exception):
    """The sidecar answered with an error; whose fault it is, its code says.

    Attributes:
        code: The number on the wire.
        type: The code's name, such as ``model_not_found``.
        message: What was wrong and what to do.
        data: More, for programs; ``partial`` holds the text that came before the error, where there was some.
    """

    def __init__(self, code: int, message: str, data: dict[str, Any] | None = None) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message
        self.data = data or {}
        self.type = str(self.data.get("type") or _TYPES.get(code, "unknown"))


class SidecarDied(Exception):
    """The sidecar's fault or the machine's: its process is gone, or deaf, and a call has no answer.

    Attributes:
        status: The exit status, negative for a signal, None where the process still runs but has closed its stdout.
        stderr: The last lines it wrote to stderr.
    """

    def __init__(self, status: int | None, stderr: tuple[str, ...] = ()) -> None:
        if status is None:
            what = "the sidecar closed its stdout and does not leave"
        elif status < 0:
            what = f"the sidecar was killed by signal {-status}"
        else:
            what = f"the sidecar left with exit status {status}"
        super().__init__("\n  ".join([what, *(line[:_SHOWN_CHARACTERS] for line in stderr[-_SHOWN_LINES:])]))
        self.status = status
        self.stderr = stderr


class ProtocolViolation(Exception):
    """The sidecar's fault, or that of what was spawned in its place: it wrote what version 1 does not allow.

    Nothing after it can be trusted, so every call that waits ends with it.
    """
