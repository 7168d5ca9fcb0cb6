"""Steps of a run of several tasks, and of one whose encoder is frozen."""

import dataclasses
from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bertjax import smart
from bertjax.data.batching import with_pooled
from bertjax.models.bert import Bert
from bertjax.models.encoder import init_params
from bertjax.models.forward import eval_step, pooled_step
from bertjax.parallel import DataParallel
from bertjax.tasks import get_task
from bertjax.training import optimizer
from bertjax.training.finetuning_step import FinetuningSpec, train_step
from bertjax.training.gradient_surgery import pcgrad
from bertjax.training.state import init_state

SST, STS = get_task("sst5"), get_task("sts")
PLAIN, SMART = smart.preset("none"), smart.preset("bertjax_exact", radius=0.3)
SGD = optax.sgd(0.1)
SURGERY = optax.chain(pcgrad(), SGD)
B, S = 8, 6


@pytest.fixture(scope="module")
def model(tiny_config):
    config = dataclasses.replace(tiny_config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return Bert(config, {"sst5": 5, "sts": 1})


@pytest.fixture(scope="module")
def params(model):
    return init_params(jax.random.key(0), model)


def make_batch(task, seed=0):
    rng = np.random.default_rng(seed)
    mask = np.arange(S) < rng.integers(3, S + 1, B)[:, None]
    label = rng.uniform(0, 5, B).astype(np.float32) if task is STS else rng.integers(0, 5, B).astype(np.int32)
    return {
        "input_ids": np.where(mask, rng.integers(4, 40, (B, S)), 0).astype(np.int32),
        "token_type_ids": np.zeros((B, S), np.int32),
        "attention_mask": mask,
        "label": label,
        "index": np.arange(B, dtype=np.int32),
        "valid": np.arange(B) < B - 2,
    }


BATCHES = {"sst5": make_batch(SST), "sts": make_batch(STS, 1)}


@cache
def mapped(config, heads, tasks, tx, settings, tune, devices):
    spec = FinetuningSpec(
        model=Bert(config, dict(heads)), tasks=tasks, tx=tx, settings=settings, num_steps=20, tune=tune
    )
    return DataParallel(jax.devices()[:devices]).map_train(partial(train_step, spec))


def run(model, params, batches, *, tasks=(SST, STS), tx=SGD, settings=PLAIN, tune="all", state=None, devices=1):
    parallel = DataParallel(jax.devices()[:devices])
    step = mapped(model.config, tuple(model.heads.items()), tasks, tx, settings, tune, devices)
    state = parallel.replicate(state or init_state(jax.tree.map(jnp.copy, params), tx, settings, tune))
    shards = {name: parallel.shard(batch) for name, batch in batches.items()}
    return jax.device_get(parallel.unreplicate(step(state, shards, jax.random.key(0))))


def changes(params, state):
    return {
        name: jax.tree.map(lambda a, b: np.asarray(b) - np.asarray(a), x, state.params[name])
        for name, x in params.items()
    }


def largest(tree):
    return max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("settings", [PLAIN, SMART], ids=["plain", "smart"])
def test_a_tasks_gradient_does_not_reach_the_others_heads(model, params, settings):
    state, means = run(model, params, {"sts": BATCHES["sts"]}, settings=settings)
    moved = changes(params, state)
    assert largest(moved["head_sst5"]) == 0
    assert largest(moved["head_sts"]) > 1e-4
    assert largest(moved["layer_0"]) > 1e-6
    expected = {"loss", "sts/loss", "sts/gradient_norm", "skipped"}
    assert set(means) == expected | ({"sts/smoothness", "sts/bregman"} if settings is SMART else set())


def test_the_regression_step_is_gradient_descent_on_the_squared_error(model, params):
    batch = BATCHES["sts"]
    real = batch["valid"]

    def loss(params):
        scores = eval_step(params, batch, model=model, task=STS)[:, 0]
        return jnp.mean(jnp.square(scores[real] - batch["label"][real]))

    state, means = run(model, params, {"sts": batch})
    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert float(means["loss"]) == pytest.approx(float(value), rel=1e-5)
    chex.assert_trees_all_close(changes(params, state), jax.tree.map(lambda g: -0.1 * g, gradient), atol=1e-5)


def test_a_weight_scales_the_gradient(model, params):
    heavy = (SST, dataclasses.replace(STS, weight=3.0))
    one, three = (run(model, params, {"sts": BATCHES["sts"]}, tasks=tasks)[0] for tasks in ((SST, STS), heavy))
    expected = jax.tree.map(lambda change: 3 * change, changes(params, one))
    chex.assert_trees_all_close(changes(params, three), expected, atol=1e-5)


@pytest.mark.parametrize("name", BATCHES)
def test_a_lazy_term_comes_at_every_kth_turn_of_each_task(model, params, name):
    lazy = smart.preset("bertjax_exact", radius=0.3, every=2, bregman_weight=0.0)
    place = list(BATCHES).index(name)
    values = []
    for turn in range(3):
        state = init_state(jax.tree.map(jnp.copy, params), SGD, lazy).replace(step=jnp.int32(2 * turn + place))
        _, means = run(model, params, {name: BATCHES[name]}, settings=lazy, state=state)
        values.append(float(means[f"{name}/smoothness"]) > 0)
    assert values == [True, False, True]


def test_surgery_of_both_tasks_gradients(model, params):
    # SGD's changes are the tasks' gradients, times −0.1.
    alone = [run(model, params, {name: batch})[0] for name, batch in BATCHES.items()]
    first, second = (jax.tree.map(lambda x: -10 * x, changes(params, state)) for state in alone)
    product = sum(float(np.vdot(a, b)) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))
    squares = [sum(float(np.vdot(x, x)) for x in jax.tree.leaves(g)) for g in (first, second)]
    assert product < 0  # else there would be nothing to see
    expected = jax.tree.map(
        lambda a, b: (a - product / squares[1] * b + b - product / squares[0] * a) / 2, first, second
    )
    state, means = run(model, params, BATCHES, tx=SURGERY)
    chex.assert_trees_all_close(changes(params, state), jax.tree.map(lambda g: -0.1 * g, expected), atol=2e-5)
    losses = [float(means[f"{name}/loss"]) for name in BATCHES]
    assert float(means["loss"]) == pytest.approx(sum(losses) / 2)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_tasks_drop_out_apart(tiny_config, rate):
    # The same head, examples and indices under another name: only the masks can tell them apart.
    config = dataclasses.replace(tiny_config, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate)
    model = Bert(config, {"sst5": 5, "twin": 5})
    params = init_params(jax.random.key(0), model)
    params["head_twin"] = params["head_sst5"]
    tasks, batch = (SST, dataclasses.replace(SST, name="twin")), BATCHES["sst5"]
    _, means = run(model, params, {"sst5": batch, "twin": batch}, tasks=tasks, tx=SURGERY)
    gap = abs(float(means["sst5/loss"]) - float(means["twin/loss"]))
    assert gap > 1e-3 if rate else gap < 1e-6


