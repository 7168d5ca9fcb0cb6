"""The optax transformations against closed forms, other wrappers of optax, and the fused training step."""

import dataclasses
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from bertjax import smart
from bertjax.models.bert import Bert
from bertjax.models.encoder import init_params
from bertjax.models.forward import as_smart_model
from bertjax.parallel import DataParallel
from bertjax.pretrained import load_pretrained, with_heads
from bertjax.tasks import get_task
from bertjax.training.finetuning_step import FinetuningSpec, train_step
from bertjax.training.state import init_state

BOTH = smart.SmartSettings(weight=2.0, adversary=smart.PowerIteration(radius=0.3), bregman_weight=1.5, decay=0.5)
S, D, C = 3, 4, 2


# The Bregman term in closed form: D = ½ a ‖θ − θ̃‖², of which all is known.


def quadratic(params, anchor):
    return 0.5 * 3.0 * jnp.sum(jnp.square(params["w"] - anchor["w"]))


def quadratic_terms(params, anchor, settings):
    """`quadratic` as the `terms_fn` of `smart`, for a batch of one."""
    zero = jnp.zeros(1)
    return smart.Terms(jnp.zeros((1, 1)), zero, zero, quadratic(params, anchor)[None])


def follow(tx, steps, *, target=1.0, start=0.0, **extra):
    """θ after each step on the loss ½ (θ − target)²."""
    params, found = {"w": jnp.full(2, start)}, []
    opt_state = tx.init(params)
    extra |= {"divergence_fn": quadratic, "terms_fn": quadratic_terms}
    update = jax.jit(lambda g, s, p: tx.update(g, s, p, **extra))
    for _ in range(steps):
        updates, opt_state = update({"w": params["w"] - target}, opt_state, params)
        params = optax.apply_updates(params, updates)
        found.append(float(params["w"][0]))
    return np.array(found), opt_state


