"""A small random encoder of each family."""

import jax

from bertjax.models.encoder import init_params
from bertjax.models.families import FAMILIES, build_encoder

SIZES = {
    "vocab_size": 40,
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "max_position_embeddings": 20,
    "initializer_range": 0.3,
}
OWN_SIZES = {
    "electra": {"embedding_size": 8},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ("c2p", "p2c"),
        "position_buckets": 6,
        "norm_rel_ebd": "layer_norm",
        "conv_kernel_size": 3,
    },
    # Global, local, global, ...: the loop of `remat` runs over both kinds.
    "modernbert": {
        "num_hidden_layers": 5,
        "global_attn_every_n_layers": 2,
        "local_attention": 4,
        "pad_token_id": 0,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "mlp_dropout": 0.1,
        "classifier_dropout": 0.1,
    },
}


def family_encoder(name, heads, **sizes):
    """The module and its parameters; `sizes` are of its config."""
    config = FAMILIES[name].config(**SIZES | OWN_SIZES.get(name, {}) | sizes)
    model = build_encoder(config, heads)
    return model, init_params(jax.random.key(0), model)
