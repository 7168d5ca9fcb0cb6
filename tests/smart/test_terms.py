"""SMART's terms against closed forms of a linear model."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_model import (
    BY_HAND,
    MASK,
    MODEL,
    D,
    S,
    as_jax,
    logits_of,
    make_batch,
    make_problem,
    perturb,
    slopes,
    symmetric_kl,
    terms,
)

from bertjax import smart

# Both terms


BOTH = smart.SmartSettings(weight=1.0, adversary=smart.PowerIteration(radius=0.3), bregman_weight=1.0)


@pytest.mark.parametrize("name", BY_HAND)
def test_terms_by_hand(name):
    params, anchor, x = make_problem(classes=2)
    divergence = BY_HAND[name]
    found = terms(params, anchor, x, BOTH, divergence=getattr(smart, name))
    clean = logits_of(x, params["w"])
    column = np.where(MASK[:, None], params["w"][:, 1] - params["w"][:, 0], 0)
    worst = 0.3 * np.linalg.norm(x[MASK]) * column / np.linalg.norm(column)
    either = [divergence(logits_of(x + sign * worst, params["w"]), clean) for sign in (1, -1)]
    np.testing.assert_allclose(found.logits, clean, rtol=1e-5)
    assert any(np.isclose(found.smoothness, value, rtol=1e-4) for value in either)
    np.testing.assert_allclose(found.bregman, divergence(clean, logits_of(x, anchor["w"])), rtol=1e-5)


@pytest.mark.parametrize("preset", ["bertjax", "bertjax_exact"])
def test_of_logits_of_half_width_the_terms_are_of_full_width(preset):
    params, anchor, x = make_problem()
    settings = smart.preset(preset, radius=0.3)
    half = MODEL._replace(logits=lambda *arguments: MODEL.logits(*arguments).astype(jnp.bfloat16))

    def found(params, model):
        one = terms(params, anchor, x, settings, model=model, loss_fn=lambda z, _: -jax.nn.log_softmax(z)[:, 0])
        return one.objective(settings), one

    (value, narrow), (expected, wide) = (found(as_jax(params), model) for model in (half, MODEL))
    chex.assert_type([narrow.logits, narrow.smoothness, narrow.bregman], [jnp.bfloat16, jnp.float32, jnp.float32])
    np.testing.assert_allclose(value, expected, rtol=0.05)
    narrow, wide = (jax.grad(found, has_aux=True)(as_jax(params), model)[0] for model in (half, MODEL))
    chex.assert_trees_all_close(narrow, wide, atol=0.1 * float(jnp.abs(wide["w"]).max()))


def test_gradients_by_finite_differences_of_the_hand_computed_terms():
    # δ and the anchor are constants; the clean branch of R_s is not.
    params, anchor, x = make_problem()
    smoothness, bregman = (
        np.asarray(jax.grad(lambda p, name=name: getattr(terms(p, anchor, x, BOTH), name))(as_jax(params))["w"])
        for name in ("smoothness", "bregman")
    )
    keys = jax.random.split(jax.random.key(0))
    delta = np.asarray(
        smart.power_iteration(
            lambda x: jnp.sum(x[:3], axis=0) @ jnp.asarray(params["w"], jnp.float32),
            jnp.asarray(x, jnp.float32),
            keys[1],
            divergence=smart.symmetric_kl,
            radius=0.3,
            mask=jnp.asarray(MASK),
        ),
        np.float64,
    )

    def hand(w):
        clean = logits_of(x, w)
        return np.array([symmetric_kl(logits_of(x + delta, w), clean), symmetric_kl(clean, logits_of(x, anchor["w"]))])

    expected = slopes(hand, params["w"])
    np.testing.assert_allclose(smoothness, expected[0], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(bregman, expected[1], rtol=1e-3, atol=1e-5)


def test_embeddings_have_parameters_too():
    # With embeddings e x: D sees the anchor's own e, and R_s moves e through both of its branches.
    model = MODEL._replace(embed=lambda params, batch: params["e"] * batch["x"])
    params, anchor, x = make_problem()
    w, anchor_w = params["w"], anchor["w"]
    keys = jax.random.split(jax.random.key(0))

    def found(e):
        return terms({"w": w, "e": e}, {"w": anchor_w, "e": 0.5}, x, BOTH, model=model)

    expected = symmetric_kl(logits_of(1.5 * x, w), logits_of(0.5 * x, anchor_w))
    np.testing.assert_allclose(found(jnp.float32(1.5)).bregman, expected, rtol=1e-5)

    delta = np.asarray(perturb(1.5 * x, w, radius=0.3, key=keys[1]), np.float64)
    up, down = (symmetric_kl(logits_of(e * x + delta, w), logits_of(e * x, w)) for e in (1.5 + 1e-6, 1.5 - 1e-6))
    slope = jax.grad(lambda e: found(e).smoothness)(jnp.float32(1.5))
    np.testing.assert_allclose(slope, (up - down) / 2e-6, rtol=1e-3)


def test_the_anchor_is_a_constant():
    params, anchor, x = make_problem()
    gradient = jax.grad(lambda a: terms(params, a, x, BOTH).bregman)(as_jax(anchor))
    chex.assert_trees_all_equal(gradient, jax.tree.map(jnp.zeros_like, gradient))


def test_terms_vanish_at_radius_zero_and_at_the_anchor():
    params, _, x = make_problem()
    at_zero = terms(
        params,
        params,
        x,
        smart.SmartSettings(weight=1.0, adversary=smart.PowerIteration(radius=0.0), bregman_weight=1.0),
    )
    assert float(at_zero.smoothness) == 0
    assert float(at_zero.bregman) == 0


def test_a_weight_of_zero_saves_the_passes():
    params, anchor, x = make_problem()
    calls = []
    counting = MODEL._replace(logits=lambda *a: calls.append(0) or MODEL.logits(*a))
    for settings, expected in [(smart.SmartSettings(), 1), (smart.SmartSettings(bregman_weight=1.0), 2)]:
        calls.clear()
        terms(params, anchor, x, settings, model=counting)
        assert len(calls) == expected


@pytest.mark.parametrize(
    "adversary",
    [smart.PowerIteration(), smart.ProjectedGradientAscent(step_size=0.1, noise=0.1, radius=0.02, norm="l2")],
    ids=["power", "ascent"],
)
@pytest.mark.parametrize("matched", [True, False])
def test_matched_dropout_shares_keys_and_unmatched_does_not(matched, adversary):
    params, anchor, _ = make_problem()
    seen = []

    def logits(params, x, batch, keys):
        jax.debug.callback(lambda data: seen.extend(map(tuple, np.asarray(data))), jax.random.key_data(keys))
        return MODEL.logits(params, x, batch, keys)

    batch, keys = make_batch(2)
    smart.smart_terms(
        MODEL._replace(logits=logits),
        as_jax(params),
        as_jax(anchor),
        batch,
        *keys,
        mask=batch["mask"],
        divergence=smart.symmetric_kl,
        settings=smart.SmartSettings(weight=1.0, bregman_weight=1.0, matched_dropout=matched, adversary=adversary),
    )
    jax.effects_barrier()
    if not matched:
        # The ascent climbs on the moved pass; the power iteration is of the clean one.
        clean = {tuple(np.asarray(data)) for data in jax.random.key_data(keys[0])}
        times = sum(key in clean for key in seen)
        assert times == 2 if isinstance(adversary, smart.ProjectedGradientAscent) else times > 2
    assert len(seen) >= 2 * 3  # the adversary's linearised pass belongs to the clean one
    assert len(set(seen)) == 2 * (1 if matched else 3)


def test_a_batch_is_its_examples_one_by_one():
    params, anchor, _ = make_problem()
    batch, keys = make_batch(3)
    options = {"divergence": smart.symmetric_kl, "settings": BOTH}

    def run(rows):
        part = jax.tree.map(lambda leaf: leaf[rows], batch)
        return smart.smart_terms(
            MODEL, as_jax(params), as_jax(anchor), part, *keys[:, rows], mask=part["mask"], **options
        )

    whole = run(slice(None))
    chex.assert_shape([whole.smoothness, whole.bregman], (3,))
    one_by_one = [run(slice(i, i + 1)) for i in range(3)]
    chex.assert_trees_all_close(whole, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *one_by_one), rtol=1e-5)


@pytest.mark.parametrize("settings", [BOTH, smart.preset("paper", radius=0.3, step_size=0.3, noise=0.1)])
def test_jitted_is_not_jitted_is_pmapped(settings):
    params, anchor, _ = make_problem()
    params, anchor = as_jax(params), as_jax(anchor)
    devices = jax.local_device_count()
    assert devices > 1
    batch, keys = make_batch(2 * devices)

    def run(batch, dropout_keys, noise_keys):
        options = {"mask": batch["mask"], "divergence": smart.symmetric_kl, "settings": settings}
        return smart.smart_terms(MODEL, params, anchor, batch, dropout_keys, noise_keys, **options)

    plain = run(batch, *keys)
    jitted = jax.jit(run)(batch, *keys)
    split = jax.tree.map(lambda x: x.reshape(devices, 2, *x.shape[1:]), (batch, *keys))
    pmapped = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), jax.pmap(run)(*split))
    assert float(plain.smoothness.min()) > 1e-3
    chex.assert_trees_all_close(plain, jitted, jax.device_get(pmapped), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", smart.PRESETS)
def test_every_preset_gives_finite_terms(name):
    params, anchor, x = make_problem()
    found = terms(params, anchor, x, smart.preset(name), loss_fn=squared_first)
    chex.assert_tree_all_finite(found)
    assert float(found.smoothness) >= 0


def squared_first(logits, batch):
    return jnp.square(logits[:, 0])


def test_the_loss_is_of_the_clean_pass():
    params, anchor, x = make_problem()
    assert terms(params, anchor, x, BOTH).loss is None
    found = terms(params, anchor, x, BOTH, loss_fn=squared_first)
    np.testing.assert_allclose(found.loss, logits_of(x, params["w"])[0] ** 2, rtol=1e-5)


def test_a_start_at_the_tasks_gradient_goes_along_it():
    # The gradient of z₀² in each real token is 2 z₀ w₀; with no steps δ is that, scaled to the sphere.
    params, anchor, x = make_problem()
    settings = smart.SmartSettings(
        weight=1.0, adversary=smart.PowerIteration(radius=0.3, start="task_gradient", num_steps=0)
    )
    found = terms(params, anchor, x, settings, loss_fn=squared_first)
    column = np.where(MASK[:, None], params["w"][:, 0], 0)
    worst = 0.3 * np.linalg.norm(x[MASK]) * column / np.linalg.norm(column)
    clean = logits_of(x, params["w"])
    either = [symmetric_kl(logits_of(x + sign * worst, params["w"]), clean) for sign in (1, -1)]
    assert any(np.isclose(found.smoothness, value, rtol=1e-4) for value in either)


def test_the_sign_along_the_tasks_gradient_is_drawn():
    # To second order R_s does not know it; of one sign alone, δ would always raise the loss, or always lower it.
    params, anchor, x = make_problem()
    settings = smart.SmartSettings(
        weight=1.0, adversary=smart.PowerIteration(radius=0.3, start="task_gradient", num_steps=0)
    )
    column = np.where(MASK[:, None], params["w"][:, 0], 0) * np.sign(logits_of(x, params["w"])[0])
    worst = 0.3 * np.linalg.norm(x[MASK]) * column / np.linalg.norm(column)
    clean = logits_of(x, params["w"])
    up, down = (symmetric_kl(logits_of(x + sign * worst, params["w"]), clean) for sign in (1, -1))
    found = [float(terms(params, anchor, x, settings, key=i, loss_fn=squared_first).smoothness) for i in range(12)]
    rises = sum(np.isclose(value, up, rtol=1e-4) for value in found)
    assert rises + sum(np.isclose(value, down, rtol=1e-4) for value in found) == 12
    assert 2 <= rises <= 10


def test_a_start_at_the_tasks_gradient_needs_a_loss():
    params, anchor, x = make_problem()
    with pytest.raises(ValueError, match="loss_fn .*'task_gradient'"):
        terms(params, anchor, x, smart.SmartSettings(weight=1.0, adversary=smart.PowerIteration(start="task_gradient")))


def test_the_bregman_term_needs_an_anchor():
    params, _, x = make_problem()
    with pytest.raises(ValueError, match="anchor must be given"):
        terms(params, None, x, BOTH)


def test_without_the_clean_gradient_the_clean_branch_is_a_target():
    params, anchor, x = make_problem()
    settings = smart.SmartSettings(weight=1.0, adversary=smart.PowerIteration(radius=0.3))
    delta = np.asarray(perturb(x, params["w"], radius=0.3, key=jax.random.split(jax.random.key(0))[1]), np.float64)
    clean = logits_of(x, params["w"])

    def found(p):
        return terms(p, anchor, x, dataclasses.replace(settings, clean_gradient=False)).smoothness

    expected = slopes(lambda w: symmetric_kl(logits_of(x + delta, w), clean), params["w"])
    value, gradient = jax.value_and_grad(found)(as_jax(params))
    np.testing.assert_allclose(gradient["w"], expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(value, terms(params, anchor, x, settings).smoothness, rtol=1e-6)


@pytest.mark.parametrize("shape", ["B", "BC", "BSC"])
def test_outputs_of_any_shape_have_the_gradient_of_their_loss_and_bregman_term(shape):
    # At radius 0, R_s and its gradient are 0. What is left is L + D, here without `smart_terms`.
    x, batch = jax.random.normal(jax.random.key(5), (3, S, D)), make_batch(3)[0]
    params, anchor, _ = make_problem()
    params, anchor = as_jax(params), as_jax(anchor)

    def logits(params, x, batch, key):
        tokens = jnp.tanh(x @ params["w"])
        return {"BSC": tokens, "BC": jnp.sum(tokens, axis=1), "B": jnp.sum(tokens, axis=(1, 2))}[shape]

    def loss_fn(z, batch):
        return jnp.sum(jnp.square(z - 1).reshape(3, -1), axis=1)

    def divergence(p, q):
        return jnp.sum(jnp.square(jnp.tanh(p) - jnp.tanh(q)).reshape(3, -1), axis=1)

    def objective(params):
        settings = smart.preset("bertjax", radius=0.0)
        model = smart.SplitModel(lambda params, batch: x, logits)
        found = smart.smart_terms(
            model,
            params,
            anchor,
            batch,
            None,
            jax.random.key(0),
            divergence=divergence,
            settings=settings,
            loss_fn=loss_fn,
        )
        return jnp.mean(found.objective(settings))

    def by_hand(params):
        z, other = (logits(p, x, batch, None) for p in (params, anchor))
        return jnp.mean(loss_fn(z, batch) + divergence(z, other))

    found, expected = (jax.value_and_grad(f)(params) for f in (objective, by_hand))
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)


# The anchor


def test_the_anchor_is_a_copy():
    params = {"w": jnp.arange(4.0)}
    anchor = smart.init_anchor(params)
    chex.assert_trees_all_equal(anchor, params)
    assert anchor["w"].unsafe_buffer_pointer() != params["w"].unsafe_buffer_pointer()


def test_parameters_that_are_plain_numbers_have_an_anchor_too():
    params = {"w": jnp.ones(2), "b": 0.5}
    anchor = smart.update_anchor(smart.init_anchor(params), {"w": jnp.ones(2), "b": 1.5}, 0.75)
    chex.assert_trees_all_close(anchor, {"w": np.ones(2, np.float32), "b": np.float32(0.75)})


def test_what_is_no_float_is_the_parameters_own():
    params = {"w": jnp.ones(2), "count": jnp.int32(3), "flag": jnp.array(True), "key": jax.random.key(0)}
    later = {"w": 3 * jnp.ones(2), "count": jnp.int32(5), "flag": jnp.array(False), "key": jax.random.key(1)}
    moved = smart.update_anchor(smart.init_anchor(params), later, 0.5)
    assert (float(moved["w"][0]), int(moved["count"]), bool(moved["flag"])) == (2.0, 5, False)
    chex.assert_trees_all_equal(jax.random.key_data(moved["key"]), jax.random.key_data(later["key"]))


@pytest.mark.parametrize("decay", [99, -0.1, float("nan"), lambda step: 0.9])
def test_a_decay_is_a_number_up_to_one(decay):
    with pytest.raises(ValueError, match=r"decay must be a number in \[0, 1\], found"):
        smart.update_anchor({"w": jnp.ones(2)}, {"w": jnp.ones(2)}, decay)


def test_an_anchor_of_what_is_no_array_is_refused():
    with pytest.raises(ValueError, match=r"params must be arrays, found a function: .*eqx.is_inexact_array"):
        smart.init_anchor({"w": jnp.ones(2), "act": lambda x: x})


def test_the_anchor_moves_by_one_minus_decay():
    moved = smart.update_anchor({"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([3.0, -2.0])}, 0.75)
    chex.assert_trees_all_close(moved, {"w": np.float32([1.5, 1.0])})


def test_an_anchor_of_half_precision_parameters_moves():
    # In bfloat16 1 − 0.999 is 0, and near 1 a step is 1/256.
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    start = smart.init_anchor({"w": jnp.zeros(3, jnp.bfloat16)})
    moved = jax.lax.fori_loop(0, 2000, lambda _, anchor: smart.update_anchor(anchor, params, 0.999), start)
    chex.assert_trees_all_close(moved, {"w": np.full(3, 1 - 0.999**2000, np.float32)}, rtol=1e-4)
    tx = smart.add_bregman_proximal(weight=1.0, decay=0.999)

    def divergence_fn(params, anchor):
        assert anchor["w"].dtype == jnp.bfloat16
        return jnp.sum(jnp.square(params["w"] - anchor["w"]))

    updates, state = tx.update(params, tx.init(params), params, divergence_fn=divergence_fn)
    assert updates["w"].dtype == jnp.bfloat16
    assert smart.get_anchor(state)["w"].dtype == jnp.float32


def test_an_anchor_at_the_parameters_stays_there_to_the_last_bit():
    params = {"w": jax.random.normal(jax.random.key(0), (10_000,))}
    chex.assert_trees_all_equal(smart.update_anchor(params, params, 0.999), params)
