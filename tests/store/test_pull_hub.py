"""Pulls from a model hub: what is taken, what is refused, and going on after a kill."""

import attrs
import orjson
import psutil
import pytest
from places import MODEL, safetensors
from pulls import ignore, processes_of, reason_of, start, visible

from mlzoo.store.pulling import pull


async def test_a_hub_repository_is_pulled_without_its_pickles(store, hub, hub_entry):
    installed = await pull(store, hub_entry, ignore)
    names = {path.relative_to(installed.path).as_posix() for path in installed.path.rglob("*") if path.is_file()}
    assert names == set(MODEL)
    assert store.verify(installed) == ()
    assert not [request for request in hub.requests if ".bin" in request]


async def test_a_token_is_sent_to_the_hub_and_not_to_where_it_sends_us(store, hub, hub_entry, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    await pull(store, hub_entry, ignore)
    assert hub.credentials[f"/someone/toy/resolve/{hub.commit}/config.json"] == "Bearer hf_secret"
    assert hub.credentials["/cdn/model.safetensors"] is None


async def test_a_hub_pull_that_was_killed_goes_on_where_it_was(store, hub, hub_entry):
    hub.files["model.safetensors"] = safetensors(30_000_000)
    hub.stop_after_bytes = 20_000_000
    with start(store, hub_entry) as process:
        while orjson.loads(process.stdout.readline())["done"] < 10_000_000:
            pass
        working = processes_of(store)
        process.kill()
    psutil.wait_procs(working, timeout=10)
    assert visible(store) == []
    hub.requests.clear()
    installed = await pull(store, hub_entry, ignore)
    assert store.verify(installed) == ()
    assert not [request for request in hub.requests if "config.json" in request]
    (resumed,) = [request for request in hub.requests if "GET /cdn/" in request]
    assert int(resumed.partition("bytes=")[2].rstrip("-")) > 0


async def test_a_revision_that_moved_on_between_two_pulls_mixes_nothing(store, hub, hub_entry):
    hub.lies["model.safetensors"] = "0" * 64
    await reason_of(store, hub_entry)  # small files have arrived
    hub.commit, hub.lies = "d" * 40, {}
    hub.files["config.json"] = b'{"moved": "on"}'
    installed = await pull(store, hub_entry, ignore)
    assert (installed.path / "config.json").read_bytes() == b'{"moved": "on"}'


@pytest.mark.parametrize(("gated", "status"), [(True, 200), (False, 401), (False, 403)])
async def test_a_gated_repository_says_that_a_token_is_needed(store, hub, hub_entry, gated, status):
    hub.gated, hub.status = gated, status
    reason, message = await reason_of(store, hub_entry)
    assert reason == "gated"
    assert "HF_TOKEN" in message


async def test_a_hub_that_cannot_be_reached_is_offline(store, hub_entry, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert (await reason_of(store, hub_entry))[0] == "offline"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
async def test_a_hub_whose_file_is_not_what_it_says_is_refused(store, hub, hub_entry, name):
    hub.lies[name] = "0" * 64
    assert (await reason_of(store, hub_entry))[0] == "digest"
    assert visible(store) == []


async def test_a_repository_with_pickled_weights_alone_is_refused(store, hub, hub_entry):
    del hub.files["model.safetensors"]
    reason, message = await reason_of(store, hub_entry)
    assert reason == "source"
    assert "pickled" in message


async def test_a_repository_that_cannot_chat_is_refused_before_its_weights_are_brought(store, hub, hub_entry):
    hub.files["config.json"] = b'{"architectures": ["BertModel"]}'
    reason, message = await reason_of(store, hub_entry)
    assert (reason, visible(store)) == ("source", [])
    assert "is a BertModel, which cannot chat: write kind: embed" in message
    assert not [request for request in hub.requests if "safetensors" in request]
    await pull(store, attrs.evolve(hub_entry, kind="embed"), ignore)
