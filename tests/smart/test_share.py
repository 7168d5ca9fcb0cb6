"""`smart_terms` on a share of the rows: exactly those rows' terms, times the inverse of their share."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import smart

B, S, D, C = 6, 4, 3, 5


def dropped(x, key):
    """Dropout by one key, or by keys [B], one for each example."""
    if key.ndim:
        return jax.vmap(dropped)(x, key)
    return x * jax.random.bernoulli(key, 0.7, x.shape).astype(x.dtype)


def logits(params, x, batch, key):
    real = batch["mask"].astype(jnp.float32)[..., None]
    return jnp.sum(real * jnp.tanh(dropped(x, key) * params["e"]), axis=1) @ params["w"]


MODEL = smart.SplitModel(lambda params, batch: batch["x"], logits)


def loss_fn(z, batch):
    return -jnp.take_along_axis(jax.nn.log_softmax(z), batch["label"][:, None], 1)[:, 0]


def make_problem():
    rng = np.random.default_rng(0)
    params, anchor = ({"w": jnp.asarray(rng.normal(size=(D, C)), jnp.float32), "e": jnp.float32(e)} for e in (1.0, 0.8))
    batch = {
        "x": jnp.asarray(rng.normal(size=(B, S, D)), jnp.float32),
        "mask": jnp.asarray(np.arange(S) < rng.integers(1, S + 1, B)[:, None]),
        "label": jnp.arange(B) % C,
    }
    return params, anchor, batch


def terms(settings, dropout_key, noise_key, params=None, anchor=None, **options):
    initial, other, batch = make_problem()
    params, anchor = (initial if params is None else params), (other if anchor is None else anchor)
    return smart.smart_terms(
        MODEL,
        params,
        anchor,
        batch,
        dropout_key,
        noise_key,
        divergence=smart.symmetric_kl,
        settings=settings,
        mask=batch["mask"],
        loss_fn=loss_fn,
        **options,
    )


KEYS = jax.random.split(jax.random.key(1), B)
NAMES = ("bertjax_exact", "paper", "mtdnn_head", "vat", "rdrop")


@pytest.mark.parametrize("name", NAMES)
def test_with_a_key_each_the_rows_have_the_terms_of_the_whole_batch(name):
    noise_key = jax.random.key(2)
    run = jax.jit(terms, static_argnums=0)
    whole, found = (run(smart.preset(name, bregman_weight=1.0, share=share), KEYS, noise_key) for share in (1.0, 1 / 3))
    drawn = np.asarray(found.bregman) > 0
    assert drawn.sum() == 2
    chex.assert_trees_all_close((found.logits, found.loss), (whole.logits, whole.loss), rtol=1e-6)
    for term in ("smoothness", "bregman"):
        np.testing.assert_allclose(
            getattr(found, term), np.where(drawn, 3 * np.asarray(getattr(whole, term)), 0), rtol=1e-3, atol=1e-9
        )


def test_at_the_tasks_gradient_the_rows_go_along_their_own():
    # D on some rows alone changes the gradient that it is added to, so leave it out.
    whole, found = (
        terms(smart.preset("bertjax", bregman_weight=0.0, share=share, radius=0.3), KEYS, jax.random.key(2))
        for share in (1.0, 0.5)
    )
    drawn = np.asarray(found.smoothness) > 0
    assert drawn.sum() == 3
    np.testing.assert_allclose(found.smoothness, np.where(drawn, 2 * np.asarray(whole.smoothness), 0), rtol=1e-4)


@pytest.mark.parametrize("name", ["bertjax", "bertjax_exact", "paper"])
@pytest.mark.parametrize("dropout_key", [jax.random.key(3), KEYS], ids=["one key", "keys"])
def test_all_passes_of_the_rows_have_the_same_masks(name, dropout_key):
    # Then R_s is 0 where nothing is perturbed, and D is 0 at the anchor.
    options = {"noise": 0.0, "step_size": 0.0} if name == "paper" else {}
    settings = smart.preset(name, radius=0.0, share=0.5, **options)
    params, _, _ = make_problem()
    found = terms(settings, dropout_key, jax.random.key(2), anchor=params)
    assert float(jnp.abs(found.smoothness).max()) < 1e-10
    assert float(jnp.abs(found.bregman).max()) < 1e-10
    away = terms(smart.preset(name, radius=0.3, share=0.5), dropout_key, jax.random.key(2))
    assert int(jnp.sum(away.bregman > 0)) == 3


def test_keys_of_several_streams_may_be_one_and_one_each():
    initial, anchor, batch = make_problem()

    def two_streams(params, x, batch, keys):
        return logits(params, dropped(x, keys["one"]), batch, keys["each"])

    found = smart.smart_terms(
        MODEL._replace(logits=two_streams),
        initial,
        anchor,
        batch,
        {"one": jax.random.key(3), "each": KEYS},
        jax.random.key(2),
        divergence=smart.symmetric_kl,
        settings=smart.preset("bertjax_exact", share=0.5),
        mask=batch["mask"],
    )
    assert int(jnp.sum(found.bregman > 0)) == 3


def test_the_gradient_is_unbiased():
    params, _, _ = make_problem()

    def gradient(noise_key, share):
        settings = smart.SmartSettings(bregman_weight=1.0, share=share)
        return jax.grad(lambda p: jnp.mean(terms(settings, KEYS, noise_key, params=p).bregman))(params)["w"]

    whole = np.asarray(gradient(jax.random.key(0), 1.0))
    draws = jax.random.split(jax.random.key(4), 2000)
    each = np.asarray(jax.jit(jax.vmap(lambda key: gradient(key, 1 / 3)))(draws))
    error = each.std(0) / np.sqrt(len(each))
    assert (np.abs(each.mean(0) - whole) < 4.5 * error).all()
    assert (error < 0.1 * np.abs(whole).max()).all()


def test_every_leaf_of_the_batch_is_per_example():
    params, anchor, batch = make_problem()
    with pytest.raises(
        ValueError, match=r"share takes rows of every argument: expected a first dimension of 6, found \[\]"
    ):
        smart.smart_terms(
            MODEL,
            params,
            anchor,
            batch | {"scale": 1.0},
            KEYS,
            jax.random.key(2),
            divergence=smart.symmetric_kl,
            settings=smart.preset("bertjax_exact", share=0.5),
        )
