"""What can be told of weights before they are loaded."""

import pytest

from mlzoo.errors import PullFailed
from mlzoo.store.sources import check_kind


@pytest.mark.parametrize("name", ["BertModel", "MPNetForMaskedLM", "XLMRobertaForSequenceClassification"])
def test_an_architecture_that_writes_no_text_is_refused_for_chat_and_taken_for_embeddings(name):
    config = b'{"architectures": ["%b"]}' % name.encode()
    with pytest.raises(PullFailed, match=f"mine is a {name}, which cannot chat: write kind: embed"):
        check_kind(config, "chat", "mine")
    check_kind(config, "embed", "mine")


@pytest.mark.parametrize(
    "config",
    [
        b'{"architectures": ["LlamaForCausalLM"]}',
        b'{"architectures": ["GPT2LMHeadModel"]}',
        b'{"architectures": ["Gemma3ForConditionalGeneration"]}',
        b'{"architectures": []}',
        b"{}",
        b"[]",
        b"no json",
    ],
)
def test_what_may_chat_is_not_refused(config):
    check_kind(config, "chat", "mine")
