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
OWN_SIZES = {"electra": {"embedding_size": 8}}


def family_encoder(name, heads, **sizes):
    """The module and its parameters; `sizes` are of its config."""
    model = build_encoder(FAMILIES[name].config(**SIZES | OWN_SIZES.get(name, {}) | sizes), heads)
    return model, init_params(jax.random.key(0), model)
