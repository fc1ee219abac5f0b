"""A result takes the place of an earlier one: whatever is killed, one of the two is served, whole."""

import os
from contextlib import suppress

import pytest
import yaml

from mlzoo.config.schema import Config, Licence, ModelEntry
from mlzoo.fit.composing import Run
from mlzoo.fit.installing import install
from mlzoo.fit.order import Order, entry_path
from mlzoo.fit.settings import DataSettings, FitSettings
from mlzoo.store import open_store

SETTINGS = FitSettings(name="toy", data=DataSettings(path="table.csv"), model={})
STEPS = ("rename", "replace", "unlink", "rmdir")  # by which what others see of a disk changes


class Killed(BaseException):
    """Nobody's fault: the process ends here."""


class Killer:
    """Lets so many changes of the disk happen, and ends the process at the next one, before it or after it."""

    def __init__(self, patch, left, *, after):
        self.left = left
        self._after = after
        for name in STEPS:
            patch.setattr(os, name, self._step(getattr(os, name)))

    def _step(self, change):
        def step(*args, **options):
            self.left -= 1
            if self.left == -1 and not self._after:
                raise Killed
            change(*args, **options)
            if self.left == -1:
                raise Killed

        return step


def order(directory, *, output=None):
    return Order(
        runs=(Run(SETTINGS),),
        config=Config(store=str(directory / "store")),
        own_config=directory / "configs",
        state=directory / "state",
        log=directory / "log",
        output=output,
        replace=True,
    )


def put(directory, text, **places):
    """Install an artifact that says this."""
    artifact = directory / f"made of {text}"
    artifact.mkdir(exist_ok=True)
    (artifact / "model.safetensors").write_text(text)
    (artifact / "zoo.json").write_text("{}")
    install(order(directory, **places), SETTINGS, artifact)


def served(directory):
    """Return what the weights say that a sidecar finds, which are as their manifest has them; None: it finds none."""
    said = yaml.safe_load(entry_path(order(directory)).read_text())
    entry = ModelEntry(name="toy", kind="predict", source=said["source"], licence=Licence(spdx="unknown", url="u"))
    store = open_store(order(directory).config)
    found = store.find(entry)
    if found is None:
        return None
    assert store.verify(found) == ()
    return (found.path / "model.safetensors").read_text()


@pytest.mark.parametrize("after", [False, True], ids=["before a change", "after a change"])
@pytest.mark.parametrize("text", ["new", "old"], ids=["another", "the same again"])
def test_a_kill_at_any_change_of_the_disk_leaves_the_earlier_or_the_new_one_and_the_next_run_ends_it(
    tmp_path, after, text
):
    seen = set()
    for left in range(100):
        directory = tmp_path / str(left)
        directory.mkdir()
        put(directory, "old")
        with pytest.MonkeyPatch.context() as patch:
            killer = Killer(patch, left, after=after)
            with suppress(Killed):
                put(directory, text)
        seen.add(served(directory))
        assert seen <= {"old", text}
        put(directory, text)
        assert served(directory) == text
        home = open_store(order(directory).config).manifest("toy").parent
        assert len(list(home.iterdir())) == 2, "the weights and their manifest, and nothing that was left"
        if killer.left >= 0:
            break
    assert seen == {"old", text}
    assert left > 2


@pytest.mark.parametrize("after", [False, True], ids=["before a change", "after a change"])
def test_where_the_directory_itself_is_replaced_nothing_half_is_served_and_the_next_run_ends_it(tmp_path, after):
    for left in range(100):
        directory = tmp_path / str(left)
        directory.mkdir()
        put(directory, "old", output=directory / "mine")
        with pytest.MonkeyPatch.context() as patch:
            killer = Killer(patch, left, after=after)
            with suppress(Killed):
                put(directory, "new", output=directory / "mine")
        assert served(directory) in {"old", "new", None}
        put(directory, "new", output=directory / "mine")
        assert served(directory) == "new"
        assert [path.name for path in directory.iterdir() if path.name.startswith(".")] == []
        if killer.left >= 0:
            break
    assert left > 2
