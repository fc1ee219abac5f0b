"""A store of the test's own, tiny weights, and places to pull them from that are not the network."""

import os
from pathlib import Path

import attrs
import pytest
from places import MODEL, ModelHub, PackageIndex, build_wheel

import mlzoo
from mlzoo.config import Licence, ModelEntry
from mlzoo.store import Store
from mlzoo.store.digest import of_file


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """Let pip and the hub's client see nothing of this machine, and the children this source tree."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "HF_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("PYTHONPATH", str(Path(mlzoo.__file__).parents[1]))


@pytest.fixture
def wheel_entry(tmp_path):
    """Build a wheel with a model inside and return the entry that pins it."""
    (tmp_path / "wheels").mkdir()

    def build(files=None, **changes):
        members = {f"toy/model/{name}": content for name, content in (files or MODEL).items()}
        wheel = build_wheel(tmp_path / "wheels", "toy-weights", "1.0", {"toy/__init__.py": b"", **members})
        entry = ModelEntry(
            name="toy",
            kind="chat",
            source="wheel:toy-weights==1.0/toy/model",
            archive_sha256=of_file(wheel),
            licence=Licence(spdx="MIT", url="https://example.com/toy"),
        )
        return attrs.evolve(entry, **changes)

    return build


@pytest.fixture
def index(tmp_path, monkeypatch):
    with PackageIndex(tmp_path / "wheels") as server:
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
        yield server


@pytest.fixture
def hub(monkeypatch):
    with ModelHub("someone/toy", {**MODEL, "pytorch_model.bin": b"pickle"}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def hub_entry():
    return ModelEntry(
        name="toy", kind="chat", source="hub:someone/toy", licence=Licence(spdx="MIT", url="https://example.com/toy")
    )
