"""SMART's divergences against values worked out by hand, and against automatic differentiation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import smart

OF_PROBABILITIES = {"symmetric_kl": smart.symmetric_kl, "kl": smart.kl, "jensen_shannon": smart.jensen_shannon}
ALL = OF_PROBABILITIES | {
    "squared_error": smart.squared_error,
    "symmetric_bernoulli_kl": smart.symmetric_bernoulli_kl,
}
EACH = pytest.mark.parametrize("divergence", ALL.values(), ids=ALL)
EACH_OF_PROBABILITIES = pytest.mark.parametrize("divergence", OF_PROBABILITIES.values(), ids=OF_PROBABILITIES)


# p = (3/4, 1/4), q = (1/2, 1/2), m = (5/8, 3/8).
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("symmetric_kl", np.log(3) / 4),  # Σ (p − q)(log p − log q) = (log 3/2 + log 2) / 4
        ("kl", np.log(4 / 3) / 2),  # Σ q log q/p = (log 2/3 + log 2) / 2
        (
            "jensen_shannon",
            (0.75 * np.log(6 / 5) + 0.25 * np.log(2 / 3) + 0.5 * np.log(4 / 5) + 0.5 * np.log(4 / 3)) / 2,
        ),
    ],
)
def test_value_by_hand(name, expected):
    value = ALL[name](jnp.log(jnp.array([[3.0, 1.0]])), jnp.zeros((1, 2)))[0]
    chex.assert_trees_all_close(value, np.float32(expected), rtol=1e-6)


@pytest.mark.parametrize(("name", "share"), [("symmetric_kl", 2), ("kl", 1), ("jensen_shannon", 0.25)])
def test_hessian_is_a_share_of_the_fisher_information_by_hand(name, share):
    # (diag p − p pᵀ) (1, 0) with p = (3/4, 1/4) is 3/16 · (1, −1).
    product = ALL[name].hvp(jnp.log(jnp.array([[3.0, 1.0]])), jnp.array([[1.0, 0.0]]))[0]
    chex.assert_trees_all_close(product, np.float32([share * 3 / 16, -share * 3 / 16]), rtol=1e-6)


def test_squared_error_by_hand():
    value = smart.squared_error(jnp.array([[3.0], [1.0]]), jnp.array([[1.0], [1.0]]))
    chex.assert_trees_all_close(value, np.float32([4.0, 0.0]))
    chex.assert_trees_all_close(smart.squared_error.hvp(jnp.zeros(1), jnp.array([3.0])), np.float32([6.0]))


def test_symmetric_bernoulli_kl_by_hand():
    # p = 3/4, q = 1/2: KL both ways, and H = 2 p (1 − p) = 3/8.
    logit, none = jnp.log(jnp.array([3.0])), jnp.zeros(1)
    by_hand = 0.75 * np.log(1.5) + 0.25 * np.log(0.5) + 0.5 * np.log(2 / 3) + 0.5 * np.log(2)
    chex.assert_trees_all_close(smart.symmetric_bernoulli_kl(logit, none), np.float32([by_hand]), rtol=1e-6)
    chex.assert_trees_all_close(
        smart.symmetric_bernoulli_kl.hvp(logit, jnp.ones(1)), np.float32([2 * 0.75 * 0.25]), rtol=1e-6
    )
    # Two sigmoid logits are two independent variables.
    pair = smart.symmetric_bernoulli_kl(jnp.stack([logit, none], axis=1), jnp.zeros((1, 2)))
    chex.assert_trees_all_close(pair, np.float32([by_hand]), rtol=1e-6)


def test_a_sigmoid_logit_is_a_softmax_of_itself_and_zero():
    z, w, v = 4 * jax.random.normal(jax.random.key(8), (3, 100))
    both = [jnp.stack([x, jnp.zeros(100)], axis=1) for x in (z, w, v)]
    chex.assert_trees_all_close(smart.symmetric_bernoulli_kl(z, w), smart.symmetric_kl(*both[:2]), rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(
        smart.symmetric_bernoulli_kl.hvp(z, v), smart.symmetric_kl.hvp(both[0], both[2])[:, 0], rtol=1e-5, atol=1e-6
    )


@EACH
def test_hvp_is_the_derivative_of_the_gradient(divergence):
    z, v = jax.random.normal(jax.random.key(1), (2, 3, 5))
    _, expected = jax.jvp(jax.grad(lambda a: jnp.sum(divergence(a, z))), (z,), (v,))
    product = divergence.hvp(z, v)
    assert product.dtype == jnp.float32
    chex.assert_trees_all_close(product, expected, atol=1e-6)


@EACH
def test_divergence_and_its_gradient_vanish_where_outputs_agree(divergence):
    z = jax.random.normal(jax.random.key(1), (1, 5)) * 10
    value, gradient = jax.value_and_grad(lambda a: divergence(a, z)[0])(z)
    chex.assert_trees_all_close((value, gradient), (np.float32(0), np.zeros((1, 5), np.float32)), atol=1e-7)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("spread", [1e-4, 1.0])
def test_never_below_zero(name, spread):
    z = jax.random.normal(jax.random.key(2), (2000, 5))
    other = z + spread * jax.random.normal(jax.random.key(3), z.shape)
    assert float(ALL[name](other, z).min()) >= 0


def test_kl_is_of_the_reference_and_the_others_are_symmetric():
    a, b = jax.random.normal(jax.random.key(4), (2, 1, 5))
    for name, divergence in ALL.items():
        gap = abs(float((divergence(a, b) - divergence(b, a))[0]))
        assert (gap > 1e-3) if name == "kl" else (gap < 1e-6)


def test_jensen_shannon_is_at_most_log_two():
    far = jnp.array([[500.0, -500.0]])
    chex.assert_trees_all_close(smart.jensen_shannon(far, -far)[0], np.float32(np.log(2)), rtol=1e-6)


def test_symmetric_kl_of_extreme_logits_is_finite_with_its_gradient():
    far = jnp.array([[500.0, -500.0]])
    value, gradient = jax.value_and_grad(lambda z: smart.symmetric_kl(z, -far)[0])(far)
    chex.assert_trees_all_close(value, np.float32(2000), rtol=1e-6)
    assert np.isfinite(gradient).all()


@EACH
def test_a_thousand_extreme_logits_leave_everything_finite(divergence):
    z, other = 1e4 * jax.random.rademacher(jax.random.key(5), (2, 1, 1000), jnp.float32)
    for reference in (z, other, -z, z + 1):
        value = lambda z, reference=reference: divergence(z, reference)[0]  # noqa: E731
        found = (jax.value_and_grad(value)(z), divergence.hvp(z, reference), divergence.top(z))
        chex.assert_tree_all_finite(found)
        assert float(jnp.abs(divergence.top(z)).max()) == 1


def test_of_several_positions_the_top_is_the_most_sensitive_ones():
    # H of certain probabilities is small: Jᵀ u is then all in the other position.
    divergence = smart.Divergence.of(lambda p, q: jnp.sum(jax.vmap(smart.symmetric_kl, 1, 1)(p, q), axis=1))
    top = divergence.top(jnp.array([[[0.0, 0.1], [0.0, 6.0]]]))
    chex.assert_trees_all_close(jnp.abs(top[0, 0]), np.float32([1, 1]), rtol=1e-2)
    assert float(jnp.abs(top[0, 1]).max()) < 1e-6


@pytest.mark.parametrize("outputs", [[1.0, 2.0], jnp.arange(2)])
def test_outputs_are_float_arrays(outputs):
    with pytest.raises(ValueError, match="a divergence compares two float arrays, found (list|int32)"):
        smart.squared_error(jnp.ones(2), outputs)


@EACH
def test_half_precision_is_widened(divergence):
    z = jax.random.normal(jax.random.key(6), (2, 1, 5)).astype(jnp.bfloat16)
    value = divergence(*z)
    assert value.dtype == jnp.float32
    chex.assert_trees_all_close(value, divergence(*z.astype(jnp.float32)))


@EACH
def test_top_is_the_top_eigenvector_with_the_kernel(divergence):
    z = jnp.array([[2.0, 0.0]])
    kernel = jax.random.normal(jax.random.key(7), (3, 2))
    h = np.stack([np.asarray(divergence.hvp(z, v[None])[0]) for v in jnp.eye(2)], axis=1).astype(np.float64)
    w = np.asarray(kernel, np.float64)
    _, vectors = np.linalg.eigh(w @ h @ w.T)
    pulled = w @ np.asarray(divergence.top(z, kernel)[0], np.float64)
    cosine = abs(pulled @ vectors[:, -1]) / np.linalg.norm(pulled)
    np.testing.assert_allclose(cosine, 1, atol=1e-4)


@EACH_OF_PROBABILITIES
@pytest.mark.parametrize("function", ["value", "hvp"])
def test_divergences_of_probabilities_refuse_a_single_logit(divergence, function):
    with pytest.raises(ValueError, match=r"found one.*squared_error"):
        getattr(divergence, function)(jnp.zeros((4, 1)), jnp.zeros((4, 1)))
