import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_step import SETTINGS, SGD, TASK, B, make_batch, make_step, run

from bertjax import smart
from bertjax.models.bert import Bert
from bertjax.models.encoder import init_params
from bertjax.models.forward import eval_step
from bertjax.parallel import DataParallel
from bertjax.training import optimizer
from bertjax.training.state import init_state


@pytest.fixture(scope="module")
def model(tiny_config):
    return Bert(tiny_config, {TASK.name: TASK.num_outputs})


@pytest.fixture(scope="module")
def params(model):
    return init_params(jax.random.key(0), model)


def without_dropout(model):
    config = dataclasses.replace(model.config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return model.clone(config=config)


def test_a_plain_step_is_gradient_descent_on_the_mean_loss(model, params):
    model, batch = without_dropout(model), make_batch()

    def loss(params):
        logits = eval_step(params, batch, model=model, task=TASK)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["label"][:, None], 1).mean()

    state, means = run(model, params, SETTINGS["plain"], batch)
    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    chex.assert_trees_all_close(means["loss"], value, rtol=1e-5)
    hits = np.asarray(eval_step(params, batch, model=model, task=TASK)).argmax(-1) == batch["label"]
    assert float(means["accuracy"]) == pytest.approx(hits.mean())
    chex.assert_trees_all_close(means["gradient_norm"], optax.tree.norm(gradient), rtol=1e-4)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
    chex.assert_trees_all_close(state.params, expected, atol=1e-6)
    assert int(state.step) == 1


@pytest.mark.parametrize("name", SETTINGS)
def test_invalid_rows_change_nothing(model, params, name):
    # Both have the mean of the first half: as each row twice, and beside rows that only fill up.
    half = B // 2
    twice = {key: np.concatenate([x[:half]] * 2) for key, x in make_batch().items()}
    padded = {key: x.copy() for key, x in twice.items()}
    padded["label"][half:], padded["input_ids"][half:] = 4, 7
    padded["valid"][half:] = False
    outcomes = [run(model, params, SETTINGS[name], x) for x in (twice, padded)]
    chex.assert_trees_all_close(*((state.params, means) for state, means in outcomes), atol=1e-6)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_order_of_a_batch_does_not_matter(model, params, name):
    batch, order = make_batch(), np.random.default_rng(1).permutation(B)
    shuffled = {key: x[order] for key, x in batch.items()}
    outcomes = [run(model, params, SETTINGS[name], x) for x in (batch, shuffled)]
    chex.assert_trees_all_close(*((state.params, means) for state, means in outcomes), atol=1e-6)


@pytest.mark.parametrize("name", ["plain", "cheap", pytest.param("smart", marks=pytest.mark.slow)])
def test_jit_is_pmap(model, params, name):
    # Not Adam, which makes steps of rounding where a gradient is next to zero.
    parallel = DataParallel(jax.devices()[:4])
    step = parallel.map_train(make_step(model, SETTINGS[name], SGD))
    state = parallel.replicate(init_state(jax.tree.map(jnp.copy, params), SGD, SETTINGS[name]))
    alone = None
    for seed in range(3):
        batch = make_batch(seed=seed)
        batch["valid"][-3:] = False  # a mean of the devices' means would differ
        state, means = step(state, parallel.shard(batch), jax.random.key(0))
        alone, expected = run(model, params, SETTINGS[name], batch, state=alone)
    found = jax.device_get(parallel.unreplicate((state.params, state.anchor, means)))
    chex.assert_trees_all_close(found, jax.device_get((alone.params, alone.anchor, expected)), atol=2e-5)


# Slow: with SMART's terms, which follow the same rows.
STARTS = ["plain", *(pytest.param(start, marks=pytest.mark.slow) for start in ("noise", "task_gradient"))]


