"""Custom models in a worker: loaded from artifacts, answering many requests in shared forwards, failing one by one."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import load, save_encoder

from mlzoo.errors import ConfigError, ModelLoadFailed
from mlzoo.frames import Predict, Predicted, WorkFailed
from mlzoo.inference.predictor import Predictor, load_predict
from mlzoo.models.artifact import save

sys.path.append(str(Path(__file__).parent.parent / "models"))
from zoo_specs import COLUMNS, ROWS, TABLE, answer, made, texts

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    model, spec = made(TABLE, columns=COLUMNS)
    directory = tmp_path_factory.mktemp("table") / "artifact"
    save(model, spec, directory)
    return directory


def loaded(directory, **fields):
    return load_predict(load(directory, **{"kind": "predict", "dtype": "auto", **fields}), CPU)


def ask(request, *inputs, **fields):
    return Predict(request=request, model="tiny", inputs=inputs, **fields)


def run(predictor, *frames):
    said = [frame for asked in frames for frame in predictor.submit(asked)]
    while not predictor.idle:
        said += predictor.step()
    return {frame.request: frame for frame in said}


def test_an_artifact_answers_as_the_model_did_that_was_saved(table):
    model, _ = made(TABLE, columns=COLUMNS)
    told = run(Predictor(loaded(table)), ask("r", *ROWS))["r"]
    assert json.loads(told.outputs) == [
        {**said, "scores": pytest.approx(said["scores"]), "score": pytest.approx(said["score"])}
        for said in answer(model, ROWS)
    ]
    assert (told.count, told.prompt_tokens) == (4, 0)


def test_it_says_what_it_is_and_why(table):
    model = loaded(table)
    assert model.architecture == "Mlp + Classification"
    assert model.labels == ("no", "yes")
    assert "backbone mlp of 32 x 16" in model.why
    assert any(reason.startswith("columns age: number") for reason in model.why)


def test_requests_share_a_forward_and_are_answered_apart(table):
    predictor = Predictor(loaded(table))
    for number, row in enumerate(ROWS):
        assert predictor.submit(ask(str(number), row)) == []
    said = predictor.step()
    assert predictor.idle
    assert {frame.request for frame in said} == {"0", "1", "2", "3"}


def test_a_bad_input_fails_its_request_alone_with_the_path(table):
    said = run(Predictor(loaded(table)), ask("bad", ROWS[0], {**ROWS[1], "age": "old"}), ask("good", ROWS[0]))
    assert (said["bad"].code, said["bad"].data) == (-32602, {"path": "inputs[1].age", "expected": "a number"})
    assert isinstance(said["good"], Predicted)


def test_numbers_that_are_none_fail_their_request_alone(table):
    predictor = Predictor(loaded(table))
    said = run(predictor, ask("bad", {**ROWS[0], "age": 1e300}), ask("good", ROWS[0]))
    assert isinstance(said["bad"], WorkFailed)
    assert isinstance(said["good"], Predicted)


def test_a_forward_that_fails_is_computed_for_each_request_alone(table, monkeypatch):
    predictor = Predictor(loaded(table))
    compute = predictor._compute

    def poisoned(rows):
        if any(row is poison for row in rows):
            raise RuntimeError("out of memory")
        return compute(rows)

    monkeypatch.setattr(predictor, "_compute", poisoned)
    predictor.submit(ask("bad", ROWS[0]))
    (poison,) = predictor._jobs["bad"].rows
    said = run(predictor, ask("good", ROWS[1]))
    assert said["bad"].code == 1005
    assert isinstance(said["good"], Predicted)


def test_an_abandoned_request_is_silent(table):
    predictor = Predictor(loaded(table))
    predictor.submit(ask("gone", *ROWS))
    predictor.abandon("gone")
    assert list(run(predictor, ask("stays", ROWS[0]))) == ["stays"]


def test_no_inputs_have_no_outputs(table):
    assert run(Predictor(loaded(table)), ask("r"))["r"].outputs == "[]"


def test_an_answer_that_fits_into_no_line_is_refused(table):
    predictor = Predictor(loaded(table, answer_bytes=4096 + 200))
    said = run(predictor, ask("many", *ROWS * 3), ask("one", ROWS[0]))
    assert said["many"].code == 1011
    assert isinstance(said["one"], Predicted)


def test_a_pretrained_encoder_compares_texts_without_any_training(encoder):
    model = loaded(encoder, zoo=texts("similarity", (), takes="ranking"))
    told = run(Predictor(model), ask("r", {"query": "one two", "documents": ["lazy dog", "one two"]}))["r"]
    (best, _) = json.loads(told.outputs)[0]["ranking"]
    assert best == {"index": 1, "score": pytest.approx(1, abs=1e-5)}
    assert told.prompt_tokens > 0


def test_a_head_with_weights_of_its_own_is_not_made_up(encoder):
    with pytest.raises(ModelLoadFailed, match="train it with mlzoo fit"):
        loaded(encoder, zoo=texts())


def test_a_directory_that_is_no_artifact_needs_parts(encoder):
    with pytest.raises(ModelLoadFailed, match="write backbone, head and pipeline, or name an artifact"):
        loaded(encoder)


def test_a_configuration_that_says_what_the_artifact_says_is_taken(table):
    assert loaded(table, zoo=TABLE).labels == ("no", "yes")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"backbone": {"kind": "mlp", "hidden": [5]}}, "backbone.hidden is [5] in the configuration and [32, 16]"),
        ({"head": {"kind": "regression"}, "labels": []}, "head.kind is 'regression'"),
        ({"labels": ["no", "perhaps"]}, "labels is ['no', 'perhaps']"),
    ],
)
def test_a_configuration_that_describes_another_model_is_refused(table, change, told):
    with pytest.raises(ModelLoadFailed) as caught:
        loaded(table, zoo={**TABLE, **change})
    assert told in caught.value.message


def test_a_part_that_is_not_here_is_told(table):
    with pytest.raises(ConfigError, match="did you mean classification"):
        loaded(table, zoo={**TABLE, "head": {"kind": "clasification"}})


def test_a_pickle_is_refused(table, tmp_path):
    (tmp_path / "zoo.json").write_bytes((table / "zoo.json").read_bytes())
    (tmp_path / "model.pt").write_bytes(b"\x80\x02" + os.urandom(8))
    with pytest.raises(ModelLoadFailed, match="only pickled weights"):
        loaded(tmp_path)


def test_half_precision_may_be_asked_for(table):
    told = run(Predictor(loaded(table, dtype="bfloat16")), ask("r", *ROWS))["r"]
    assert sum(json.loads(told.outputs)[0]["scores"].values()) == pytest.approx(1, abs=1e-3)
