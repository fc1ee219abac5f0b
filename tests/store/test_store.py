"""What the store tells from the disk alone: cheaply, and never what is not so."""

import subprocess
import sys
import threading

import attrs
import pytest
from places import MODEL

from mlzoo.config import Config
from mlzoo.config.sources import Hub, Local, Wheel, parse
from mlzoo.errors import ConfigError, PullFailed
from mlzoo.store import Estimate, Store, open_store
from mlzoo.store.lock import exclusively
from mlzoo.store.pull import pull
from mlzoo.store.sources import describe


@pytest.fixture
def installed(store, tmp_path, hub_entry):
    """Install a model whose weights lie at a path, and return its entry."""
    for name, content in MODEL.items():
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_bytes(content)
    entry = attrs.evolve(hub_entry, source=f"path:{tmp_path / 'mine'}", download_bytes=5, disk_bytes=6, memory_bytes=7)
    pull(store, entry, lambda progress: None)
    return entry


def test_the_store_stands_where_the_configuration_says(tmp_path):
    assert open_store(Config(store=str(tmp_path))) == Store(tmp_path)
    assert open_store(Config()).root.name == "models"


def test_the_light_part_imports_nothing_that_finding_does_not_need():
    script = (
        "import sys, mlzoo.store; print(sorted({'trio', 'hashlib', 'subprocess', 'platformdirs'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


def test_a_store_that_does_not_exist_has_nothing(store, hub_entry):
    assert store.find(hub_entry) is None
    assert store.remove(hub_entry) == 0
    assert not store.root.exists()


def test_a_model_whose_files_are_gone_is_not_installed(store, installed, tmp_path):
    assert store.find(installed).path == tmp_path / "mine"
    (tmp_path / "mine").rename(tmp_path / "elsewhere")
    assert store.find(installed) is None


def test_an_estimate_is_the_configurations_until_the_truth_is_known(store, installed):
    size_bytes = sum(map(len, MODEL.values()))
    assert store.estimate(installed) == Estimate(download_bytes=0, disk_bytes=size_bytes, memory_bytes=7)
    store.remove(installed)
    assert store.estimate(installed) == Estimate(download_bytes=5, disk_bytes=6, memory_bytes=7)
    unknown = attrs.evolve(installed, memory_bytes=0)
    assert store.estimate(unknown).memory_bytes == 6


def test_a_manifest_that_goes_while_files_are_checked_is_told(store, installed):
    found = store.find(installed)
    store.manifest("toy").unlink()
    assert "is gone or damaged" in store.verify(found)[0]


def test_a_locked_model_is_not_removed(store, installed):
    with exclusively(store.lock_path("toy"), wait=False) as held:
        assert held
        with pytest.raises(PullFailed) as caught:
            store.remove(installed)
    assert caught.value.data["reason"] == "busy"
    assert store.find(installed) is not None


def test_a_lock_is_waited_for_and_given_back(tmp_path):
    order, waiting = [], threading.Event()

    def second():
        with exclusively(tmp_path / "lock", wait=False) as held:
            order.append(held)
            waiting.set()
        with exclusively(tmp_path / "lock", wait=True) as held:
            order.append(held)

    thread = threading.Thread(target=second)
    with exclusively(tmp_path / "lock", wait=True):
        thread.start()
        assert waiting.wait(60)
        order.append("released")
    thread.join(60)
    assert order == [False, "released", True]


@pytest.mark.parametrize(
    ("text", "source", "told"),
    [
        ("wheel:a-b==1.0/x/y.gguf", Wheel("a-b", "1.0", "x/y.gguf"), "a-b 1.0 on the package index"),
        ("wheel:a==1/x/", Wheel("a", "1", "x"), "a 1 on the package index"),
        ("hub:o/n", Hub("o/n", None), "o/n on the hub"),
        ("hub:o/n-1.5@refs/pr/1", Hub("o/n-1.5", "refs/pr/1"), "o/n-1.5 on the hub"),
    ],
)
def test_a_source_is_read_and_described(text, source, told):
    assert parse(text) == source
    assert describe(source) == told


def test_a_path_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse("path:x") == Local(tmp_path / "x")
    assert describe(parse("path:x")) == str(tmp_path / "x")


@pytest.mark.parametrize(
    "text", ["", "x", "path:", "hub:name", "hub:a/b/c", "wheel:a/b", "wheel:a==1", "wheel:a==1/../b", "http://x"]
)
def test_what_is_no_source_is_refused(text):
    with pytest.raises(ConfigError, match="expected wheel:PACKAGE==VERSION/PATH, hub:"):
        parse(text)


@pytest.mark.weights
@pytest.mark.parametrize("name", ["smollm2", "minilm"])
def test_the_default_models_in_the_users_store_are_what_was_pinned(name):
    from mlzoo import config

    settings = config.load()
    found = open_store(settings).find(settings.model(name))
    assert found is not None, f"`mlzoo models pull {name}` installs it"
    assert open_store(settings).verify(found) == ()