@pytest.mark.parametrize("start", STARTS)
def test_micro_batches_are_the_batch(model, params, start):
    """Dropout on, rows that only fill up in one part alone, two updates, so that the anchor counts too."""
    settings = SETTINGS["plain"]
    if start != "plain":
        settings = smart.preset("bertjax_exact", radius=0.3, decay=0.5, start=start, num_steps=int(start == "noise"))
    batches, expected = [make_batch(seed=seed) for seed in range(2)], None
    for batch in batches:
        batch["valid"][-3:] = False
        expected, means = run(model, params, settings, batch, state=expected)
    expected = jax.device_get((expected.params, expected.anchor, means))
    assert float(expected[2]["loss"]) > 0.1
    for micro_batches, devices in ((8, 1), (2, 2)):
        parallel = DataParallel(jax.devices()[:devices])
        step = parallel.map_train(make_step(model, settings, SGD, micro_batches=micro_batches))
        state = parallel.replicate(init_state(jax.tree.map(jnp.copy, params), SGD, settings))
        for batch in batches:
            state, means = step(state, parallel.shard(batch), jax.random.key(0))
        outcome = jax.device_get(parallel.unreplicate((state.params, state.anchor, means)))
        chex.assert_trees_all_close(outcome, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("start", STARTS)
def test_rematerialisation_changes_memory_alone(tiny_config, start):
    settings = SETTINGS["plain"]
    if start != "plain":
        settings = smart.preset("bertjax_exact", radius=0.3, decay=0.5, start=start, num_steps=int(start == "noise"))
    model = Bert(dataclasses.replace(tiny_config, num_hidden_layers=6), {TASK.name: TASK.num_outputs})
    params = init_params(jax.random.key(0), model)
    batch = make_batch(rows=256)
    outcomes, kept = [], []
    for remat in (False, True):
        state = init_state(jax.tree.map(jnp.copy, params), SGD, settings)
        step = (
            jax.jit(make_step(model.clone(remat=remat), settings, SGD)).lower(state, batch, jax.random.key(0)).compile()
        )
        kept.append(step.memory_analysis().temp_size_in_bytes)
        for _ in range(2):
            state, means = step(state, batch, jax.random.key(0))
        outcomes.append((state.params, state.anchor, means))
    chex.assert_trees_all_close(*outcomes, atol=1e-6, rtol=1e-5)
    assert kept[1] < 0.5 * kept[0]


@pytest.mark.slow
def test_not_jitted_is_jitted(model, params):
    settings, tx, batch = SETTINGS["smart"], SGD, make_batch()
    state = init_state(params, tx, settings)
    plain, means = make_step(model, settings, tx)(state, jax.tree.map(jnp.asarray, batch), jax.random.key(0))
    jitted, jitted_means = run(model, params, settings, batch)
    chex.assert_trees_all_close((plain.params, means), (jitted.params, jitted_means), atol=1e-5)


def exact(**changes):
    return smart.preset("bertjax_exact", radius=0.3, **changes)


def test_the_objective_adds_the_weighted_terms(model, params):
    # Gradients are linear in the weights (λ, μ).
    anchored = jax.tree.map(lambda x: x * 0.9, params)

    def change(settings):
        state = init_state(jax.tree.map(jnp.copy, params), SGD, settings)
        if settings.has_bregman:
            state = state.replace(anchor=jax.tree.map(jnp.copy, anchored))
        after, means = run(model, params, settings, make_batch(), state=state)
        return jax.tree.map(jnp.subtract, after.params, params), means

    plain, _ = change(SETTINGS["plain"])
    bregman, _ = change(exact(weight=0.0))
    thrice, thrice_means = change(exact(weight=0.0, bregman_weight=3.0))
    both, means = change(SETTINGS["smart"])
    double, double_means = change(exact(weight=2.0))
    assert float(means["smoothness"]) > 1e-4
    assert float(means["bregman"]) > 1e-4
    assert float(double_means["smoothness"]) == pytest.approx(float(means["smoothness"]), rel=1e-4)
    assert float(thrice_means["bregman"]) == pytest.approx(float(means["bregman"]), rel=1e-4)
    expected = jax.tree.map(lambda p, d: p + 3 * (d - p), plain, bregman)
    chex.assert_trees_all_close(thrice, expected, atol=1e-5)
    expected = jax.tree.map(lambda d, s: d + 2 * (s - d), bregman, both)
    chex.assert_trees_all_close(double, expected, atol=1e-5)


def test_bregman_is_zero_at_the_first_step_and_not_after(model, params):
    state, means = run(model, params, SETTINGS["smart"], make_batch())
    assert 0 <= float(means["bregman"]) < 1e-12
    _, means = run(model, params, SETTINGS["smart"], make_batch(), state=state)
    assert float(means["bregman"]) > 1e-6


@pytest.mark.parametrize(
    ("changes", "betas"),
    # Of 20 updates the first tenth are two; a horizon of a fifth is four: 1 / (1 − β) = 4.
    [({"decay": (0.25, 0.75)}, (0.25, 0.25, 0.75, 0.75)), ({"horizon": 0.2}, (0.75, 0.75))],
    ids=["decay", "horizon"],
)
def test_the_anchor_follows_by_the_decay(model, params, changes, betas):
    settings = smart.preset("bertjax_exact", weight=0.0, **changes)
    state, anchor = None, params
    for beta in betas:
        state, _ = run(model, params, settings, make_batch(), state=state)
        anchor = jax.tree.map(lambda a, p, beta=beta: beta * a + (1 - beta) * p, anchor, state.params)
        chex.assert_trees_all_close(state.anchor, anchor, atol=1e-7)


def test_no_anchor_is_kept_without_the_bregman_term(model, params):
    settings = smart.SmartSettings(weight=1.0)
    state, _ = jax.eval_shape(
        make_step(model, settings, SGD), init_state(params, SGD, settings), make_batch(), jax.random.key(0)
    )
    assert state.anchor is None


def test_matched_dropout_measures_no_dropout(model, params):
    for matched in (True, False):
        settings = smart.preset("bertjax_exact", radius=0.0, matched_dropout=matched)
        _, means = run(model, params, settings, make_batch())
        assert (float(means["smoothness"]) < 1e-12) == matched


def test_dropout_changes_with_step_and_with_key(model, params):
    batch = make_batch()
    state, first = run(model, params, SETTINGS["plain"], batch)
    _, second = run(model, params, SETTINGS["plain"], batch, state=state.replace(params=params))
    _, other_key = run(model, params, SETTINGS["plain"], batch, key=1)
    _, again = run(model, params, SETTINGS["plain"], batch)
    assert len({float(means["loss"]) for means in (first, second, other_key)}) == 3
    assert float(first["loss"]) == float(again["loss"])


@pytest.mark.parametrize("name", SETTINGS)
def test_every_tensor_but_key_biases_has_a_gradient(model, params, name):
    state, _ = run(model, params, SETTINGS[name], make_batch())
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), params, state.params)
    for path, largest in jax.tree_util.tree_leaves_with_path(moved):
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        # Softmax does not see a shift that all keys share.
        assert (largest < 1e-8) if where.endswith("/key/bias") else (largest > 1e-7), where


