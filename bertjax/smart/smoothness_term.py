"""The smoothness term R_s of a batch, and its perturbation, for any model of a batch.

x = embed(params, batch)                                 # [B, ...]
logits_fn = lambda x: logits(params, x, batch, key)      # [B, ...] to [B, C], with dropout inside
r_s = smoothness(logits_fn, x, key, divergence=symmetric_kl)  # [B]
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bertjax.smart import adversaries
from bertjax.smart.adversaries import AnyDivergence
from bertjax.smart.arguments import as_embeddings, check_logits, check_per_example, checked, keys_of_examples
from bertjax.smart.divergences import as_divergence
from bertjax.smart.norms import at_least_float32
from bertjax.smart.presets import as_settings, changed
from bertjax.smart.rows import draw_rows, spread_rows, take_rows
from bertjax.smart.settings import (
    Adversary,
    PowerIteration,
    ProjectedGradientAscent,
    RandomPerturbation,
    SmartSettings,
    as_number,
)

LogitsFunction = Callable[..., jax.Array]
LossFunction = Callable[..., jax.Array]
AnySettings = SmartSettings | Adversary | str | None


def smoothness(
    logits_fn: LogitsFunction,
    embeddings: jax.Array,
    key: jax.Array,
    *,
    divergence: AnyDivergence,
    mask: jax.Array | None = None,
    settings: AnySettings = None,
    radius: float | jax.Array | None = None,
    num_steps: int | None = None,
    norm: str | None = None,
    start: str | jax.Array | None = None,
    relative: bool | None = None,
    clean_gradient: bool | None = None,
    kernel: jax.Array | None = None,
    loss_fn: LossFunction | None = None,
    clean_logits: jax.Array | None = None,
    perturbed_logits_fn: LogitsFunction | None = None,
    args: tuple[Any, ...] = (),
    share: float | None = None,
) -> jax.Array:
    r"""Each example's smoothness term, the divergence under the worst small perturbation of its embeddings.

      R_s = l(f(x + δ), f(x)),   δ = argmax over ‖δ‖ ≤ ε of l(f(x + δ), f(x)).

    Add its mean, times λ, to the loss. It is differentiable in `embeddings` and in all that `logits_fn` closes over,
    with δ as a constant; so second derivatives leave out those of δ.

    Args:
      logits_fn: The part of the model after its embeddings: [B, ...] to logits [B, C] or scores [B], of a whole batch;
        `jax.vmap` a model of one example. It closes over the parameters and the dropout key, and changes no state. It
        is traced once, so all passes have the same dropout masks. It may couple the examples, as BatchNorm does.
      embeddings: Floats [B, ...]: [B, S, D], images [B, H, W, C], or any other shape. Norms run over all inner axes of
        an example.
      key: Key of the adversary's noise: one key, which is split over the examples, or keys [B].
      divergence: l, such as `symmetric_kl`, or any function of outputs and reference, [B, ...] twice to [B].
      mask: Bool or 0/1 integers, true on what may be perturbed, of a leading part of the embeddings' shape, such as
        [B, S]. The rest does not count in norms.
      settings: A preset's name, a `SmartSettings`, or an adversary's record. Default: `PowerIteration()`. R_s is not
        multiplied by λ: the settings' weights and `every` have no effect here.
      radius: Replaces the radius of the settings. The next five arguments likewise replace one setting each; see
        `PowerIteration`.
      num_steps: Steps of the adversary.
      norm: "l2" or "linf".
      start: "noise", "output", "task_gradient", or an array of the embeddings' shape, from which `num_steps` power
        steps follow; 0 scales the array alone.
      relative: Whether the radius is relative to the RMS of each example's embeddings.
      clean_gradient: Whether R_s is also differentiated through its clean pass; True unless the settings differ.
      kernel: Kernel [D, C] of the linear head, the transpose of Equinox's and PyTorch's weight; it improves the start
        "output".
      loss_fn: The task's loss, (logits [B, C], *args) to [B], for the start "task_gradient", at the cost of a backward
        pass.
        `smart_terms` gets that gradient from the main backward pass.
      clean_logits: The result of `logits_fn(embeddings)`, if the loss has it already. It saves a backward pass, as one
        then serves the loss and R_s. Not the output of a call with other dropout masks: R_s would measure dropout. Not
        used with a share, whose rows have a clean pass of their own.
      perturbed_logits_fn: The same model with another dropout mask, for the perturbed pass. Settings without
        `matched_dropout` require it.
      args: Further arguments of `logits_fn` and `perturbed_logits_fn`, pytrees of arrays [B, ...].
      share: s: R_s of n = max(1, round(s B)) rows, drawn without replacement by `key`, times B/n; 0 for the others. Its
        mean over the batch is unbiased. `logits_fn` gets those rows of `embeddings` and `args` alone, so masks, dropout
        keys [B] and other arrays [B, ...] go through `args`. A model that couples examples sees those rows alone.

    Returns:
      R_s of each example, [B], at least float32.

    Raises:
      ValueError: A shape does not fit, a setting is unknown or out of range, or an argument that it needs is missing.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from bertjax import smart
      >>> w = jnp.array([[1.0, -1.0], [0.0, 0.0]])
      >>> logits_fn = lambda x: jnp.sum(x, axis=1) @ w  # [B, S, D] to [B, C]
      >>> x = jnp.zeros((4, 3, 2))
      >>> r_s = smart.smoothness(
      ...     logits_fn, x, jax.random.key(0), divergence=smart.symmetric_kl, radius=0.1, relative=False
      ... )
      >>> print(r_s.round(3))  # of logits that differ by 2 · 0.1 · √3
      [0.03 0.03 0.03 0.03]

    References:
      Jiang et al., SMART, ACL 2020, equation 2.
    """
    embeddings = as_embeddings(embeddings)
    chosen = resolve(
        settings,
        radius=radius,
        num_steps=num_steps,
        norm=norm,
        start=start,
        relative=relative,
        clean_gradient=clean_gradient,
        share=share,
    )
    batch_size = len(embeddings)
    keys = keys_of_examples("key", key, batch_size)
    rows = draw_rows(keys, chosen.share)
    if clean_logits is not None:
        check_logits("clean_logits", clean_logits, embeddings)
    if rows is not None:
        clean_logits, logits_fn = None, _of_rows(logits_fn, len(rows), batch_size)
        if perturbed_logits_fn is not None:
            perturbed_logits_fn = _of_rows(perturbed_logits_fn, len(rows), batch_size)
    embeddings, keys, mask, start_array, args = take_rows(
        (embeddings, keys, mask, _array(start), args), rows, batch_size
    )
    clean, perturbed = _both_passes(logits_fn, perturbed_logits_fn, embeddings, args, chosen)
    delta = find_perturbation(
        clean.constant,
        embeddings,
        keys,
        settings=chosen,
        divergence=divergence,
        mask=mask,
        start=start_array,
        kernel=kernel,
        loss_fn=None if loss_fn is None else lambda logits: loss_fn(logits, *args),
        perturbed_logits_fn=perturbed.constant,
        clean_logits=None if clean_logits is None else jax.lax.stop_gradient(clean_logits),
    )
    clean_logits = clean(embeddings) if clean_logits is None else clean_logits
    perturbed_logits = perturbed(adversaries.add(embeddings, delta))
    reference = clean_logits if chosen.clean_gradient else jax.lax.stop_gradient(clean_logits)
    return spread_rows(as_divergence(divergence)(perturbed_logits, reference), rows, batch_size)


def perturbation(
    logits_fn: LogitsFunction,
    embeddings: jax.Array,
    key: jax.Array,
    *,
    divergence: AnyDivergence,
    mask: jax.Array | None = None,
    settings: AnySettings = None,
    radius: float | jax.Array | None = None,
    num_steps: int | None = None,
    norm: str | None = None,
    start: str | jax.Array | None = None,
    relative: bool | None = None,
    kernel: jax.Array | None = None,
    loss_fn: LossFunction | None = None,
    perturbed_logits_fn: LogitsFunction | None = None,
) -> jax.Array:
    """The perturbation of each example that `smoothness` uses: δ [B, ...].

    The arguments are those of `smoothness`, but for `clean_gradient`, `clean_logits`, `args` and `share`.

    Returns:
      δ: Of the embeddings' shape and dtype, but at least float32; a constant to gradients.

    Raises:
      ValueError: See `smoothness`.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from bertjax import smart
      >>> logits_fn = lambda x: jnp.sum(x, axis=1)  # [B, S, D] to [B, D]
      >>> delta = smart.perturbation(logits_fn, jnp.ones((4, 3, 2)), jax.random.key(0), divergence=smart.symmetric_kl)
      >>> print(jnp.sqrt(jnp.mean(delta**2, axis=(1, 2))))  # relative to an RMS of 1
      [0.02 0.02 0.02 0.02]
    """
    embeddings = as_embeddings(embeddings)
    chosen = resolve(settings, radius=radius, num_steps=num_steps, norm=norm, start=start, relative=relative)
    if chosen.share != 1:
        raise ValueError(f"share is no setting of a perturbation, found {chosen.share}: pass the rows themselves")
    clean, perturbed = _both_passes(logits_fn, perturbed_logits_fn, embeddings, (), chosen)
    return find_perturbation(
        clean.constant,
        embeddings,
        keys_of_examples("key", key, len(embeddings)),
        settings=chosen,
        divergence=divergence,
        mask=mask,
        start=_array(start),
        kernel=kernel,
        loss_fn=loss_fn,
        perturbed_logits_fn=perturbed.constant,
    )


def resolve(settings: AnySettings, **changes: Any) -> SmartSettings:
    """The settings that the caller means: a record or a preset's name, with all changes that are not None.

    Raises:
      ValueError: An unknown name, a change that the settings do not have, or settings without a smoothness term.
    """
    if settings is None or isinstance(settings, Adversary):
        settings = SmartSettings(weight=1.0, adversary=settings or PowerIteration())
    settings = as_settings(settings)
    if not settings.has_smoothness:
        raise ValueError("settings have no smoothness term, as their weight is 0: leave the call out")
    if _array(changes.get("start")) is not None:
        changes["start"] = "task_gradient"  # an array too allows no power step
    return changed(settings, **{name: value for name, value in changes.items() if value is not None})


def find_perturbation(
    logits_fn: LogitsFunction,
    embeddings: jax.Array,
    keys: jax.Array,
    *,
    settings: SmartSettings,
    divergence: AnyDivergence,
    mask: jax.Array | None = None,
    start: jax.Array | None = None,
    gradient: jax.Array | None = None,
    kernel: jax.Array | None = None,
    loss_fn: LossFunction | None = None,
    perturbed_logits_fn: LogitsFunction | None = None,
    clean_logits: jax.Array | None = None,
) -> jax.Array:
    """δ [B, ...] by the settings' adversary.

    Args:
      logits_fn: See `smoothness`, also for what is not listed here; of constants only.
      embeddings: [B, ...].
      keys: Keys [B].
      settings: The settings, without schedules.
      divergence: l.
      mask: As for `smoothness`.
      start: An array in place of the settings' start.
      gradient: Gradient of the task's loss in the embeddings, [B, ...], if it is known.
      kernel: [D, C].
      loss_fn: Gives that gradient if it is not known.
      perturbed_logits_fn: The model with the perturbed pass's dropout; None for `logits_fn`.
      clean_logits: `logits_fn` at the embeddings, if known.
    """
    match settings.adversary:
        case None:
            return jnp.zeros(embeddings.shape, at_least_float32(embeddings.dtype))
        case RandomPerturbation() as noise:
            return adversaries.random_perturbation(
                embeddings, keys, radius=as_number("radius", noise.radius), mask=mask
            )
        case ProjectedGradientAscent() as ascent:
            return adversaries.projected_gradient_ascent(
                logits_fn if perturbed_logits_fn is None else perturbed_logits_fn,
                embeddings,
                keys,
                divergence=divergence,
                radius=0.0 if ascent.radius is None else as_number("radius", ascent.radius),
                step_size=as_number("step_size", ascent.step_size),
                noise=as_number("noise", ascent.noise),
                num_steps=ascent.num_steps,
                norm=ascent.norm,
                per=ascent.per,
                projection=ascent.projection,
                normalize_gradient=ascent.normalize_gradient,
                reference=logits_fn(embeddings) if clean_logits is None else clean_logits,
                mask=mask,
            )
        case PowerIteration() as power:
            if start is None and power.start == "task_gradient":
                if gradient is None:
                    gradient = _task_gradient(logits_fn, embeddings, loss_fn)
                # To second order both signs are equally good. Draw one: along the gradient itself the loss would rise.
                start = adversaries.with_random_sign(keys, gradient)
            return adversaries.power_iteration(
                logits_fn,
                embeddings,
                keys,
                divergence=divergence,
                radius=as_number("radius", power.radius),
                num_steps=power.num_steps,
                norm=power.norm,
                start=power.start if start is None else start,
                kernel=kernel,
                relative=power.relative,
                mask=mask,
            )


def _task_gradient(logits_fn: LogitsFunction, embeddings: jax.Array, loss_fn: LossFunction | None) -> jax.Array:
    """Gradient of the task's loss in the embeddings, [B, ...]."""
    if loss_fn is None:
        raise ValueError("loss_fn, from logits [B, C] to losses [B], must be given if start is 'task_gradient'")
    logits, pull = jax.vjp(logits_fn, embeddings)

    def loss(logits: jax.Array) -> jax.Array:
        losses = loss_fn(logits)
        check_per_example("loss_fn", losses, len(logits))
        return jnp.sum(losses)

    slope = jax.grad(loss)(logits.astype(at_least_float32(logits.dtype)))
    (gradient,) = pull(adversaries.as_cotangent(slope, logits.dtype))
    return gradient


