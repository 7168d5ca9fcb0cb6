"""A model so small that SMART has closed forms: logits = Σ over real tokens of x_s W."""

import jax
import jax.numpy as jnp
import numpy as np

from bertjax import smart

S, D, C = 4, 3, 3
MASK = np.array([True, True, True, False])
MODEL = smart.SplitModel(
    embed=lambda params, batch: batch["x"],
    logits=lambda params, x, batch, key: jnp.sum(jnp.where(batch["mask"][..., None], x, 0), axis=1) @ params["w"],
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


def kl(z, reference):
    """KL(q‖p), q of the reference: it tells one side from the other."""
    p, q = softmax(z), softmax(reference)
    return float((q * (np.log(q) - np.log(p))).sum())


BY_HAND = {"symmetric_kl": symmetric_kl, "kl": kl}


def logits_of(x, w):
    return x[MASK].sum(0) @ w


def slopes(f, at):
    """∇f by central differences in each element of `at`: of f's shape, then at's."""
    found = np.zeros((*np.shape(f(at)), *at.shape))
    for place in np.ndindex(at.shape):
        nudge = np.zeros(at.shape)
        nudge[place] = 1e-6
        found[(..., *place)] = (f(at + nudge) - f(at - nudge)) / 2e-6
    return found


def make_batch(rows):
    """Examples of differing lengths, and their keys, [2, rows]."""
    batch = {
        "x": jax.random.normal(jax.random.key(5), (rows, S, D)),
        "mask": jnp.asarray(np.arange(S) < 2 + np.arange(rows)[:, None] % (S - 1)),
    }
    return batch, jax.random.split(jax.random.key(6), (2, rows))


def as_batch(x, mask=MASK):
    """One example as a batch of one."""
    return {"x": jnp.asarray(x, jnp.float32)[None], "mask": jnp.asarray(mask)[None]}


def terms(params, anchor, x, settings, key=0, model=MODEL, divergence=smart.symmetric_kl, **options):
    """Of one example, through a batch of one."""
    batch, keys = as_batch(x), jax.random.split(jax.random.key(key))[:, None]
    found = smart.smart_terms(
        model,
        as_jax(params),
        as_jax(anchor),
        batch,
        *keys,
        divergence=divergence,
        settings=settings,
        mask=batch["mask"],
        **options,
    )
    return jax.tree.map(lambda leaf: leaf[0], found)


def perturb(
    x, w, key=0, adversary=smart.power_iteration, mask=MASK, sees=MASK, divergence=smart.symmetric_kl, **options
):
    x, w = jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32)

    def logits_fn(x):
        return jnp.sum(jnp.where(jnp.asarray(sees)[:, None], x, 0), axis=0) @ w

    mask = None if mask is None else jnp.asarray(mask)
    key = jax.random.key(key) if isinstance(key, int) else key
    return adversary(logits_fn, x, key, divergence=divergence, mask=mask, **options)