def test_no_second_compilation(model, params):
    settings = exact(weight=optax.linear_schedule(0.0, 1.0, 3))
    tx = optimizer.adamw(optax.constant_schedule(1e-2), 0.1)
    chex.clear_trace_counter()  # it counts by name

    @chex.assert_max_traces(n=1)
    def traced_once(*args):
        return make_step(model, settings, tx)(*args)

    step = DataParallel(jax.devices()[:1]).map_train(traced_once)
    state = init_state(jax.tree.map(jnp.copy, params), tx, settings)
    for seed in range(3):
        state, means = step(state, make_batch(seed=seed), jax.random.key(0))
    assert np.isfinite(float(means["loss"]))
    assert step._cache_size() == 1


def test_weights_of_zero_train_bit_for_bit_as_plain(model, params):
    settings = smart.preset("bertjax_exact", weight=0.0, bregman_weight=0.0)
    outcomes = []
    for each in (SETTINGS["plain"], settings):
        state = None
        for seed in range(2):
            state, means = run(model, params, each, make_batch(seed=seed), state=state)
        outcomes.append((state, means))
    chex.assert_trees_all_equal(*outcomes)


def test_radius_zero_at_the_anchor_is_a_plain_step(model, params):
    plain, expected = run(model, params, SETTINGS["plain"], make_batch())
    state, means = run(model, params, smart.preset("bertjax_exact", radius=0.0), make_batch())
    chex.assert_trees_all_close(state.params, plain.params, atol=1e-6)
    chex.assert_trees_all_close(means["gradient_norm"], expected["gradient_norm"], rtol=1e-5)
    assert float(means["smoothness"]) == 0
    assert 0 <= float(means["bregman"]) < 1e-12


