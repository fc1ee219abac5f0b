"""A small encoder with random weights, as the tests of inference make it."""

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.append(str(Path(__file__).parent.parent / "inference"))


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    from tiny_models import save_encoder

    return save_encoder(tmp_path_factory.mktemp("encoder"))
