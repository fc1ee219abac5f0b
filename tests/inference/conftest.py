"""Models for the tests of this folder: tiny ones made once a session, real ones where their place is named."""

from __future__ import annotations

import os
from pathlib import Path

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
def weights_directory():
    place = os.environ.get("MLZOO_TEST_WEIGHTS_DIR")
    if not place:
        pytest.skip("MLZOO_TEST_WEIGHTS_DIR does not name a directory with smollm2 and minilm")
    return Path(place)
