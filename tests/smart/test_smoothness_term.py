"""`smoothness` and `perturbation` of a batch: against closed forms, dense matrices and the form of one example."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bertjax import smart

try:
    from jax import enable_x64 as x64  # jax.experimental's is deprecated
except ImportError:
    from jax.experimental import enable_x64 as x64

B, S, D, C = 6, 4, 3, 5
MASK = np.arange(S) < np.array([4, 3, 2, 4, 1, 3])[:, None]


def make_problem(dtype=np.float32, classes=C):
    rng = np.random.default_rng(0)
    x, v, w = (rng.normal(size=shape).astype(dtype) for shape in ((B, S, D), (D, 7), (7, classes)))

    def example_logits(x, mask):
        real = jnp.asarray(mask, dtype)[:, None]
        return jnp.sum(real * jnp.tanh(x @ v), axis=0) @ w

    return jnp.asarray(x), example_logits


def batched(example_logits):
    return lambda x: jax.vmap(example_logits)(x, MASK)


OPTIONS = [
    {"norm": norm, "start": start, "num_steps": steps}
    for norm in ("l2", "linf")
    for start, steps in (("noise", 1), ("noise", 3), ("output", 0))
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_batch_is_the_vmap_of_its_examples(options, dtype):
    with x64(dtype == np.float64):
        x, example_logits = make_problem(dtype)
        keys = jax.random.split(jax.random.key(1), B)
        common = {"divergence": smart.symmetric_kl, "radius": 0.3} | options

        def one(x, mask, key):
            return smart.power_iteration(lambda x: example_logits(x, mask), x, key, mask=mask, **common)

        expected = jax.jit(jax.vmap(one))(x, MASK, keys)
        found = jax.jit(
            lambda x: smart.perturbation(batched(example_logits), x, keys, mask=jnp.asarray(MASK), **common)
        )(x)
        assert found.dtype == dtype
        atol = 1e-6 if dtype == np.float32 else 1e-12
        np.testing.assert_allclose(found, expected, atol=atol, rtol=0)
        logits = jax.vmap(example_logits)
        r_s = smart.smoothness(batched(example_logits), x, keys, mask=jnp.asarray(MASK), **common)
        by_hand = smart.symmetric_kl(logits(x + expected, MASK), logits(x, MASK))
        np.testing.assert_allclose(r_s, by_hand, rtol=1e-4 if dtype == np.float32 else 1e-10)


def test_one_key_is_split_over_the_examples():
    x, example_logits = make_problem()
    common = {"divergence": smart.symmetric_kl, "mask": jnp.asarray(MASK)}
    for make in (jax.random.key, jax.random.PRNGKey):
        key = make(3)
        one, many = (smart.smoothness(batched(example_logits), x, k, **common) for k in (key, jax.random.split(key, B)))
        chex.assert_trees_all_equal(one, many)


# D1


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("with_mask", [False, True])
def test_an_image_is_one_example_whatever_its_axes(norm, with_mask):
    rng = np.random.default_rng(1)
    images = jnp.asarray(rng.normal(size=(B, 8, 8, 1)), jnp.float32)
    w = jnp.asarray(rng.normal(size=(64, 3)), jnp.float32)
    mask = jnp.asarray(rng.random((B, 8, 8)) < 0.5) if with_mask else None
    keys = jax.random.split(jax.random.key(0), B)
    common = {"divergence": smart.symmetric_kl, "norm": norm, "radius": 0.1, "relative": False}

    def logits_fn(x):
        return jnp.tanh(x.reshape(B, 64)) @ w

    # Power iteration depends on the noise's direction, so give both the same start.
    start = jnp.asarray(rng.normal(size=images.shape), jnp.float32)
    delta = smart.perturbation(logits_fn, images, keys, mask=mask, start=start, **common)
    flat_mask = None if mask is None else mask.reshape(B, 64)
    flat = smart.perturbation(
        logits_fn, images.reshape(B, 64), keys, mask=flat_mask, start=start.reshape(B, 64), **common
    )
    np.testing.assert_allclose(delta.reshape(B, 64), flat, atol=1e-6)
    sizes = jnp.linalg.norm(flat, axis=1) if norm == "l2" else jnp.abs(flat).max(1)
    np.testing.assert_allclose(sizes, 0.1, rtol=1e-5)
    if mask is not None:
        assert not delta[~np.asarray(mask)].any()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_no_mask_is_a_mask_of_any_rank_that_keeps_everything(norm):
    # The radius is relative to the RMS of all of an example's elements, which masks of any rank count alike.
    rng = np.random.default_rng(1)
    images, w = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((B, 4, 3, 2), (24, 3)))
    masks = [None, *(jnp.ones(images.shape[:rank], bool) for rank in range(1, 5))]
    for mask in masks:
        delta = smart.perturbation(
            lambda x: x.reshape(B, 24) @ w,
            images,
            jax.random.key(0),
            divergence=smart.symmetric_kl,
            norm=norm,
            radius=0.1,
            mask=mask,
        )
        rms = jnp.sqrt(jnp.mean(jnp.square(images), axis=(1, 2, 3)))
        sizes = jnp.abs(delta).max((1, 2, 3)) if norm == "linf" else jnp.sqrt(jnp.mean(delta**2, axis=(1, 2, 3)))
        np.testing.assert_allclose(sizes, 0.1 * rms, rtol=1e-5)


# D2


def test_scores_without_an_axis_are_the_scores_with_one():
    # f = Σ x·w changes by ε ‖w‖ at most, on each example.
    x, w = make_problem()[0], jnp.arange(1.0, D + 1)
    found = [
        smart.smoothness(f, x, jax.random.key(0), divergence=smart.squared_error, radius=0.1, relative=False)
        for f in (lambda x: jnp.sum(x @ w, axis=1), lambda x: jnp.sum(x @ w, axis=1)[:, None])
    ]
    for r_s in found:
        np.testing.assert_allclose(r_s, np.full(B, 0.01 * S * 14.0), rtol=1e-5)


# D3


def test_batch_norm_in_training_mode_has_the_perturbation_of_the_whole_batch():
    rng = np.random.default_rng(2)
    x, w = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((B, 4), (4, 3)))

    def logits_fn(x):
        normalized = (x - x.mean(0, keepdims=True)) / jnp.sqrt(x.var(0, keepdims=True) + 1e-5)
        return jnp.tanh(normalized) @ w

    start = rng.normal(size=x.shape).astype(np.float32)
    delta = smart.perturbation(
        logits_fn,
        x,
        jax.random.key(0),
        divergence=smart.symmetric_kl,
        start=jnp.asarray(start),
        radius=1.0,
        relative=False,
    )
    jacobian = np.asarray(jax.jacrev(logits_fn)(x), np.float64).reshape(B * 3, B * 4)
    p = np.asarray(jax.nn.softmax(logits_fn(x)), np.float64)
    hessian = np.zeros((B * 3, B * 3))
    for i, q in enumerate(p):
        hessian[3 * i : 3 * i + 3, 3 * i : 3 * i + 3] = 2 * (np.diag(q) - np.outer(q, q))
    unit = start / np.linalg.norm(start, axis=1, keepdims=True)
    product = (jacobian.T @ hessian @ jacobian @ unit.ravel()).reshape(B, 4)
    np.testing.assert_allclose(delta, product / np.linalg.norm(product, axis=1, keepdims=True), atol=1e-4)
    r_s = smart.smoothness(logits_fn, x, jax.random.key(0), divergence=smart.symmetric_kl, radius=0.1)
    assert (r_s > 1e-4).all()


# D5


class Net(nnx.Module):
    """Layers that change state in a forward pass: BatchNorm's statistics, and the counts of dropout's stream."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(D, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(8, C, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(self.norm(jnp.mean(self.linear(x), axis=1))))


