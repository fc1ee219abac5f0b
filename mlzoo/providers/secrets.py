"""The keys of providers: from the environment, or from a host; in memory alone, and never in anything that is shown.

Knows providers by their entries; nothing of how a key is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlzoo.config.schema import ProviderEntry

HIDDEN = "[secret]"  # what stands for a secret wherever text is kept


class Secrets:
    """The keys that there are.

    Args:
        environ: where the variables are that entries name.
        providers: the entries.
    """

    __slots__ = ("_environ", "_providers", "_told")

    def __init__(self, environ: Mapping[str, str], providers: Mapping[str, ProviderEntry]) -> None:
        self._environ = environ
        self._providers = providers
        self._told: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"Secrets({', '.join(self._providers)})"

    def tell(self, provider: str, secret: str) -> None:
        """Take a key from a host; it goes before that of the environment, and lasts as long as the process."""
        self._told[provider] = secret

    def find(self, provider: str) -> str | None:
        """Return the key of a provider, or None where there is none."""
        told = self._told.get(provider)
        if told:
            return told
        variable = self._providers[provider].key_env
        return self._environ.get(variable, "").strip() or None

    def is_missing(self, provider: str) -> bool:
        """Whether a provider that needs a key has none."""
        return bool(self._providers[provider].key_env) and self.find(provider) is None

    def hide(self, text: str) -> str:
        """Return a text without any key in it."""
        for provider in self._providers:
            key = self.find(provider)
            if key:
                text = text.replace(key, HIDDEN)
        return text
