"""Settings of SMART, and presets of them by name."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.smart import adversaries, norms

Schedule = Callable[[jax.Array], jax.Array]


Scalar = float | jax.Array | Schedule
"""A number, or a schedule of it in optax's manner: from the updates so far, int32 [], to float32 []."""


ADVERSARIES = ("power_iteration", "projected_gradient_ascent", "random_perturbation", "none")


SCHEDULED = ("weight", "radius", "step_size", "noise", "bregman_weight")


STARTS = (*adversaries.STARTS, "task_gradient")


Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class SmartSettings:
    """How SMART enters the objective L(θ) + λ R_s(θ) + μ D(θ, θ̃).

    Attributes:
      weight: λ of the smoothness term; a plain 0 leaves it out.
      adversary: "power_iteration", "projected_gradient_ascent", "random_perturbation" or "none" (δ = 0, so
        that only unmatched dropout tells the two passes apart).
      radius: of the perturbation: relative to the embedding's RMS for the power iteration, absolute (the
        paper's ε) for the others.
      norm: "l2" or "linf".
      start: of the power iteration: "noise", "output" or "task_gradient": the gradient, in the embedding, of
        the task's loss and the Bregman term together, which the main backward pass holds already.
      num_steps: the adversary's steps; the power iteration, but from noise, may do with 0.
      step_size: the ascent's η.
      noise: the ascent's σ.
      per: what a norm of the ascent covers, "example" or "token".
      projection: the ascent's, "ball", "sphere" or "none".
      normalize_gradient: whether the ascent divides its gradient by the norm.
      clean_gradient: whether R_s is differentiated through its clean branch too; without, that branch is a
        target, and a backward pass is saved with "task_gradient".
      every: k: R_s enters at every k-th update, k times as heavy (lazy regularisation).
      bregman_weight: μ of the Bregman proximal point term; a plain 0 leaves it, and the anchor θ̃, out.
      decay: β of the anchor's moving average: over the first tenth of the updates and after it, or a
        number, or a schedule.
      horizon: 1/(1 − β) as a share of all updates, in place of `decay`; None for `decay`.
      matched_dropout: whether the clean, perturbed and anchor passes of a step share their dropout masks.

    Raises:
      ValueError: a value out of its range; the message names it.
    """

    weight: Scalar = 0.0
    adversary: str = "power_iteration"
    radius: Scalar = 0.02
    norm: str = "l2"
    start: str = "noise"
    num_steps: int = 1
    step_size: Scalar = 0.0
    noise: Scalar = 0.0
    per: str = "example"
    projection: str = "ball"
    normalize_gradient: bool = True
    clean_gradient: bool = True
    every: int = 1
    bregman_weight: Scalar = 0.0
    decay: Scalar | tuple[float, float] = (0.99, 0.999)
    horizon: float | None = None
    matched_dropout: bool = True

    def __post_init__(self) -> None:
        for name in SCHEDULED:
            check_number(name, getattr(self, name))
        for name, known in {
            "adversary": ADVERSARIES,
            "norm": norms.NORMS,
            "start": STARTS,
            "per": tuple(norms.SCOPES),
            "projection": adversaries.PROJECTIONS,
        }.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, found {getattr(self, name)!r}")
        # Noise that nothing turns hardly moves the output: R_s would be next to nothing, at full cost.
        what, fewest = self.adversary, 1
        if what == "power_iteration":
            what, fewest = (f"{what} from noise", 1) if self.start == "noise" else (what, 0)
        if self.num_steps < fewest:
            raise ValueError(f"num_steps must be at least {fewest} for {what}, found {self.num_steps}")
        if self.every < 1:
            raise ValueError(f"every must be at least 1, found {self.every}")
        if isinstance(self.decay, tuple | list):
            if isinstance(self.decay, list) or len(self.decay) != 2:
                raise ValueError(
                    "decay must be a number, a schedule, or a tuple of two numbers, for the first tenth of the "
                    f"updates and after, found {self.decay}"
                )
            for beta in self.decay:
                check_number("decay", beta, most=1)
        else:
            check_number("decay", self.decay, most=1)
        if self.horizon is not None and not 0 < self.horizon < math.inf:
            raise ValueError(f"horizon must be a finite share of the updates above 0, found {self.horizon}")

    @property
    def has_smoothness(self) -> bool:
        """False where λ is known to be 0 when the step is traced."""
        return not is_zero(self.weight)

    @property
    def has_bregman(self) -> bool:
        """False where μ is known to be 0 when the step is traced."""
        return not is_zero(self.bregman_weight)

    def number(self, name: str) -> float | jax.Array:
        """A setting that may be a schedule, where it must be a number; ValueError where it is a schedule."""
        value = getattr(self, name)
        if callable(value):
            raise ValueError(f"{name} is a schedule here, and must be a number: smart.at_update evaluates it")
        return value


