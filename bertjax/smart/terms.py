"""SMART's two terms of a batch, R_s and D, computed from one clean pass."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bertjax.smart.adversaries import power_iteration, projected_gradient_ascent, random_perturbation
from bertjax.smart.divergences import Divergence
from bertjax.smart.ema import Params
from bertjax.smart.norms import at_least_float32
from bertjax.smart.settings import (
    Adversary,
    PowerIteration,
    ProjectedGradientAscent,
    RandomPerturbation,
    SmartSettings,
    as_number,
)


class Model(NamedTuple):
    """A model of one example, split at the embeddings.

    Attributes:
      embed: (params, example) to [S, D].
      logits: (params, embedding [S, D], example, dropout key) to [C].
      kernel: params to the kernel [D', C] of the linear head, or None; it improves the start "output".
    """

    embed: Callable[[Params, Any], jax.Array]
    logits: Callable[[Params, jax.Array, Any, Any], jax.Array]
    kernel: Callable[[Params], jax.Array] | None = None


class Terms(NamedTuple):
    """The result of `smart_terms`. With the start "task_gradient", only its first derivatives are right.

    Attributes:
      logits: Logits of the clean pass, [B, C], in the model's dtype.
      loss: The task's loss on the clean pass, [B], in the dtype of `loss_fn`; 0 without one.
      smoothness: R_s, at least float32, [B]; 0 if λ is a plain 0.
      bregman: D, at least float32, [B]; 0 if μ is a plain 0.
    """

    logits: jax.Array
    loss: jax.Array
    smoothness: jax.Array
    bregman: jax.Array

    def objective(self, settings: SmartSettings) -> jax.Array:
        """L + λ R_s + μ D of each example, at least float32, [B]."""
        total = self.loss.astype(at_least_float32(self.loss.dtype))
        if settings.has_bregman:
            total = (
                total + jnp.asarray(as_number("bregman_weight", settings.bregman_weight), total.dtype) * self.bregman
            )
        if settings.has_smoothness:
            weight = as_number("weight", settings.weight)
            total = total + jnp.asarray(weight, total.dtype) * self.smoothness
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
    """The clean logits, loss and both of SMART's terms for each example of a batch.

    One clean pass serves the loss, the adversary and both terms. The code repeats it; XLA merges the copies, because
    they are straight-line code.

    Args:
      model: Model of one example; it is vmapped here.
      params: θ.
      anchor: θ̃, a constant; may be None if `settings.bregman_weight` is 0.
      batch: Examples for `model`, with leaves [B, ...].
      dropout_keys: Keys [B] of the clean pass, and with matched dropout of all passes.
      noise_keys: Keys [B] of the adversary's start.
      mask: [B, S], true on real tokens.
      divergence: Divergence between outputs.
      settings: Weights and adversary at this update. A weight of plain 0 saves that term's passes.
      loss_fn: The task's loss of one example, (logits [C], example) to []; required by the start "task_gradient".
      weights: Per-example loss weights [B] of the caller's objective. With them the start "task_gradient" repeats the
        caller's own backward pass, which XLA then computes once. They change no result, except that an example of
        weight 0 is not perturbed.

    Raises:
      ValueError: The start is the task's gradient and there is no `loss_fn`, or a Bregman term has no `anchor`.

    References:
      Jiang et al., SMART, ACL 2020, equations 2 and 3.
    """
    if settings.has_bregman and anchor is None:
        raise ValueError("anchor must be given if bregman_weight is not 0: see smart.init_anchor")
    adversary = settings.adversary
    starts_at_gradient = isinstance(adversary, PowerIteration) and adversary.start == "task_gradient"
    if settings.has_smoothness and starts_at_gradient and loss_fn is None:
        raise ValueError("loss_fn must be given if start is 'task_gradient'")
    embed = jax.vmap(model.embed, (None, 0))
    forward = jax.vmap(model.logits, (None, 0, 0, 0))
    perturbed_keys = anchor_keys = dropout_keys
    if not settings.matched_dropout:
        perturbed_keys, anchor_keys = (jax.vmap(jax.random.fold_in, (0, None))(dropout_keys, i) for i in range(2))
    anchor_logits = None
    if settings.has_bregman:
        anchor = jax.lax.stop_gradient(optax.tree.cast_like(anchor, params))
        anchor_logits = forward(anchor, embed(anchor, batch), batch, anchor_keys)

    embeddings = embed(params, batch)
    logits = forward(params, embeddings, batch, dropout_keys)

    def clean_terms(logits: jax.Array) -> Terms:
        zero = jnp.zeros(logits.shape[:1], at_least_float32(logits.dtype))
        loss = zero if loss_fn is None else jax.vmap(loss_fn)(logits, batch)
        bregman = zero if anchor_logits is None else divergence.value(logits, anchor_logits)
        return Terms(logits, loss, zero, bregman)

    if not settings.has_smoothness:
        return clean_terms(logits)

    constants, clean_embeddings, clean_logits = jax.lax.stop_gradient((params, embeddings, logits))
    gradient = None
    terms_at: Callable[[jax.Array], Terms] = clean_terms
    if starts_at_gradient:
        terms_at = _linearized(clean_terms, clean_logits)
        weights = jnp.ones(mask.shape[:1], at_least_float32(logits.dtype)) if weights is None else weights
        slope = jax.grad(lambda z: jnp.sum(weights * terms_at(z).objective(settings)))(clean_logits)
        (gradient,) = jax.vjp(lambda x: forward(constants, x, batch, dropout_keys), clean_embeddings)[1](slope)
    terms = terms_at(logits)
    perturbation = partial(_perturbation, model, constants, divergence=divergence, adversary=adversary)
    delta = jax.vmap(perturbation)(
        clean_embeddings, clean_logits, gradient, batch, dropout_keys, perturbed_keys, noise_keys, mask
    )
    perturbed = (embeddings.astype(delta.dtype) + delta).astype(embeddings.dtype)
    reference = logits if settings.clean_gradient else clean_logits
    perturbed_logits = forward(params, perturbed, batch, perturbed_keys)
    return terms._replace(smoothness=divergence.value(perturbed_logits, reference))


def _linearized(clean_terms: Callable[[jax.Array], Terms], at: jax.Array) -> Callable[[jax.Array], Terms]:
    """`clean_terms` linearised at the logits `at` [B, C], with its derivatives computed once.

    Backward passes through it start from the same arrays, so that XLA can merge them. XLA does not recognise two
    derivations of one log-softmax as equal.
    """
    terms = clean_terms(at)
    slopes = [jax.grad(lambda z, name=name: jnp.sum(getattr(clean_terms(z), name)))(at) for name in ("loss", "bregman")]

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
    clean_logits: jax.Array,
    gradient: jax.Array | None,
    example: Any,
    dropout_key: jax.Array,
    perturbed_key: jax.Array,
    noise_key: jax.Array,
    mask: jax.Array,
    *,
    divergence: Divergence,
    adversary: Adversary | None,
) -> jax.Array:
    """δ of one example."""
    match adversary:
        case None:
            return jnp.zeros(embedding.shape, at_least_float32(embedding.dtype))
        case RandomPerturbation():
            return random_perturbation(embedding, noise_key, radius=as_number("radius", adversary.radius), mask=mask)
        case ProjectedGradientAscent():
            return projected_gradient_ascent(
                lambda x: model.logits(params, x, example, perturbed_key),
                embedding,
                noise_key,
                divergence=divergence,
                radius=0.0 if adversary.radius is None else as_number("radius", adversary.radius),
                step_size=as_number("step_size", adversary.step_size),
                noise=as_number("noise", adversary.noise),
                num_steps=adversary.num_steps,
                norm=adversary.norm,
                per=adversary.per,
                projection=adversary.projection,
                normalize_gradient=adversary.normalize_gradient,
                reference=clean_logits,
                mask=mask,
            )
        case PowerIteration():
            start: str | jax.Array = adversary.start
            if gradient is not None:
                # To second order both signs are equally good. Draw one: along the gradient itself the loss would rise.
                start = jax.random.rademacher(noise_key, (), gradient.dtype) * gradient
            return power_iteration(
                lambda x: model.logits(params, x, example, dropout_key),
                embedding,
                noise_key,
                divergence=divergence,
                radius=as_number("radius", adversary.radius),
                num_steps=adversary.num_steps,
                norm=adversary.norm,
                start=start,
                kernel=None if model.kernel is None else model.kernel(params),
                mask=mask,
            )
