"""Settings of SMART, and presets of them by name."""

import dataclasses
from typing import Any

from bertjax.smart.adversary import NORMS

ADVERSARIES = ("power_iteration", "projected_gradient_ascent")


@dataclasses.dataclass(frozen=True)
class SmartSettings:
    """How SMART enters the objective L(θ) + λ R_s(θ) + μ D(θ, θ̃).

    Attributes:
      weight: λ of the smoothness term; 0 leaves it out.
      adversary: "power_iteration" or "projected_gradient_ascent".
      radius: of the perturbation: relative to the embedding's RMS for the power iteration, absolute (the
        paper's ε) for the ascent.
      norm: "l2" or "linf"; the ascent knows "linf" alone.
      num_steps: the adversary's steps, at least 1.
      step_size: the ascent's η.
      noise: the ascent's σ.
      bregman_weight: μ of the Bregman proximal point term; 0 leaves it, and the anchor θ̃, out.
      decay: β of the anchor's moving average, over the first tenth of the updates and after it.
      matched_dropout: whether the clean, perturbed and anchor passes of a step share their dropout masks.

    Raises:
      ValueError: a value out of its range; the message names it.
    """

    weight: float = 0.0
    adversary: str = "power_iteration"
    radius: float = 0.02
    norm: str = "l2"
    num_steps: int = 1
    step_size: float = 0.0
    noise: float = 0.0
    bregman_weight: float = 0.0
    decay: tuple[float, float] = (0.99, 0.999)
    matched_dropout: bool = True

    def __post_init__(self) -> None:
        for name in ("weight", "radius", "step_size", "noise", "bregman_weight"):
            # Written so that NaN is refused too.
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a finite number of at least 0, found {getattr(self, name)}")
        if self.adversary not in ADVERSARIES:
            raise ValueError(f"adversary must be one of {', '.join(ADVERSARIES)}, found {self.adversary!r}")
        norms = NORMS if self.adversary == "power_iteration" else ("linf",)
        if self.norm not in norms:
            raise ValueError(f"norm must be {' or '.join(norms)} for adversary {self.adversary}, found {self.norm!r}")
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, found {self.num_steps}")
        if len(self.decay) != 2 or not all(0 <= beta <= 1 for beta in self.decay):
            raise ValueError(
                f"decay must be two numbers in [0, 1], for the first tenth of the updates and after, found {self.decay}"
            )


PRESETS = {
    "none": SmartSettings(),
    "bertjax": SmartSettings(weight=1.0, bregman_weight=1.0),
    # Algorithm 1 and section 4.2 as printed: next to no smoothness at this ε, there to be faithful.
    "paper": SmartSettings(
        weight=1.0,
        adversary="projected_gradient_ascent",
        radius=1e-5,
        norm="linf",
        step_size=1e-3,
        noise=1e-5,
        bregman_weight=1.0,
    ),
}
"""`none`: plain fine-tuning. `bertjax`: our default, one power step in a relative ℓ2 ball. `paper`: Jiang et
al., ACL 2020, with matched dropout."""


def preset(name: str, **changes: Any) -> SmartSettings:
    """The preset of that name with some settings changed; ValueError for an unknown name or a bad value."""
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, found {name!r}")
    return dataclasses.replace(PRESETS[name], **changes)
