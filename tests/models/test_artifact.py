"""An artifact holds a model whole, comes back as it was, and what is not the model of its description is refused."""

from __future__ import annotations

import pickle

import numpy as np
import orjson
import pytest
import torch
from safetensors.torch import load_file, save_file
from zoo_specs import COLUMNS, PICTURES, ROWS, TABLE, answer, made, picture, texts

from mlzoo.errors import ConfigError, ModelLoadFailed
from mlzoo.models.artifact import MANIFEST, WEIGHTS, load, read, save

pytestmark = pytest.mark.torch


@pytest.fixture
def table(tmp_path):
    model, spec = made(TABLE, columns=COLUMNS)
    directory = tmp_path / "table"
    save(model, spec, directory)
    return directory


def rewrite(directory, change):
    """Change what zoo.json says, as somebody would by hand."""
    said = orjson.loads((directory / MANIFEST).read_bytes())
    change(said)
    (directory / MANIFEST).write_bytes(orjson.dumps(said))


def test_a_table_model_answers_after_it_was_saved_as_before(table):
    model, _ = made(TABLE, columns=COLUMNS)
    assert answer(load(table), ROWS) == answer(model, ROWS)


def test_a_picture_model_answers_after_it_was_saved_as_before(tmp_path):
    model, spec = made(PICTURES)
    save(model, spec, tmp_path / "pictures")
    assert answer(load(tmp_path / "pictures"), [picture(9)]) == answer(model, [picture(9)])


def test_a_text_model_needs_nothing_but_its_artifact(encoder, tmp_path):
    model, spec = made(texts({"kind": "embedding", "dimensions": 4}, ()), encoder)
    save(model, spec, tmp_path / "texts")
    back = load(tmp_path / "texts")
    inputs = ["one two three", "", "größer"]
    np.testing.assert_array_equal(answer(back, inputs), answer(model, inputs))
    assert back.pipeline.max_tokens == model.pipeline.max_tokens == 64
    assert read(tmp_path / "texts").spec.backbone.options == {"pooling": "mean"}  # as it was found out


def test_it_says_what_it_is_made_of_and_by_what(table):
    manifest = read(table)
    assert manifest.spec.labels == ("no", "yes")
    assert manifest.spec.backbone.options["hidden"] == [32, 16]
    assert manifest.versions["torch"] == torch.__version__
    assert manifest.pipeline_state["categories"] == {"job": ["smith", "baker", "clerk"]}


def test_a_full_directory_is_not_written_over(table):
    model, spec = made(TABLE, columns=COLUMNS)
    with pytest.raises(FileExistsError, match="is not empty"):
        save(model, spec, table)


@pytest.mark.parametrize("archive", [True, False])
def test_a_pickle_under_the_name_of_safetensors_is_never_read(table, tmp_path, archive):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "went-off"), "w"))

    if archive:
        torch.save({"x": Bomb()}, table / WEIGHTS)
    else:
        (table / WEIGHTS).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelLoadFailed, match="pickle under the name of safetensors"):
        load(table, check=False)
    assert not (tmp_path / "went-off").exists()


def test_a_directory_with_pickles_alone_is_refused(table):
    (table / WEIGHTS).rename(table / "model.bin")
    with pytest.raises(ModelLoadFailed, match=r"only pickled weights \(model.bin\)"):
        load(table)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda w: w.update({"head.linear.weight": torch.zeros(3, 16)}),
            "head.linear.weight is [3, 16] in it, the model",
        ),
        (lambda w: w.pop("backbone.layers.0.bias"), "backbone.layers.0.bias [32] is not in it"),
        (lambda w: w.update(extra=torch.zeros(1)), "the model has no extra"),
    ],
)
def test_weights_of_another_architecture_are_refused_by_the_first_tensor_that_differs(table, change, told):
    weights = load_file(table / WEIGHTS)
    change(weights)
    save_file(weights, table / WEIGHTS)
    with pytest.raises(ModelLoadFailed) as caught:
        load(table, check=False)
    assert "another architecture" in caught.value.message
    assert told in caught.value.message


def test_files_that_were_mixed_up_are_found_by_their_digests(table):
    weights = load_file(table / WEIGHTS)
    weights["head.linear.bias"] += 1
    save_file(weights, table / WEIGHTS)
    with pytest.raises(ModelLoadFailed, match=r"is not what zoo\.json says it is"):
        load(table)


def test_weights_that_are_cut_off_are_told(table):
    (table / WEIGHTS).write_bytes((table / WEIGHTS).read_bytes()[:-10])
    with pytest.raises(ModelLoadFailed, match="is damaged"):
        load(table, check=False)


def test_an_artifact_of_a_newer_version_says_so(table):
    rewrite(table, lambda said: said.update(format=2))
    with pytest.raises(ModelLoadFailed, match="install a newer mlzoo"):
        load(table)


def test_a_part_that_is_not_here_is_told_with_its_path(table):
    rewrite(table, lambda said: said["spec"]["head"].update(kind="regresion"))
    with pytest.raises(ConfigError, match="did you mean regression") as caught:
        load(table)
    assert caught.value.data["path"] == "spec.head.kind"


def test_what_is_no_artifact_is_told(tmp_path):
    with pytest.raises(ModelLoadFailed, match=r"zoo.json cannot be read"):
        load(tmp_path)
