"""SMART on every family of encoders: directions against the Jacobian itself, bfloat16, and dropout."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_encoders import family_encoder
from toy_step import TASK

from bertjax import smart
from bertjax.models.families import FAMILIES
from bertjax.models.forward import as_smart_model

HEADS = {TASK.name: TASK.num_outputs}
LENGTH, NUM_REAL = 8, 6


class Padded:
    """An example with two padding tokens."""

    def __init__(self, name, **sizes):
        self.model, self.params = family_encoder(name, HEADS, **sizes)
        mask = jnp.arange(LENGTH) < NUM_REAL
        ids = jnp.where(mask, jnp.arange(5, 5 + LENGTH), self.model.config.pad_token_id)
        self.example = {"input_ids": ids, "token_type_ids": jnp.zeros_like(ids), "attention_mask": mask}
        self.step = jax.jit(self.power_step)
        self.embeddings = as_smart_model(self.model, TASK).embed(self.params, self.example)

    def logits(self, embeddings, dtype=jnp.float32):
        return as_smart_model(self.model.clone(dtype=dtype), TASK).logits(self.params, embeddings, self.example, None)

    def power_step(self, start, dtype=jnp.float32):
        """The unit direction [S, E] that a power step makes of another."""
        delta = smart.power_iteration(
            partial(self.logits, dtype=dtype),
            self.embeddings,
            jax.random.key(0),
            divergence=TASK.divergence,
            radius=1.0,
            relative=False,
            start=start,
            mask=self.example["attention_mask"],
        )
        return delta / jnp.linalg.norm(delta)


@functools.cache
def padded_example(name):
    return Padded(name, num_hidden_layers=2, hidden_size=64, intermediate_size=96, initializer_range=0.1)


@pytest.mark.parametrize("name", FAMILIES)
def test_power_iteration_finds_the_top_eigenvector_of_a_matrix_of_rank_c_minus_1(name):
    padded = padded_example(name)
    jacobian = np.asarray(jax.jit(jax.jacrev(padded.logits))(padded.embeddings), np.float64)[:, :NUM_REAL]
    p = np.asarray(jax.nn.softmax(padded.logits(padded.embeddings)), np.float64)
    values, vectors = np.linalg.eigh(np.diag(p) - np.outer(p, p))
    half = (vectors * np.sqrt(np.maximum(values, 0))).T @ jacobian.reshape(len(p), -1)
    _, singular, right = np.linalg.svd(half, full_matrices=False)
    assert singular[-1] < 1e-3 * singular[-2]
    found = jax.random.normal(jax.random.key(3), padded.embeddings.shape)
    for _ in range(60):
        found = padded.step(found)
    found = np.asarray(found)
    assert not found[NUM_REAL:].any()
    assert abs(found[:NUM_REAL].ravel() @ right[0]) > 0.999


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_finds_the_float32_direction(name):
    padded = padded_example(name)
    coarse_step = jax.jit(partial(padded.power_step, dtype=jnp.bfloat16))
    for key in jax.random.split(jax.random.key(4), 3):
        start = jax.random.normal(key, padded.embeddings.shape)
        assert abs((padded.step(start) * coarse_step(start)).sum()) >= 0.98


@pytest.mark.parametrize("name", FAMILIES)
def test_passes_with_matched_dropout_differ_by_the_perturbation_alone(name):
    padded, split = padded_example(name), as_smart_model(padded_example(name).model, TASK)
    batch = {key: x[None] for key, x in padded.example.items()} | {"label": jnp.zeros(1, jnp.int32)}
    keys = jax.random.split(jax.random.key(5), 2)[:, None]

    @partial(jax.jit, static_argnames="matched")
    def smoothness(dropout_keys, noise_keys, matched):
        settings = smart.preset("r3f", radius=0.0, matched_dropout=matched)
        terms = smart.smart_terms(
            split,
            padded.params,
            None,
            batch,
            dropout_keys,
            noise_keys,
            mask=batch["attention_mask"],
            divergence=TASK.divergence,
            settings=settings,
            loss_fn=None,
        )
        return terms.smoothness[0]

    assert smoothness(*keys, matched=True) < 1e-12
    assert smoothness(*keys, matched=False) > 1e-6
