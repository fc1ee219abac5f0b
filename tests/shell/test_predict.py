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
