"""The SMART paper's Algorithm 1, rendered straight in float64 NumPy with hand-derived gradients, against ours.

A toy network of two layers: each token through W and tanh, the mean over real tokens, dropout, then V.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bertjax import smart

B, S, D, H, C = 6, 5, 4, 7, 3
KEEP = 0.8
LENGTHS = np.array([5, 3, 1, 4, 2, 5])
REAL = np.arange(S) < LENGTHS[:, None]
STEPS, OF_STEPS = 10, 40
WEIGHT, BREGMAN_WEIGHT = 2.0, 1.5
x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64


def make_problem():
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(D, H)), "v": rng.normal(size=(H, C))}
    # Junk on padding: a norm that counted it would differ.
    return params, rng.normal(size=(STEPS, B, S, D)), rng.integers(0, C, (STEPS, B))


def keys_of(step):
    return jax.random.split(jax.random.key(step), (2, B))


def draw(step, noise):
    """The dropout masks [B, H] and starting noise [B, S, D] that ours draws."""
    dropout_keys, noise_keys = keys_of(step)
    masks = jax.vmap(lambda key: jax.random.bernoulli(key, KEEP, (H,)))(dropout_keys) / KEEP
    normal = jax.vmap(lambda key: jax.random.normal(key, (S, D), jnp.float64))(noise_keys)
    return np.asarray(masks, np.float64), noise * np.asarray(normal) * REAL[:, :, None]


# The paper's algorithm in NumPy


def forward(params, x, real, mask):
    hidden = np.tanh(x @ params["w"])
    pooled = hidden[real].mean(0) * mask
    return pooled @ params["v"], (hidden, pooled)


def backward(params, x, real, mask, saved, dz):
    hidden, pooled = saved
    d_hidden = np.where(real[:, None], (params["v"] @ dz) * mask / real.sum(), 0) * (1 - hidden**2)
    return {"w": x.T @ d_hidden, "v": np.outer(pooled, dz)}, d_hidden @ params["w"].T


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def symmetric_kl_gradients(z, z0):
    """Of Σ (p − q)(log p − log q), in both logit vectors."""
    p, q = softmax(z), softmax(z0)
    ratio = np.log(p) - np.log(q)
    dp, dq = p * ratio + (p - q), -q * ratio - (p - q)
    return dp - p * dp.sum(), dq - q * dq.sum()


def oracle_delta(params, x, real, mask, noise, radius, step_size):
    delta, (clean, _) = noise.copy(), forward(params, x, real, mask)
    moved, saved = forward(params, x + delta, real, mask)
    dz, _ = symmetric_kl_gradients(moved, clean)
    _, gradient = backward(params, x + delta, real, mask, saved, dz)
    return np.clip(delta + step_size * gradient / np.abs(gradient).max(), -radius, radius)


def oracle_gradient(params, anchor, x, label, real, mask, delta):
    z, saved = forward(params, x, real, mask)
    moved, moved_saved = forward(params, x + delta, real, mask)
    anchored, _ = forward(anchor, x, real, mask)
    d_moved, d_clean = symmetric_kl_gradients(moved, z)
    d_bregman, _ = symmetric_kl_gradients(z, anchored)
    dz = softmax(z) - np.eye(C)[label] + WEIGHT * d_clean + BREGMAN_WEIGHT * d_bregman
    one, _ = backward(params, x, real, mask, saved, dz)
    other, _ = backward(params, x + delta, real, mask, moved_saved, WEIGHT * d_moved)
    return {name: one[name] + other[name] for name in params}


def oracle(optimizer, radius, step_size, noise, decay):
    """Yields δ [B, S, D] and the parameters after each update."""
    params, xs, labels = make_problem()
    anchor = {name: value.copy() for name, value in params.items()}
    moments = {name: (np.zeros_like(value), np.zeros_like(value)) for name, value in params.items()}
    for step in range(STEPS):
        masks, start = draw(step, noise)
        deltas = [oracle_delta(params, xs[step, i], REAL[i], masks[i], start[i], radius, step_size) for i in range(B)]
        gradients = [
            oracle_gradient(params, anchor, xs[step, i], labels[step, i], REAL[i], masks[i], deltas[i])
            for i in range(B)
        ]
        for name in params:
            gradient = np.mean([g[name] for g in gradients], axis=0)
            if optimizer == "sgd":
                params[name] = params[name] - 0.5 * gradient
                continue
            first, second = moments[name]
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            moments[name] = first, second
            unbiased = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
            params[name] = params[name] - 0.01 * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-6)
        # Line 15, after θ_t, t from 1: β is the first of the two in t ≤ T / 10.
        beta = decay[0] if step + 1 <= OF_STEPS / 10 else decay[1]
        anchor = {name: beta * anchor[name] + (1 - beta) * params[name] for name in params}
        yield deltas, {name: value.copy() for name, value in params.items()}


# Ours


def example_logits(params, x, example, key):
    hidden = jnp.tanh(x @ params["w"])
    real = example["real"][:, None]
    pooled = jnp.sum(jnp.where(real, hidden, 0), axis=0) / jnp.sum(real)
    mask = jax.random.bernoulli(key, KEEP, (H,)).astype(x.dtype) / KEEP
    return (pooled * mask) @ params["v"]


MODEL = smart.SplitModel(embed=lambda params, batch: batch["x"], logits=jax.vmap(example_logits, (None, 0, 0, 0)))


def cross_entropy(z, batch):
    return -jnp.take_along_axis(jax.nn.log_softmax(z), batch["label"][:, None], axis=1)[:, 0]


@pytest.mark.parametrize(
    ("optimizer", "scale"),
    [("sgd", {"radius": 0.3, "step_size": 0.25, "noise": 0.2, "decay": (0.5, 0.8)}), ("adam", {})],
    ids=["SGD at a radius of 0.3", "Adam at the paper's"],
)
def test_ten_updates_are_the_papers(optimizer, scale):
    settings = smart.preset("paper", weight=WEIGHT, bregman_weight=BREGMAN_WEIGHT, **scale)
    ascent = settings.adversary
    with x64(True), jax.numpy_dtype_promotion("standard"):
        params, xs, labels = jax.tree.map(jnp.asarray, make_problem())
        inner = optax.sgd(0.5) if optimizer == "sgd" else optax.adam(0.01, eps=1e-6)
        tx = optax.chain(smart.add_smart(settings, num_steps=OF_STEPS), inner)
        opt_state = tx.init(params)

        @jax.jit
        def update(params, opt_state, batch, dropout_keys, noise_keys):
            def terms_fn(params, anchor, settings):
                return smart.smart_terms(
                    MODEL,
                    params,
                    anchor,
                    batch,
                    dropout_keys,
                    noise_keys,
                    mask=batch["real"],
                    divergence=smart.symmetric_kl,
                    settings=settings,
                    loss_fn=cross_entropy,
                )

            plain = smart.preset("none")
            gradient = jax.grad(lambda p: jnp.mean(terms_fn(p, None, plain).loss))(params)
            updates, opt_state = tx.update(gradient, opt_state, params, terms_fn=terms_fn)
            return optax.apply_updates(params, updates), opt_state

        def perturb(params, example, dropout_key, noise_key):
            return smart.projected_gradient_ascent(
                lambda x: example_logits(params, x, example, dropout_key),
                example["x"],
                noise_key,
                divergence=smart.symmetric_kl,
                radius=ascent.radius,
                step_size=ascent.step_size,
                noise=ascent.noise,
                mask=example["real"],
            )

        seek = jax.jit(jax.vmap(perturb, (None, 0, 0, 0)))
        expected = oracle(optimizer, ascent.radius, ascent.step_size, ascent.noise, settings.decay)
        for step, (deltas, after) in enumerate(expected):
            batch = {"x": xs[step], "label": labels[step], "real": jnp.asarray(REAL)}
            chex.assert_trees_all_close(
                np.asarray(seek(params, batch, *keys_of(step))), np.array(deltas), atol=1e-9, rtol=0
            )
            params, opt_state = update(params, opt_state, batch, *keys_of(step))
            chex.assert_trees_all_close(jax.device_get(params), after, atol=1e-9, rtol=0)
