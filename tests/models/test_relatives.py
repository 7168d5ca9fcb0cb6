"""The seams that training and SMART use, for every family."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import smart
from bertjax.models.bert import relative_bucket
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
SWITCHES = {
    "electra": {"embedding_size": 8},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ("c2p", "p2c"),
        "position_buckets": 6,
        "norm_rel_ebd": "layer_norm",
        "conv_kernel_size": 3,
    },
}


def make(name, **options):
    model = build_encoder(FAMILIES[name].config(**SIZES | SWITCHES.get(name, {})), {"task": 3}, **options)
    return model, init_params(jax.random.key(0), model)


def inputs(config):
    ids = np.random.default_rng(0).integers(4, 40, size=(3, 9))
    mask = np.arange(9) < np.array([[9], [5], [7]])
    ids[~mask] = config.pad_token_id
    return jnp.asarray(ids), jnp.asarray(mask), jnp.zeros_like(ids)


def logits(model, params, ids, mask, types, keys):
    return model.apply({"params": params}, method=lambda m: m.logits(m.embed(ids, types), mask, "task", keys))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_layer_for_the_first_position_remat_and_vmap(name):
    model, params = make(name)
    data, keys = inputs(model.config), jax.random.split(jax.random.key(1), 3)
    found = jax.jit(lambda p: logits(model, p, *data, keys))(params)

    def whole(m):
        return m.classify(m.pool(m.encode(m.embed(data[0], data[2]), data[1]), data[1]), "task")

    # Without dropout: its masks depend on the number of positions.
    plain = logits(model, params, *data, None)
    chex.assert_trees_all_close(model.apply({"params": params}, method=whole), plain, atol=1e-5)
    each = jax.vmap(lambda *row: logits(model, params, *row))(*data, keys)
    chex.assert_trees_all_close(each, found, atol=1e-5)
    grad = lambda m: jax.grad(lambda p: jnp.sum(logits(m, p, *data, keys) ** 2))(params)  # noqa: E731
    remat = build_encoder(model.config, {"task": 3}, remat=True)
    chex.assert_trees_all_close(grad(remat), grad(model), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_power_iteration_finds_a_direction_and_spares_padding(name):
    model, params = make(name)
    ids, mask, types = (x[1] for x in inputs(model.config))

    @jax.jit
    def run(p):
        embedding = model.apply({"params": p}, ids, types, method="embed")
        logits_fn = lambda x: model.apply({"params": p}, x, mask, "task", method="logits")  # noqa: E731
        delta = smart.power_iteration(
            logits_fn, embedding, jax.random.key(2), divergence=smart.symmetric_kl, mask=mask, radius=0.05
        )
        return delta, logits_fn(embedding + delta) - logits_fn(embedding)

    delta, change = run(params)
    assert delta.shape == (9, model.config.embedding_size)
    assert np.any(delta[:5])
    assert not np.any(delta[5:])
    assert np.any(change)


def test_relative_buckets():
    """Against the definition, in exact arithmetic: logarithms of powers of two must not round down."""
    for n in range(600):
        bucket = n if n < 8 else min(8 + math.floor(math.log2(n / 8) * 2 + 1e-9), 15)
        assert relative_bucket(np.array([n, -n])).tolist() == [bucket + 16 * (n > 0), bucket]
