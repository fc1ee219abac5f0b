"""What a worker takes in while something runs: each step comes in time, and says in time what it brought."""

from __future__ import annotations

import pytest
import torch
from tiny_models import ask, load

from mlzoo.frames import Abandon, Generate, Load, Stepped, Tokenize, Tokenized, Unload
from mlzoo.frames_codec import encode
from mlzoo.inference.worker import DRAIN_S, ModelServer

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")
FLOOD = 1000  # frames that are there at once


class FloodedLink:
    """The worker's end of a socket on which more arrives than it can do. The real one ends the process with it."""

    def __init__(self, *first, flood=FLOOD):
        self.now_s = 0.0  # each frame takes a thousandth of a second
        self.said = []
        self._lines = [encode(frame) for frame in first]
        self.arrive(*(Tokenize(request=f"t{number}", model="tiny", text="one") for number in range(flood)))

    def arrive(self, *frames):
        self._lines += map(encode, frames)

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


@pytest.mark.parametrize(
    "frame",
    [
        Tokenize(request="t", model="tiny", text="one"),
        ask("s", "two three", 1),
        Load(model="other", path="/nowhere", kind="chat"),
        Unload(model="tiny"),
    ],
    ids=lambda frame: type(frame).__name__,
)
def test_what_is_held_is_said_before_anything_that_takes_time(tiny_directory, frame):
    link = FloodedLink(load(tiny_directory), ask("r", "one", None), flood=0)
    server = ModelServer(link, CPU, clock=lambda: link.now_s)
    for _ in range(4):
        server.drain()
        server.step()
    assert _tokens(link.said) == 1  # The first is said at once, the others are held: no time has passed.
    before = len(link.said)
    link.arrive(frame)
    server.drain()
    assert _tokens(link.said[before : before + 1]) == 3
    assert isinstance(frame, Generate) or len(link.said) == before + 2


def test_an_abandoned_request_says_nothing_that_was_held(tiny_directory):
    link = FloodedLink(load(tiny_directory), ask("r", "one", None), ask("s", "two", None), flood=0)
    server = ModelServer(link, CPU, clock=lambda: link.now_s)
    for _ in range(6):
        server.drain()
        server.step()
    before = len(link.said)
    link.arrive(Abandon(request="r"), Tokenize(request="t", model="tiny", text="one"))
    server.drain()
    ((row,),) = [frame.rows for frame in link.said[before:] if isinstance(frame, Stepped)]
    assert row.request == "s"


def _tokens(said):
    return sum(len(row.tokens) for frame in said if isinstance(frame, Stepped) for row in frame.rows)
