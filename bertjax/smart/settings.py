"""Settings of SMART: the weights of its terms, the adversary, and the anchor."""

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
"""A number, or an optax schedule of it: from the number of updates so far, int32 [], to float32 []."""
Computed = TypeVar("Computed")


def check_number(name: str, value: Scalar, *, maximum: float | None = None) -> None:
    """Raises ValueError if the value is out of range or not a number; schedules and traced values pass."""
    if not isinstance(value, int | float):
        # An array or a list of two numbers would broadcast over the parameters silently.
        if callable(value) or (isinstance(value, jax.Array | np.ndarray | np.number) and value.ndim == 0):
            return
        raise ValueError(f"{name} must be a number or a schedule, found {value!r}")
    # Written so that NaN is rejected too.
    if maximum is not None and not 0 <= value <= maximum:
        raise ValueError(f"{name} must be a number in [0, {maximum}], found {value}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite number of at least 0, found {value}")


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, found {value!r}")


def _check_minimum(name: str, value: int, minimum: int, when: str = "") -> None:
    if not isinstance(value, int | np.integer):
        raise ValueError(f"{name} must be an integer of at least {minimum}{when}, found {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}{when}, found {value}")


@dataclasses.dataclass(frozen=True)
class PowerIteration:
    """`power_iteration` as the adversary.

    Attributes:
      radius: Radius; see `relative`.
      norm: "l2" or "linf".
      start: "noise", "output", or "task_gradient": the gradient, in the embedding, of the task's loss and the Bregman
        term together, which the main backward pass computes anyway.
      num_steps: Power steps; 0 is allowed unless the start is noise.
      relative: Whether the radius is relative to the RMS of the embeddings; if not, it bounds δ's norm.
    """

    radius: Scalar = 0.02
    norm: str = "l2"
    start: str = "noise"
    num_steps: int = 1
    relative: bool = True

    def __post_init__(self) -> None:
        check_number("radius", self.radius)
        _check_choice("norm", self.norm, norms.NORMS)
        _check_choice("start", self.start, (*adversaries.STARTS, "task_gradient"))
        # Without a power step, noise hardly changes the output: R_s would be almost 0, at full cost.
        is_noise = self.start == "noise"
        _check_minimum("num_steps", self.num_steps, int(is_noise), " when the start is noise" if is_noise else "")


@dataclasses.dataclass(frozen=True)
class ProjectedGradientAscent:
    """`projected_gradient_ascent` as the adversary; `radius`, `step_size` and `noise` are in the embedding's unit.

    Attributes:
      step_size: η.
      noise: σ.
      radius: ε; None if and only if `projection` is "none".
      norm: "l2" or "linf".
      per: Scope of a norm: "example" or "token".
      projection: "ball", "sphere" or "none".
      normalize_gradient: Whether the gradient is divided by its norm.
      num_steps: Ascent steps, at least 1.
    """

    step_size: Scalar
    noise: Scalar
    radius: Scalar | None = None
    norm: str = "linf"
    per: str = "example"
    projection: str = "ball"
    normalize_gradient: bool = True
    num_steps: int = 1

    def __post_init__(self) -> None:
        check_number("step_size", self.step_size)
        check_number("noise", self.noise)
        _check_choice("projection", self.projection, adversaries.PROJECTIONS)
        if (self.radius is None) != (self.projection == "none"):
            raise ValueError(f"radius must be given if and only if projection is not 'none', found {self.radius!r}")
        if self.radius is not None:
            check_number("radius", self.radius)
        _check_choice("norm", self.norm, norms.NORMS)
        _check_choice("per", self.per, tuple(norms.SCOPES))
        _check_minimum("num_steps", self.num_steps, 1)


@dataclasses.dataclass(frozen=True)
class RandomPerturbation:
    """`random_perturbation`, with normal noise, in place of an adversary.

    Attributes:
      radius: Standard deviation of the noise, in the embedding's unit.
    """

    radius: Scalar

    def __post_init__(self) -> None:
        check_number("radius", self.radius)


Adversary = PowerIteration | ProjectedGradientAscent | RandomPerturbation


