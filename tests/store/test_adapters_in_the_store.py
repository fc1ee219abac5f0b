"""A model's adapters are weights of their own beside it: brought with it, counted, verified and removed with it."""

import attrs
import pytest
from places import MODEL, safetensors

from mlzoo.errors import PullFailed
from mlzoo.store.pull import pull

ADAPTER = {"adapter_config.json": b"{}", "adapter_model.safetensors": safetensors(), "README.md": b"mine"}
ADAPTER_BYTES = sum(map(len, ADAPTER.values()))


def lay(directory, files):
    directory.mkdir(parents=True)
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return f"path:{directory}"


def bring(store, entry):
    stages = []
    pull(store, entry, lambda progress: stages.append(progress.stage))
    return stages


@pytest.fixture
def entry(hub_entry, tmp_path):
    return attrs.evolve(hub_entry, source=lay(tmp_path / "base", MODEL))


@pytest.fixture
def with_one(entry, tmp_path):
    return attrs.evolve(entry, adapters={"one": lay(tmp_path / "one", ADAPTER)})


def test_a_pull_brings_the_adapters_with_the_model(store, with_one, tmp_path):
    bring(store, with_one)
    installed = store.find(with_one)
    assert [(adapter.name, adapter.path) for adapter in installed.adapters] == [("one", tmp_path / "one")]
    assert store.verify(installed) == ()
    assert store.estimate(with_one).disk_bytes == sum(map(len, MODEL.values())) + ADAPTER_BYTES
    assert store.estimate(with_one).memory_bytes == store.estimate(with_one).disk_bytes


def test_an_adapter_that_was_added_is_missing_until_it_is_pulled_and_nothing_else_is_brought_again(
    store, entry, with_one
):
    bring(store, entry)
    assert store.find(with_one) is None
    assert store.find(entry) is not None
    assert bring(store, with_one) == ["verify", "install"]
    assert bring(store, with_one) == []
    assert store.find(with_one) is not None
    assert store.find(entry).adapters == ()


def test_an_adapter_from_elsewhere_is_another_adapter(store, with_one, tmp_path):
    bring(store, with_one)
    moved = attrs.evolve(with_one, adapters={"one": lay(tmp_path / "other", ADAPTER)})
    assert store.find(moved) is None
    bring(store, moved)
    assert store.find(moved).adapters[0].path == tmp_path / "other"


def test_adapters_come_from_a_hub_as_models_do(store, entry, hub):
    hub.files.clear()
    hub.files.update({**ADAPTER, "adapter_model.bin": b"pickle"})
    from_hub = attrs.evolve(entry, adapters={"one": "hub:someone/toy"})
    bring(store, from_hub)
    (adapter,) = store.find(from_hub).adapters
    assert (adapter.path / "adapter_model.safetensors").read_bytes() == ADAPTER["adapter_model.safetensors"]
    assert not (adapter.path / "adapter_model.bin").exists()
    store.remove(from_hub)
    assert not adapter.path.exists()


def test_two_models_may_have_adapters_of_one_name(store, with_one, tmp_path):
    other = attrs.evolve(with_one, name="other", adapters={"one": lay(tmp_path / "another", ADAPTER)})
    for each in (with_one, other):
        bring(store, each)
    assert [store.find(each).adapters[0].path.name for each in (with_one, other)] == ["one", "another"]
    store.remove(with_one)
    assert store.find(with_one) is None
    assert store.find(other) is not None


def test_removing_a_model_leaves_the_users_own_files(store, with_one, tmp_path):
    bring(store, with_one)
    assert store.remove(with_one) > 0
    assert not store.adapters_of(with_one.name).root.exists()
    assert (tmp_path / "one" / "adapter_config.json").exists()


def test_what_is_wrong_with_an_adapter_s_files_is_told(store, with_one, tmp_path):
    bring(store, with_one)
    (tmp_path / "one" / "adapter_config.json").write_bytes(b"[]")
    assert store.verify(store.find(with_one)) == (f"{tmp_path / 'one' / 'adapter_config.json'} has changed",)


@pytest.mark.parametrize(
    ("files", "why"),
    [
        (MODEL, "holds no adapter_config.json, and is no adapter as peft saves it"),
        ({**ADAPTER, "adapter_model.safetensors": None, "adapter_model.bin": b"pickle"}, "only pickled weights"),
        ({"adapter_config.json": b"{}"}, "holds no weights"),
    ],
)
def test_what_is_no_adapter_is_not_installed(store, entry, tmp_path, files, why):
    source = lay(tmp_path / "bad", {name: content for name, content in files.items() if content is not None})
    bad = attrs.evolve(entry, adapters={"bad": source})
    with pytest.raises(PullFailed, match=why):
        bring(store, bad)
    assert store.find(bad) is None
    assert store.find(entry) is not None
