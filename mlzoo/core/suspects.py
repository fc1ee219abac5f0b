"""Who may be what kills its worker: the last time it is tried it runs alone, so that nobody else pays for it.

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
    """Who runs on each worker, as requests are dispatched one after the other."""

    def __init__(self, requests: Iterable[RequestState]) -> None:
        self._busy: set[str] = set()
        self._closed: set[str] = set()
        for request in requests:
            if request.phase == "running" and request.device is not None:
                self.join(request, request.device)

    def admits(self, request: RequestState, device: str) -> bool:
        """Whether a request may run on a device beside those that do; a suspect keeps its turn until they are done."""
        if is_suspect(request) and device in self._busy:
            self._closed.add(device)
        return device not in self._closed

    def join(self, request: RequestState, device: str) -> None:
        """Take in that a request runs on a device."""
        self._busy.add(device)
        if is_suspect(request):
            self._closed.add(device)
