"""SMART's two regularisers of one example, and the anchor that the second one needs."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bertjax.smart.adversary import power_iteration, projected_gradient_ascent
from bertjax.smart.divergences import Divergence
from bertjax.smart.settings import SmartSettings

Params = Any


class Model(NamedTuple):
    """A model of one example, cut at the embeddings.

    Attributes:
      embed: (params, example) to [S, D].
      logits: (params, embedding [S, D], example, dropout key) to [C].
    """

    embed: Callable[[Params, Any], jax.Array]
    logits: Callable[[Params, jax.Array, Any, Any], jax.Array]


class Terms(NamedTuple):
    """What `smart_terms` gives for one example.

    Attributes:
      logits: [C], of the clean pass.
      smoothness: R_s, float32 [], differentiable in the parameters; 0 where the weight is 0.
      bregman: D, float32 [], likewise.
    """

    logits: jax.Array
    smoothness: jax.Array
    bregman: jax.Array


def smart_terms(
    model: Model,
    params: Params,
    anchor: Params | None,
    example: Any,
    dropout_key: jax.Array,
    noise_key: jax.Array,
    *,
    mask: jax.Array,
    divergence: Divergence,
    settings: SmartSettings,
) -> Terms:
    """The clean output and both of SMART's terms for ONE example; callers vmap it.

    One clean pass serves the loss, the adversary and both terms: the repeated forward is spelt out, and XLA
    merges it, as it stands in straight-line code.

    Args:
      model: the model.
      params: θ.
      anchor: θ̃, a constant; may be None where `settings.bregman_weight` is 0.
      example: what `model` takes.
      dropout_key: of the clean pass, and with matched dropout of the others.
      noise_key: where the adversary starts.
      mask: [S], true on real tokens.
      divergence: between outputs.
      settings: weights and the adversary; a weight of 0 saves that term's passes.

    References:
      Jiang et al., SMART, ACL 2020, equations 2 and 3.
    """
    embedding = model.embed(params, example)
    logits = model.logits(params, embedding, example, dropout_key)
    smoothness = bregman = jnp.zeros((), jnp.float32)

    def other_key(which: int) -> jax.Array:
        return dropout_key if settings.matched_dropout else jax.random.fold_in(dropout_key, which)

    if settings.weight:
        delta = _perturbation(
            lambda x: model.logits(jax.lax.stop_gradient(params), x, example, dropout_key),
            jax.lax.stop_gradient(embedding),
            noise_key,
            mask,
            divergence,
            settings,
        )
        moved = (embedding.astype(delta.dtype) + delta).astype(embedding.dtype)
        smoothness = divergence.value(model.logits(params, moved, example, other_key(0)), logits)
    if settings.bregman_weight:
        anchor = jax.lax.stop_gradient(anchor)
        anchored = model.logits(anchor, model.embed(anchor, example), example, other_key(1))
        bregman = divergence.value(logits, anchored)
    return Terms(logits, smoothness, bregman)


def _perturbation(
    logits_fn: Callable[[jax.Array], jax.Array],
    embedding: jax.Array,
    key: jax.Array,
    mask: jax.Array,
    divergence: Divergence,
    settings: SmartSettings,
) -> jax.Array:
    if settings.adversary == "power_iteration":
        return power_iteration(
            logits_fn,
            embedding,
            key,
            divergence=divergence,
            radius=settings.radius,
            num_steps=settings.num_steps,
            norm=settings.norm,
            mask=mask,
        )
    return projected_gradient_ascent(
        logits_fn,
        embedding,
        key,
        divergence=divergence,
        radius=settings.radius,
        step_size=settings.step_size,
        noise=settings.noise,
        num_steps=settings.num_steps,
        mask=mask,
    )


def init_anchor(params: Params) -> Params:
    """A copy of the parameters, of which no buffer is shared: donating one leaves the other whole."""
    return jax.tree.map(jnp.copy, params)


def update_anchor(anchor: Params, params: Params, decay: jax.Array | float) -> Params:
    """θ̃ ← β θ̃ + (1 − β) θ, in a form that leaves an anchor equal to the parameters exactly as it is.

    To be called on entering a step, before the gradient: that is the paper's "step, then move the anchor".
    """

    def move(a: jax.Array, p: jax.Array) -> jax.Array:
        return a + (1 - jnp.asarray(decay, a.dtype)) * (p - a)

    return jax.tree.map(move, anchor, params)


def anchor_decay(settings: SmartSettings, step: jax.Array, num_steps: int) -> jax.Array:
    """β at an update counted from 0, of `num_steps` in all: float32 []."""
    early, late = settings.decay
    return jnp.where(step < math.ceil(num_steps / 10), jnp.float32(early), jnp.float32(late))