def test_a_stateful_nnx_module_is_refused_in_one_line_and_works_split():
    model, x = Net(nnx.Rngs(0)), make_problem()[0]
    common = {"divergence": smart.symmetric_kl, "radius": 0.1}
    with pytest.raises(
        ValueError, match=r"logits_fn changes an NNX module's state: clone and nnx.split the module.* nnx.merge"
    ):
        jax.jit(lambda x: smart.smoothness(model, x, jax.random.key(0), **common))(x)

    graphdef, params, other_state = nnx.split(model, nnx.Param, ...)

    def loss(params):
        def logits_fn(x):
            return nnx.merge(graphdef, params, other_state, copy=True)(x)

        # At radius 0 the two passes are equal, as they have the same masks.
        r_s, at_zero = (
            smart.smoothness(logits_fn, x, jax.random.key(0), **common | {"radius": radius}) for radius in (0.1, 0.0)
        )
        return jnp.mean(r_s), at_zero

    (value, at_zero), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert float(value) > 1e-5
    assert float(jnp.abs(at_zero).max()) < 1e-10
    chex.assert_tree_all_finite(gradient)


def test_a_function_that_draws_other_masks_in_each_call_is_traced_once():
    # As a bound Linen submodule does, whose stream counts its calls.
    calls = []

    def logits_fn(x):
        calls.append(0)
        kept = jax.random.bernoulli(jax.random.key(len(calls)), 0.5, x.shape).astype(x.dtype)
        return jnp.sum(x * kept, axis=1)

    x = make_problem()[0]
    for name in ("bertjax_exact", "paper", "r3f"):
        found = smart.smoothness(
            logits_fn,
            x,
            jax.random.key(0),
            divergence=smart.symmetric_kl,
            settings=smart.preset(name, radius=0.0, matched_dropout=True),
        )
        assert float(jnp.abs(found).max()) < 1e-12