def check_number(name: str, value: Scalar, *, most: float | None = None) -> None:
    """ValueError for a plain number out of range, or what is no number; schedules and traced values pass."""
    if not isinstance(value, int | float):
        # An array of two, of a list, would be broadcast over parameters without a word.
        if callable(value) or (isinstance(value, jax.Array | np.ndarray | np.number) and value.ndim == 0):
            return
        raise ValueError(f"{name} must be a number or a schedule, found {value!r}")
    # Written so that NaN is refused too.
    if most is not None and not 0 <= value <= most:
        raise ValueError(f"{name} must be a number in [0, {most}], found {value}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite number of at least 0, found {value}")


def is_zero(value: Scalar) -> bool:
    """True for a plain 0, known when tracing; not for a traced or scheduled one."""
    return isinstance(value, int | float) and value == 0


def value_at(value: Scalar, count: jax.Array) -> float | jax.Array:
    """The number, or the schedule's value after `count` updates."""
    if not callable(value):
        return value
    # Schedules mix integers and floats, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        return value(count)


def at_update(settings: SmartSettings, count: jax.Array, compute: Callable[[SmartSettings], Result]) -> Result:
    """`compute` with the settings of one update: schedules evaluated, and R_s there at every k-th update alone.

    Args:
      settings: of the run.
      count: updates so far, int32 [].
      compute: its results must have the same shapes with λ = 0 as with λ > 0.
    """
    values: dict[str, Any] = {name: value_at(getattr(settings, name), count) for name in SCHEDULED}
    now = dataclasses.replace(settings, **values)
    if settings.every == 1 or not settings.has_smoothness:
        return compute(now)
    weighty = dataclasses.replace(now, weight=now.number("weight") * settings.every)
    without = dataclasses.replace(now, weight=0.0)
    return jax.lax.cond(count % settings.every == 0, lambda: compute(weighty), lambda: compute(without))


def anchor_decay(settings: SmartSettings, num_steps: int | None = None) -> Scalar:
    """β, as a number or a schedule.

    Args:
      settings: SMART's.
      num_steps: updates of the whole run.

    Returns:
      A number, or a schedule of the updates that have been made when the anchor moves: the first of a pair
      holds while they are at most num_steps / 10, as in the paper's Algorithm 1.

    Raises:
      ValueError: β follows from the length of the run, and `num_steps` is None.
    """
    decay = settings.decay
    if settings.horizon is None and not isinstance(decay, tuple):
        return decay
    if num_steps is None:
        raise ValueError("num_steps must be given, as the anchor's decay depends on the length of the run")
    if settings.horizon is not None:
        return 1 - 1 / max(1.0, settings.horizon * num_steps)
    assert isinstance(decay, tuple)
    early, late = decay
    return lambda count: jnp.where(count <= num_steps // 10, early, late)


def start_share(settings: SmartSettings, num_steps: int) -> np.ndarray:
    """Weight of the start in the anchor: the product of β over the updates.

    Near 1 the anchor is the untrained model, and D holds the outputs near those of an untrained head.

    Args:
      settings: SMART's.
      num_steps: updates of the whole run.

    Returns:
      float64 [num_steps + 1], after 0, 1, ... updates of the parameters, each followed by one of the anchor.
    """
    decay = anchor_decay(settings, num_steps)
    counts = jnp.arange(1, num_steps + 1)
    decays = jax.vmap(lambda count: jnp.asarray(value_at(decay, count), jnp.float32))(counts)
    return np.concatenate([[1.0], np.cumprod(np.asarray(decays, np.float64))])
