"""A fine-tuning step of the tiny model on generated batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bertjax import smart
from bertjax.models.families import build_encoder
from bertjax.tasks import get_task
from bertjax.training.finetuning_step import FinetuningSpec, train_step
from bertjax.training.state import init_state

TASK = get_task("sst5")
SETTINGS = {
    "plain": smart.preset("none"),
    "smart": smart.preset("bertjax_exact", radius=0.3),
    "cheap": smart.preset("bertjax", radius=0.3),
}
SGD = optax.sgd(0.1)
B, S = 8, 6


def make_batch(rows=B, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, S + 1, rows)
    mask = np.arange(S) < lengths[:, None]
    return {
        "input_ids": np.where(mask, rng.integers(4, 40, (rows, S)), 0).astype(np.int32),
        "token_type_ids": np.zeros((rows, S), np.int32),
        "attention_mask": mask,
        "label": rng.integers(0, 5, rows).astype(np.int32),
        "index": np.arange(rows, dtype=np.int32) + 100,
        "valid": np.ones(rows, bool),
    }


def make_step(model, settings, tx, num_steps=20, task=TASK, **options):
    options |= {"model": model, "tasks": (task,), "tx": tx, "settings": settings, "num_steps": num_steps}
    spec = FinetuningSpec(**options)
    return lambda state, batch, key, axis=None: train_step(spec, state, {TASK.name: batch}, key, axis=axis)


@functools.cache
def jitted(config, dtype, settings, tx):
    return jax.jit(make_step(build_encoder(config, {TASK.name: TASK.num_outputs}, dtype=dtype), settings, tx))


def run(model, params, settings, batch, tx=SGD, key=0, state=None):
    state = state or init_state(jax.tree.map(jnp.copy, params), tx, settings)
    return jitted(model.config, model.dtype, settings, tx)(state, batch, jax.random.key(key))