def test_a_model_without_forward_derivatives_is_refused_where_they_are_needed():
    @jax.custom_vjp
    def tanh(x):
        return jnp.tanh(x)

    tanh.defvjp(lambda x: (jnp.tanh(x),) * 2, lambda y, g: (g * (1 - y**2),))
    x = make_problem()[0]
    with pytest.raises(ValueError, match="needs forward derivatives, which a jax.custom_vjp .* preset 'bertjax' or"):
        smart.smoothness(lambda x: tanh(x[:, 0]), x, jax.random.key(0), divergence=smart.symmetric_kl)


def test_a_batch_without_rows_has_no_terms():
    found = smart.smoothness(lambda x: x[:, 0], jnp.zeros((0, S, D)), jax.random.key(0), divergence=smart.symmetric_kl)
    assert found.shape == (0,)


# D10


def token_kl(outputs, reference):
    mask = jnp.asarray(MASK, jnp.float32)
    values = jax.vmap(smart.symmetric_kl, 1, 1)(outputs, reference)
    return jnp.sum(mask * values, axis=1) / jnp.sum(mask, axis=1)


@pytest.mark.parametrize("options", [{"num_steps": 30}, {"start": "output", "num_steps": 30}])
@pytest.mark.parametrize("wrap", [smart.Divergence.of, lambda divergence: divergence], ids=["of", "plain"])
def test_a_divergence_of_ones_own_reduces_token_logits(options, wrap):
    rng = np.random.default_rng(3)
    x, w = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((B, S, D), (D, C)))
    logits_fn = lambda x: jnp.tanh(x) @ w  # noqa: E731
    delta = smart.perturbation(
        logits_fn, x, jax.random.key(0), divergence=wrap(token_kl), mask=jnp.asarray(MASK), radius=1.0, **options
    )
    for i in range(B):
        # The top eigenvector of JᵀHJ is that of one token, as tokens do not interact here.
        best, at = 0.0, None
        for s in np.flatnonzero(MASK[i]):
            j = np.asarray(jax.jacrev(lambda e: jnp.tanh(e) @ w)(x[i, s]), np.float64)
            q = np.asarray(jax.nn.softmax(jnp.tanh(x[i, s]) @ w), np.float64)
            values, vectors = np.linalg.eigh(j.T @ (np.diag(q) - np.outer(q, q)) @ j)
            if values[-1] > best:
                best, at = values[-1], (s, vectors[:, -1])
        s, vector = at
        found = np.asarray(delta[i])
        assert abs(found[s] @ vector) / np.linalg.norm(found) > 0.97