def test_every_second_step_is_twice_as_heavy_and_reports_so(model, params):
    # At step 0 it is a step at 2 λ, at step 1 one at λ = 0.
    first, means = run(model, params, exact(every=2), make_batch())
    heavy, heavy_means = run(model, params, exact(weight=2.0), make_batch())
    chex.assert_trees_all_close(first.params, heavy.params, atol=1e-6)
    assert float(heavy_means["smoothness"]) > 1e-4
    chex.assert_trees_all_close(means["smoothness"], 2 * heavy_means["smoothness"], rtol=1e-4)

    second, means = run(model, params, exact(every=2), make_batch(), state=first)
    without, expected = run(model, params, exact(weight=0.0), make_batch(), state=first)
    chex.assert_trees_all_close(second.params, without.params, atol=1e-6)
    assert float(means.pop("smoothness")) == 0
    chex.assert_trees_all_close(means, expected, rtol=1e-5)
    assert float(means["bregman"]) > 1e-6


@pytest.mark.parametrize("settings", [SETTINGS["cheap"], exact(start="output", num_steps=0)], ids=["task", "output"])
def test_cheap_starts_find_a_perturbation(model, params, settings):
    batch = make_batch()
    batch["valid"][-1] = False
    state, means = run(model, params, settings, batch)
    chex.assert_tree_all_finite((state.params, means))
    assert float(means["smoothness"]) > 1e-4
    _, by_noise = run(model, params, smart.preset("r3f", radius=1e-3, matched_dropout=True), batch)
    assert float(means["smoothness"]) > float(by_noise["smoothness"])


def test_a_scheduled_weight_is_its_value_at_the_step(model, params):
    state, _ = run(model, params, SETTINGS["smart"], make_batch())
    scheduled, fixed = exact(weight=optax.linear_schedule(0.0, 4.0, 2)), exact(weight=2.0)
    outcomes = [run(model, params, settings, make_batch(), state=state) for settings in (scheduled, fixed)]
    chex.assert_trees_all_close(*outcomes, atol=1e-6)


def test_bfloat16_computes_beside_float32_parameters(model, params):
    state, means = run(model.clone(dtype=jnp.bfloat16), params, SETTINGS["smart"], make_batch())
    _, expected = run(model, params, SETTINGS["smart"], make_batch())
    chex.assert_trees_all_equal_dtypes(state.params, params)
    assert float(means["loss"]) == pytest.approx(float(expected["loss"]), rel=2e-2)
    assert float(means["smoothness"]) == pytest.approx(float(expected["smoothness"]), rel=0.2)


@pytest.mark.parametrize("weight", [0.3, pytest.param(1.0, marks=pytest.mark.slow)])  # a factor of 1 proves less
def test_the_cheap_form_runs_the_clean_backward_pass_once(tiny_config, weight):
    # In forward passes: plain 3; the cheap form 7, and 8 where the adversary's backward pass is not the main one.
    task = dataclasses.replace(TASK, weight=weight)
    config = dataclasses.replace(tiny_config, hidden_size=64, intermediate_size=256, num_hidden_layers=2)
    model = Bert(config, {TASK.name: TASK.num_outputs})
    params, flops = init_params(jax.random.key(0), model), {}
    cheap = smart.preset("bertjax")
    for name, settings in {"plain": SETTINGS["plain"], "cheap": cheap}.items():
        step = jax.jit(make_step(model, settings, SGD, task=task))
        compiled = step.lower(init_state(params, SGD, settings), make_batch(), jax.random.key(0)).compile()
        flops[name] = compiled.cost_analysis()["flops"]
    assert flops["cheap"] / flops["plain"] < 2.5
