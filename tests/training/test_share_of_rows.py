"""Training with the terms on a share of the rows: unbiased over devices, micro-batches and rows that fill up."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_step import SETTINGS, SGD, TASK, make_batch, make_step

from bertjax import smart
from bertjax.models.bert import Bert
from bertjax.models.encoder import init_params
from bertjax.parallel import DataParallel
from bertjax.training.state import init_state

EXACT = smart.preset("bertjax_exact", radius=0.1, horizon=None, decay=0.9)
DRAWS = 60


@pytest.fixture(scope="module")
def model(tiny_config):
    config = dataclasses.replace(tiny_config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return Bert(config, {TASK.name: TASK.num_outputs})


def steps(model, settings, devices=1, micro_batches=1):
    """R_s, D and the head's update for each of many keys, with an anchor away from the parameters."""
    params = init_params(jax.random.key(0), model)
    batch = make_batch(rows=16)
    batch["valid"][-5:] = False
    parallel = DataParallel(jax.devices()[:devices])
    step = parallel.map_train(make_step(model, settings, SGD, micro_batches=micro_batches))
    found = []
    for draw in range(DRAWS):
        state = init_state(jax.tree.map(jnp.copy, params), SGD, settings)
        state = state.replace(anchor=jax.tree.map(lambda x: 0.8 * x, state.anchor))
        state, means = step(parallel.replicate(state), parallel.shard(batch), jax.random.key(draw))
        kernel = parallel.unreplicate(state.params)[f"head_{TASK.name}"]["kernel"]
        values = [float(parallel.unreplicate(means)[name]) for name in ("smoothness", "bregman")]
        found.append([*values, *np.asarray(kernel - params[f"head_{TASK.name}"]["kernel"]).ravel()])
    return np.array(found)


@pytest.mark.parametrize(("devices", "micro_batches"), [(1, 1), (2, 2)])
def test_a_share_is_unbiased(model, devices, micro_batches):
    whole = steps(model, EXACT)
    found = steps(model, dataclasses.replace(EXACT, share=0.5), devices, micro_batches)
    error = np.sqrt((found.var(0) + whole.var(0)) / DRAWS)
    assert (np.abs(found.mean(0) - whole.mean(0)) < 4.5 * error + 1e-9).all()
    # The draws differ, and no bias of the size of a wrong factor could hide in their spread.
    assert (found.std(0) > 0).all()
    assert (4.5 * error[:2] < 0.5 * whole.mean(0)[:2]).all()


def test_it_composes_with_every(model):
    settings = dataclasses.replace(EXACT, share=0.5, every=2)
    params, batch = init_params(jax.random.key(0), model), make_batch(rows=16)
    step, state = jax.jit(make_step(model, settings, SGD)), init_state(params, SGD, settings)
    state, first = step(state, batch, jax.random.key(0))
    state, second = step(state, batch, jax.random.key(0))
    assert float(first["smoothness"]) > 0
    assert float(second["smoothness"]) == 0
    assert float(second["bregman"]) > 0


def test_a_share_costs_a_share(tiny_config):
    config = dataclasses.replace(tiny_config, hidden_size=64, intermediate_size=256, num_hidden_layers=2)
    model = Bert(config, {TASK.name: TASK.num_outputs})
    params, batch, flops = init_params(jax.random.key(0), model), make_batch(rows=16), {}
    cheap = smart.preset("bertjax")
    for name, settings in {
        "plain": SETTINGS["plain"],
        "whole": cheap,
        "half": dataclasses.replace(cheap, share=0.5),
        "quarter": dataclasses.replace(cheap, share=0.25),
    }.items():
        step = jax.jit(make_step(model, settings, SGD))
        compiled = step.lower(init_state(params, SGD, settings), batch, jax.random.key(0)).compile()
        flops[name] = compiled.cost_analysis()["flops"]
    added = {name: count - flops["plain"] for name, count in flops.items()}
    assert added["half"] / added["whole"] == pytest.approx(0.5, abs=0.05)
    assert added["quarter"] / added["whole"] == pytest.approx(0.25, abs=0.05)
