"""Embeddings: pooled as the model's files say, the same whatever the batch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny_models import load, save_encoder
from transformers import AutoModel, AutoTokenizer

from mlzoo.errors import ModelLoadFailed
from mlzoo.frames import Embed, Embedded, WorkFailed
from mlzoo.inference import embedder as embedder_module
from mlzoo.inference import joined
from mlzoo.inference.embedder import ENVELOPE_BYTES, NUMBER_BYTES, Embedder, as_json, load_embed
from mlzoo.models.pooling import POOLINGS, pool

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")
TEXTS = ("one", "the quick brown fox", "", "größer als Köln", "one two three four five six seven", "x")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def model(directory):
    return load_embed(load(directory, kind="embed", dtype="auto"), CPU)


def embed(model, *texts, normalize=True):
    embedder = Embedder(model)
    said = embedder.submit(Embed(request="e", model="tiny", texts=texts, normalize=normalize))
    while not embedder.idle:
        said += embedder.step()
    (frame,) = said
    assert isinstance(frame, Embedded), frame
    return frame


def vectors(frame):
    return np.array(json.loads(frame.vectors), np.float32).reshape(frame.count, frame.dimensions)


def test_vectors_are_the_mean_of_the_last_layer_of_unit_length_in_the_order_of_the_texts(model, directory):
    module, tokenizer = AutoModel.from_pretrained(directory).eval(), AutoTokenizer.from_pretrained(directory)
    found = vectors(embed(model, *TEXTS[:2], *TEXTS[3:]))
    for text, vector in zip((*TEXTS[:2], *TEXTS[3:]), found, strict=True):
        with torch.no_grad():
            mean = module(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(vector, mean / mean.norm(), atol=1e-5)


def test_embeddings_are_computed_in_full_precision_unless_asked_otherwise(model):
    assert model.dtype == torch.float32


def test_lengths_are_kept_where_normalising_is_not_wanted(model):
    plain = vectors(embed(model, "one", normalize=False))
    assert np.linalg.norm(plain) != pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(plain / np.linalg.norm(plain), vectors(embed(model, "one")), atol=1e-6)


def test_many_texts_go_in_several_batches_of_like_length(model, monkeypatch):
    monkeypatch.setattr(joined, "TOKENS_CPU", 20)
    texts = [TEXTS[n % 6] or "y" for n in range(40)]
    embedder = Embedder(model)
    embedder.submit(Embed(request="e", model="tiny", texts=tuple(texts)))
    steps = []
    while not embedder.idle:
        steps.append(embedder.step())
    assert len(steps) > 5
    (frame,) = steps[-1]
    monkeypatch.undo()
    alone = np.concatenate([vectors(embed(model, text)) for text in texts])
    np.testing.assert_allclose(vectors(frame), alone, atol=1e-5)


def test_long_texts_are_cut_at_the_models_length(model):
    assert model.max_tokens == 64
    frame = embed(model, "x " * 500)
    assert frame.prompt_tokens == 64


def test_how_many_texts_were_cut_is_told(model):
    assert embed(model, "one", "two " * 5000, "three").truncated == 1
    assert embed(model, "one", "two").truncated == 0


def test_each_number_comes_back_as_the_very_float32_that_was_computed():
    bits = np.random.default_rng(0).integers(0, 2**32, 300_000, dtype=np.uint32)
    edges = np.array([0, 1, 2**23 - 1, 2**23, 0x7F7FFFFF, 0x80000000, 0x80000001, 0xFF7FFFFF, 0x3F800001], np.uint32)
    powers = np.float32(2) ** np.arange(-149, 128, dtype=np.float32)
    numbers = np.concatenate([bits.view(np.float32), edges.view(np.float32), powers, np.nextafter(powers, 0)])
    numbers = numbers[np.isfinite(numbers)].astype(np.float32)
    text = as_json([numbers])
    (back,) = json.loads(text)
    assert np.array(back, np.float32).tobytes() == numbers.tobytes()
    assert max(map(len, text.strip("[]").split(","))) < NUMBER_BYTES


def test_more_texts_than_surely_fit_into_a_line_are_refused_before_any_is_embedded(directory):
    most = 5
    narrow = load(directory, kind="embed", dtype="auto", answer_bytes=ENVELOPE_BYTES + most * (32 * NUMBER_BYTES + 3))
    model = load_embed(narrow, CPU)
    assert embed(model, *["one"] * most).count == most
    embedder = Embedder(model)
    (failed,) = embedder.submit(Embed(request="e", model="tiny", texts=("one",) * (most + 1)))
    assert embedder.idle
    assert (failed.request, failed.code) == ("e", 1011)
    assert failed.data == {"type": "too_large", "retryable": False, "limit": most, "got": most + 1}
    assert f"at most {most} texts" in failed.message


def test_no_texts_are_no_vectors(model):
    frame = embed(model)
    assert (frame.count, frame.vectors, frame.prompt_tokens) == (0, "[]", 0)


def test_an_abandoned_request_is_silent_and_the_next_is_answered(model):
    embedder = Embedder(model)
    embedder.submit(Embed(request="a", model="tiny", texts=("x",)))
    embedder.submit(Embed(request="b", model="tiny", texts=("y",)))
    embedder.abandon("a")
    (frame,) = embedder.step()
    assert frame.request == "b"
    assert embedder.idle


def test_requests_share_forwards_and_each_is_answered_once_its_texts_are_embedded(model):
    embedder = Embedder(model)
    alone = [vectors(embed(model, f"{text} fox", text)) for text in ("one", "two", "three")]
    for name, text in (("a", "one"), ("b", "two"), ("c", "three")):
        embedder.submit(Embed(request=name, model="tiny", texts=(f"{text} fox", text)))
    said = embedder.step()  # one forward holds them all
    assert embedder.idle
    assert sorted(frame.request for frame in said) == ["a", "b", "c"]
    for frame, expected in zip(sorted(said, key=lambda frame: frame.request), alone, strict=True):
        np.testing.assert_allclose(vectors(frame), expected, atol=1e-5)


def test_a_newcomer_with_one_text_goes_with_the_next_forward_however_many_wait(model, monkeypatch):
    monkeypatch.setattr(joined, "TOKENS_CPU", 40)
    embedder = Embedder(model)
    embedder.submit(Embed(request="many", model="tiny", texts=("the quick brown fox",) * 50))
    embedder.step()
    embedder.submit(Embed(request="one", model="tiny", texts=("the lazy dog",)))
    assert [frame.request for frame in embedder.step()] == ["one"]


def test_a_text_that_cannot_be_embedded_fails_its_request_alone(model):
    embedder = Embedder(model)
    embedder.submit(Embed(request="bad", model="tiny", texts=("",)))
    embedder.submit(Embed(request="good", model="tiny", texts=("y",)))
    first, second = embedder.step() + embedder.step()
    assert isinstance(first, (WorkFailed, Embedded))
    assert first.request == "bad"
    assert isinstance(second, Embedded)


def test_want_of_memory_fails_the_request_that_wanted_it_and_no_other(model, monkeypatch):
    def fail(*_given, **_how):
        raise MemoryError

    embedder = Embedder(model)
    embedder.submit(Embed(request="hungry", model="tiny", texts=("x",)))
    with monkeypatch.context() as patch:
        patch.setattr(embedder_module, "pool", fail)
        (failed,) = embedder.step()
    assert (failed.request, failed.code) == ("hungry", 1005)
    embedder.submit(Embed(request="good", model="tiny", texts=("y",)))
    assert [frame.request for frame in embedder.step()] == ["good"]


def test_each_pooling_is_what_its_name_says():
    hidden = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    expected = {
        "cls_token": hidden[1, 0],
        "max_tokens": hidden[1, 1],
        "mean_tokens": hidden[1, :2].mean(0),
        "mean_sqrt_len_tokens": hidden[1, :2].sum(0) / 2**0.5,
        "lasttoken": hidden[1, 1],
    }
    assert set(expected) == set(POOLINGS.values())
    for pooling, vector in expected.items():
        torch.testing.assert_close(pool(hidden, mask, pooling)[1], vector)


def test_pooling_and_length_come_from_the_models_files(tmp_path):
    save_encoder(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    settings = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 16}')
    model = load_embed(load(tmp_path, kind="embed"), CPU)
    assert (model.pooling, model.max_tokens) == ("cls_token", 16)
    settings["pooling_mode_mean_tokens"] = True
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelLoadFailed, match="cls_token and mean_tokens"):
        load_embed(load(tmp_path, kind="embed"), CPU)
