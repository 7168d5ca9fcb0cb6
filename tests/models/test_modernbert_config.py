"""ModernBERT's config.json of Transformers 4 and 5: what is read, refused and written."""

import dataclasses
import json

import pytest
from tiny_families import ACTIVATIONS, drawn

from bertjax.errors import UserError
from bertjax.models.modernbert_config import ModernBertConfig

SIZES = {
    "model_type": "modernbert",
    "vocab_size": 40,
    "hidden_size": 12,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "pad_token_id": 3,
}
FULL, LOCAL = "full_attention", "sliding_attention"
read = ModernBertConfig.from_dict


def rope(far, near):
    return {"rope_parameters": {FULL: {"rope_theta": far}, LOCAL: {"rope_theta": near, "rope_type": "default"}}}


def test_both_forms_are_read_alike():
    old = {"global_attn_every_n_layers": 2, "global_rope_theta": 700, "local_rope_theta": 9.5}
    new = {"layer_types": [FULL, LOCAL, FULL, LOCAL], **rope(700.0, 9.5)}
    config = read(SIZES | old)
    assert config.are_global == (True, False, True, False)
    assert (config.global_rope_theta, config.local_rope_theta) == (700, 9.5)
    assert read(SIZES | new) == read(SIZES | old | new) == config


@pytest.mark.parametrize(
    ("types", "period"),
    [
        ([FULL, LOCAL, LOCAL, FULL], 3),
        ([FULL] * 4, 1),
        ([FULL, LOCAL, LOCAL, LOCAL], 4),
        ([LOCAL, FULL, LOCAL, LOCAL], None),
        ([LOCAL] * 4, None),
        ([FULL, FULL, LOCAL, LOCAL], None),
    ],
)
def test_layer_types(types, period):
    """Transformers 4 reads the period alone: null makes it fail where it would compute other layers."""
    config = read(SIZES | {"layer_types": types})
    assert config.are_global == tuple(kind == FULL for kind in types)
    written = config.to_dict()
    assert (written["layer_types"], written["global_attn_every_n_layers"]) == (types, period)
    assert read(json.loads(json.dumps(written))) == config


def test_defaults_are_those_of_transformers():
    config = read(SIZES)
    assert config.are_global == (True, False, False, True)
    assert (config.global_rope_theta, config.local_rope_theta, config.local_attention) == (160_000, 10_000, 128)
    assert (config.max_length, config.layer_norm_eps, config.pools_mean) == (8192, 1e-5, False)
    assert (config.norm_bias, config.decoder_bias, config.hidden_dropout_prob) == (False, True, 0)


def test_local_layers_without_a_base_of_their_own_take_the_global_one():
    """As Transformers 4 reads null; version 5 fails on it."""
    assert read(SIZES | {"global_rope_theta": 70.0, "local_rope_theta": None}).local_rope_theta == 70
    assert read(SIZES | {"local_rope_theta": None}).local_rope_theta == 160_000


def test_names_that_transformers_does_not_read_are_ignored():
    """The hub's ModernBERT-base states layer_norm_eps beside norm_eps."""
    strangers = {"layer_norm_eps": 0.5, "hidden_act": "relu", "hidden_dropout_prob": 0.3, "type_vocab_size": 2}
    assert read(SIZES | strangers | {"deterministic_flash_attn": True, "sparse_prediction": True}) == read(SIZES)
    assert read(SIZES | {"norm_eps": 0.5, "hidden_activation": "relu"}) == dataclasses.replace(
        read(SIZES), layer_norm_eps=0.5, hidden_act="relu"
    )


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_scaling"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling"),
        ({"rope_parameters": {FULL: {"rope_type": "dynamic", "rope_theta": 5.0}}}, "rope_parameters.full_attention"),
        ({"rope_parameters": {LOCAL: {"rope_theta": 5.0, "factor": 3}}}, "rope_parameters.sliding_attention"),
        ({"rope_parameters": {LOCAL: 5.0}}, "rope_parameters.sliding_attention"),
        ({"rope_parameters": {"rope_theta": 5.0, "rope_type": "default"}}, "rope_parameters"),
        ({"global_rope_theta": 5.0, **rope(6.0, 10_000.0)}, "rope_parameters.full_attention.rope_theta is 6.0, global"),
        ({"local_rope_theta": 5.0, **rope(6.0, 7.0)}, "local_rope_theta 5.0"),
        ({"global_rope_theta": 0.0}, "global_rope_theta must be above 0"),
        ({"local_rope_theta": float("inf")}, "local_rope_theta must be above 0"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1, found 0.5"),
        ({"head_dim": 8}, "head_dim must be 6, found 8"),
        ({"hidden_size": 10}, "hidden_size / num_attention_heads must be even"),
        ({"layer_types": [FULL, LOCAL]}, "layer_types must list one type for each of 4 layers"),
        ({"layer_types": [FULL] * 3 + ["linear_attention"]}, "layer_types must be .* found 'linear_attention'"),
        ({"layer_types": FULL}, "layer_types must list"),
        ({"layer_types": [FULL] * 4, "global_attn_every_n_layers": 2}, "global_attn_every_n_layers 2 differ"),
        ({"global_attn_every_n_layers": 0}, "global_attn_every_n_layers must be from 1"),
        ({"local_attention": 0}, "local_attention must be from 1"),
        ({"sliding_window": 4, "local_attention": 12}, "sliding_window must be half of local_attention"),
        ({"sliding_window": 128}, "sliding_window must be half of local_attention"),
        ({"classifier_pooling": "max"}, "classifier_pooling must be one of cls, mean"),
        ({"classifier_activation": "mish"}, "classifier_activation must be one of"),
        ({"hidden_activation": "mish"}, "hidden_activation must be one of"),
        ({"norm_bias": 1}, "norm_bias must be bool"),
        ({"mlp_dropout": 1.0}, "mlp_dropout must be in"),
        ({"embedding_dropout": -0.1}, "embedding_dropout must be in"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings must be true"),
        ({"is_decoder": True}, "is_decoder"),
    ],
)
def test_refusals_name_the_switch(values, named):
    with pytest.raises(UserError, match=named) as info:
        read(SIZES | values)
    assert "\n" not in str(info.value)


