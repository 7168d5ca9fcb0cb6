"""A config.json is read under Hugging Face's names, or refused in one line."""

import math

import pytest

from bertjax.errors import UserError
from bertjax.models.config import BertConfig

SIZES = {"vocab_size": 23, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3}


def test_config_reads_hugging_face_names_and_passes_over_the_rest():
    stranger = {"model_type": "bert", "position_embedding_type": "absolute", "is_decoder": False, "use_cache": True}
    config = BertConfig.from_dict(
        SIZES | stranger | {"intermediate_size": 20, "hidden_dropout_prob": 0, "pad_token_id": None}
    )
    expected = BertConfig(23, 12, 2, 3, intermediate_size=20, hidden_dropout_prob=0.0)
    assert config == expected
    assert (config.layer_norm_eps, config.pad_token_id, config.hidden_act) == (1e-12, 0, "gelu")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"model_type": "roberta"}, "model_type must be 'bert', found 'roberta'"),
        (
            {"position_embedding_type": "relative_key"},
            "position_embedding_type must be 'absolute', found 'relative_key'",
        ),
        ({"is_decoder": True}, "is_decoder must be false: attention here is bidirectional"),
        ({"vocab_size": None, "hidden_size": None}, "hidden_size, vocab_size missing"),
        ({"hidden_size": 12.0}, "hidden_size must be int, found 12.0"),
        ({"hidden_size": True}, "hidden_size must be int, found True"),
        ({"hidden_size": "12\n"}, r"hidden_size must be int, found '12\n'"),
        ({"layer_norm_eps": "1e-12"}, "layer_norm_eps must be float, found '1e-12'"),
        ({"layer_norm_eps": -1e-12}, "layer_norm_eps must be in [0, 1000], found -1e-12"),
        ({"layer_norm_eps": math.nan}, "layer_norm_eps must be in [0, 1000], found nan"),
        ({"initializer_range": math.inf}, "initializer_range must be in [0, 1000], found inf"),
        ({"vocab_size": 0}, "vocab_size must be from 1 to 16,777,216, found 0"),
        ({"hidden_size": 0}, "hidden_size must be from 1 to 65,536, found 0"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be from 1 to 1,024, found 0"),
        ({"num_attention_heads": 0}, "num_attention_heads must be from 1 to 1,024, found 0"),
        ({"intermediate_size": 0}, "intermediate_size must be from 1 to 262,144, found 0"),
        ({"max_position_embeddings": 0}, "max_position_embeddings must be from 1 to 1,048,576, found 0"),
        ({"type_vocab_size": 0}, "type_vocab_size must be from 1 to 1,024, found 0"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be from 1 to 1,024, found 1000000000"),
        ({"pad_token_id": 23}, "pad_token_id must be below vocab_size and not negative, found 23"),
        ({"hidden_dropout_prob": 1}, "hidden_dropout_prob must be in [0, 1), found 1"),
        ({"attention_probs_dropout_prob": -0.1}, "attention_probs_dropout_prob must be in [0, 1), found -0.1"),
        ({"hidden_dropout_prob": math.nan}, "hidden_dropout_prob must be in [0, 1), found nan"),
        ({"num_attention_heads": 5}, "hidden_size 12 is not a multiple of num_attention_heads 5"),
        ({"hidden_act": "silu"}, "hidden_act must be one of gelu, gelu_new, relu, found 'silu'"),
        ({"hidden_act": ["gelu"]}, "hidden_act must be str, found ['gelu']"),
    ],
)
def test_config_refuses_in_one_line(change, complaint):
    with pytest.raises(UserError) as info:
        BertConfig.from_dict(SIZES | change)
    assert str(info.value) == f"BERT config: {complaint}"
