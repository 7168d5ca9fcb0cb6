from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import smart
from bertjax.evaluation.smoothness import smoothness_step
from bertjax.models.bert import Bert
from bertjax.models.encoder import init_params
from bertjax.models.forward import as_smart_model
from bertjax.tasks import get_task

B, S, D = 4, 6, 3
MASK = np.arange(S) < np.array([6, 4, 3, 1])[:, None]


def linear_logits(params, embeddings, batch, key):
    assert key is None
    return jnp.einsum("bs,bsd,d->b", batch["attention_mask"].astype(jnp.float32), embeddings, params)[:, None]


LINEAR = smart.SplitModel(lambda params, batch: batch["x"], linear_logits)


@pytest.fixture
def batch():
    x = np.random.default_rng(0).normal(size=(B, S, D)).astype(np.float32)
    return {"x": x, "attention_mask": MASK, "index": np.arange(B, dtype=np.int32)}


@pytest.mark.parametrize("radius", [0.02, 0.3, 0.0])
def test_a_linear_score_has_the_closed_form(batch, radius):
    w = jnp.array([1.0, -2.0, 0.5])
    found = jax.jit(
        partial(smoothness_step, model=LINEAR, divergence=smart.squared_error, radius=radius),
    )(w, batch)
    # f = Σ_s w·x_s changes by radius ‖x‖ ‖J‖ under δ = radius ‖x‖ J / ‖J‖; J is w at every real token.
    x = batch["x"] * MASK[..., None]
    expected = radius**2 * (x**2).sum((1, 2)) * MASK.sum(1) * float(w @ w)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-9)
    assert found.dtype == jnp.float32


def test_two_classes_have_the_closed_form_at_a_small_radius(batch):
    # ½ δᵀ Jᵀ H J δ with H = 2 (diag p − p pᵀ) is p (1 − p) (dz)² for logits (z, 0).
    w = jnp.array([0.3, -0.2, 0.1])

    def logits(params, embeddings, batch, key):
        z = linear_logits(params, embeddings, batch, key)
        return jnp.concatenate([z, jnp.zeros_like(z)], axis=1)

    model = LINEAR._replace(logits=logits)
    found = smoothness_step(w, batch, model=model, divergence=smart.symmetric_kl, radius=1e-2)
    x = batch["x"] * MASK[..., None]
    p = 1 / (1 + np.exp(-(x * np.asarray(w)).sum((1, 2))))
    expected = p * (1 - p) * 1e-4 * (x**2).sum((1, 2)) * MASK.sum(1) * float(w @ w)
    np.testing.assert_allclose(found, expected, rtol=2e-2)


def test_a_bert_is_measured_without_dropout_and_by_the_example_s_index(tiny_config):
    task = get_task("sst5")
    model = Bert(tiny_config, {task.name: task.num_outputs})
    params = init_params(jax.random.key(0), model)
    ids = np.random.default_rng(0).integers(4, 40, (B, S)).astype(np.int32)
    batch = {
        "input_ids": np.where(MASK, ids, 0),
        "token_type_ids": np.zeros((B, S), np.int32),
        "attention_mask": MASK,
        "index": np.array([3, 1, 4, 2], np.int32),
    }
    step = jax.jit(partial(smoothness_step, model=as_smart_model(model, task), divergence=task.divergence, radius=0.02))
    found = step(params, batch)
    assert (found > 0).all()
    # The order within the batch does not matter, but the index in the split seeds the noise.
    order = np.array([2, 0, 3, 1])
    shuffled = {name: x[order] for name, x in batch.items()}
    np.testing.assert_allclose(step(params, shuffled), found[order], rtol=1e-3)
    other_noise = step(params, {**batch, "index": np.array([13, 11, 14, 12], np.int32)})
    assert not np.allclose(other_noise, found, rtol=1e-3)
