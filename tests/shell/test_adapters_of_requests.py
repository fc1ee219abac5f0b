"""Which adapter a request has: chosen by its name, refused at the door where there is none, kept to when it goes on."""

from pathlib import Path

import attrs
import pytest
from sidecar_life import entry, install

from mlzoo import frames
from mlzoo.adapter_facts import AdapterFacts
from mlzoo.config.schema import ModelEntry, ProviderEntry

ADAPTERS = {"poet": "path:/poet", "clerk": "path:/clerk"}


def facts(name, digest="d1", fingerprint="poet's bits"):
    return AdapterFacts(name=name, digest=digest, rank=4, targets=("q_proj",), size_bytes=64, fingerprint=fingerprint)


@pytest.fixture
def adapted(lives):
    """Lives with a toy that has two adapters, a model without, and one that is answered elsewhere."""
    toy = lives.models["toy"] = entry("toy", "chat", adapters=ADAPTERS)
    plain = lives.models["plain"] = entry("plain", "chat")
    install(lives.store, plain)
    for name, source in ADAPTERS.items():
        install(lives.store / ".adapters" / toy.name, attrs.evolve(plain, name=name, source=source))
    lives.providers["cloud"] = ProviderEntry(name="cloud", kind="scripted")
    lives.models["far"] = ModelEntry(name="far", kind="chat", provider="cloud")
    return lives


async def refusal(sidecar, method="chat", **params):
    asked = {"chat": {"messages": [{"role": "user", "content": "x"}]}, "complete": {"prompt": "x"}}
    sent = {"model": "toy", **asked[method], **params}
    return await sidecar.host.error(sidecar.host.send(method, sent))


async def test_a_worker_is_told_of_the_adapters_and_each_request_of_its_own(adapted, autojump_clock):
    async with adapted.begin() as sidecar:
        sidecar.workshop.adapters = [facts("poet"), facts("clerk", "d2")]
        asked = {name: sidecar.chat(f"as {name}", **({"adapter": name} if name else {})) for name in ("", *ADAPTERS)}
        for name, call in asked.items():
            result = await sidecar.host.result(call)
            assert (result["message"]["content"], result.get("adapter", "")) == (f"as {name}", name)
        worker = await sidecar.worker()
        (load,) = [told for told in worker.told if isinstance(told, frames.Load)]
        assert {name: Path(path).name for name, path in load.adapters.items()} == dict.fromkeys(ADAPTERS, "weights")
        told = {told.adapter for told in worker.told if isinstance(told, frames.Generate)}
        assert told == {"", *ADAPTERS}
        completed = sidecar.host.send("complete", {"model": "toy", "prompt": "to be", "adapter": "poet"})
        assert (await sidecar.host.result(completed))["adapter"] == "poet"


async def test_a_name_that_is_none_is_refused_with_those_that_are(adapted, autojump_clock):
    async with adapted.begin() as sidecar:
        for method in ("chat", "complete"):
            error = await refusal(sidecar, method, adapter="poe")
            assert (error["code"], error["data"]["path"]) == (-32602, "adapter")
            assert error["data"]["expected"] == "one of poet, clerk"
            assert error["message"].endswith("expected one of poet, clerk; did you mean poet?")
        assert sidecar.workshop.workers == []


@pytest.mark.parametrize(("model", "why"), [("plain", "has none"), ("far", "is answered elsewhere")])
async def test_a_model_that_has_no_adapters_is_unsupported(adapted, autojump_clock, model, why):
    async with adapted.begin() as sidecar:
        error = await refusal(sidecar, model=model, adapter="poet")
        assert (error["code"], error["data"]["feature"], error["data"]["model"]) == (1010, "adapter", model)
        assert why in error["message"]


async def test_on_a_route_who_has_no_such_adapter_is_passed_over(adapted, autojump_clock):
    adapted.routes["either"] = ("plain", "toy")
    async with adapted.begin() as sidecar:
        sidecar.workshop.adapters = [facts("poet")]
        result = await sidecar.host.result(sidecar.chat("to be", model="either", adapter="poet"))
        assert (result["model"], [passed["reason"] for passed in result["rerouted"]]) == ("toy", ["unsupported"])