class _Traced:
    """A model traced once, from embeddings to checked logits, so that every call of it has the same dropout masks.

    `constant` is the same with all that it closes over held constant: outer gradients then do not differentiate the
    adversary, whose own derivatives may have none.
    """

    def __init__(self, logits_fn: LogitsFunction, embeddings: jax.Array) -> None:
        self.converted, self.closed_over = jax.closure_convert(logits_fn, embeddings)

    def __call__(self, embeddings: jax.Array) -> jax.Array:
        logits: jax.Array = self.converted(embeddings, *self.closed_over)
        return logits

    def constant(self, embeddings: jax.Array) -> jax.Array:
        logits: jax.Array = self.converted(embeddings, *jax.lax.stop_gradient(self.closed_over))
        return logits


def _both_passes(
    logits_fn: LogitsFunction,
    perturbed_logits_fn: LogitsFunction | None,
    embeddings: jax.Array,
    args: tuple[Any, ...],
    settings: SmartSettings,
) -> tuple[_Traced, _Traced]:
    """The model of the clean pass and of the perturbed one."""
    if perturbed_logits_fn is None and not settings.matched_dropout:
        raise ValueError(
            "perturbed_logits_fn, the model with another dropout mask, must be given if matched_dropout is False"
        )
    clean = _Traced(checked(lambda x: logits_fn(x, *args)), embeddings)
    if perturbed_logits_fn is None:
        return clean, clean
    return clean, _Traced(checked(lambda x: perturbed_logits_fn(x, *args), "perturbed_logits_fn"), embeddings)


def _of_rows(logits_fn: LogitsFunction, num_rows: int, batch_size: int) -> LogitsFunction:
    """`logits_fn`, whose errors say that it gets some rows alone."""

    def call(embeddings: jax.Array, *args: Any) -> jax.Array:
        try:
            return checked(logits_fn)(embeddings, *args)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"logits_fn fails on {num_rows} of {batch_size} rows: with a share, pass all else that is of the "
                f"batch through args ({str(error).splitlines()[0]})"
            ) from error

    return call


def _array(start: Any) -> jax.Array | None:
    """The start if it is an array; None for a name."""
    return None if start is None or isinstance(start, str) else start
