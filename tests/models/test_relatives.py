"""The seams that training and SMART use, for every family."""

import math
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_encoders import family_encoder

from bertjax import smart
from bertjax.models.bert import relative_bucket
from bertjax.models.families import FAMILIES


def make(name):
    return family_encoder(name, {"task": 3})


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
    remat = model.clone(remat=True)
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


@pytest.mark.parametrize("name", FAMILIES)
def test_every_place_of_dropout_has_its_own_number(name, monkeypatch):
    (model, params), sites = make(name), []

    def spy(x, keys, site, rate):
        sites.append(site)
        return x

    for module in [module for key, module in sys.modules.items() if key.startswith("bertjax.models.")]:
        if hasattr(module, "dropout") and callable(module.dropout):
            monkeypatch.setattr(module, "dropout", spy)
    keys = jax.random.split(jax.random.key(1), 3)
    jax.eval_shape(lambda p: logits(model, p, *inputs(model.config), keys), params)
    assert len(sites) == len(set(sites)) > model.config.num_hidden_layers
