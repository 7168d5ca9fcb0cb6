"""The power iteration in float64 against dense eigenvectors and the maxima that are known in closed form."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import smart

S, D, C = 4, 3, 5
MASK = np.array([True, True, True, False])
x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64


def make_problem(classes, seed=0):
    """x [S, D], and a weight [S, D, C] for every token: logits = Σ_s x_s W_s over real tokens."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(S, D)), rng.normal(size=(S, D, classes)) * MASK[:, None, None]


def perturb(x, w, divergence, *, seed=0, jit=False, **options):
    with x64(True):
        logits_fn = lambda x: jnp.einsum("sd,sdc->c", x, jnp.asarray(w))  # noqa: E731
        run = lambda x: smart.power_iteration(  # noqa: E731
            logits_fn,
            x,
            jax.random.key(seed),
            divergence=divergence,
            mask=jnp.asarray(MASK),
            **{"radius": 0.3, "relative": False} | options,
        )
        delta = (jax.jit(run) if jit else run)(jnp.asarray(x))
        assert delta.dtype == jnp.float64
        return np.asarray(delta)


def curvature(x, w):
    """Jᵀ H J [S·D, S·D] of symmetric KL, and H by its definition."""
    z = np.einsum("sd,sdc->c", x, w)
    p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    jacobian = w.reshape(-1, w.shape[-1])
    return jacobian @ (2 * (np.diag(p) - np.outer(p, p))) @ jacobian.T


def cosine(a, b):
    return abs((a.ravel() @ b.ravel()) / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("start", ["noise", "output"])
@pytest.mark.parametrize("jit", [False, True])
def test_it_converges_to_the_dense_eigenvector(start, jit):
    x, w = make_problem(C)
    _, vectors = np.linalg.eigh(curvature(x, w))
    found = perturb(x, w, smart.symmetric_kl, start=start, num_steps=80, jit=jit)
    assert cosine(found, vectors[:, -1]) > 0.9999
    np.testing.assert_allclose(np.linalg.norm(found), 0.3, rtol=1e-12)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("seed", range(5))
def test_the_quotient_never_falls(norm, seed):
    x, w = make_problem(C, seed)
    matrix = curvature(x, w)
    found = [perturb(x, w, smart.symmetric_kl, seed=seed, norm=norm, num_steps=steps).ravel() for steps in range(8)]
    growth = np.array([d @ matrix @ d for d in found])
    assert (np.diff(growth) >= -1e-12 * growth[:-1]).all()
    assert growth[-1] > 1.01 * growth[0]


@pytest.mark.parametrize("start", ["noise", "output"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_linear_regression_reaches_the_known_maximum(norm, start):
    # max (wᵀδ)² is ε² ‖w‖₂² over the ℓ2 ball and ε² ‖w‖₁² over the ℓ∞ ball.
    x, w = make_problem(1)
    steps = 0 if start == "output" else 1
    delta = perturb(x, w, smart.squared_error, norm=norm, start=start, num_steps=steps)
    size = np.linalg.norm(w) if norm == "l2" else np.abs(w).sum()
    np.testing.assert_allclose(np.einsum("sd,sdc->", delta, w) ** 2, 0.3**2 * size**2, rtol=1e-12)


@pytest.mark.parametrize("with_kernel", [False, True])
def test_two_classes_need_one_backward_pass(with_kernel):
    x, w = make_problem(2)
    _, vectors = np.linalg.eigh(curvature(x, w))
    kernel = np.random.default_rng(1).normal(size=(7, 2)) if with_kernel else None
    with x64(True):
        kernel = None if kernel is None else jnp.asarray(kernel)
        delta = perturb(x, w, smart.symmetric_kl, start="output", num_steps=0, kernel=kernel)
    assert cosine(delta, vectors[:, -1]) > 0.9999


def test_the_kernel_makes_the_output_start_exact_where_only_the_head_matters():
    # With logits = x W over one token, J Jᵀ is Wᵀ W itself.
    rng = np.random.default_rng(2)
    x, head = rng.normal(size=(S, D)), rng.normal(size=(D, C)) * np.array([1, 1, 1, 3, 3])
    w = np.where(np.arange(S)[:, None, None] == 0, head, 0)
    _, vectors = np.linalg.eigh(curvature(x, w))
    with x64(True):
        found = [
            cosine(perturb(x, w, smart.symmetric_kl, start="output", num_steps=0, kernel=kernel), vectors[:, -1])
            for kernel in (None, jnp.asarray(head))
        ]
    assert found[1] > 0.999
    assert found[1] > found[0]


def test_an_array_as_start_is_scaled_and_masked():
    x, w = make_problem(C)
    start = np.random.default_rng(3).normal(size=(S, D))
    with x64(True):
        delta = perturb(x, w, smart.symmetric_kl, start=jnp.asarray(start), num_steps=0)
    masked = start * MASK[:, None]
    np.testing.assert_allclose(delta, 0.3 * masked / np.linalg.norm(masked), rtol=1e-12)


def test_the_sign_of_the_output_start_is_drawn():
    x, w = make_problem(2)
    signs = {np.sign(perturb(x, w, smart.symmetric_kl, seed=s, start="output", num_steps=0)[0, 0]) for s in range(12)}
    assert signs == {-1.0, 1.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": -1}, "num_steps must be at least 0, found -1"),
        ({"norm": "l1"}, "norm must be one of"),
        ({"start": "guess"}, "start must be one of noise, output or an array, found 'guess'"),
        ({"start": np.zeros((2, 2))}, "start must have the embeddings' shape"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        perturb(*make_problem(C), smart.symmetric_kl, **options)


@pytest.mark.parametrize("key", [0, None, jax.random.split(jax.random.key(0), 2)])
def test_the_key_of_one_example_is_one_key(key):
    with pytest.raises(ValueError, match="key must be one key, such as jax.random.key.0., found"):
        smart.power_iteration(lambda x: x[0], jnp.ones((S, D)), key, divergence=smart.symmetric_kl, radius=0.1)


def test_a_tuple_of_one_example_is_refused():
    with pytest.raises(ValueError, match="found a tuple: return the logits alone"):
        smart.power_iteration(
            lambda x: (x[0], 1), jnp.ones((S, D)), jax.random.key(0), divergence=smart.symmetric_kl, radius=0.1
        )


def test_it_does_better_than_noise_of_the_same_norm():
    # On a two-layer network, at a radius that is not small.
    rng = np.random.default_rng(4)
    w, v = jnp.asarray(rng.normal(size=(D, 8)), jnp.float32), jnp.asarray(rng.normal(size=(8, C)), jnp.float32)
    logits_fn = lambda x: jnp.mean(jnp.tanh(x @ w), axis=0) @ v  # noqa: E731

    def growths(x, key):
        noise = jax.random.normal(key, x.shape)
        common = {"divergence": smart.symmetric_kl, "radius": 0.3}
        deltas = [
            smart.power_iteration(logits_fn, x, key, num_steps=0, start=noise, **common),
            smart.power_iteration(logits_fn, x, key, **common),
        ]
        return jnp.stack([smart.symmetric_kl(logits_fn(x + d)[None], logits_fn(x)[None])[0] for d in deltas])

    xs = jax.random.normal(jax.random.key(0), (200, S, D))
    noise, power = np.asarray(jax.jit(jax.vmap(growths))(xs, jax.random.split(jax.random.key(1), 200))).T
    assert (power >= noise).mean() >= 0.95
    assert power.mean() > 2 * noise.mean()
    chex.assert_tree_all_finite(power)