def test_values_that_change_nothing_are_read():
    harmless = {
        "rope_scaling": {"rope_type": "default"},
        "partial_rotary_factor": 1.0,
        "head_dim": 6,
        "sliding_window": 64,
        "tie_word_embeddings": True,
        "position_embedding_type": "absolute",
    }
    assert read(SIZES | harmless) == read(SIZES)


def test_twelve_seeds_cover_every_switch():
    """Guards the tests over families, which draw their models from these seeds."""
    pytest.importorskip("transformers", minversion="5")
    configs = [read(drawn("modernbert", seed).to_dict()) for seed in range(12)]
    for name in ("attention_bias", "mlp_bias", "norm_bias", "classifier_bias", "decoder_bias", "pools_mean"):
        assert {getattr(config, name) for config in configs} == {False, True}, name
    for name in ("hidden_act", "classifier_activation"):
        assert {getattr(config, name) for config in configs} == set(ACTIVATIONS)
    for name in ("global_rope_theta", "local_rope_theta", "layer_norm_eps", "local_attention"):
        assert len({getattr(config, name) for config in configs}) > 1, name
    assert {1, 2, 3, 4, 5} == {config.num_hidden_layers for config in configs}
    assert any(config.layer_types for config in configs)
    assert len({config.global_attn_every_n_layers for config in configs if not config.layer_types}) > 2
    # Windows matter only in local layers, and only if inputs are longer.
    assert sum(not all(c.are_global) and c.max_length > c.local_attention // 2 + 1 for c in configs) >= 6


@pytest.mark.parametrize("seed", range(12))
def test_transformers_reads_what_is_written(seed):
    transformers = pytest.importorskip("transformers", minversion="5")
    config = read(drawn("modernbert", seed).to_dict())
    written = json.loads(json.dumps(config.to_dict()))
    theirs = transformers.AutoConfig.for_model(**written)
    assert read(theirs.to_dict()) == config
    assert [kind == FULL for kind in theirs.layer_types] == list(config.are_global)
    # Version 4 reads these two instead.
    assert (written["global_rope_theta"], written["local_rope_theta"]) == tuple(
        theirs.rope_parameters[kind]["rope_theta"] for kind in (FULL, LOCAL)
    )


@pytest.mark.parametrize("changes", [{}, {"global_attn_every_n_layers": 2, "global_rope_theta": 9.0}, rope(7.0, 8.0)])
def test_transformers_reads_the_same_from_older_files(changes):
    transformers = pytest.importorskip("transformers", minversion="5")
    tokens = {f"{name}_token_id": 1 for name in ("bos", "eos", "cls", "sep")}
    config, theirs = read(SIZES | changes), transformers.AutoConfig.for_model(**SIZES | tokens | changes)
    assert config.are_global == tuple(kind == FULL for kind in theirs.layer_types)
    for kind, theta in ((FULL, config.global_rope_theta), (LOCAL, config.local_rope_theta)):
        assert theirs.rope_parameters[kind]["rope_theta"] == theta
