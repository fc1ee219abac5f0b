"""Backbones, heads and pipelines fit together by name, learn, and answer as JSON."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer
from zoo_specs import COLUMNS, PICTURES, ROWS, TABLE, answer, made, picture, texts, train

from mlzoo.errors import ConfigError, InvalidParams, ModelLoadFailed
from mlzoo.models.zoo import build, spec_of

pytestmark = pytest.mark.torch


def test_an_mlp_learns_a_table_and_answers_with_a_label_and_the_score_of_each():
    model, _ = made(TABLE, columns=COLUMNS)
    losses = train(model, ROWS, ["no", "yes", "no", "yes"], steps=200)
    assert losses[-1] < losses[0] / 4
    answers = answer(model, ROWS)
    assert [told["label"] for told in answers] == ["no", "yes", "no", "yes"]
    assert answers[0].keys() == {"label", "score", "scores"}
    assert sum(answers[0]["scores"].values()) == pytest.approx(1)
    assert answers[0]["score"] == max(answers[0]["scores"].values())


def test_a_cnn_learns_pictures():
    model, _ = made(PICTURES)
    inputs = [picture(0), picture(255), f"data:image/png;base64,{picture(20)}", {"image": picture(230)}]
    train(model, inputs, ["dark", "light", "dark", "light"])
    assert [told["label"] for told in answer(model, inputs)] == ["dark", "light", "dark", "light"]


def test_an_encoder_learns_texts(encoder):
    model, _ = made(texts(), encoder)
    inputs = ["one two", "the quick fox", {"text": "one seven"}, "the lazy dog"]
    train(model, inputs, ["bad", "good", "bad", "good"])
    assert [told["label"] for told in answer(model, inputs)] == ["bad", "good", "bad", "good"]


def test_what_an_encoder_pools_is_what_transformers_computes_whatever_the_company(encoder):
    model, _ = made(texts({"kind": "embedding"}, ()), encoder)
    module, tokenizer = AutoModel.from_pretrained(encoder).eval(), AutoTokenizer.from_pretrained(encoder)
    inputs = ["one", "the quick brown fox jumps", "größer als Köln"]
    for text, vector in zip(inputs, answer(model, inputs), strict=True):
        with torch.no_grad():
            mean = module(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(vector, mean / mean.norm(), atol=1e-5)


def test_numbers_are_told_in_the_units_of_the_data():
    model, _ = made({**TABLE, "head": {"kind": "regression"}, "labels": []}, columns=COLUMNS)
    train(model, ROWS, [1000.0, 2000.0, 3000.0, 4000.0], steps=800)
    told = [said["value"] for said in answer(model, ROWS)]
    assert told == pytest.approx([1000, 2000, 3000, 4000], rel=0.05)


def test_several_numbers_of_one_input_are_a_list():
    head = {"kind": "regression", "values": 2, "delta": 1.0}
    model, _ = made({**TABLE, "head": head, "labels": []}, columns=COLUMNS)
    train(model, ROWS, [[1, -1], [2, -2], [3, -3], [4, -4]], steps=400)
    assert answer(model, ROWS)[3]["values"] == pytest.approx([4, -4], abs=0.3)


def test_several_labels_may_be_given_the_likeliest_first():
    model, _ = made({**TABLE, "head": {"kind": "multilabel"}, "labels": ["young", "old", "any"]}, columns=COLUMNS)
    train(model, ROWS, [["young", "any"], ["young", "any"], ["old", "any"], ["old", "any"]], steps=200)
    told = answer(model, ROWS)
    assert [set(said["labels"]) for said in told] == [{"young", "any"}] * 2 + [{"old", "any"}] * 2
    assert all(said["labels"] == sorted(said["labels"], key=lambda label: -said["scores"][label]) for said in told)


def test_words_of_a_kind_are_told_by_their_place_in_the_text(encoder):
    model, _ = made(texts("tagging", ["O", "B-ANIMAL", "I-ANIMAL"]), encoder)
    inputs = ["the quick fox jumps", "a lazy dog", "seven"]
    spans = [[{"start": 4, "end": 13, "label": "ANIMAL"}], [{"start": 7, "end": 10, "label": "ANIMAL"}], []]
    train(model, inputs, spans, steps=120)
    told = answer(model, inputs)
    assert told[2] == []
    assert [(said["label"], said["text"].strip()) for said in told[0]] == [("ANIMAL", "quick fox")]
    (span,) = told[1]
    assert "a lazy dog"[span["start"] : span["end"]] == span["text"]
    assert 0.3 < span["score"] <= 1


def test_likeness_is_the_cosine_of_two_texts_and_ranks_documents(encoder):
    pairs, _ = made(texts("similarity", (), takes="pair"), encoder)
    same, other = answer(pairs, [{"a": "one two", "b": "one two"}, {"a": "one two", "b": "lazy dog"}])
    assert same["score"] == pytest.approx(1, abs=1e-5)
    assert other["score"] < 0.999
    ranking, _ = made(texts("similarity", (), takes="ranking"), encoder)
    (told,) = answer(ranking, [{"query": "one two", "documents": ["lazy dog", "one two", "fox"]}])
    assert told["ranking"][0] == {"index": 1, "score": pytest.approx(1, abs=1e-5)}
    assert sorted(place["index"] for place in told["ranking"]) == [0, 1, 2]


def test_a_cross_encoder_learns_which_text_answers(encoder):
    model, _ = made(texts("rerank", (), takes="ranking", joined=True), encoder)
    inputs = [{"query": "one", "documents": ["the lazy dog", "one two"]}, {"query": "fox", "documents": ["quick fox"]}]
    train(model, inputs, [0, 1, 1])
    first, second = answer(model, inputs)
    assert [place["index"] for place in first["ranking"]] == [1, 0]
    assert second["ranking"][0]["score"] > 0.5


def test_pairs_that_belong_together_come_close(encoder):
    model, _ = made(texts({"kind": "embedding", "dimensions": 8}, ()), encoder)
    losses = train(model, ["one", "two", "the fox", "the dog"], [None] * 4)
    assert losses[-1] < losses[0] / 2
    assert answer(model, ["one"])[0].shape == (8,)


@pytest.mark.parametrize(
    ("change", "path", "told"),
    [
        ({"backbone": {"kind": "tranformer"}}, "backbone.kind", "did you mean transformer?"),
        ({"head": "clasification"}, "head.kind", "did you mean classification?"),
        ({"backbone": {"kind": "mlp", "hiden": [1]}}, "backbone.hiden", "did you mean hidden?"),
        ({"backbone": {"kind": "mlp", "dropout": 1.5}}, "backbone.dropout", "< 1.0"),
        ({"backbone": {"kind": "cnn"}}, "backbone.kind", "cnn reads pixels"),
        ({"head": {"kind": "tagging"}, "labels": ["O", "A"]}, "head.kind", "needs a vector of each token"),
        ({"labels": ["one"]}, "labels", "expected at least 2"),
        ({"labels": ["one", "one"]}, "labels", "twice"),
        ({"haed": "classification"}, "haed", "did you mean head?"),
        ({"pipeline": {"kind": "tabular", "columns": {"age": "nmber"}}}, "pipeline.columns.age.type", "one of number"),
    ],
)
def test_what_does_not_fit_is_told_with_its_path(change, path, told):
    with pytest.raises(ConfigError, match=r".") as caught:
        made({**TABLE, **change}, columns=COLUMNS)
    assert caught.value.data["path"] == path
    assert told in caught.value.message


def test_targets_that_a_head_could_not_give_are_refused():
    model, _ = made(TABLE, columns=COLUMNS)
    with pytest.raises(InvalidParams, match=r"targets\[1\]: expected one of the labels no, yes"):
        model.head.targets(["no", "maybe"])


def test_only_pickled_weights_are_refused(encoder, tmp_path):
    for file in encoder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02anything")
    with pytest.raises(ModelLoadFailed, match="could not be loaded"):
        build(spec_of(texts()), directory=tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x02anything that is not safetensors at all")
    with pytest.raises(ModelLoadFailed, match="could not be loaded"):
        build(spec_of(texts()), directory=tmp_path)
