"""Who may be what kills its worker: two of them never run beside each other, so that none pays for another.

Knows running requests and how often each lost its worker; nothing of why a worker died. A request may be what kills
its worker: by a prompt, a form or a file that its libraries cannot bear. Those beside it lose their worker as often as
it does, and are told from it by running without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlzoo.core.state import RequestState

MOST_LOSSES = 3  # of its worker without a token in between: then it is not tried again


def is_suspect(request: RequestState) -> bool:
    """Whether one more loss of its worker ends a request."""
    return request.key != "" and request.losses + 1 >= MOST_LOSSES


class Company:
    """On which workers a suspect runs, as requests are dispatched one after the other."""

    def __init__(self, requests: Iterable[RequestState]) -> None:
        running = [request for request in requests if request.phase == "running" and is_suspect(request)]
        self._watched = {request.device for request in running}

    def admits(self, request: RequestState, device: str) -> bool:
        """Whether a request may run on a device beside those that do."""
        return not is_suspect(request) or device not in self._watched

    def join(self, request: RequestState, device: str) -> None:
        """Take in that a request runs on a device."""
        if is_suspect(request):
            self._watched.add(device)
