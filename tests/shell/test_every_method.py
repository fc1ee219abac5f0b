"""Every method of the document that a sidecar gives of itself, called with params that are made from that document.

The watch on the host looks at each answer's schema and record; here it is looked at that what the document allows is
answered, and what it does not allow is refused as that.
"""

import sys
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from mlzoo.api.methods import METHODS

sys.path.insert(0, str(Path(__file__).parent.parent / "api"))
from schema_reader import faults, resolve, values

EXAMPLES = 12  # of params, for each method
INVALID_PARAMS, INTERNAL_ERROR = -32602, -32603
OTHER_KINDS = ({"no such": 1}, [[]], "\0", -0.5, True)
LEAVES = "shutdown"  # whose answer is the last
RELATIONS = ("tools", "request", "arguments")  # what of params depends on others, or is a text with a form of its own


def drawn(schema, components):
    """Return some params that a schema allows, the same ones in every run."""
    found = []

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(values(schema, components))
    def take(params):
        found.append(params)

    take()
    return found


def misfits(params, schema, components):
    """Yield params of which one thing is wrong: one too many, one missing, one of another kind."""
    whole = resolve(schema, components)
    yield {**params, "no such param": 1}
    for name in whole.get("required", ()):
        yield {key: value for key, value in params.items() if key != name}
    for name in whole.get("properties", {}):
        yield from ({**params, name: value} for value in OTHER_KINDS)


async def described(sidecar, method):
    document = await sidecar.host.call("rpc.discover")
    [shown] = [shown for shown in document["methods"] if shown["name"] == method]
    return shown["x-params"], document["components"]["schemas"]


async def test_the_document_describes_every_method_that_is_served(lives, autojump_clock):
    async with lives.begin() as sidecar:
        document = await sidecar.host.call("rpc.discover")
        assert {shown["name"] for shown in document["methods"]} == set(METHODS)


@pytest.mark.parametrize("method", sorted(METHODS))
async def test_what_the_document_allows_is_answered(lives, autojump_clock, method):
    async with lives.begin(leave=method != LEAVES) as sidecar:
        schema, components = await described(sidecar, method)
        for number, params in enumerate(drawn(schema, components)[: 1 if method == LEAVES else EXAMPLES]):
            if "key" in params:
                params["key"] = f"key {number}"  # A key belongs to the params that it was first used with.
            for sent in (params, {name: value for name, value in params.items() if name not in {"model", "key"}}):
                if list(faults(sent, schema, components)):
                    continue  # This method needs a model's name, or a key.
                error = (await sidecar.host.response(sidecar.host.send(method, sent))).get("error", {"code": 0})
                assert error["code"] != INTERNAL_ERROR, (sent, error)
                assert error["code"] != INVALID_PARAMS or error["data"]["path"].endswith(RELATIONS), (sent, error)
                if method == LEAVES:
                    return


@pytest.mark.parametrize("method", sorted(METHODS))
async def test_what_the_document_does_not_allow_is_refused_as_that(lives, autojump_clock, method):
    async with lives.begin() as sidecar:
        schema, components = await described(sidecar, method)
        wrong = partial(faults, schema=schema, components=components)
        tried = [sent for sent in misfits(drawn(schema, components)[0], schema, components) if list(wrong(sent))]
        assert tried
        for sent in tried:
            error = await sidecar.host.refused(method, sent)
            assert error["code"] == INVALID_PARAMS, (sent, error)
        assert await sidecar.host.call("ping") == {}
