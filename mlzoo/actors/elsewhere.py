"""What a host may know of providers and their models: configuration, keys and state, put together. Reads only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlzoo.config.schema import LOCAL
from mlzoo.core.breaker import is_probing
from mlzoo.core.state import device_of
from mlzoo.providers.protocol import how_to_authenticate

if TYPE_CHECKING:
    from mlzoo.actors.services import Services
    from mlzoo.config import ModelEntry
    from mlzoo.config.schema import ProviderEntry
    from mlzoo.events.commands import JsonObject


def providers(services: Services) -> JsonObject:
    """Return who can answer requests: this machine first; of those who cannot, why not, and what to do."""
    mine = [entry.name for entry in services.config.models.values() if entry.provider == LOCAL]
    local = {"name": LOCAL, "usable": True, "models": mine}
    config, remedy = services.config, "correct that file, or remove it, and start mlzoo again"
    broken = [
        {
            "name": name,
            "usable": False,
            "models": [],
            "reason": f"its configuration does not hold: {why}",
            "remedy": remedy,
        }
        for name, why in config.broken_providers.items()
    ]
    return {"providers": [local, *(_provider(services, entry) for entry in config.providers.values()), *broken]}


def _provider(services: Services, entry: ProviderEntry) -> JsonObject:
    shown: JsonObject = {
        "name": entry.name,
        "kind": entry.kind,
        "usable": True,
        "models": [model.name for model in services.config.models.values() if model.provider == entry.name],
        "max_concurrency": entry.max_concurrency,
        **health(services, entry.name),
    }
    if services.secrets.is_missing(entry.name):
        shown |= {"usable": False, "reason": "it has no key", "remedy": how_to_authenticate(entry.name, entry.key_env)}
    elif shown["breaker"] != "closed":
        shown |= {
            "usable": False,
            "reason": f"it failed {shown['faults']} times in a row",
            "remedy": "wait until it is tried again, and look at what its last failures say",
        }
    return shown


def health(services: Services, name: str) -> JsonObject:
    """Return how a provider does: what is with it, and whether it is left alone for a while."""
    state = services.state
    running = sum(r.phase == "running" and r.device == device_of(name) for r in state.requests.values())
    found = state.providers.get(name)
    shown: JsonObject = {"running": running, "breaker": "closed", "faults": 0 if found is None else found.faults}
    if found is not None and found.open_until_ms is not None and services.ledger is not None:
        left_ms = max(0, found.open_until_ms - services.ledger.now_ms())
        shown["breaker"] = "open" if left_ms and not is_probing(state, name) else "half_open"
        shown["retry_after_ms"] = left_ms
    return shown


def summary(services: Services, entry: ModelEntry) -> JsonObject:
    """Return how a provider's model is: ready where it can be asked."""
    is_missing = services.secrets.is_missing(entry.provider)
    shown: JsonObject = {
        "name": entry.name,
        "kind": entry.kind,
        "provider": entry.provider,
        "state": "absent" if is_missing else "ready",
        "device": device_of(entry.provider),
        "bytes": None,
        "loaded_at": None,
        "last_used_at": None,
    }
    if is_missing:
        key_env = services.config.providers[entry.provider].key_env
        shown["error"] = f"The provider has no key: {how_to_authenticate(entry.provider, key_env)}."
    return shown


def model(services: Services, entry: ModelEntry) -> JsonObject:
    """Return all about one of them."""
    provider = services.config.providers[entry.provider]
    chosen: JsonObject = {"slots": provider.max_concurrency}
    if entry.context:
        chosen["context"] = entry.context
    return summary(services, entry) | {
        "source": f"{entry.provider}:{entry.remote or entry.name}",
        "digest": None,
        "licence": {"spdx": entry.licence.spdx, "url": entry.licence.url},
        "aliases": list(entry.aliases),
        "pinned": False,
        "replicas": [],
        "adapters": [],
        "chosen": chosen,
        "why": [f"provider {entry.provider} answers; capabilities: {', '.join(entry.capabilities) or 'text alone'}"],
    }
