"""SMART against closed forms on a softmax-linear model: logits = Σ over real tokens of x_s W."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import smart

S, D, C = 4, 3, 3
MASK = np.array([True, True, True, False])
MODEL = smart.Model(
    embed=lambda params, example: example["x"],
    logits=lambda params, x, example, key: jnp.sum(jnp.where(example["mask"][:, None], x, 0), axis=0) @ params["w"],
)


def make_problem(classes=C):
    rng = np.random.default_rng(0)
    return {"w": rng.normal(size=(D, classes))}, {"w": rng.normal(size=(D, classes))}, rng.normal(size=(S, D))


def as_jax(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def symmetric_kl(z, reference):
    p, q = softmax(z), softmax(reference)
    return float(((p - q) * (np.log(p) - np.log(q))).sum())


def logits_of(x, w):
    return x[MASK].sum(0) @ w


def terms(params, anchor, x, settings, key=0):
    example = {"x": jnp.asarray(x, jnp.float32), "mask": jnp.asarray(MASK)}
    keys = jax.random.split(jax.random.key(key))
    return smart.smart_terms(
        MODEL,
        as_jax(params),
        as_jax(anchor),
        example,
        *keys,
        mask=example["mask"],
        divergence=smart.symmetric_kl,
        settings=settings,
    )


def perturb(x, w, key=0, adversary=smart.power_iteration, mask=MASK, sees=MASK, **options):
    x, w = jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32)

    def logits_fn(x):
        return jnp.sum(jnp.where(jnp.asarray(sees)[:, None], x, 0), axis=0) @ w

    mask = None if mask is None else jnp.asarray(mask)
    key = jax.random.key(key) if isinstance(key, int) else key
    return adversary(logits_fn, x, key, divergence=smart.symmetric_kl, mask=mask, **options)


# Divergences


def test_symmetric_kl_by_hand():
    # p = (3/4, 1/4), q = (1/2, 1/2): Σ (p − q)(log p − log q) = (log 3/2 + log 2) / 4 = log 3 / 4.
    value = smart.symmetric_kl.value(jnp.log(jnp.array([3.0, 1.0])), jnp.zeros(2))
    chex.assert_trees_all_close(value, np.float32(np.log(3) / 4), rtol=1e-6)


def test_symmetric_kl_hessian_by_hand():
    # 2 (diag p − p pᵀ) (1, 0) with p = (3/4, 1/4) is 2 · 3/16 · (1, −1).
    product = smart.symmetric_kl.hvp(jnp.log(jnp.array([3.0, 1.0])), jnp.array([1.0, 0.0]))
    chex.assert_trees_all_close(product, np.float32([0.375, -0.375]), rtol=1e-6)


def test_squared_error_by_hand():
    value = smart.squared_error.value(jnp.array([[3.0], [1.0]]), jnp.array([[1.0], [1.0]]))
    chex.assert_trees_all_close(value, np.float32([4.0, 0.0]))
    chex.assert_trees_all_close(smart.squared_error.hvp(jnp.zeros(1), jnp.array([3.0])), np.float32([6.0]))


@pytest.mark.parametrize("divergence", [smart.symmetric_kl, smart.squared_error])
def test_hvp_is_the_derivative_of_the_gradient(divergence):
    z, v = jax.random.normal(jax.random.key(1), (2, 5))
    _, expected = jax.jvp(jax.grad(lambda a: divergence.value(a, z)), (z,), (v,))
    chex.assert_trees_all_close(divergence.hvp(z, v), expected, atol=1e-6)


@pytest.mark.parametrize("divergence", [smart.symmetric_kl, smart.squared_error])
def test_divergence_and_its_gradient_vanish_where_outputs_agree(divergence):
    z = jax.random.normal(jax.random.key(1), (5,)) * 10
    value, gradient = jax.value_and_grad(divergence.value)(z, z)
    chex.assert_trees_all_close((value, gradient), (np.float32(0), np.zeros(5, np.float32)), atol=1e-7)


def test_symmetric_kl_of_extreme_logits_is_finite_with_its_gradient():
    far = jnp.array([500.0, -500.0])
    value, gradient = jax.value_and_grad(smart.symmetric_kl.value)(far, -far)
    chex.assert_trees_all_close(value, np.float32(2000), rtol=1e-6)
    assert np.isfinite(gradient).all()


def test_symmetric_kl_is_never_below_zero():
    z = jax.random.normal(jax.random.key(2), (2000, 5))
    nearby = z + 1e-4 * jax.random.normal(jax.random.key(3), z.shape)
    assert float(smart.symmetric_kl.value(nearby, z).min()) >= 0


@pytest.mark.parametrize("function", ["value", "hvp"])
def test_symmetric_kl_refuses_a_single_logit(function):
    with pytest.raises(ValueError, match=r"found one.*squared_error"):
        getattr(smart.symmetric_kl, function)(jnp.zeros((4, 1)), jnp.zeros((4, 1)))


# Both adversaries


ADVERSARIES = pytest.mark.parametrize(
    "options",
    [
        {"radius": 0.1},
        {"radius": 0.1, "norm": "linf"},
        {"adversary": smart.projected_gradient_ascent, "radius": 0.1, "step_size": 0.2, "noise": 0.1},
    ],
    ids=["l2", "linf", "ascent"],
)


@ADVERSARIES
def test_padding_stays_even_where_the_model_sees_it(options):
    params, _, x = make_problem()
    delta = np.asarray(perturb(x, params["w"], sees=np.ones(S, bool), **options))
    assert (delta[~MASK] == 0).all()
    assert (delta[MASK] != 0).all()


@ADVERSARIES
def test_the_perturbation_is_a_constant_to_outer_gradients(options):
    params, _, x = make_problem()
    params, x = as_jax(params), jnp.asarray(x, jnp.float32)
    gradients = jax.grad(lambda w, x: jnp.sum(perturb(x, w, **options)), argnums=(0, 1))(params["w"], x)
    chex.assert_trees_all_equal(gradients, jax.tree.map(jnp.zeros_like, gradients))


# Power iteration


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_two_classes_give_the_exact_maximiser_in_one_step(norm):
    # With two classes Jᵀ H J has rank one, and every real token's direction is ±(w₁ − w₀).
    params, _, x = make_problem(classes=2)
    delta = np.asarray(perturb(x, params["w"], radius=0.1, norm=norm))
    column = np.where(MASK[:, None], params["w"][:, 1] - params["w"][:, 0], 0)
    if norm == "l2":
        expected = 0.1 * np.linalg.norm(x[MASK]) * column / np.linalg.norm(column)
    else:
        expected = 0.1 * np.sqrt(np.mean(x[MASK] ** 2)) * np.sign(column)
    sign = np.sign((delta * expected).sum())
    np.testing.assert_allclose(delta, sign * expected, rtol=1e-5, atol=1e-7)


def test_many_steps_find_the_top_eigenvector():
    params, _, x = make_problem()
    delta = np.asarray(perturb(x, params["w"], radius=0.1, num_steps=40))
    p = softmax(logits_of(x, params["w"]))
    hessian = 2 * (np.diag(p) - np.outer(p, p))
    jacobian = np.concatenate([params["w"] * m for m in MASK])  # [S·D, C]
    _, vectors = np.linalg.eigh(jacobian @ hessian @ jacobian.T)
    cosine = abs(delta.ravel() @ vectors[:, -1]) / np.linalg.norm(delta)
    np.testing.assert_allclose(cosine, 1, atol=1e-5)


def test_the_quotient_never_falls_with_steps():
    params, _, x = make_problem()
    p = softmax(logits_of(x, params["w"]))
    hessian = 2 * (np.diag(p) - np.outer(p, p))
    growth = []
    for steps in range(1, 6):
        moved = np.asarray(perturb(x, params["w"], radius=0.1, num_steps=steps))[MASK].sum(0) @ params["w"]
        growth.append(moved @ hessian @ moved)
    assert (np.diff(growth) >= -1e-6).all()
    assert growth[-1] > growth[0]


def test_absolute_radius_is_the_norm_itself():
    params, _, x = make_problem()
    delta = perturb(x, params["w"], radius=0.25, relative=False)
    np.testing.assert_allclose(np.linalg.norm(delta), 0.25, rtol=1e-6)


def test_padding_is_not_perturbed_and_counts_in_no_norm():
    params, _, x = make_problem()
    other = np.where(MASK[:, None], x, 1e3)
    for norm in ("l2", "linf"):
        delta = perturb(x, params["w"], radius=0.1, norm=norm)
        assert (np.asarray(delta)[~MASK] == 0).all()
        assert (np.asarray(delta)[MASK] != 0).all()
        chex.assert_trees_all_equal(delta, perturb(other, params["w"], radius=0.1, norm=norm))


def test_no_mask_means_every_token_is_real():
    params, _, x = make_problem()
    delta = perturb(x, params["w"], radius=0.1, mask=None)
    np.testing.assert_allclose(np.linalg.norm(delta), 0.1 * np.linalg.norm(x), rtol=1e-6)


def test_a_constant_output_leaves_the_starting_noise():
    _, _, x = make_problem()
    delta = np.asarray(perturb(x, np.zeros((D, C)), radius=0.1))
    noise = np.asarray(jax.random.normal(jax.random.key(0), (S, D))) * MASK[:, None]
    np.testing.assert_allclose(delta, 0.1 * np.linalg.norm(x[MASK]) * noise / np.linalg.norm(noise), rtol=1e-5)


def test_tiny_gradients_do_not_underflow():
    params, _, x = make_problem(classes=2)
    chex.assert_trees_all_close(
        perturb(x, params["w"] * 1e-12, radius=0.1), perturb(x, params["w"], radius=0.1), rtol=1e-4
    )


def test_bfloat16_embeddings_give_the_same_direction_in_float32():
    params, _, x = make_problem(classes=2)
    w = jnp.asarray(params["w"], jnp.bfloat16)
    delta = smart.power_iteration(
        lambda x: (jnp.sum(x, axis=0) @ w).astype(jnp.float32),
        jnp.asarray(x, jnp.bfloat16),
        jax.random.key(0),
        divergence=smart.symmetric_kl,
        radius=0.1,
    )
    assert delta.dtype == jnp.float32
    column = np.tile(params["w"][:, 1] - params["w"][:, 0], (S, 1))
    cosine = abs((np.asarray(delta) * column).sum()) / np.linalg.norm(delta) / np.linalg.norm(column)
    assert cosine > 0.999


@pytest.mark.parametrize(("options", "message"), [({"num_steps": 0}, "num_steps"), ({"norm": "l1"}, "norm")])
def test_power_iteration_refuses(options, message):
    params, _, x = make_problem()
    with pytest.raises(ValueError, match=message):
        perturb(x, params["w"], radius=0.1, **options)


# Projected gradient ascent


def test_ascent_is_algorithm_1():
    params, _, x = make_problem()
    radius, step_size, noise = 0.3, 0.2, 0.1
    delta = perturb(
        x,
        params["w"],
        adversary=smart.projected_gradient_ascent,
        radius=radius,
        step_size=step_size,
        noise=noise,
        num_steps=2,
    )
    expected = noise * np.asarray(jax.random.normal(jax.random.key(0), (S, D)), np.float64) * MASK[:, None]
    clean = logits_of(x, params["w"])
    for _ in range(2):
        gradient = np.zeros((S, D))
        for at in np.ndindex(S, D):
            nudge = np.zeros((S, D))
            nudge[at] = 1e-6
            up, down = (symmetric_kl(logits_of(x + expected + n, params["w"]), clean) for n in (nudge, -nudge))
            gradient[at] = (up - down) / 2e-6
        expected = np.clip(expected + step_size * gradient / abs(gradient).max(), -radius, radius)
    np.testing.assert_allclose(delta, expected, atol=1e-4)
    assert (np.asarray(delta)[~MASK] == 0).all()


def test_ascent_refuses_no_steps():
    params, _, x = make_problem()
    options = {"radius": 0.1, "step_size": 0.1, "noise": 0.1}
    with pytest.raises(ValueError, match="num_steps"):
        perturb(x, params["w"], adversary=smart.projected_gradient_ascent, num_steps=0, **options)


# Both terms


BOTH = smart.SmartSettings(weight=1.0, radius=0.3, bregman_weight=1.0)


def test_terms_by_hand():
    params, anchor, x = make_problem(classes=2)
    found = terms(params, anchor, x, BOTH)
    clean = logits_of(x, params["w"])
    column = np.where(MASK[:, None], params["w"][:, 1] - params["w"][:, 0], 0)
    worst = 0.3 * np.linalg.norm(x[MASK]) * column / np.linalg.norm(column)
    either = [symmetric_kl(logits_of(x + sign * worst, params["w"]), clean) for sign in (1, -1)]
    np.testing.assert_allclose(found.logits, clean, rtol=1e-5)
    assert any(np.isclose(found.smoothness, value, rtol=1e-4) for value in either)
    np.testing.assert_allclose(found.bregman, symmetric_kl(clean, logits_of(x, anchor["w"])), rtol=1e-5)


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

    expected = np.zeros((2, D, C))
    for at in np.ndindex(D, C):
        nudge = np.zeros((D, C))
        nudge[at] = 1e-6
        expected[(slice(None), *at)] = (hand(params["w"] + nudge) - hand(params["w"] - nudge)) / 2e-6
    np.testing.assert_allclose(smoothness, expected[0], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(bregman, expected[1], rtol=1e-3, atol=1e-5)


def test_embeddings_have_parameters_too():
    # With embeddings e x: D sees the anchor's own e, and R_s moves e through both of its branches.
    model = MODEL._replace(embed=lambda params, example: params["e"] * example["x"])
    params, anchor, x = make_problem()
    w, anchor_w = params["w"], anchor["w"]
    example = {"x": jnp.asarray(x, jnp.float32), "mask": jnp.asarray(MASK)}
    keys = jax.random.split(jax.random.key(0))

    def found(e):
        return smart.smart_terms(
            model,
            {"w": jnp.asarray(w, jnp.float32), "e": e},
            {"w": jnp.asarray(anchor_w, jnp.float32), "e": jnp.float32(0.5)},
            example,
            *keys,
            mask=example["mask"],
            divergence=smart.symmetric_kl,
            settings=BOTH,
        )

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
    at_zero = terms(params, params, x, smart.SmartSettings(weight=1.0, radius=0.0, bregman_weight=1.0))
    assert float(at_zero.smoothness) == 0
    assert float(at_zero.bregman) == 0


def test_a_weight_of_zero_saves_the_passes():
    params, anchor, x = make_problem()
    calls = []
    counting = MODEL._replace(logits=lambda *a: calls.append(0) or MODEL.logits(*a))
    example = {"x": jnp.asarray(x, jnp.float32), "mask": jnp.asarray(MASK)}
    keys = jax.random.split(jax.random.key(0))
    for settings, expected in [(smart.SmartSettings(), 1), (smart.SmartSettings(bregman_weight=1.0), 2)]:
        calls.clear()
        smart.smart_terms(
            counting,
            as_jax(params),
            as_jax(anchor),
            example,
            *keys,
            mask=example["mask"],
            divergence=smart.symmetric_kl,
            settings=settings,
        )
        assert len(calls) == expected


@pytest.mark.parametrize("matched", [True, False])
def test_matched_dropout_shares_keys_and_unmatched_does_not(matched):
    params, anchor, x = make_problem()
    seen = []

    def logits(params, x, example, key):
        if not isinstance(x, jax.core.Tracer):  # the adversary's linearised pass belongs to the clean one
            seen.append(tuple(np.asarray(jax.random.key_data(key))))
        return MODEL.logits(params, x, example, key)

    example = {"x": jnp.asarray(x, jnp.float32), "mask": jnp.asarray(MASK)}
    smart.smart_terms(
        MODEL._replace(logits=logits),
        as_jax(params),
        as_jax(anchor),
        example,
        *jax.random.split(jax.random.key(0)),
        mask=example["mask"],
        divergence=smart.symmetric_kl,
        settings=smart.SmartSettings(weight=1.0, bregman_weight=1.0, matched_dropout=matched),
    )
    assert len(seen) == 3
    assert len(set(seen)) == (1 if matched else 3)


@pytest.mark.parametrize("settings", [BOTH, smart.preset("paper", radius=0.3, step_size=0.3, noise=0.1)])
def test_jitted_is_not_jitted_is_pmapped(settings):
    params, anchor, _ = make_problem()
    params, anchor = as_jax(params), as_jax(anchor)
    devices = jax.local_device_count()
    assert devices > 1
    batch = {
        "x": jax.random.normal(jax.random.key(5), (2 * devices, S, D)),
        "mask": jnp.tile(jnp.asarray(MASK), (2 * devices, 1)),
    }
    keys = jax.random.split(jax.random.key(6), (2, 2 * devices))

    def one(example, dropout_key, noise_key):
        run = partial(smart.smart_terms, divergence=smart.symmetric_kl, settings=settings)
        return run(MODEL, params, anchor, example, dropout_key, noise_key, mask=example["mask"])

    plain = jax.vmap(one)(batch, *keys)
    jitted = jax.jit(jax.vmap(one))(batch, *keys)
    split = jax.tree.map(lambda x: x.reshape(devices, 2, *x.shape[1:]), (batch, *keys))
    pmapped = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), jax.pmap(jax.vmap(one))(*split))
    assert float(plain.smoothness.min()) > 1e-3
    chex.assert_trees_all_close(plain, jitted, jax.device_get(pmapped), rtol=1e-4, atol=1e-6)


# The anchor


def test_the_anchor_is_a_copy():
    params = {"w": jnp.arange(4.0)}
    anchor = smart.init_anchor(params)
    chex.assert_trees_all_equal(anchor, params)
    assert anchor["w"].unsafe_buffer_pointer() != params["w"].unsafe_buffer_pointer()


def test_the_anchor_moves_by_one_minus_decay():
    moved = smart.update_anchor({"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([3.0, -2.0])}, 0.75)
    chex.assert_trees_all_close(moved, {"w": np.float32([1.5, 1.0])})


def test_an_anchor_at_the_parameters_stays_there_to_the_last_bit():
    params = {"w": jax.random.normal(jax.random.key(0), (10_000,))}
    chex.assert_trees_all_equal(smart.update_anchor(params, params, 0.999), params)


def test_the_decay_changes_after_a_tenth_of_the_updates():
    settings = smart.SmartSettings(decay=(0.9, 0.99))
    found = [float(smart.anchor_decay(settings, jnp.int32(step), 50)) for step in (0, 4, 5, 49)]
    np.testing.assert_allclose(found, [0.9, 0.9, 0.99, 0.99])


# Settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": -1.0}, "weight must be .*at least 0, found -1.0"),
        ({"radius": -0.1}, "radius must be .*at least 0, found -0.1"),
        ({"radius": float("nan")}, "radius"),
        ({"bregman_weight": float("inf")}, "bregman_weight"),
        ({"norm": "l1"}, "norm must be l2 or linf"),
        ({"num_steps": 0}, "num_steps must be at least 1"),
        ({"decay": (0.9,)}, "decay must be two numbers"),
        ({"decay": (0.9, 1.5)}, "decay must be two numbers"),
        ({"adversary": "guess"}, "adversary must be one of"),
    ],
)
def test_settings_refuse(changes, message):
    with pytest.raises(ValueError, match=message):
        smart.preset("bertjax", **changes)


def test_the_paper_preset_is_the_papers():
    paper = smart.preset("paper")
    assert (paper.radius, paper.noise, paper.step_size, paper.num_steps) == (1e-5, 1e-5, 1e-3, 1)
    assert (paper.norm, paper.bregman_weight, paper.decay) == ("linf", 1.0, (0.99, 0.999))
    with pytest.raises(ValueError, match="norm must be linf"):
        smart.preset("paper", norm="l2")
    with pytest.raises(ValueError, match="preset must be one of none, bertjax, paper, found 'ours'"):
        smart.preset("ours")
