"""A config.json is read under Hugging Face's names, or refused in one line."""

import dataclasses
import math

import pytest

from bertjax.errors import UserError
from bertjax.models.config import BertConfig, architecture_names
from bertjax.models.other_families import other_family

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
        ({"position_embedding_type": None}, "position_embedding_type must be 'absolute', found None"),
        ({"is_decoder": True}, "is_decoder must be false: attention here is bidirectional"),
        (
            {"add_cross_attention": True},
            "add_cross_attention must be false: there is no second text to attend to here",
        ),
        (
            {"pruned_heads": {"0": [1]}},
            "pruned_heads must be empty, found {'0': [1]}: layers here have all their attention heads; use the "
            "checkpoint from before pruning",
        ),
        (
            {"model_type": "bert", "auto_map": {"AutoTokenizer": ["t.T"], "AutoModelForMaskedLM": "x--m.M"}},
            "auto_map must not name a model, found 'AutoModelForMaskedLM': the checkpoint brings its own model code, "
            "which is not run; use a checkpoint without model code",
        ),
        (
            {"auto_map": {"AutoConfig": "c.C"}},
            "auto_map must not name a model, found 'AutoConfig': the checkpoint brings its own model code, which is "
            "not run; use a checkpoint without model code",
        ),
        ({"auto_map": ["AutoModel"]}, "auto_map must be an object, found ['AutoModel']"),
        *(
            (
                {"architectures": names},
                f"expected a model_type, or a BERT class as the architecture, found {names[-1]!r} alone; if the model "
                'is a BERT, add "model_type": "bert"',
            )
            for names in (
                ["RobertaModel"],
                ["BertModel", "RobertaModel"],
                ["SentimentModel"],
                ["BertGenerationEncoder"],
                ["Bertha"],
            )
        ),
        (
            {"model_type": "bert", "architectures": ["XLMRobertaForSequenceClassification"]},
            "expected a BERT class as the architecture, found 'XLMRobertaForSequenceClassification', of the family "
            "xlmroberta; use a BERT checkpoint",
        ),
        ({"architectures": "BertModel"}, "architectures must be a list of class names, found 'BertModel'"),
        ({"architectures": [None]}, "architectures must be a list of class names, found [None]"),
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
        (
            {"hidden_act": "gelu_10"},
            "hidden_act must be one of gelu, gelu_python, gelu_new, gelu_fast, gelu_pytorch_tanh, gelu_python_tanh, "
            "gelu_accurate, quick_gelu, relu, silu, swish, tanh, found 'gelu_10'",
        ),
        ({"hidden_act": ["gelu"]}, "hidden_act must be str, found ['gelu']"),
    ],
)
def test_config_refuses_in_one_line(change, complaint):
    with pytest.raises(UserError) as info:
        BertConfig.from_dict(SIZES | change)
    assert str(info.value) == f"BERT config: {complaint}"


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(BertConfig) if field.type is float])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite(name, value):
    with pytest.raises(UserError, match=f"^BERT config: {name} must be in .*, found {value}$"):
        BertConfig.from_dict(SIZES | {name: value})


@pytest.mark.parametrize(
    "known",
    [
        {"architectures": ["BertModel"]},
        {"architectures": ["TFBertForSequenceClassification", "FlaxBertModel"]},
        {"architectures": ["BertSentimentClassifier"]},
        {"architectures": ["SentimentModel"], "model_type": "bert"},
        {"architectures": None},
        {"architectures": []},
        {"auto_map": {"AutoTokenizer": ["t.T", None]}},
        {"auto_map": None, "pruned_heads": {}, "add_cross_attention": False},
    ],
)
def test_a_plain_bert_by_its_config(known):
    assert BertConfig.from_dict(SIZES | known) == BertConfig(**SIZES)


def test_the_classes_that_wrote_a_checkpoint():
    assert architecture_names({}) == architecture_names({"architectures": None}) == []
    names = ["TFBertForMaskedLM", "FlaxBertModel", "BertModel", "TFOther"]
    assert architecture_names({"architectures": names}) == ["BertForMaskedLM", "BertModel", "BertModel", "TFOther"]


@pytest.mark.parametrize(
    ("name", "family"),
    [
        *(
            ("xlm_roberta", "xlmroberta"),
            ("RobertaModel", "roberta"),
            ("roc_bert", "rocbert"),
            ("data2vec_text", "data2vec"),
        ),
        *(
            ("MobileBertForMaskedLM", "mobilebert"),
            ("layoutlmv2", "layoutlm"),
            ("yoso", "yoso"),
            ("camembert", "camembert"),
        ),
        *(("ernie", "ernie"), ("nezha", "nezha"), ("longformer", "longformer"), ("splinter", "splinter")),
        *(
            (name, None)
            for name in ("bert", "BertModel", "", "model", "multi_bert", "_orig_mod", "0", "fluke", "pigeon")
        ),
    ],
)
def test_other_families(name, family):
    assert other_family(name) == family


def test_dropout_of_the_classifier():
    config = BertConfig.from_dict(SIZES | {"classifier_dropout": 0.5})
    assert config.classifier_dropout_prob == 0.5
    assert BertConfig.from_dict(config.to_dict()) == config
    assert BertConfig.from_dict(SIZES | {"classifier_dropout": None}).classifier_dropout_prob == 0.1
