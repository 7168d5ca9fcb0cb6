"""SMART's transformations inside other wrappers of optax and under shard_map: correct, or refused in one line."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from bertjax import smart

B, S, D, C = 8, 3, 4, 2
KL = smart.symmetric_kl
BOTH = smart.SmartSettings(weight=2.0, adversary=smart.PowerIteration(radius=0.3), bregman_weight=1.5, decay=0.5)


def make_problem():
    keys = jax.random.split(jax.random.key(0), 4)
    params = {"w": jax.random.normal(keys[0], (D, C)), "e": jax.random.normal(keys[1], (D,))}
    return params, {"x": jax.random.normal(keys[2], (B, S, D)), "keys": jax.random.split(keys[3], B)}


def embed(params, batch):
    return batch["x"] * params["e"][None, None]


def logits(params, x, batch, key):
    return jnp.tanh(jnp.mean(x, axis=1)) @ params["w"]


MODEL = smart.SplitModel(embed, logits)


def smoothness_fn(batch, params, settings):
    return smart.smoothness(
        lambda x: logits(params, x, batch, None),
        embed(params, batch),
        batch["keys"],
        divergence=smart.symmetric_kl,
        settings=settings,
    )


def divergence_fn(batch, params, anchor):
    return smart.symmetric_kl(*(logits(p, embed(p, batch), batch, None) for p in (params, anchor)))


def loss_of(z, batch):
    return jnp.square(z[:, 0] - 1)


def terms_fn(batch, params, anchor, settings, loss_fn=None):
    return smart.smart_terms(
        MODEL,
        params,
        anchor,
        batch,
        batch["keys"],
        batch["keys"],
        divergence=smart.symmetric_kl,
        settings=settings,
        loss_fn=loss_fn,
    )


def functions(batch):
    """What the `update` of any of the three takes."""
    return {
        "smoothness_fn": partial(smoothness_fn, batch),
        "divergence_fn": partial(divergence_fn, batch),
        "terms_fn": partial(terms_fn, batch),
    }


MAKERS = {
    "add_bregman_proximal": partial(smart.add_bregman_proximal, 1.5, 0.5),
    "add_smoothness": partial(smart.add_smoothness, 2.0, smart.PowerIteration(radius=0.3)),
    "add_smart": partial(smart.add_smart, BOTH),
}
EACH = pytest.mark.parametrize("name", MAKERS)


def added(tx, params, batch, steps=1):
    """The updates that a chain makes of zero gradients."""
    opt_state, none = tx.init(params), jax.tree.map(jnp.zeros_like, params)
    for _ in range(steps):
        updates, opt_state = tx.update(none, opt_state, params, **functions(batch))
    return updates, opt_state


def last_terms(opt_state):
    return [optax.tree.get(opt_state, name, default=None) for name in ("smoothness", "bregman")]


# D7


@EACH
@pytest.mark.parametrize("wrapper", ["masked", "multi_transform"])
def test_inside_masked_parameters_it_is_refused_at_once(name, wrapper):
    params, _ = make_problem()
    tx = optax.chain(MAKERS[name](), optax.sgd(0.1))
    if wrapper == "masked":
        tx = optax.masked(tx, {"w": True, "e": False})
    else:
        tx = optax.multi_transform({"a": tx, "b": optax.set_to_zero()}, {"w": "a", "e": "b"})
    with pytest.raises(ValueError, match=f"^{name} needs all parameters, found masked ones: chain it before optax"):
        tx.init(params)


@EACH
def test_before_a_masked_optimizer_it_sees_the_whole_model(name):
    params, batch = make_problem()
    tx = optax.chain(MAKERS[name](), optax.masked(optax.scale(0.0), {"w": True, "e": False}))
    expected, _ = added(MAKERS[name](), params, batch, steps=2)
    found, _ = added(tx, params, batch, steps=2)
    chex.assert_trees_all_close(found["e"], expected["e"])
    assert not found["w"].any()


def test_a_mask_that_keeps_everything_is_no_mask():
    params, batch = make_problem()
    everything = {"w": True, "e": True}
    found, _ = added(optax.masked(MAKERS["add_smoothness"](), everything), params, batch)
    expected, _ = added(MAKERS["add_smoothness"](), params, batch)
    chex.assert_trees_all_close(found, expected)


def test_hyperparameters_are_injected_or_the_line_says_how():
    params, batch = make_problem()
    with pytest.raises(ValueError, match=r"of add_smoothness must be plain Python values, .* static_args=\('clean_gr"):
        optax.inject_hyperparams(smart.add_smoothness)(weight=2.0).init(params)
    with pytest.raises(
        ValueError, match=r"of add_smart must be plain Python values, .* static_args=\('num_steps', 're"
    ):
        optax.inject_hyperparams(smart.add_smart)(BOTH, num_steps=3).init(params)
    static = ("clean_gradient", "every", "matched_dropout", "share")
    tx = optax.inject_hyperparams(smart.add_smoothness, static_args=static)(
        weight=optax.linear_schedule(0.0, 4.0, 2), adversary=smart.PowerIteration(radius=0.3)
    )
    found, opt_state = jax.jit(lambda p: added(tx, p, batch, steps=2))(params)
    expected, _ = added(MAKERS["add_smoothness"](), params, batch)  # at the second step the weight is 2
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-7)
    assert float(opt_state.hyperparams["weight"]) == 2


# D9


@EACH
def test_inside_multi_steps_it_is_refused(name):
    params, batch = make_problem()
    tx = optax.MultiSteps(optax.chain(MAKERS[name](), optax.sgd(0.1)), 2)
    with (
        jax.numpy_dtype_promotion("standard"),
        pytest.raises(ValueError, match=f"^{name} inside optax.MultiSteps sees"),
    ):
        jax.jit(lambda params: tx.update(params, tx.init(params), params, **functions(batch)))(params)


def test_outside_multi_steps_it_is_the_mean_over_micro_batches():
    params, batch = make_problem()
    halves = [jax.tree.map(lambda x, i=i: x[4 * i : 4 * i + 4], batch) for i in range(2)]
    tx = optax.chain(
        smart.add_smart(BOTH, sync_period=2), optax.MultiSteps(optax.sgd(1.0), 2).gradient_transformation()
    )
    none, opt_state = jax.tree.map(jnp.zeros_like, params), tx.init(jax.tree.map(lambda x: 0.8 * x, params))
    whole_state = smart.add_smart(BOTH).init(jax.tree.map(lambda x: 0.8 * x, params))
    with jax.numpy_dtype_promotion("standard"):
        for half in halves:
            updates, opt_state = tx.update(none, opt_state, params, **functions(half))
    expected, _ = smart.add_smart(BOTH).update(none, whole_state, params, **functions(batch))
    chex.assert_trees_all_close(updates, jax.tree.map(jnp.negative, expected), rtol=1e-4, atol=1e-6)


# D8


@EACH
@pytest.mark.parametrize("axis_name", [None, "data"])
@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map_is_one_device(name, axis_name, check_vma):
    params, batch = make_problem()
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def mapped(params, batch):
        tx = MAKERS[name](axis_name=axis_name)
        if axis_name is None and not check_vma:
            tx = optax.chain(tx, optax.stateless(lambda updates, _: jax.lax.pmean(updates, "data")))
        updates, opt_state = added(tx, params, batch, steps=2)
        return updates, last_terms(opt_state)

    run = jax.shard_map(mapped, mesh=mesh, in_specs=(P(), P("data")), out_specs=P(), check_vma=check_vma)
    updates, means = jax.device_get(jax.jit(run)(params, batch))
    expected, opt_state = jax.device_get(added(MAKERS[name](), params, batch, steps=2))
    chex.assert_trees_all_close(updates, expected, rtol=1e-4, atol=1e-6)
    if axis_name is not None or check_vma:
        chex.assert_trees_all_close(means, last_terms(opt_state), rtol=1e-4, atol=1e-7)


def test_where_parameters_vary_the_term_stays_local():
    # As in a loop that makes its own gradients local, to average them after the chain.
    params, batch = make_problem()
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def mapped(params, batch):
        here = jax.lax.axis_index("data") >= 0
        varying = jax.tree.map(lambda x: jnp.where(here, x, x), params)
        tx = optax.chain(MAKERS["add_smoothness"](), optax.stateless(lambda u, _: jax.lax.pmean(u, "data")))
        return added(tx, varying, batch)[0]

    run = jax.shard_map(mapped, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
    expected, _ = added(MAKERS["add_smoothness"](), params, batch)
    chex.assert_trees_all_close(jax.jit(run)(params, batch), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [MAKERS["add_smart"], partial(smart.add_smoothness, 2.0, every=2)])
def test_where_parameters_vary_a_lazy_term_does_too(make):
    params, batch = make_problem()
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def mapped(params, batch):
        varying = jax.tree.map(lambda x: jnp.where(jax.lax.axis_index("data") >= 0, x, x), params)
        updates, opt_state = added(make(), varying, batch, steps=2)
        return jax.lax.pmean((updates, jax.tree.leaves(last_terms(opt_state))), "data")

    found = jax.jit(jax.shard_map(mapped, mesh=mesh, in_specs=(P(), P("data")), out_specs=P()))(params, batch)
    updates, opt_state = added(make(), params, batch, steps=2)
    expected = updates, jax.tree.leaves(last_terms(opt_state))
    chex.assert_trees_all_close(jax.device_get(found), jax.device_get(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("start", ["noise", "output", "task_gradient"])
@pytest.mark.parametrize("with_mask", [True, False])
def test_explicit_mesh_axes_are_one_device(start, with_mask):
    params, batch = make_problem()
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    settings = smart.SmartSettings(
        weight=1.0, adversary=smart.PowerIteration(radius=0.3, start=start, num_steps=int(start == "noise"))
    )

    def smoothness(x, mask):
        return smart.smoothness(
            lambda x: jnp.tanh(jnp.mean(x, axis=1)) @ params["w"],
            x,
            jax.random.key(0),
            divergence=smart.symmetric_kl,
            settings=settings,
            loss_fn=lambda z: jnp.square(z[:, 0]),
            mask=mask,
        )

    x, mask = batch["x"], jnp.ones((B, S), bool) if with_mask else None
    expected = jax.device_get(smoothness(x, mask))
    with jax.set_mesh(mesh):
        sharded = jax.device_put((x, mask), jax.NamedSharding(mesh, P("data")))
        found = jax.jit(smoothness)(*sharded)
        with pytest.raises(ValueError, match="share takes rows from all over the batch, .* use jax.shard_map"):
            jax.jit(lambda x: smart.smoothness(lambda x: x[:, 0], x, jax.random.key(0), share=0.5, divergence=KL))(
                sharded[0]
            )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


# D11


def test_the_state_has_the_last_terms():
    params, batch = make_problem()
    away = jax.tree.map(lambda x: 0.8 * x, params)
    tx = optax.chain(smart.add_smart(BOTH), optax.adam(1e-3))
    opt_state = tx.init(away)
    chex.assert_trees_all_equal(
        (optax.tree.get(opt_state, "smoothness"), optax.tree.get(opt_state, "bregman")), (np.float32(0),) * 2
    )
    with jax.numpy_dtype_promotion("standard"):
        _, opt_state = tx.update(params, opt_state, params, **functions(batch))
    anchor = jax.tree.map(lambda a, p: (a + p) / 2, away, params)
    np.testing.assert_allclose(
        optax.tree.get(opt_state, "smoothness"), jnp.mean(smoothness_fn(batch, params, BOTH)), rtol=1e-4
    )
    np.testing.assert_allclose(
        optax.tree.get(opt_state, "bregman"), jnp.mean(divergence_fn(batch, params, anchor)), rtol=1e-5
    )
    chex.assert_type([optax.tree.get(opt_state, name) for name in ("smoothness", "bregman")], jnp.float32)


def test_each_term_is_found_in_a_chain_of_both():
    params, batch = make_problem()
    tx = optax.chain(MAKERS["add_smoothness"](), MAKERS["add_bregman_proximal"](), optax.adam(1e-3))
    opt_state = tx.init(jax.tree.map(lambda x: 0.8 * x, params))
    with jax.numpy_dtype_promotion("standard"):
        _, opt_state = tx.update(params, opt_state, params, **functions(batch))
    assert all(float(term) > 0 for term in last_terms(opt_state))


def test_a_lazy_term_keeps_its_last_value():
    params, batch = make_problem()
    tx = smart.add_smoothness(2.0, smart.PowerIteration(radius=0.3), every=2)
    _, first = added(tx, params, batch)
    updates, second = added(tx, params, batch, steps=2)
    assert float(first.smoothness) > 0
    assert float(second.smoothness) == float(first.smoothness)
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates))
    assert int(second.calls) == 2


# The whole objective in the chain


def test_replaced_updates_are_the_gradient_of_the_whole_objective():
    params, batch = make_problem()
    away = jax.tree.map(lambda x: 0.8 * x, params)
    settings = BOTH
    terms = partial(terms_fn, batch, loss_fn=loss_of)

    def after(replace_updates):
        tx = smart.add_smart(settings, replace_updates=replace_updates)
        gradient = jax.grad(lambda p: jnp.mean(loss_of(logits(p, embed(p, batch), batch, None), batch)))(params)
        if replace_updates:
            gradient = jax.tree.map(lambda g: jnp.full_like(g, jnp.nan), gradient)  # is not read
        return tx.update(gradient, tx.init(away), params, terms_fn=terms)[0]

    chex.assert_trees_all_close(after(True), after(False), rtol=1e-4, atol=1e-6)


def test_without_a_loss_nothing_is_replaced():
    params, batch = make_problem()
    tx = smart.add_smart(BOTH, replace_updates=True)
    with pytest.raises(ValueError, match="terms_fn must compute the loss if replace_updates is True"):
        tx.update(params, tx.init(params), params, **functions(batch))


def test_replacing_with_no_term_is_the_gradient_of_the_loss():
    params, batch = make_problem()
    tx, none = smart.add_smart("none", replace_updates=True), jax.tree.map(jnp.zeros_like, params)
    updates, opt_state = tx.update(none, tx.init(params), params, terms_fn=partial(terms_fn, batch, loss_fn=loss_of))
    expected = jax.grad(lambda p: jnp.mean(loss_of(logits(p, embed(p, batch), batch, None), batch)))(params)
    chex.assert_trees_all_close(updates, expected, rtol=1e-5)
    assert float(opt_state.smoothness) == 0


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: {"smoothness_fn": lambda params, settings: jnp.ones((B, C))}, r"\[B\], or .* found \[8, 2\]"),
        (lambda: {"smoothness_fn": lambda params, settings: None}, "found a NoneType"),
        (lambda: {"divergence_fn": lambda params, anchor: jnp.ones((B, C))}, r"found \[8, 2\]"),
        (lambda: {"terms_fn": lambda params, anchor, settings: (1.0, 2.0)}, "smart.Terms, found a tuple"),
    ],
)
def test_functions_that_return_something_else_are_refused(make, found):
    params, _ = make_problem()
    (argument,) = make()
    name = {"smoothness_fn": "add_smoothness", "divergence_fn": "add_bregman_proximal", "terms_fn": "add_smart"}[
        argument
    ]
    tx = MAKERS[name]()
    with pytest.raises(ValueError, match=f"{argument} must return .*{found}"):
        tx.update(params, tx.init(params), params, **make())


@pytest.mark.parametrize("settings", [smart.PowerIteration(), None, 0.1])
def test_settings_must_be_settings(settings):
    with pytest.raises(ValueError, match="settings must be a preset's name or SmartSettings, found"):
        smart.add_smart(settings)


def test_a_share_reaches_the_function():
    params, _ = make_problem()
    seen = []

    def spy(params, settings):
        seen.append(settings.share)
        return jnp.zeros(B)

    tx = smart.add_smoothness(share=0.25)
    tx.update(params, tx.init(params), params, smoothness_fn=spy)
    assert seen[0] == 0.25
