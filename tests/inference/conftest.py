"""Models for the tests of this folder: tiny ones made once a session, real ones where their place is named."""

from __future__ import annotations

import os

import pytest

# Before torch is imported, as in a worker: threads that spin while they wait make each test several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory):
    from tiny_models import save_causal

    return save_causal(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def tiny(tiny_directory):
    import torch
    from tiny_models import load

    from mlzoo.inference.loader import load_chat

    return load_chat(load(tiny_directory), torch.device("cpu"))


@pytest.fixture(scope="session")
def weights():
    """Return where a model's weights lie, by its name."""
    from mlzoo.config import load
    from mlzoo.store import open_store

    config = load()
    store = open_store(config)

    def find(name):
        installed = store.find(config.model(name))
        if installed is None:
            pytest.skip(f"{name} is not installed: mlzoo models pull {name}")
        return installed.path

    return find
