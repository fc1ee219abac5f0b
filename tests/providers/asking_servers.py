"""Asks servers on loopback as the actor of a provider does."""

import trio
from loopback import serving

from mlzoo.config.schema import ProviderEntry
from mlzoo.frames import Embed, Generate, Sampling
from mlzoo.providers.opening import open_provider
from mlzoo.providers.secrets import Secrets

KEY = "sk-very-secret-0123456789"


class Asking:
    def __init__(self):
        self.key = KEY
        self.work = Generate(
            request="r1",
            model="big",
            messages=({"role": "user", "content": "Hello"},),
            sampling=Sampling(temperature=1.0, seed=7),
        )

    def entry(self, server, **settings):
        kind = settings.pop("kind", "openai")
        return ProviderEntry(name="cloud", kind=kind, base_url=server.url, key_env="CLOUD_KEY", **settings)

    async def pieces(self, answer, work=None, **settings):
        """Return the pieces, and the server."""
        async with serving(answer) as server:
            return await self.of(server, work, **settings), server

    async def of(self, server, work=None, **settings):
        entry = self.entry(server, **settings)
        provider = open_provider(entry, Secrets({"CLOUD_KEY": self.key}, {"cloud": entry}))
        try:
            async with provider.generate(work or self.work, "big-1") as pieces:
                return [piece async for piece in pieces]
        finally:
            await provider.aclose()

    async def vectors(self, answer, texts=("a", "b"), normalize=False, **settings):
        async with serving(answer) as server:
            entry = self.entry(server, **settings)
            provider = open_provider(entry, Secrets({"CLOUD_KEY": KEY}, {"cloud": entry}))
            try:
                work = Embed(request="r1", model="vec", texts=texts, normalize=normalize)
                return await provider.embed(work, "vec-1"), server
            finally:
                with trio.CancelScope(shield=True):
                    await provider.aclose()
