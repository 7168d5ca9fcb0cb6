"""SMART's perturbations against closed forms of a linear model."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_model import BY_HAND, MASK, C, D, S, as_jax, logits_of, make_problem, perturb, slopes, softmax, symmetric_kl

from bertjax import smart
from bertjax.smart import norms

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


def test_so_is_the_random_one_where_its_radius_follows_from_the_embeddings():
    def moved(x):
        radius = 0.1 * jnp.sqrt(jnp.mean(jnp.square(x)))
        return jnp.sum(smart.random_perturbation(x, jax.random.key(0), radius=radius))

    assert not jax.grad(moved)(jnp.ones((S, D))).any()


# Power iteration


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("options", [{}, {"start": "output", "num_steps": 0}], ids=["one step", "output"])
def test_two_classes_give_the_exact_maximiser(norm, options):
    # With two classes Jᵀ H J has rank one, and every real token's direction is ±(w₁ − w₀).
    params, _, x = make_problem(classes=2)
    delta = np.asarray(perturb(x, params["w"], radius=0.1, norm=norm, **options))
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


def test_a_start_in_output_space_with_the_kernel_is_the_top_eigenvector():
    # The head is all there is, so Wᵀ W is J Jᵀ up to a factor.
    params, _, x = make_problem()
    kernel = jnp.asarray(params["w"], jnp.float32)
    direct = np.asarray(perturb(x, params["w"], radius=0.1, start="output", num_steps=0, kernel=kernel))
    iterated = np.asarray(perturb(x, params["w"], radius=0.1, num_steps=40))
    sign = np.sign((direct * iterated).sum())
    np.testing.assert_allclose(direct, sign * iterated, atol=1e-2 * abs(iterated).max())


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_no_steps_scale_a_given_start_to_the_sphere(norm):
    params, _, x = make_problem()
    start = np.random.default_rng(1).normal(size=(S, D))
    found = perturb(x, params["w"], radius=0.25, relative=False, norm=norm, num_steps=0, start=jnp.float32(start))
    start = start * MASK[:, None]
    expected = start / np.linalg.norm(start) if norm == "l2" else np.sign(start)
    np.testing.assert_allclose(found, 0.25 * expected, rtol=1e-5)


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": -1}, "num_steps must be at least 0, found -1"),
        ({"norm": "l1"}, "norm must be one of l2, linf"),
        ({"start": "zero"}, "start must be one of noise, output or an array, found 'zero'"),
        ({"start": jnp.zeros((S, D + 1))}, "start must have the embeddings' shape"),
    ],
)
def test_power_iteration_refuses(options, message):
    params, _, x = make_problem()
    with pytest.raises(ValueError, match=message):
        perturb(x, params["w"], radius=0.1, **options)


# Projected gradient ascent


def starting_noise(size):
    return size * np.asarray(jax.random.normal(jax.random.key(0), (S, D)), np.float64) * MASK[:, None]


@pytest.mark.parametrize("name", BY_HAND)
def test_ascent_is_algorithm_1(name):
    params, _, x = make_problem()
    radius, step_size, noise = 0.3, 0.2, 0.1
    delta = perturb(
        x,
        params["w"],
        adversary=smart.projected_gradient_ascent,
        divergence=getattr(smart, name),
        radius=radius,
        step_size=step_size,
        noise=noise,
        num_steps=2,
    )
    expected, clean = starting_noise(noise), logits_of(x, params["w"])
    for _ in range(2):
        gradient = slopes(lambda delta: BY_HAND[name](logits_of(x + delta, params["w"]), clean), expected)
        expected = np.clip(expected + step_size * gradient / abs(gradient).max(), -radius, radius)
    np.testing.assert_allclose(delta, expected, atol=1e-4)
    assert (np.asarray(delta)[~MASK] == 0).all()


def test_the_raw_gradient_blown_up_token_by_token_is_mtdnn_heads():
    params, _, x = make_problem()
    options = {"per": "token", "projection": "sphere", "normalize_gradient": False}
    delta = perturb(
        x, params["w"], adversary=smart.projected_gradient_ascent, radius=1.0, step_size=1e-2, noise=0.1, **options
    )
    expected, clean = starting_noise(0.1), logits_of(x, params["w"])
    gradient = slopes(lambda delta: symmetric_kl(logits_of(x + delta, params["w"]), clean), expected)
    expected = (expected + 1e-2 * gradient)[MASK]
    expected /= abs(expected).max(axis=1, keepdims=True)
    np.testing.assert_allclose(np.asarray(delta)[MASK], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, "num_steps must be at least 1, found 0"),
        ({"norm": "l1"}, "norm must be one of"),
        ({"per": "batch"}, "per must be one of"),
        ({"projection": "cube"}, "projection must be one of"),
    ],
)
def test_ascent_refuses(changes, message):
    params, _, x = make_problem()
    options = {"radius": 0.1, "step_size": 0.1, "noise": 0.1} | changes
    with pytest.raises(ValueError, match=message):
        perturb(x, params["w"], adversary=smart.projected_gradient_ascent, **options)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("per", ["example", "token"])
@pytest.mark.parametrize("projection", ["ball", "sphere"])
def test_ascent_ends_in_the_ball_or_on_the_sphere(norm, per, projection):
    params, _, x = make_problem()
    options = {"radius": 0.1, "noise": 1e-3, "norm": norm, "per": per, "projection": projection}
    for step_size in (0.05, 0.5):
        delta = perturb(x, params["w"], adversary=smart.projected_gradient_ascent, step_size=step_size, **options)
        delta = np.asarray(delta)[MASK]
        rows = delta if per == "token" else delta.reshape(1, -1)
        sizes = np.linalg.norm(rows, axis=1) if norm == "l2" else abs(rows).max(axis=1)
        if projection == "sphere" or step_size > 0.1:
            np.testing.assert_allclose(sizes, 0.1, rtol=1e-5)
        else:
            np.testing.assert_allclose(sizes, 0.05, atol=6e-3)  # the step, and what is left of the noise


@pytest.mark.parametrize(("per", "sizes"), [("example", 13.0), ("token", [[5.0], [12.0]])])
def test_the_nearest_point_of_an_l2_ball_is_along_the_ray(per, sizes):
    x = np.float32([[3, 4], [0, 12]])
    found = norms.project(jnp.asarray(x), jnp.float32(1.0), "l2", per)
    np.testing.assert_allclose(found, x / np.float32(sizes), rtol=1e-6)
    np.testing.assert_allclose(norms.project(jnp.asarray(x), jnp.float32(14.0), "l2", per), x)


# Random perturbation


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_noise_has_the_size_asked_for(distribution):
    mask = jnp.arange(2000) < 1500
    delta = np.asarray(
        smart.random_perturbation(
            jnp.zeros((2000, 8)), jax.random.key(0), radius=0.5, distribution=distribution, mask=mask
        )
    )
    assert (delta[1500:] == 0).all()
    np.testing.assert_allclose(delta[:1500].std(), 0.5 if distribution == "normal" else 0.5 / np.sqrt(3), rtol=0.02)
    assert distribution == "normal" or abs(delta).max() <= 0.5


def test_noise_refuses_another_distribution():
    with pytest.raises(ValueError, match="distribution must be normal or uniform, found 'cauchy'"):
        smart.random_perturbation(jnp.zeros((S, D)), jax.random.key(0), radius=0.1, distribution="cauchy")


# Robustness


def one_sided(classes):
    """Two sentences whose logits are ±1e4."""
    signs = np.where(np.random.default_rng(0).random(classes) < 0.5, -1, 1)
    return np.full((2, S, D), 1 / (S * D)), np.tile(1e4 * signs, (D, 1))


RANDOM = np.random.default_rng(0).normal(size=(2, S, D))
HEAD = np.random.default_rng(1).normal(size=(D, C))
HARD = {
    "extreme logits": one_sided(1000),
    "one token": (RANDOM[:, :1], HEAD),
    "identical rows": (np.tile(RANDOM[:1], (2, 1, 1)), HEAD),
    "identical tokens": (np.ones((2, S, D)), HEAD),
    "a constant model": (RANDOM, np.zeros((D, C))),
}
SEEKERS = {
    f"{start} {norm} {steps}": partial(smart.power_iteration, start=start, norm=norm, num_steps=steps, radius=0.1)
    for start in ("noise", "output")
    for norm in ("l2", "linf")
    for steps in (0, 1)
} | {
    f"ascent {norm}": partial(smart.projected_gradient_ascent, norm=norm, radius=0.1, step_size=0.1, noise=0.01)
    for norm in ("l2", "linf")
}


@partial(jax.jit, static_argnums=2)
def everything(x, w, divergence):
    """Each adversary's δ, and how far its output moves, with the gradients in x and w."""
    keys = jax.random.split(jax.random.key(0), len(x))

    def logits_fn(x, w=w):
        return jnp.sum(x, axis=0) @ w

    deltas = {
        name: jax.vmap(lambda x, key, seek=seek: seek(logits_fn, x, key, divergence=divergence))(x, keys)
        for name, seek in SEEKERS.items()
    }
    deltas["random"] = jax.vmap(partial(smart.random_perturbation, radius=0.1))(x, keys)

    def growth(x, w, delta):
        values = jax.vmap(lambda x, d: divergence.value(logits_fn(x + d, w)[None], logits_fn(x, w)[None])[0])(x, delta)
        return jnp.sum(values), values

    run = jax.value_and_grad(growth, argnums=(0, 1), has_aux=True)
    return deltas, {name: run(x, w, delta) for name, delta in deltas.items()}


@pytest.mark.parametrize("case", HARD)
@pytest.mark.parametrize(
    "divergence", ["symmetric_kl", "kl", "jensen_shannon", "squared_error", "symmetric_bernoulli_kl"]
)
def test_hard_cases_stay_finite(case, divergence):
    deltas, growths = everything(*as_jax(HARD[case]), getattr(smart, divergence))
    chex.assert_tree_all_finite((deltas, growths))
    for name, delta in deltas.items():
        assert float(jnp.abs(delta).max()) < 1, name
