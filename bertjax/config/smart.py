"""SMART's settings as a recipe gives them: a preset and changes to it."""

import dataclasses
from typing import Any

from bertjax import smart
from bertjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class SmartConfig:
    """`smart.*`: a preset, and what to change of it; None leaves the preset's own value.

    Attributes:
      preset: one of `smart.PRESETS`.
      weight: λ.
      radius: of the perturbation; a share of the embeddings' RMS in the presets bertjax, bertjax_exact and vat,
        absolute in paper, mtdnn_head and r3f, not read by mtdnn_2020, sift and rdrop.
      norm: l2 or linf.
      start: of the power iteration: noise, output or task_gradient.
      num_steps: of the adversary.
      clean_gradient: whether R_s is differentiated through its clean branch too.
      every: R_s enters at every so many updates, as many times as heavy.
      bregman_weight: μ.
      decay: β of the anchor over the first tenth of the updates, and after it; or one for all.
      horizon: of the anchor, 1/(1 − β), as a share of all updates; in place of decay.
      matched_dropout: whether all passes of a step share their dropout masks.
    """

    preset: str = "none"
    weight: float | None = None
    radius: float | None = None
    norm: str | None = None
    start: str | None = None
    num_steps: int | None = None
    clean_gradient: bool | None = None
    every: int | None = None
    bregman_weight: float | None = None
    decay: tuple[float, ...] | None = None
    horizon: float | None = None
    matched_dropout: bool | None = None

    def settings(self) -> smart.SmartSettings:
        """The preset with its changes; UserError for a value out of range."""
        try:
            return smart.preset(self.preset, **self._changes())
        except ValueError as error:
            raise UserError(f"--config.smart.{error}") from None

    def idle(self) -> list[str]:
        """A line for each key that is changed and has no effect: a recipe may set it, and a flag the preset."""
        settings = self.settings()
        reasons = {name: _why_idle(name, settings) for name in self._changes()}
        return [f"--config.smart.{name} has no effect: {reason}" for name, reason in reasons.items() if reason]

    def _changes(self) -> dict[str, Any]:
        changes = {name: value for name, value in vars(self).items() if name != "preset" and value is not None}
        if self.decay is not None and len(self.decay) == 1:  # as a flag gives one number to a tuple
            changes["decay"] = self.decay[0]
        return changes


_READ = {
    "power_iteration": {"radius", "norm", "start", "num_steps"},
    "projected_gradient_ascent": {"radius", "norm", "num_steps"},
    "random_perturbation": {"radius"},
    "none": set[str](),
}
"""Of the keys of `smart.*`, those that an adversary reads."""


def _why_idle(name: str, settings: smart.SmartSettings) -> str:
    """Why a key of `smart.*` changes nothing; "" where it does."""
    if name in ("weight", "bregman_weight"):
        return ""
    if name in ("decay", "horizon"):
        if not settings.has_bregman:
            return "the Bregman term's weight is 0"
        return "--config.smart.horizon takes its place" if name == "decay" and settings.horizon is not None else ""
    if name == "matched_dropout" and settings.has_bregman:
        return ""
    if not settings.has_smoothness:
        return "R_s has weight 0"
    if name == "matched_dropout" and settings.matched_dropout and settings.adversary == "none":
        return "R_s is then 0, as nothing tells its two passes apart"
    if name in ("every", "clean_gradient", "matched_dropout"):
        return ""
    is_unbounded = settings.adversary == "projected_gradient_ascent" and settings.projection == "none"
    if name not in _READ[settings.adversary] or (name == "radius" and is_unbounded):
        return f"R_s's adversary ({settings.adversary}{', unprojected' if is_unbounded else ''}) does not read it"
    return ""