def test_hvp_of_ones_own_divergence_is_the_built_in_one():
    rng = np.random.default_rng(4)
    z, v = (jnp.asarray(rng.normal(size=(B, C)), jnp.float32) for _ in range(2))
    own = smart.Divergence.of(lambda p, q: smart.symmetric_kl(p, q))
    np.testing.assert_allclose(own.hvp(z, v), smart.symmetric_kl.hvp(z, v), atol=1e-6)
    np.testing.assert_allclose(own(z, v), smart.symmetric_kl(z, v), rtol=1e-6)
    np.testing.assert_allclose(own.top(z), smart.symmetric_kl.top(z), atol=1e-4)


# Gradients, passes and settings


def by_finite_differences(function, w, v):
    """The slope of `function` at w along v, in float64."""
    return (function(w + 1e-5 * v) - function(w - 1e-5 * v)) / 2e-5


@pytest.mark.parametrize("clean_gradient", [True, False])
@pytest.mark.parametrize("give_logits", [True, False])
def test_gradients_are_of_both_passes_or_of_the_perturbed_one(clean_gradient, give_logits):
    with x64(True):
        rng = np.random.default_rng(5)
        x, w, v = (jnp.asarray(rng.normal(size=shape)) for shape in ((B, S, D), (D, C), (D, C)))
        logits = lambda x, w: jnp.sum(jnp.tanh(x @ w), axis=1)  # noqa: E731
        common = {"divergence": smart.symmetric_kl, "radius": 0.3}
        key = jax.random.key(0)
        delta = smart.perturbation(lambda x: logits(x, w), x, key, **common)

        def r_s(w):
            logits_fn = partial(logits, w=w)
            clean_logits = logits_fn(x) if give_logits else None
            return jnp.sum(
                smart.smoothness(logits_fn, x, key, clean_logits=clean_logits, clean_gradient=clean_gradient, **common)
            )

        def by_hand(now):
            return jnp.sum(smart.symmetric_kl(logits(x + delta, now), logits(x, now if clean_gradient else w)))

        found = jnp.sum(v * jax.jit(jax.grad(r_s))(w))
        np.testing.assert_allclose(found, by_finite_differences(by_hand, w, v), rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in smart.PRESETS if name != "none"])
def test_every_preset_is_its_terms(name):
    x, example_logits = make_problem()
    keys = jax.random.split(jax.random.key(2), B)
    noise_keys = jax.random.split(jax.random.key(3), B)

    def logits(params, x, batch, keys):
        kept = jax.vmap(lambda key: jax.random.bernoulli(key, 0.8, (S, D)))(keys).astype(x.dtype)
        return jax.vmap(example_logits)(x * kept, MASK)

    model = smart.SplitModel(lambda params, batch: x, logits)
    settings = smart.preset(name, bregman_weight=0.0)
    loss = lambda z, batch=None: -jax.nn.log_softmax(z)[:, 0]  # noqa: E731
    common = {"divergence": smart.symmetric_kl, "mask": jnp.asarray(MASK)}
    terms = smart.smart_terms(model, {}, None, {}, keys, noise_keys, settings=settings, loss_fn=loss, **common)
    other = jax.vmap(jax.random.fold_in, (0, None))(keys, 0)
    perturbed = {} if settings.matched_dropout else {"perturbed_logits_fn": lambda x: logits({}, x, {}, other)}
    found = smart.smoothness(
        lambda x: logits({}, x, {}, keys), x, noise_keys, settings=name, loss_fn=loss, **perturbed, **common
    )
    np.testing.assert_allclose(found, terms.smoothness, rtol=1e-4, atol=1e-7)
    assert float(found.max()) > 0


def test_an_ascent_without_matched_dropout_leaves_the_clean_logits():
    # Between two masks the divergence has a slope at δ = 0; from equal logits it has none.
    x, example_logits = make_problem()
    clean, other = batched(example_logits), lambda x: batched(example_logits)(0.9 * x)
    settings = smart.preset("mtdnn_2020", noise=0.0)
    delta = smart.perturbation(
        clean, x, jax.random.key(0), divergence=smart.symmetric_kl, settings=settings, perturbed_logits_fn=other
    )
    assert (jnp.abs(delta).max((1, 2)) > 5e-4).all()


