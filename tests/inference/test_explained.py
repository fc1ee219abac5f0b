"""What is said of a model is what is the case now: a change of its steps is told once, when it has come about."""

from __future__ import annotations

import sys
from contextlib import suppress

import attrs
import pytest
import torch
from tiny_models import ask, load
from worker_link import Link, SocketEnds

from mlzoo.frames import Loaded, Unload
from mlzoo.inference.graphs import Graphs
from mlzoo.inference.worker import ModelServer

pytestmark = pytest.mark.torch
FAILS = (sys.executable, "-c", "import sys; sys.exit('no such header')")


def served(server, link, *frames):
    """Have a worker do what it is asked for, to the end of that, and of what it compiles meanwhile."""
    link.arrive(*frames)
    with suppress(SocketEnds):
        while True:
            server.drain()
            server.step()


def test_the_worker_says_again_what_it_chose_whenever_that_has_changed_also_while_it_is_idle(tiny_directory, tmp_path):
    link = Link()
    server = ModelServer(link, torch.device("cpu"))
    served(server, link, load(tiny_directory))
    decoder = server._models["tiny"]._model.decoder
    decoder.graphs = Graphs(decoder, load(tiny_directory), tmp_path, {}, command=FAILS, after_tokens=4, say=str)
    served(server, link, ask("r1", "one two", 3))
    served(server, link, ask("r2", "one two", 5))
    first, *later = (frame for frame in link.said if isinstance(frame, Loaded))
    steps = [frame.why[-1] for frame in later]
    assert len(steps) == 3
    assert ["once 4 tokens" in steps[0], "being compiled" in steps[1], "no such header" in steps[2]] == [True] * 3
    assert all(attrs.evolve(frame, why=first.why) == first for frame in later)


def test_what_a_model_was_is_not_said_of_the_next_of_its_name(tiny_directory):
    link = Link()
    server = ModelServer(link, torch.device("cpu"))
    served(server, link, load(tiny_directory), Unload(model="tiny"), load(tiny_directory), ask("r1", "one two", 3))
    assert sum(isinstance(frame, Loaded) for frame in link.said) == 2
