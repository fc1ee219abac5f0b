"""Streaming text equals decoding all tokens, whatever the tokens are."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import END, VOCABULARY, tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mlzoo.inference.detokenizer import Detokenizer
from mlzoo.inference.text import Text

pytestmark = pytest.mark.torch
BYTE_LEVEL = Text(tokenizer(), "tiny")


def byte_fallback() -> Text:
    """A tokenizer in SentencePiece's manner: spaces as a letter, unknown characters as byte tokens."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["\u2581", "\u2581the", "\u2581fox", "a", "b", "é", "日", "\u2581\u2581", "."]
    bpe = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True, unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return Text(
        PreTrainedTokenizerFast(tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token="</s>"), "b"
    )


BYTE_FALLBACK = byte_fallback()


def stream(text: Text, tokens: list[int]) -> list[str]:
    detokenizer = Detokenizer(text)
    return [*(detokenizer.feed(token) for token in tokens), detokenizer.finish()]


@given(st.lists(st.integers(0, VOCABULARY - 1), max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_byte_level_tokens_stream_to_what_they_decode_to(tokens):
    assert "".join(stream(BYTE_LEVEL, tokens)) == BYTE_LEVEL.decode(tokens)


@given(
    st.lists(st.one_of(st.integers(0, BYTE_FALLBACK.size - 1), st.integers(256, BYTE_FALLBACK.size - 1)), max_size=30)
)
@settings(max_examples=300, deadline=None)
def test_any_byte_fallback_tokens_stream_to_what_they_decode_to(tokens):
    assert "".join(stream(BYTE_FALLBACK, tokens)) == BYTE_FALLBACK.decode(tokens)


@given(st.text(max_size=40).filter(lambda text: "\ufffd" not in text))
@settings(max_examples=200, deadline=None)
def test_no_piece_of_a_text_ends_within_a_character(text):
    tokens = list(BYTE_LEVEL.encode(text))
    pieces = stream(BYTE_LEVEL, tokens)
    assert "".join(pieces) == BYTE_LEVEL.decode(tokens)
    assert not any("\ufffd" in piece for piece in pieces)


def test_plain_text_is_given_out_token_by_token():
    tokens = list(BYTE_LEVEL.encode("the quick brown fox"))
    pieces = stream(BYTE_LEVEL, tokens)
    assert all(pieces[:-1])
    assert pieces[-1] == ""


def test_a_special_token_does_not_end_a_run_of_byte_tokens():
    nul, unknown, lone = 3, 0, 131
    assert "".join(stream(BYTE_FALLBACK, [nul, unknown, lone])) == BYTE_FALLBACK.decode([nul, unknown, lone])


def test_special_tokens_leave_no_text():
    tokens = [*BYTE_LEVEL.encode("one"), END, *BYTE_LEVEL.encode(" two")]
    assert "".join(stream(BYTE_LEVEL, tokens)) == "one two"
