"""Predictions go the way of all requests: accepted, dispatched, recorded, told; under keys, ephemeral, and refused."""

import pytest
from sidecar_life import entry, install


@pytest.fixture
def guessing(lives):
    lives.models["guess"] = entry("guess", "predict")
    install(lives.store, lives.models["guess"])
    return lives


async def test_outputs_are_those_that_the_worker_gave(guessing, autojump_clock):
    async with guessing.begin() as sidecar:
        result = await sidecar.host.call("predict", {"model": "guess", "inputs": [{"age": 3}, "x", None]})
        assert result["model"] == "guess"
        assert result["device"] == "cpu"
        assert result["outputs"] == [{"value": {"age": 3}}, {"value": "x"}, {"value": None}]


async def test_a_prediction_is_kept_under_its_key(guessing, autojump_clock):
    asked = {"model": "guess", "inputs": [1], "key": "k"}
    async with guessing.begin() as sidecar:
        first = await sidecar.host.call("predict", asked)
        assert await sidecar.host.call("predict", asked) == first
    async with guessing.begin() as sidecar:
        assert await sidecar.host.call("predict", asked) == first
        assert await sidecar.host.call("resume", {"key": "k"}) == first
        assert not sidecar.workshop.workers


async def test_outputs_that_are_long_come_as_they_are_too_and_are_kept_in_a_file_of_their_own(guessing, autojump_clock):
    long = ["é" * 1000] * 100
    async with guessing.begin() as sidecar:
        result = await sidecar.host.call("predict", {"model": "guess", "inputs": long, "key": "k"})
        assert [output["value"] for output in result["outputs"]] == long
    async with guessing.begin() as sidecar:
        assert await sidecar.host.call("resume", {"key": "k"}) == result


async def test_what_is_ephemeral_is_told_and_leaves_nothing_on_the_disk(guessing, autojump_clock):
    asked = {"model": "guess", "inputs": ["xyzzy-4711"], "retention": "ephemeral"}
    async with guessing.begin() as sidecar:
        result = await sidecar.host.call("predict", asked)
        assert result["outputs"] == [{"value": "xyzzy-4711"}]
        assert "xyzzy-4711" not in repr([*sidecar.watch.groups(durable=False), *sidecar.watch.asides()])


@pytest.mark.parametrize(
    ("method", "params", "told"),
    [
        ("predict", {"model": "toy", "inputs": ["x"]}, "is for chat, not for predict; name one that is: guess"),
        ("chat", {"model": "guess", "messages": [{"role": "user", "content": "x"}]}, "is for predict, not for chat"),
        ("embed", {"model": "guess", "input": "x"}, "is for predict, not for embed"),
        ("tokenize", {"model": "guess", "text": "x"}, "is for predict, not for tokenize"),
    ],
)
async def test_a_model_does_what_it_is_for(guessing, autojump_clock, method, params, told):
    async with guessing.begin() as sidecar:
        error = await sidecar.host.refused(method, params)
        assert error["code"] == 1010
        assert told in error["message"]


async def test_a_model_must_be_named_and_something_be_asked(guessing, autojump_clock):
    async with guessing.begin() as sidecar:
        assert (await sidecar.host.refused("predict", {"inputs": [1]}))["data"]["path"] == "model"
        assert (await sidecar.host.refused("predict", {"model": "guess", "inputs": []}))["data"]["path"] == "inputs"
        too_many = await sidecar.host.refused("predict", {"model": "guess", "inputs": [0] * 3000})
        assert too_many["code"] == 1011