@pytest.mark.slow
def test_four_devices_are_one(model, params):
    one, four = (run(model, params, BATCHES, tx=SURGERY, settings=SMART, devices=n) for n in (1, 4))
    chex.assert_trees_all_close((one[0].params, one[1]), (four[0].params, four[1]), atol=2e-5)


def test_a_frozen_encoder_neither_moves_nor_has_state(model, params):
    tx = optimizer.adamw(optax.constant_schedule(0.01), 0.1)
    state, _ = run(model, params, {"sst5": BATCHES["sst5"]}, tx=tx, tune="head")
    moved = changes(params, state)
    assert {name for name, change in moved.items() if largest(change) > 0} == {"head_sst5", "head_sts"}
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if np.ndim(leaf)]
    assert sum(leaf.size for leaf in moments) == 2 * (16 * 5 + 5 + 16 + 1)


def test_pooled_states_stand_for_tokens(model, params):
    batch = BATCHES["sst5"]
    pooled = np.asarray(pooled_step(params, batch, model=model))
    short = with_pooled(pooled, batch)
    assert set(short) == {"pooled", "label", "index", "valid"}
    outcomes = [run(model, params, {"sst5": each}, tune="head") for each in (batch, short)]
    chex.assert_trees_all_close(*((state.params, means) for state, means in outcomes), atol=1e-6)


def test_the_head_drops_out_over_pooled_states_anew_at_every_step(tiny_config):
    params = init_params(jax.random.key(0), Bert(tiny_config, {"sst5": 5}))
    pooled = np.random.default_rng(0).normal(size=(B, 16)).astype(np.float32)
    batch, losses = with_pooled(pooled, BATCHES["sst5"]), []
    for rate, count in ((0.0, 0), (0.5, 0), (0.5, 1)):
        model = Bert(dataclasses.replace(tiny_config, hidden_dropout_prob=rate), {"sst5": 5})
        state = init_state(jax.tree.map(jnp.copy, params), SGD, PLAIN, "head").replace(step=jnp.int32(count))
        _, means = run(model, params, {"sst5": batch}, tasks=(SST,), tune="head", state=state)
        losses.append(float(means["loss"]))
    assert len(set(losses)) == 3
