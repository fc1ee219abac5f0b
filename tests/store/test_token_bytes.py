"""What a token takes is what a model's configuration makes of it."""

import orjson
import pytest

from mlzoo.store import token_bytes

SMOLLM2 = {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576}
OWN_WIDTH = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, "head_dim": 32}


@pytest.mark.parametrize(
    ("config", "dtype", "size_bytes"),
    [
        (SMOLLM2, "auto", 30 * 3 * 64 * 2 * 2),
        (SMOLLM2, "float32", 30 * 3 * 64 * 2 * 4),
        (OWN_WIDTH, "bfloat16", 2 * 4 * 32 * 2 * 2),
        ({"text_config": OWN_WIDTH, "hidden_size": 7}, "auto", 2 * 4 * 32 * 2 * 2),
        ({"model_type": "strange"}, "auto", 0),
        ({**OWN_WIDTH, "head_dim": "wide"}, "auto", 0),
        ([], "auto", 0),
    ],
)
def test_keys_and_values_of_all_layers(tmp_path, config, dtype, size_bytes):
    (tmp_path / "config.json").write_bytes(orjson.dumps(config))
    assert token_bytes(tmp_path, dtype) == size_bytes


def test_a_model_without_a_configuration_says_nothing(tmp_path):
    assert token_bytes(tmp_path, "auto") == 0
    (tmp_path / "config.json").write_text("{")
    assert token_bytes(tmp_path, "auto") == 0
