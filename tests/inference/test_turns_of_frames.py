"""What a worker takes in while something runs: each step comes in time, and says in time what it brought."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
import torch
from tiny_models import ask, load
from worker_link import Link, SocketEnds

from mlzoo.frames import Abandon, Generate, Load, Stepped, Tokenize, Tokenized, Unload
from mlzoo.inference.saying import EVERY_S
from mlzoo.inference.worker import DRAIN_S, ModelServer

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")
FLOOD = 1000  # frames that are there at once


class FloodedLink(Link):
    """One on which more arrives than the worker can do."""

    def __init__(self, *first, flood=FLOOD):
        super().__init__(*first)
        self.now_s = 0.0  # each frame takes a thousandth of a second
        self.arrive(*(Tokenize(request=f"t{number}", model="tiny", text="one") for number in range(flood)))

    def take(self, *, wait, most_s=None):
        self.now_s += 0.001
        return super().take(wait=wait, most_s=most_s)


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
    with suppress(SocketEnds):
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


@pytest.mark.parametrize("models", [("tiny",), ("tiny", "idle"), ("idle", "tiny")])
def test_words_go_together_no_more_often_than_they_are_seen_whatever_else_is_loaded(tiny_directory, models):
    loads = [load(tiny_directory, model=model) for model in models]
    link = FloodedLink(*loads, ask("r", "one", 41), flood=0)
    server, times = ModelServer(link, CPU, clock=lambda: link.now_s), []
    server.drain()
    link.said.clear()
    while _tokens(link.said) < 41:
        before = len(link.said)
        server.step()
        times += [link.now_s] * (len(link.said) - before)
        link.now_s += EVERY_S / 4
    assert len(times) <= 41 // 4 + 3  # the first, the last, and those between them
    assert all(later - earlier > EVERY_S * 0.99 for earlier, later in pairwise(times[1:-2]))
    assert max(later - earlier for earlier, later in pairwise(times)) <= EVERY_S * 1.3


def test_neighbours_are_not_looked_at_while_there_is_nothing_to_do(tiny_directory):
    heard = []
    link = FloodedLink(load(tiny_directory), ask("r", "one", 3), flood=0)
    neighbours = HeardNeighbours(heard)
    server = ModelServer(link, CPU, neighbours=neighbours, clock=lambda: link.now_s)
    for _ in range(3):
        server.drain()
        server.step()
    with pytest.raises(SocketEnds):
        server.drain()
    assert heard == ["rest", "wake", "rest", "wake", "rest"]


class HeardNeighbours:
    """Nobody, who notes what is said of rests."""

    def __init__(self, heard):
        self._heard = heard

    def rest(self):
        self._heard.append("rest")

    def wake(self):
        self._heard.append("wake")

    def threads(self, most):
        return most


def _tokens(said):
    return sum(len(row.tokens) for frame in said if isinstance(frame, Stepped) for row in frame.rows)
