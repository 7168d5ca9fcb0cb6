"""SMART's two terms of a batch, R_s and D, and the task's loss, computed from one clean pass."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bertjax.smart.adversaries import AnyDivergence, add
from bertjax.smart.arguments import as_embeddings, check_per_example, checked, is_per_example, keys_of_examples
from bertjax.smart.divergences import as_divergence
from bertjax.smart.ema import Params
from bertjax.smart.norms import at_least_float32
from bertjax.smart.presets import as_settings
from bertjax.smart.rows import draw_rows, spread_rows, take_rows
from bertjax.smart.settings import PowerIteration, SmartSettings, as_number
from bertjax.smart.smoothness_term import find_perturbation


class SplitModel(NamedTuple):
    """A model of a batch, split at the embeddings.

    Attributes:
      embed: (params, batch) to embeddings [B, ...].
      logits: (params, embeddings [B, ...], batch, dropout key) to logits [B, C], or scores [B].
      kernel: params to the kernel [D', C] of the linear head, or None; it improves the start "output".
    """

    embed: Callable[[Params, Any], jax.Array]
    logits: Callable[[Params, jax.Array, Any, Any], jax.Array]
    kernel: Callable[[Params], jax.Array] | None = None


class Terms(NamedTuple):
    """The result of `smart_terms`. With the start "task_gradient", its second derivatives are wrong.

    Attributes:
      logits: Logits of the clean pass, [B, C], in the model's dtype.
      loss: The task's loss on the clean pass, [B], in the dtype of `loss_fn`; None without one.
      smoothness: R_s, at least float32, [B]; 0 if λ is a plain 0.
      bregman: D, at least float32, [B]; 0 if μ is a plain 0.
    """

    logits: jax.Array
    loss: jax.Array | None
    smoothness: jax.Array
    bregman: jax.Array

    def objective(self, settings: SmartSettings | str) -> jax.Array:
        """L + λ R_s + μ D of each example, at least float32, [B]."""
        settings = as_settings(settings)
        loss = jnp.zeros_like(self.smoothness) if self.loss is None else self.loss
        total = loss.astype(at_least_float32(loss.dtype))
        if settings.has_bregman:
            total = (
                total + jnp.asarray(as_number("bregman_weight", settings.bregman_weight), total.dtype) * self.bregman
            )
        if settings.has_smoothness:
            weight = as_number("weight", settings.weight)
            total = total + jnp.asarray(weight, total.dtype) * self.smoothness
        return total


def smart_terms(
    model: SplitModel,
    params: Params,
    anchor: Params | None,
    batch: Any,
    dropout_key: Any,
    noise_key: jax.Array,
    *,
    divergence: AnyDivergence,
    settings: SmartSettings | str,
    mask: jax.Array | None = None,
    loss_fn: Callable[[jax.Array, Any], jax.Array] | None = None,
    weights: jax.Array | None = None,
) -> Terms:
    """The clean logits, loss and both of SMART's terms for each example of a batch.

    One clean pass serves the loss, the adversary and both terms. The code repeats it; XLA merges the copies, because
    they are straight-line code.

    Args:
      model: The model of a batch.
      params: θ.
      anchor: θ̃, a constant; may be None if `settings.bregman_weight` is 0.
      batch: The inputs of `model`, a pytree. With `share` below 1, every leaf is [B, ...].
      dropout_key: What `model.logits` gets as its key in the clean pass, and with matched dropout in all passes: a key,
        keys [B], or None.
      noise_key: The adversary's noise: a key, which is split, or keys [B].
      divergence: Divergence between outputs, [B, C] twice to [B].
      settings: Weights and adversary at this update, or a preset's name. A weight of exactly 0, a Python number, saves
        that term's passes. With `share` below 1 and keys [B], the rows' clean logits are those of the whole batch, so
        each row's must depend on that row and its key alone. With one key or none, the rows have a clean pass of their
        own, as their masks differ from the batch's.
      mask: Bool or 0/1 integers of a leading part of the embeddings' shape, such as [B, S]; true on real tokens. None
        if all are.
      loss_fn: The task's loss, (logits [B, C], batch) to [B]; required by the start "task_gradient".
      weights: Per-example loss weights [B], if your objective has them. XLA can then merge the backward pass of the
        start "task_gradient" with yours. Results stay the same, except that examples of weight 0 are not perturbed.

    Returns:
      The terms of each example, without their weights. The mean of `objective(settings)` is the loss to minimise.

    Raises:
      ValueError: The start is the task's gradient and there is no `loss_fn`, a Bregman term has no `anchor`, or a shape
        does not fit.

    References:
      Jiang et al., SMART, ACL 2020, equations 2 and 3.
    """
    settings = as_settings(settings)
    if settings.has_bregman and anchor is None:
        raise ValueError("anchor must be given if bregman_weight is not 0: see smart.init_anchor")
    adversary = settings.adversary
    starts_at_gradient = isinstance(adversary, PowerIteration) and adversary.start == "task_gradient"
    if settings.has_smoothness and starts_at_gradient and loss_fn is None:
        raise ValueError("loss_fn must be given if start is 'task_gradient'")
    divergence = as_divergence(divergence)

    def forward(params: Params, embeddings: jax.Array, batch: Any, key: Any) -> jax.Array:
        return checked(lambda x: model.logits(params, x, batch, key), "logits")(embeddings)

    embeddings = as_embeddings(model.embed(params, batch))
    logits = forward(params, embeddings, batch, dropout_key)
    batch_size = len(embeddings)
    rows = None
    if settings.has_smoothness or settings.has_bregman:
        noise_keys = keys_of_examples("noise_key", noise_key, batch_size)
        rows = draw_rows(noise_keys, settings.share)
    # `drawn` is what the terms are computed on: a share of the batch, or all of it.
    drawn = take_rows(batch, rows, batch_size)
    drawn_key = jax.tree.map(lambda key: key[rows] if rows is not None and is_per_example(key) else key, dropout_key)
    perturbed_key = anchor_key = drawn_key
    if not settings.matched_dropout:
        perturbed_key, anchor_key = (_folded(drawn_key, stream) for stream in range(2))

    # Computed once, as XLA would not merge the backward passes of two.
    has_own_pass = rows is not None and not is_per_example(dropout_key)
    own_logits = forward(params, embeddings[rows], drawn, drawn_key) if has_own_pass else None

    def drawn_logits(logits: jax.Array) -> jax.Array:
        """The clean logits of the rows drawn, given those of the batch."""
        return take_rows(logits, rows, batch_size) if own_logits is None else own_logits

    anchor_logits = None
    if settings.has_bregman:
        anchor = jax.lax.stop_gradient(optax.tree.cast_like(anchor, params))
        anchor_logits = forward(anchor, model.embed(anchor, drawn), drawn, anchor_key)

    def clean_terms(logits: jax.Array) -> Terms:
        zero = jnp.zeros(batch_size, at_least_float32(logits.dtype))
        loss = None if loss_fn is None else loss_fn(logits, batch)
        if loss is not None:
            check_per_example("loss_fn", loss, batch_size)
        bregman = zero
        if anchor_logits is not None:
            bregman = spread_rows(divergence(drawn_logits(logits), anchor_logits), rows, batch_size)
        return Terms(logits, loss, zero, bregman)

    if not settings.has_smoothness:
        return clean_terms(logits)

    constants, clean_embeddings, clean_logits = jax.lax.stop_gradient((params, embeddings, logits))
    gradient = None
    terms_at: Callable[[jax.Array], Terms] = clean_terms
    if starts_at_gradient:
        terms_at = _linearized(clean_terms, clean_logits)
        weights = jnp.ones(batch_size, at_least_float32(logits.dtype)) if weights is None else weights
        check_per_example("weights", weights, batch_size)
        slope = jax.grad(lambda z: jnp.sum(weights * terms_at(z).objective(settings)))(clean_logits)
        (gradient,) = jax.vjp(lambda x: forward(constants, x, batch, dropout_key), clean_embeddings)[1](slope)
    terms = terms_at(logits)
    reference = drawn_logits(logits)
    clean_reference = jax.lax.stop_gradient(reference)
    delta = find_perturbation(
        lambda x: forward(constants, x, drawn, drawn_key),
        take_rows(clean_embeddings, rows, batch_size),
        take_rows(noise_keys, rows, batch_size),
        settings=settings,
        divergence=divergence,
        mask=take_rows(mask, rows, batch_size),
        gradient=take_rows(gradient, rows, batch_size),
        kernel=None if model.kernel is None else model.kernel(constants),
        perturbed_logits_fn=lambda x: forward(constants, x, drawn, perturbed_key),
        clean_logits=clean_reference,
    )
    perturbed = add(take_rows(embeddings, rows, batch_size), delta)
    perturbed_logits = forward(params, perturbed, drawn, perturbed_key)
    smoothness = divergence(perturbed_logits, reference if settings.clean_gradient else clean_reference)
    return terms._replace(smoothness=spread_rows(smoothness, rows, batch_size))


def _linearized(clean_terms: Callable[[jax.Array], Terms], at: jax.Array) -> Callable[[jax.Array], Terms]:
    """`clean_terms` linearised at the logits `at` [B, ...], with its derivatives computed once.

    Backward passes through it start from the same arrays, so that XLA can merge them. XLA does not recognise two
    derivations of one log-softmax as equal.
    """
    terms = clean_terms(at)
    slopes = {
        name: jax.grad(lambda z, name=name: jnp.sum(getattr(clean_terms(z), name)))(at) for name in ("loss", "bregman")
    }

    def around(logits: jax.Array) -> Terms:
        axes = tuple(range(1, logits.ndim))

        def at_logits(name: str) -> jax.Array:
            term: jax.Array = getattr(terms, name)
            return term + jnp.sum(slopes[name] * (logits - at), axis=axes).astype(term.dtype)

        return terms._replace(logits=logits, loss=at_logits("loss"), bregman=at_logits("bregman"))

    return around


def _folded(key: Any, stream: int) -> Any:
    """The key, or keys [B], of another stream of dropout masks; None stays None."""

    def fold(key: Any) -> jax.Array:
        if not hasattr(key, "dtype"):
            raise ValueError(f"dropout_key must be a key or keys [B] if matched_dropout is False, found {key!r}")
        fold_in = jax.vmap(jax.random.fold_in, (0, None)) if is_per_example(key) else jax.random.fold_in
        return fold_in(key, stream)

    return jax.tree.map(fold, key)