def test_changes_apply_to_the_settings_given():
    x, example_logits = make_problem()
    call = partial(smart.perturbation, batched(example_logits), x, jax.random.key(0), divergence=smart.symmetric_kl)
    record = smart.PowerIteration(radius=0.5, norm="linf")
    chex.assert_trees_all_equal(call(settings=record), call(radius=0.5, norm="linf"))
    chex.assert_trees_all_equal(call(settings=record, radius=0.2), call(radius=0.2, norm="linf"))
    whole = smart.SmartSettings(weight=3.0, adversary=record)
    chex.assert_trees_all_equal(call(settings=whole), call(settings=record))


def test_a_start_at_the_tasks_gradient_is_along_it():
    with x64(True):
        x, example_logits = make_problem(np.float64)
        labels = np.arange(B) % C
        loss_fn = lambda z: -jnp.take_along_axis(jax.nn.log_softmax(z), labels[:, None], 1)[:, 0]  # noqa: E731
        delta = smart.perturbation(
            batched(example_logits),
            x,
            jax.random.key(0),
            divergence=smart.symmetric_kl,
            settings="bertjax",
            loss_fn=loss_fn,
            mask=jnp.asarray(MASK),
        )
        gradient = np.zeros_like(x)
        for place in np.ndindex(x.shape):
            nudge = np.zeros(x.shape)
            nudge[place] = 1e-6
            up, down = (jnp.sum(loss_fn(batched(example_logits)(x + sign * nudge))) for sign in (1, -1))
            gradient[place] = (up - down) / 2e-6
        inner = np.einsum("bsd,bsd->b", delta, gradient)
        sizes = np.linalg.norm(delta, axis=(1, 2)) * np.linalg.norm(gradient, axis=(1, 2))
        np.testing.assert_allclose(np.abs(inner), sizes, rtol=1e-5)
        assert {-1.0, 1.0} >= {*np.sign(inner)}


@pytest.mark.parametrize("name", ["bertjax", "paper"])
def test_a_backward_pass_without_a_derivative_is_enough(name):
    # As that of a fused attention kernel; a callback has no derivative.
    @jax.custom_vjp
    def tanh(x):
        return jnp.tanh(x)

    def backward(y, g):
        slope = jax.pure_callback(
            lambda y: 1 - y**2, jax.ShapeDtypeStruct(y.shape, y.dtype), y, vmap_method="sequential"
        )
        return (g * slope,)

    tanh.defvjp(lambda x: (jnp.tanh(x),) * 2, backward)

    def loss(w, x, tanh):
        r_s = smart.smoothness(
            lambda x: jnp.sum(tanh(x @ w), axis=1),
            x,
            jax.random.key(0),
            divergence=smart.symmetric_kl,
            settings=name,
            radius=0.1,
            loss_fn=lambda z: jnp.square(z[:, 0]),
        )
        return jnp.sum(r_s)

    x, w = make_problem()[0], jnp.arange(1.0, D * C + 1).reshape(D, C) / 10
    found, expected = (jax.grad(loss)(w, x, f) for f in (tanh, jnp.tanh))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("settings", ["bertjax_exact", "bertjax"])
def test_float16_finds_the_direction_where_slopes_are_tiny(settings):
    # Certain logits, whose probabilities' slopes underflow in half precision behind a mean over many tokens.
    rng = np.random.default_rng(8)
    x, w, v = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((4, 64, 32), (32, 32), (32, 2)))
    certain = jnp.array([[8.0, 0.0]])

    def direction(dtype):
        def logits_fn(x):
            hidden = jnp.tanh(x @ w.astype(dtype) / 8)
            return jnp.mean(hidden, axis=1) @ v.astype(dtype) / 8 + certain.astype(dtype)

        delta = smart.perturbation(
            logits_fn,
            x.astype(dtype),
            jax.random.key(0),
            divergence=smart.symmetric_kl,
            settings=settings,
            loss_fn=lambda z: -jax.nn.log_softmax(z.astype(jnp.float32))[:, 0],
        )
        return delta / jnp.linalg.norm(delta, axis=(1, 2), keepdims=True)

    cosines = jnp.sum(direction(jnp.float16) * direction(jnp.float32), axis=(1, 2))
    assert float(jnp.abs(cosines).min()) > 0.99