def closed_form(steps, weight, decay, rate, *, period=1):
    """θ ← θ − rate (θ − 1 + 3 μ (θ − θ̃)) as powers of one matrix on (θ, θ̃, 1); θ̃ moves after every S steps.

    `decay` is β, or β by how often the anchor has moved.
    """
    step = np.array([[1 - rate * (1 + 3 * weight), rate * 3 * weight, rate], [0, 1, 0], [0, 0, 1]])
    state, found = np.array([0.0, 0.0, 1.0]), []
    for count in range(1, steps + 1):
        state = step @ state
        found.append(state[0])
        if count % period == 0:
            beta = decay(count // period) if callable(decay) else decay
            state = np.array([[1, 0, 0], [1 - beta, beta, 0], [0, 0, 1]]) @ state
    return found


@pytest.mark.parametrize("form", ["add_bregman_proximal", "smart"])
@pytest.mark.parametrize("period", [1, 3])
@pytest.mark.parametrize("decay", [0.7, lambda n: 1 - 1 / (n + 1)], ids=["fixed", "scheduled"])
def test_the_bregman_update_on_a_quadratic_is_its_closed_form(form, period, decay):
    if form == "smart":
        tx = smart.add_smart(smart.SmartSettings(bregman_weight=2.0, decay=decay), sync_period=period)
    else:
        tx = smart.add_bregman_proximal(2.0, decay, sync_period=period)
    found, _ = follow(optax.chain(tx, optax.sgd(0.1)), 10)
    np.testing.assert_allclose(found, closed_form(10, 2.0, decay, 0.1, period=period), rtol=1e-5)


def test_the_update_ends_at_the_proximal_point():
    # With a fixed anchor, gradient descent solves argmin ½ (θ − 1)² + ½ 3 μ (θ − θ̃)² = (1 + 3 μ θ̃) / (1 + 3 μ).
    tx = optax.chain(smart.add_bregman_proximal(2.0, 1.0), optax.sgd(0.1))
    found, _ = follow(tx, 60, start=0.5)
    np.testing.assert_allclose(found[-1], (1 + 3 * 2 * 0.5) / (1 + 3 * 2), rtol=1e-5)


def test_weight_and_decay_may_be_schedules():
    # μ = 0 and 2 in turn, β = 1 and 0 in turn, by hand: an anchor at the last parameters gives no gradient.
    tx = optax.chain(
        smart.add_bregman_proximal(lambda n: jnp.where(n % 2 == 0, 0.0, 2.0), lambda n: jnp.where(n < 2, 1.0, 0.0)),
        optax.sgd(0.1),
    )
    found, _ = follow(tx, 4)
    w = [0.1]
    w.append(w[0] - 0.1 * (w[0] - 1 + 3 * 2 * w[0]))  # the anchor is still at 0
    w.append(w[1] - 0.1 * (w[1] - 1))
    w.append(w[2] - 0.1 * (w[2] - 1))  # and here at θ
    np.testing.assert_allclose(found, w, rtol=1e-5)


def test_the_anchor_is_an_own_copy_in_and_out_and_found_in_any_state():
    params = {"w": jnp.arange(3.0)}
    tx = optax.apply_if_finite(optax.chain(smart.add_bregman_proximal(), optax.adam(1e-3)), 3)
    opt_state = tx.init(params)
    anchor = smart.get_anchor(opt_state)
    chex.assert_trees_all_equal(anchor, params)
    pointers = {
        x.unsafe_buffer_pointer()
        for x in (params["w"], anchor["w"], *(leaf for leaf in jax.tree.leaves(opt_state) if leaf.shape == (3,)))
    }
    assert len(pointers) == 5  # θ, θ̃ within, θ̃ without, and Adam's two moments


@pytest.mark.parametrize("tx", [optax.adam(1e-3), optax.chain(*[smart.add_bregman_proximal()] * 2)])
def test_no_anchor_or_two_are_refused(tx):
    with pytest.raises(ValueError, match="must hold one anchor"):
        smart.get_anchor(tx.init({"w": jnp.zeros(2)}))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: smart.add_bregman_proximal(-1.0), "weight must be .* found -1.0"),
        (lambda: smart.add_bregman_proximal(1.0, 1.5), "decay must be .* found 1.5"),
        (lambda: smart.add_bregman_proximal(sync_period=0), "sync_period must be at least 1, found 0"),
        (lambda: smart.add_smart("none", sync_period=0), "sync_period must be at least 1, found 0"),
        (lambda: smart.add_bregman_proximal(sync_period=2.5), "sync_period must be at least 1, found 2.5"),
        (lambda: smart.add_smart("bertjax_exact", num_steps=0), "num_steps must be at least 1, found 0"),
        (
            lambda: smart.add_smart("bertjax_exact", num_steps=2.0),
            "num_steps must be an integer of at least 1, found 2",
        ),
        (lambda: smart.add_smart("ours"), "preset must be one of"),
        (lambda: smart.add_smart("bertjax_exact"), "num_steps must be given"),
        (lambda: smart.add_smoothness(adversary=smart.PowerIteration(radius=-0.1)), "radius must be"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_missing_arguments_of_update_are_named():
    params = {"w": jnp.zeros(2)}
    tx = smart.add_bregman_proximal()
    with pytest.raises(ValueError, match="needs params"):
        tx.update(params, tx.init(params))
    with pytest.raises(ValueError, match="needs divergence_fn: call update"):
        tx.update(params, tx.init(params), params)
    tx = smart.add_smoothness()
    with pytest.raises(ValueError, match="needs smoothness_fn"):
        tx.update(params, tx.init(params), params)


@pytest.mark.parametrize("make", [lambda: smart.add_bregman_proximal(0.0), lambda: smart.add_smart("none")])
def test_no_weight_is_the_identity_and_needs_nothing(make):
    tx, gradient = make(), {"w": jnp.arange(2.0)}
    updates, _ = tx.update(gradient, tx.init(gradient), gradient, anything=1)
    chex.assert_trees_all_equal(updates, gradient)


# Other transformations of optax


def test_it_works_under_apply_if_finite_and_lets_unknown_arguments_pass():
    tx = optax.apply_if_finite(optax.chain(smart.add_bregman_proximal(2.0, 0.7), optax.sgd(0.1)), 3)
    found, _ = follow(tx, 5, value=jnp.zeros(()))
    np.testing.assert_allclose(found, closed_form(5, 2.0, 0.7, 0.1), rtol=1e-5)


def test_apply_if_finite_keeps_the_anchor_from_bad_steps_too():
    tx = optax.apply_if_finite(optax.chain(smart.add_bregman_proximal(2.0, 0.5), optax.sgd(0.1)), 3)
    params = {"w": jnp.ones(2)}
    opt_state = tx.init({"w": jnp.zeros(2)})
    _, opt_state = tx.update({"w": jnp.full(2, jnp.nan)}, opt_state, params, divergence_fn=quadratic)
    chex.assert_trees_all_equal(smart.get_anchor(opt_state), {"w": jnp.zeros(2)})


def test_hyperparameters_may_be_injected():
    make = optax.inject_hyperparams(smart.add_bregman_proximal, static_args=("sync_period", "axis_name"))
    tx = optax.chain(make(weight=2.0, decay=0.7), optax.sgd(0.1))
    found, opt_state = follow(tx, 5)
    np.testing.assert_allclose(found, closed_form(5, 2.0, 0.7, 0.1), rtol=1e-5)
    assert float(opt_state[0].hyperparams["weight"]) == 2


def test_gradient_accumulation_moves_the_anchor_once_an_update():
    k = 3
    tx = optax.chain(
        smart.add_bregman_proximal(2.0, 0.7, sync_period=k),
        optax.MultiSteps(optax.sgd(0.1), k).gradient_transformation(),
    )
    with jax.numpy_dtype_promotion("standard"):
        found, _ = follow(tx, 5 * k)
    np.testing.assert_allclose(found[k - 1 :: k], closed_form(5, 2.0, 0.7, 0.1), rtol=1e-5)


def test_schedule_free_takes_it():
    with jax.numpy_dtype_promotion("standard"):
        base = optax.chain(smart.add_bregman_proximal(2.0, 0.9), optax.sgd(0.1))
        found, opt_state = follow(optax.contrib.schedule_free(base, 0.1, b1=0.9), 200)
    np.testing.assert_allclose(found[-1], 1, atol=0.05)
    np.testing.assert_allclose(smart.get_anchor(opt_state)["w"], 1, atol=0.1)


# Both terms on a small model


MODEL = smart.SplitModel(
    embed=lambda params, batch: batch["x"] * params["e"][None, None],
    logits=lambda params, x, batch, key: jnp.tanh(jnp.mean(x, axis=1)) @ params["w"],
)


def make_problem(rows=8):
    keys = jax.random.split(jax.random.key(0), 4)
    params = {"w": jax.random.normal(keys[0], (D, C)), "e": jax.random.normal(keys[1], (D,))}
    batch = {
        "x": jax.random.normal(keys[2], (rows, S, D)),
        "label": jnp.arange(rows) % C,
        "keys": jax.random.split(keys[3], rows),
    }
    return params, batch


def terms_of(batch, params, anchor, settings):
    return smart.smart_terms(
        MODEL,
        params,
        anchor,
        batch,
        batch["keys"],
        batch["keys"],
        mask=jnp.ones(batch["x"].shape[:2], bool),
        divergence=smart.symmetric_kl,
        settings=settings,
        loss_fn=lambda z, batch: -jnp.take_along_axis(jax.nn.log_softmax(z), batch["label"][:, None], 1)[:, 0],
    )


def plain_gradient(batch, params):
    return jax.grad(lambda p: jnp.mean(terms_of(batch, p, None, smart.preset("none")).loss))(params)


def test_smart_adds_the_gradient_of_both_terms():
    params, batch = make_problem()
    away = jax.tree.map(lambda x: x * 0.8, params)
    tx = smart.add_smart(dataclasses.replace(BOTH, decay=1.0))
    state = tx.init(away)
    none = jax.tree.map(jnp.zeros_like, params)
    both, _ = tx.update(none, state, params, terms_fn=partial(terms_of, batch))

    def objective(p):
        terms = terms_of(batch, p, away, BOTH)
        return jnp.mean(2.0 * terms.smoothness + 1.5 * terms.bregman)

    chex.assert_trees_all_close(both, jax.grad(objective)(params), rtol=1e-5)

    smooth = smart.add_smoothness(2.0, smart.PowerIteration(radius=0.3))
    smoothness, _ = smooth.update(
        none,
        smooth.init(params),
        params,
        smoothness_fn=lambda p, settings: terms_of(batch, p, None, settings).smoothness,
    )
    proximal = smart.add_bregman_proximal(1.5, 1.0)

    def divergence_fn(p, anchor):
        return jnp.mean(terms_of(batch, p, anchor, dataclasses.replace(BOTH, weight=0.0)).bregman)

    bregman, _ = proximal.update(none, proximal.init(away), params, divergence_fn=divergence_fn)
    chex.assert_trees_all_close(jax.tree.map(jnp.add, smoothness, bregman), both, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
@pytest.mark.parametrize("where", ["local", "axis_name"])
def test_four_devices_are_one(mapping, where):
    params, batch = make_problem()
    mean = optax.stateless(lambda updates, _: jax.lax.pmean(updates, "data"))
    settings = dataclasses.replace(BOTH, every=2)

    def three_updates(params, batch, tx):
        opt_state = tx.init(params)
        for _ in range(3):
            updates, opt_state = tx.update(
                plain_gradient(batch, params), opt_state, params, terms_fn=partial(terms_of, batch)
            )
            params = optax.apply_updates(params, updates)
        return params

    expected = jax.jit(partial(three_updates, tx=optax.chain(smart.add_smart(settings), optax.sgd(0.5))))(params, batch)
    if where == "local":
        tx = optax.chain(smart.add_smart(settings), mean, optax.sgd(0.5))
    else:
        tx = optax.chain(mean, smart.add_smart(settings, axis_name="data"), optax.sgd(0.5))
    if mapping == "pmap":
        split = jax.tree.map(lambda x: x.reshape(4, 2, *x.shape[1:]), batch)
        found = jax.pmap(partial(three_updates, tx=tx), axis_name="data", in_axes=(None, 0))(params, split)
        found = jax.tree.map(lambda x: x[0], jax.device_get(found))
    else:
        mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        # Under check_vma, gradients of what all devices share are summed already: local gradients need it off.
        mapped = jax.shard_map(
            partial(three_updates, tx=tx), mesh=mesh, in_specs=(P(), P("data")), out_specs=P(), check_vma=False
        )
        found = jax.device_get(jax.jit(mapped)(params, batch))
    chex.assert_trees_all_close(found, jax.device_get(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [BOTH, smart.SmartSettings(weight=2.0, adversary=smart.PowerIteration(radius=0.3), every=2)],
    ids=["both", "lazy"],
)
def test_shard_map_may_check_what_varies(settings):
    params, batch = make_problem()

    def added(params, batch, axis_name=None):
        tx = smart.add_smart(settings, axis_name=axis_name)
        none = jax.tree.map(jnp.zeros_like, params)
        return tx.update(none, tx.init(params), params, terms_fn=partial(terms_of, batch))[0]

    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    mapped = jax.shard_map(partial(added, axis_name="data"), mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
    found = jax.device_get(jax.jit(mapped)(params, batch))
    assert float(optax.tree.norm(found)) > 0.01
    chex.assert_trees_all_close(found, jax.device_get(jax.jit(added)(params, batch)), rtol=1e-4, atol=1e-6)


def test_no_second_compilation_and_donation():
    params, batch = make_problem()
    tx = optax.chain(
        smart.add_smart(dataclasses.replace(BOTH, weight=optax.linear_schedule(0.0, 1.0, 5), every=2)), optax.sgd(0.1)
    )

    @partial(jax.jit, donate_argnums=(0, 1))
    @chex.assert_max_traces(n=1)
    def update(params, opt_state, batch):
        updates, opt_state = tx.update(
            plain_gradient(batch, params), opt_state, params, terms_fn=partial(terms_of, batch)
        )
        return optax.apply_updates(params, updates), opt_state

    opt_state = tx.init(params)
    for _ in range(4):
        params, opt_state = update(params, opt_state, batch)
    assert np.isfinite(float(optax.tree.norm(params)))


# The fused step


def make_batch(rows, vocab_size):
    rng = np.random.default_rng(0)
    mask = np.arange(12) < rng.integers(3, 13, rows)[:, None]
    return {
        "input_ids": np.where(mask, rng.integers(5, vocab_size, (rows, 12)), 0).astype(np.int32),
        "token_type_ids": np.zeros((rows, 12), np.int32),
        "attention_mask": mask,
        "label": rng.integers(0, 5, rows).astype(np.int32),
        "index": np.arange(rows, dtype=np.int32) + 7,
        "valid": np.ones(rows, bool),
    }


def fused_is_composed(model, params, devices):
    """How far apart the second update's gradients are, of the fused step and of optax, relative to their norm."""
    task, key, sgd = get_task("sst5"), jax.random.key(3), optax.sgd(0.01, momentum=0.0)  # which keeps the gradient
    settings = dataclasses.replace(BOTH, adversary=smart.PowerIteration(radius=0.1))
    batch = make_batch(8, model.config.vocab_size)
    parallel = DataParallel(jax.devices()[:devices])
    step = parallel.map_train(
        partial(train_step, FinetuningSpec(model=model, tasks=(task,), tx=sgd, settings=settings, num_steps=10))
    )
    state = parallel.replicate(init_state(jax.tree.map(jnp.array, params), sgd, settings))
    for _ in range(2):
        state, _ = step(state, {task.name: parallel.shard(batch)}, key)
    fused = optax.tree.get(jax.device_get(parallel.unreplicate(state.opt_state)), "trace")

    tx = optax.chain(smart.add_smart(settings), optax.stateless(lambda u, _: jax.lax.pmean(u, "data")), sgd)

    def composed(params, batch):
        none = smart.preset("none")

        def update(carry, count):
            params, opt_state = carry
            dropout_keys, noise_keys = (
                jax.vmap(jax.random.fold_in, (None, 0))(
                    jax.random.fold_in(jax.random.fold_in(key, which), count), batch["index"]
                )
                for which in range(2)
            )

            def terms_fn(params, anchor, settings):
                return smart.smart_terms(
                    as_smart_model(model, task),
                    params,
                    anchor,
                    batch,
                    dropout_keys,
                    noise_keys,
                    mask=batch["attention_mask"],
                    divergence=task.divergence,
                    settings=settings,
                    loss_fn=lambda z, batch: task.loss(z, batch["label"]),
                )

            gradient = jax.grad(lambda p: jnp.mean(terms_fn(p, None, none).loss))(params)
            updates, opt_state = tx.update(gradient, opt_state, params, terms_fn=terms_fn)
            return (optax.apply_updates(params, updates), opt_state), None

        (_, opt_state), _ = jax.lax.scan(update, (params, tx.init(params)), jnp.arange(2, dtype=jnp.int32))
        return optax.tree.get(opt_state, "trace")

    split = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
    mapped = jax.pmap(composed, axis_name="data", in_axes=(None, 0), devices=jax.devices()[:devices])
    other = jax.tree.map(lambda x: x[0], jax.device_get(mapped(params, split)))
    apart = jax.tree.map(np.subtract, fused, other)
    return float(optax.tree.norm(apart) / optax.tree.norm(fused))


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_fused_is_composed(tiny_config, devices):
    model = Bert(tiny_config, {"sst5": 5})
    assert fused_is_composed(model, init_params(jax.random.key(0), model), devices) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 4])
def test_fused_is_composed_on_real_weights(devices):
    config, weights = load_pretrained("minilm-l6")
    params = with_heads(weights, config, {"sst5": 5}, jax.random.key(0))
    assert fused_is_composed(Bert(config, {"sst5": 5}), params, devices) < 1e-5
