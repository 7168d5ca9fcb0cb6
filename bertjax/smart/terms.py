"""SMART's two regularisers over a batch, from one clean pass: under the fused step and the transforms alike."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bertjax.smart.adversaries import power_iteration, projected_gradient_ascent, random_perturbation
from bertjax.smart.divergences import Divergence
from bertjax.smart.ema import Params, like_params
from bertjax.smart.norms import at_least_float32
from bertjax.smart.settings import SmartSettings


class Model(NamedTuple):
    """A model of one example, cut at the embeddings.

    Attributes:
      embed: (params, example) to [S, D].
      logits: (params, embedding [S, D], example, dropout key) to [C].
      kernel: params to the linear head's kernel [D', C], or None where there is none to be had; the start
        "output" is the better for it.
    """

    embed: Callable[[Params, Any], jax.Array]
    logits: Callable[[Params, jax.Array, Any, Any], jax.Array]
    kernel: Callable[[Params], jax.Array] | None = None


class Terms(NamedTuple):
    """What `smart_terms` gives, differentiable in the parameters; only once where it starts at "task_gradient".

    Attributes:
      logits: [B, C], of the clean pass, in the model's dtype.
      loss: of the task on the clean pass, in `loss_fn`'s dtype, [B]; 0 without one.
      smoothness: R_s, float32 at least, [B]; 0 where λ is a plain 0.
      bregman: D, alike; 0 where μ is a plain 0.
    """

    logits: jax.Array
    loss: jax.Array
    smoothness: jax.Array
    bregman: jax.Array

    def objective(self, settings: SmartSettings) -> jax.Array:
        """L + λ R_s + μ D of each example, float32 at least, [B]."""
        total = self.loss.astype(at_least_float32(self.loss.dtype))
        if settings.has_bregman:
            total = total + jnp.asarray(settings.number("bregman_weight"), total.dtype) * self.bregman
        if settings.has_smoothness:
            total = total + jnp.asarray(settings.number("weight"), total.dtype) * self.smoothness
        return total


def smart_terms(
    model: Model,
    params: Params,
    anchor: Params | None,
    batch: Any,
    dropout_keys: jax.Array,
    noise_keys: jax.Array,
    *,
    mask: jax.Array,
    divergence: Divergence,
    settings: SmartSettings,
    loss_fn: Callable[[jax.Array, Any], jax.Array] | None = None,
    weights: jax.Array | None = None,
) -> Terms:
    """The clean output and both of SMART's terms of each example of a batch.

    One clean pass serves the loss, the adversary and both terms: the repeated forward is spelt out, and XLA
    merges it, as it stands in straight-line code.

    Args:
      model: the model, of one example; it is vmapped here.
      params: θ.
      anchor: θ̃, a constant; may be None where `settings.bregman_weight` is 0.
      batch: what `model` takes of each example, in leaves [B, ...].
      dropout_keys: keys [B] of the clean pass, and with matched dropout of the others.
      noise_keys: keys [B]: where the adversary starts.
      mask: [B, S], true on real tokens.
      divergence: between outputs.
      settings: weights and the adversary, at this update; a weight of plain 0 saves that term's passes.
      loss_fn: the task's loss of one example, (logits [C], example) to []; needed where the adversary
        starts at "task_gradient".
      weights: [B], what each example counts in the caller's objective: with it the start "task_gradient" is the
        caller's own backward pass, which XLA then computes once. It changes no result but where it is 0: that
        example is not perturbed.

    Raises:
      ValueError: a start at the task's gradient without `loss_fn`, a Bregman term without `anchor`.

    References:
      Jiang et al., SMART, ACL 2020, equations 2 and 3.
    """
    if settings.has_bregman and anchor is None:
        raise ValueError("anchor must be given where bregman_weight is not 0: see smart.init_anchor")
    starts_at_gradient = settings.adversary == "power_iteration" and settings.start == "task_gradient"
    if settings.has_smoothness and starts_at_gradient and loss_fn is None:
        raise ValueError("loss_fn must be given where start is 'task_gradient'")
    embed = jax.vmap(model.embed, (None, 0))
    forward = jax.vmap(model.logits, (None, 0, 0, 0))
    moved_keys = anchor_keys = dropout_keys
    if not settings.matched_dropout:
        moved_keys, anchor_keys = (jax.vmap(jax.random.fold_in, (0, None))(dropout_keys, i) for i in range(2))
    anchored = None
    if settings.has_bregman:
        anchor = jax.lax.stop_gradient(like_params(anchor, params))
        anchored = forward(anchor, embed(anchor, batch), batch, anchor_keys)

    embeddings = embed(params, batch)
    logits = forward(params, embeddings, batch, dropout_keys)

    def clean(logits: jax.Array) -> Terms:
        zero = jnp.zeros(logits.shape[:1], at_least_float32(logits.dtype))
        loss = zero if loss_fn is None else jax.vmap(loss_fn)(logits, batch)
        bregman = zero if anchored is None else divergence.value(logits, anchored)
        return Terms(logits, loss, zero, bregman)

    if not settings.has_smoothness:
        return clean(logits)

    frozen, here, there = jax.lax.stop_gradient((params, embeddings, logits))
    gradient = None
    terms_of: Callable[[jax.Array], Terms] = clean
    if starts_at_gradient:
        terms_of = _linearized(clean, there)
        weights = jnp.ones(mask.shape[:1], at_least_float32(logits.dtype)) if weights is None else weights
        slope = jax.grad(lambda z: jnp.sum(weights * terms_of(z).objective(settings)))(there)
        (gradient,) = jax.vjp(lambda x: forward(frozen, x, batch, dropout_keys), here)[1](slope)
    terms = terms_of(logits)
    seek = partial(_perturbation, model, frozen, divergence=divergence, settings=settings)
    delta = jax.vmap(seek)(here, there, gradient, batch, dropout_keys, moved_keys, noise_keys, mask)
    moved = (embeddings.astype(delta.dtype) + delta).astype(embeddings.dtype)
    reference = logits if settings.clean_gradient else there
    return terms._replace(smoothness=divergence.value(forward(params, moved, batch, moved_keys), reference))


def _linearized(clean: Callable[[jax.Array], Terms], at: jax.Array) -> Callable[[jax.Array], Terms]:
    """`clean` with its values and first derivatives at the logits `at` [B, C], the derivatives taken once.

    Backward passes through it begin with the same arrays, so that XLA can merge them. Of two derivations of one
    log-softmax it does not see that they are the same.
    """
    terms = clean(at)
    slopes = [jax.grad(lambda z, name=name: jnp.sum(getattr(clean(z), name)))(at) for name in ("loss", "bregman")]

    def around(logits: jax.Array) -> Terms:
        loss, bregman = (
            term + jnp.sum(slope * (logits - at), axis=-1).astype(term.dtype)
            for term, slope in zip((terms.loss, terms.bregman), slopes, strict=True)
        )
        return terms._replace(logits=logits, loss=loss, bregman=bregman)

    return around


def _perturbation(
    model: Model,
    params: Params,
    embedding: jax.Array,
    logits: jax.Array,
    gradient: jax.Array | None,
    example: Any,
    dropout_key: jax.Array,
    moved_key: jax.Array,
    noise_key: jax.Array,
    mask: jax.Array,
    *,
    divergence: Divergence,
    settings: SmartSettings,
) -> jax.Array:
    """δ of one example."""
    if settings.adversary == "none":
        return jnp.zeros(embedding.shape, at_least_float32(embedding.dtype))
    if settings.adversary == "random_perturbation":
        return random_perturbation(embedding, noise_key, radius=settings.number("radius"), mask=mask)
    if settings.adversary == "projected_gradient_ascent":
        return projected_gradient_ascent(
            lambda x: model.logits(params, x, example, moved_key),
            embedding,
            noise_key,
            divergence=divergence,
            radius=settings.number("radius"),
            step_size=settings.number("step_size"),
            noise=settings.number("noise"),
            num_steps=settings.num_steps,
            norm=settings.norm,
            per=settings.per,
            projection=settings.projection,
            normalize_gradient=settings.normalize_gradient,
            reference=logits,
            mask=mask,
        )
    start: str | jax.Array = settings.start
    if gradient is not None:
        # To second order either sign does; a loss that only ever rises along δ would lose half of them.
        start = jax.random.rademacher(noise_key, (), gradient.dtype) * gradient
    return power_iteration(
        lambda x: model.logits(params, x, example, dropout_key),
        embedding,
        noise_key,
        divergence=divergence,
        radius=settings.number("radius"),
        num_steps=settings.num_steps,
        norm=settings.norm,
        start=start,
        kernel=None if model.kernel is None else model.kernel(params),
        mask=mask,
    )