def test_the_tasks_gradient_of_a_share_is_of_its_rows():
    # Labels go through args: closed over, they would be all rows' labels.
    rng = np.random.default_rng(9)
    x, labels = jnp.asarray(rng.normal(size=(B, S, C)), jnp.float32), jnp.arange(B) % C
    loss_fn = lambda z, labels: -jnp.take_along_axis(jax.nn.log_softmax(z), labels[:, None], 1)[:, 0]  # noqa: E731
    common = {"divergence": smart.symmetric_kl, "settings": "bertjax", "loss_fn": loss_fn, "args": (labels,)}
    logits_fn = lambda x, labels: jnp.sum(x, axis=1)  # noqa: E731
    whole, found = (
        np.asarray(smart.smoothness(logits_fn, x, jax.random.key(0), share=share, **common)) for share in (1.0, 0.5)
    )
    drawn = found > 0
    assert drawn.sum() == 3
    np.testing.assert_allclose(found, np.where(drawn, 2 * whole, 0), rtol=1e-4)


# A share of the rows


def test_a_share_is_those_rows_of_the_whole_times_their_inverse_share():
    x, example_logits = make_problem()
    start = jnp.asarray(np.random.default_rng(6).normal(size=x.shape), jnp.float32)
    common = {"divergence": smart.symmetric_kl, "mask": jnp.asarray(MASK), "start": start, "num_steps": 0}
    logits_fn = jax.vmap(example_logits)
    whole = smart.smoothness(lambda x: logits_fn(x, MASK), x, jax.random.key(0), **common)
    call = jax.jit(lambda key: smart.smoothness(logits_fn, x, key, args=(jnp.asarray(MASK),), share=1 / 3, **common))
    found = np.asarray(jax.vmap(call)(jax.random.split(jax.random.key(1), 3000)))
    drawn = found > 0
    assert (drawn.sum(1) == 2).all()
    np.testing.assert_allclose(found, np.where(drawn, 3 * np.asarray(whole), 0), rtol=1e-4)
    # Each row is drawn equally often: the mean over draws is the whole's.
    np.testing.assert_allclose(drawn.mean(0), 1 / 3, atol=4 * np.sqrt(2 / 9 / 3000))
    pairs = drawn.T.astype(float) @ drawn / 3000
    np.testing.assert_allclose(pairs[~np.eye(B, dtype=bool)], 1 / 15, atol=5 * np.sqrt(14 / 225 / 3000))


@pytest.mark.parametrize("give_logits", [True, False])
def test_the_rows_of_a_share_have_the_same_masks_in_both_passes(give_logits):
    # With one dropout key the masks of some rows are not those of the batch's rows.
    x, key = make_problem()[0], jax.random.key(7)

    def logits_fn(x):
        kept = jax.random.bernoulli(key, 0.5, x.shape).astype(x.dtype)
        return jnp.sum(x * kept, axis=1)

    found = smart.smoothness(
        logits_fn,
        x,
        jax.random.key(0),
        divergence=smart.symmetric_kl,
        share=0.5,
        radius=0.0,
        clean_logits=logits_fn(x) if give_logits else None,
    )
    assert float(jnp.abs(found).max()) < 1e-12


def test_a_share_rounds_to_a_row_at_least_and_one_is_the_whole():
    x, example_logits = make_problem()
    common = {"divergence": smart.symmetric_kl, "args": (jnp.asarray(MASK),)}
    call = partial(smart.smoothness, jax.vmap(example_logits), x, jax.random.key(0), **common)
    assert [int(jnp.sum(call(share=share) > 0)) for share in (0.01, 0.5, 0.9, 1.0)] == [1, 3, 5, 6]
    chex.assert_trees_all_equal(call(share=1.0), call())