async def test_an_adapter_that_was_not_pulled_is_1016_and_says_so(adapted, autojump_clock):
    adapted.models["toy"] = attrs.evolve(adapted.models["toy"], adapters={**ADAPTERS, "new": "path:/new"})
    async with adapted.begin() as sidecar:
        error = await refusal(sidecar, adapter="new")
        assert error["code"] == 1016
        assert error["message"].startswith("An adapter of model toy is not installed; bring it with models.pull")


async def test_a_model_tells_of_its_adapters_before_and_after_it_is_loaded(adapted, autojump_clock):
    async with adapted.begin() as sidecar:
        sidecar.workshop.adapters = [facts("poet"), facts("clerk", "d2", fingerprint="")]
        before = await sidecar.host.result(sidecar.host.send("models.info", {"model": "toy"}))
        assert before["adapters"] == [{"name": name, "source": source} for name, source in ADAPTERS.items()]
        await sidecar.host.result(sidecar.host.send("models.load", {"model": "toy"}))
        after = await sidecar.host.result(sidecar.host.send("models.info", {"model": "toy"}))
        poet = {"name": "poet", "source": "path:/poet", "digest": "d1", "rank": 4, "targets": ["q_proj"], "bytes": 64}
        assert after["adapters"][0] == {**poet, "exact": True}
        assert (after["adapters"][1]["digest"], after["adapters"][1]["exact"]) == ("d2", False)
        plain = await sidecar.host.result(sidecar.host.send("models.info", {"model": "plain"}))
        assert plain["adapters"] == []


async def test_exact_is_refused_with_an_adapter_that_depends_on_its_company_and_not_without(adapted, autojump_clock):
    async with adapted.begin() as sidecar:
        sidecar.workshop.adapters = [facts("poet", fingerprint=""), facts("clerk")]
        error = await refusal(sidecar, adapter="poet", determinism="exact")
        assert (error["code"], error["data"]["feature"]) == (1010, "determinism: exact")
        assert "with the adapter poet does not compute the same" in error["message"]
        for params in ({}, {"adapter": "clerk"}):
            assert await sidecar.host.result(sidecar.chat("x", determinism="exact", **params))


@pytest.mark.parametrize(
    ("bits_then", "resume"), [("poet's bits", "exact"), ("other bits", "prefill"), ("", "prefill")]
)
async def test_a_request_goes_on_with_its_adapter_exactly_where_that_is_the_same(
    adapted, autojump_clock, bits_then, resume
):
    asked = {"stream": True, "key": "k", "determinism": "exact" if bits_then else "fast", "adapter": "poet"}
    async with adapted.begin(leave=False) as sidecar:
        sidecar.workshop.adapters = [facts("poet")]
        sidecar.workshop.answer = None
        sidecar.chat("to be", **asked)
        worker = await sidecar.worker()
        request = await worker.asked("to be")
        worker.generate(request, "to", finish=None)
        await sidecar.host.until(lambda: sidecar.host.notifications("stream"))
        await sidecar.host.until(lambda: sidecar.state.requests[request].completion_tokens == 1)
    adapted.disk = adapted.disk.copy()
    async with adapted.begin() as sidecar:
        sidecar.workshop.adapters = [facts("poet", fingerprint=bits_then)]
        result = await sidecar.host.result(sidecar.host.send("resume", {"key": "k", "after": 0}))
        assert (result["message"]["content"], result["resumed"], result["adapter"]) == ("to be", resume, "poet")
        (frame,) = [told for told in (await sidecar.worker()).told if isinstance(told, frames.Generate)]
        assert (frame.adapter, frame.resume) == ("poet", resume)


async def test_the_same_key_with_another_adapter_is_another_request(adapted, autojump_clock):
    async with adapted.begin() as sidecar:
        sidecar.workshop.adapters = [facts("poet"), facts("clerk")]
        first = await sidecar.host.result(sidecar.chat("x", key="k", adapter="poet"))
        assert await sidecar.host.result(sidecar.chat("x", key="k", adapter="poet")) == first
        error = await refusal(sidecar, key="k", adapter="clerk")
        assert error["code"] == -32602