@dataclasses.dataclass(frozen=True)
class SmartSettings:
    """How SMART enters the objective L(θ) + λ R_s(θ) + μ D(θ, θ̃).

    Attributes:
      weight: λ of the smoothness term; a plain 0 leaves the term out.
      adversary: What finds the perturbation δ; None for δ = 0: R_s then compares two dropout masks.
      clean_gradient: Whether R_s is also differentiated through its clean pass. If not, that pass is a fixed target,
        which saves a backward pass with the start "task_gradient".
      every: k: R_s enters every k-th update, with k times its weight (lazy regularisation).
      bregman_weight: μ of the Bregman proximal point term; a plain 0 leaves out the term and the anchor θ̃.
      decay: β of the anchor: a number, a schedule, or a pair of numbers for the first tenth of the updates and for the
        rest.
      horizon: 1/(1 − β) as a share of all updates. It replaces `decay` unless None.
      matched_dropout: Whether the clean, perturbed and anchor passes of a step share their dropout masks.
      share: Share of each batch's rows, drawn at random, on which R_s and D are computed. The values of the
        n = max(1, round(share B)) rows count B/n times, so that means over the batch are unbiased.

    Raises:
      ValueError: A value is out of range; the message names it.
    """

    weight: Scalar = 0.0
    adversary: Adversary | None = PowerIteration()
    clean_gradient: bool = True
    every: int = 1
    bregman_weight: Scalar = 0.0
    decay: Scalar | tuple[float, float] = (0.99, 0.999)
    horizon: float | None = None
    matched_dropout: bool = True
    share: float = 1.0

    def __post_init__(self) -> None:
        check_number("weight", self.weight)
        check_number("bregman_weight", self.bregman_weight)
        if not isinstance(self.adversary, Adversary | None):
            raise ValueError(f"adversary must be None or a record such as PowerIteration(), found {self.adversary!r}")
        _check_minimum("every", self.every, 1)
        if not isinstance(self.share, int | float) or not 0 < self.share <= 1:
            raise ValueError(f"share must be a number in (0, 1], found {self.share!r}")
        if isinstance(self.decay, tuple | list):
            if isinstance(self.decay, list) or len(self.decay) != 2:
                raise ValueError(
                    "decay must be a number, a schedule, or a tuple of two numbers, for the first tenth of the updates "
                    f"and for the rest, found {self.decay}"
                )
            for beta in self.decay:
                check_number("decay", beta, maximum=1)
        else:
            check_number("decay", self.decay, maximum=1)
        if self.horizon is not None and not 0 < self.horizon < math.inf:
            raise ValueError(f"horizon must be a finite share of the updates above 0, found {self.horizon}")

    @property
    def has_smoothness(self) -> bool:
        """False if λ is known to be 0 when the step is traced."""
        return not is_zero(self.weight)

    @property
    def has_bregman(self) -> bool:
        """False if μ is known to be 0 when the step is traced."""
        return not is_zero(self.bregman_weight)


def is_zero(value: Scalar) -> bool:
    """True for a plain 0, known at trace time; False for a traced or scheduled one."""
    return isinstance(value, int | float) and value == 0


def as_number(name: str, value: Scalar) -> float | jax.Array:
    """The value, which must be a number at this point; ValueError for a schedule."""
    if callable(value):
        raise ValueError(f"{name} is a schedule, but must be a number here: smart.at_update evaluates schedules")
    return value


def value_at(value: Scalar, count: jax.Array) -> float | jax.Array:
    """The number, or the schedule's value after `count` updates."""
    if not callable(value):
        return value
    # Schedules mix integers and floats, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        return value(count)


def at_update(settings: SmartSettings, count: jax.Array, compute: Callable[[SmartSettings], Computed]) -> Computed:
    """Calls `compute` with the settings of one update: schedules evaluated, and R_s left out unless `every` is due.

    Args:
      settings: Settings of the run.
      count: Updates so far, int32 [].
      compute: Its results must have the same shapes for λ = 0 as for λ > 0. `smart_terms` leaves R_s out by itself;
        before `smoothness`, test `settings.has_smoothness`.
    """
    if not isinstance(settings, SmartSettings):
        raise ValueError(f"settings must be SmartSettings, such as smart.preset('bertjax'), found {settings!r}")
    now: SmartSettings = _evaluated(settings, ("weight", "bregman_weight"), count)
    now = dataclasses.replace(now, adversary=_evaluated(settings.adversary, ("radius", "step_size", "noise"), count))
    if settings.every == 1 or not settings.has_smoothness:
        return compute(now)
    due = dataclasses.replace(now, weight=as_number("weight", now.weight) * settings.every)
    not_due = dataclasses.replace(now, weight=0.0)
    return jax.lax.cond(count % settings.every == 0, lambda: compute(due), lambda: compute(not_due))


def anchor_decay(settings: SmartSettings, num_steps: int | None = None) -> Scalar:
    """β as a number or a schedule.

    Args:
      settings: SMART's settings.
      num_steps: Updates of the whole run.

    Returns:
      A number, or a schedule over the number of updates made before the anchor moves. For a pair, the first number
      applies up to num_steps / 10 updates, as in the paper's Algorithm 1.

    Raises:
      ValueError: β depends on the length of the run, and `num_steps` is None.
    """
    decay = settings.decay
    if settings.horizon is None and not isinstance(decay, tuple):
        return decay
    if num_steps is None:
        raise ValueError("num_steps must be given, as the anchor's decay depends on the length of the run")
    _check_minimum("num_steps", num_steps, 1)
    if settings.horizon is not None:
        return 1 - 1 / max(1.0, settings.horizon * num_steps)
    assert isinstance(decay, tuple)
    early, late = decay
    return lambda count: jnp.where(count <= num_steps // 10, early, late)


def start_share(settings: SmartSettings, num_steps: int) -> np.ndarray:
    """Weight of the initial parameters in the anchor: the product of β over the updates.

    Near 1 the anchor is the untrained model, and D keeps the outputs near those of an untrained head.

    Args:
      settings: SMART's settings.
      num_steps: Updates of the whole run.

    Returns:
      float64 [num_steps + 1]: the weight after 0, 1, ... updates of the parameters and the anchor.
    """
    decay = anchor_decay(settings, num_steps)
    counts = jnp.arange(1, num_steps + 1)
    decays = jax.vmap(lambda count: jnp.asarray(value_at(decay, count), jnp.float32))(counts)
    return np.concatenate([[1.0], np.cumprod(np.asarray(decays, np.float64))])


def _evaluated(record: Any, names: tuple[str, ...], count: jax.Array) -> Any:
    """A record with its schedules replaced by their values."""
    schedules = {name: getattr(record, name) for name in names if callable(getattr(record, name, None))}
    return (
        dataclasses.replace(record, **{name: value_at(x, count) for name, x in schedules.items()})
        if schedules
        else record
    )
