"""Sessions whose answers came from providers, recorded: played, checked, and run again without asking anybody."""

import attrs
from running_again import run_again

from mlzoo.config.schema import ModelEntry, ProviderEntry

HELLO = [{"role": "user", "content": "one two three four"}]


def with_cloud(lives):
    lives.providers["cloud"] = ProviderEntry(name="cloud", kind="scripted", script=("Hel", "lo"))
    lives.models["far"] = ModelEntry(name="far", kind="chat", provider="cloud")
    lives.models["far-vec"] = ModelEntry(name="far-vec", kind="embed", provider="cloud")
    lives.routes["any"] = ("absent", "far", "toy")
    lives.models["absent"] = ModelEntry(name="absent", kind="chat", source="path:/nowhere")
    return attrs.evolve(lives.config(), models={"toy": lives.models["toy"]}, providers={}, routes={})


async def test_what_providers_said_is_said_again_without_asking_them(lives, recorded, autojump_clock):
    elsewhere = with_cloud(lives)
    async with lives.begin() as sidecar:
        for params in (
            {"model": "far"},
            {"model": "any", "stream": True},
            {"model": "toy"},
            {"model": "far", "key": "k"},
        ):
            await sidecar.host.result(sidecar.host.send("chat", {"messages": HELLO, **params}))
        await sidecar.host.call("embed", {"model": "far-vec", "input": ["abc", "b"]})
        secret = {"provider": "cloud", "secret": "sk-not-to-be-told"}
        await sidecar.host.call("providers.authenticate", secret)
        await sidecar.leave()
    found = recorded()
    assert "sk-not-to-be-told" not in str(found.lines)
    again = run_again(found, elsewhere)
    assert again.holds, "\n".join(again.told())
    assert len(again.verdicts) >= 6
