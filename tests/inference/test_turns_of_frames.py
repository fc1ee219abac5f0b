"""What a worker takes in while something runs: each step comes in time, however much is asked meanwhile."""

from __future__ import annotations

import pytest
import torch
from tiny_models import ask, load

from mlzoo.frames import Stepped, Tokenize, Tokenized
from mlzoo.frames_codec import encode
from mlzoo.inference.worker import DRAIN_S, ModelServer

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")
FLOOD = 1000  # frames that are there at once


class FloodedLink:
    """The worker's end of a socket on which more arrives than it can do. The real one ends the process with it."""

    def __init__(self, *first):
        self.now_s = 0.0  # each frame takes a thousandth of a second
        self.said = []
        self._lines = [encode(frame) for frame in first]
        self._lines += [encode(Tokenize(request=f"t{number}", model="tiny", text="one")) for number in range(FLOOD)]

    def take(self, *, wait):
        self.now_s += 0.001
        return self._lines.pop(0) if self._lines else None

    def begin(self, doing):
        pass

    def send(self, said):
        self.said += said


def test_a_flood_of_texts_to_turn_into_tokens_keeps_no_row_waiting(tiny_directory):
    link = FloodedLink(load(tiny_directory), ask("r", "one", 3))
    server = ModelServer(link, CPU, clock=lambda: link.now_s)
    server.drain()
    server.step()
    assert [row.request for frame in link.said if isinstance(frame, Stepped) for row in frame.rows] == ["r"]
    answered = sum(isinstance(frame, Tokenized) for frame in link.said)
    assert 0 < answered <= DRAIN_S * 1000
    server.drain()
    assert answered < sum(isinstance(frame, Tokenized) for frame in link.said) <= 2 * DRAIN_S * 1000
