"""From an entry to the provider that it describes. What a kind needs is imported when the first of it is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlzoo.config.schema import ProviderEntry
    from mlzoo.providers.protocol import Provider
    from mlzoo.providers.secrets import Secrets

    Connect = Callable[[ProviderEntry, Secrets], Provider]


def open_provider(entry: ProviderEntry, secrets: Secrets) -> Provider:
    """Return a provider, ready to be asked; nothing has been said to anybody yet. Takes a while the first time."""
    match entry.kind:
        case "openai":
            from mlzoo.providers.openai import OpenAI  # noqa: PLC0415 (only who is asked needs HTTP)

            return OpenAI(entry, secrets)
        case "anthropic":
            from mlzoo.providers.anthropic import Anthropic  # noqa: PLC0415 (as above)

            return Anthropic(entry, secrets)
        case "scripted":
            from mlzoo.providers.scripted import Scripted  # noqa: PLC0415 (as above)

            return Scripted(entry)
        case _:
            assert_never(entry.kind)
