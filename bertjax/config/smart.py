"""Settings of SMART in a recipe: a preset and changes to it."""

import dataclasses
from typing import Any

from bertjax import smart
from bertjax.errors import UserError
from bertjax.smart.presets import adversary_fields


@dataclasses.dataclass(frozen=True)
class SmartConfig:
    """`smart.*`: a preset and changes to it; None keeps the preset's value.

    Attributes:
      preset: A key of `smart.PRESETS`; "none" is plain fine-tuning, whatever the other keys say.
      weight: λ.
      radius: Radius of the perturbation: relative to the embeddings' RMS for the presets bertjax, bertjax_exact and
        vat, absolute for paper, mtdnn_head and r3f.
      norm: l2 or linf.
      start: Start of the power iteration: noise, output or task_gradient.
      num_steps: Steps of the adversary.
      clean_gradient: Whether R_s is also differentiated through its clean pass.
      every: k: R_s enters every k-th update, with k times its weight.
      bregman_weight: μ.
      decay: β of the anchor: a number for the first tenth of the updates and one for the rest, or one for all.
      horizon: 1/(1 − β) as a share of all updates; it replaces decay.
      matched_dropout: Whether all passes of a step share their dropout masks.
      share: Share of each batch's rows, drawn at random, on which R_s and D are computed. Several devices or
        micro-batches draw from their own rows.
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
    share: float | None = None

    def settings(self) -> smart.SmartSettings:
        """The preset with the changes that apply to it; UserError for a value out of range."""
        unread = self._unread()
        try:
            # Bad values are refused even if the preset does not read them: a flag may change the preset.
            smart.PowerIteration(**{name: value for name, value in self._changes().items() if name in unread})
            changed = smart.preset(
                self.preset, **{name: value for name, value in self._changes().items() if name not in unread}
            )
            return smart.preset("none") if self.preset == "none" else changed
        except ValueError as error:
            raise UserError(f"--config.smart.{error}") from None

    def idle(self) -> list[str]:
        """A line for each changed key without effect, such as a recipe's key after a flag changed the preset."""
        settings, unread = self.settings(), self._unread()
        if self.preset == "none":
            reasons = dict.fromkeys(self._changes(), "the preset none is plain fine-tuning")
        else:
            reasons = {name: _why_idle(name, settings, unread) for name in self._changes()}
        return [f"--config.smart.{name} has no effect: {reason}" for name, reason in reasons.items() if reason]

    def _changes(self) -> dict[str, Any]:
        changes = {name: value for name, value in vars(self).items() if name != "preset" and value is not None}
        if self.decay is not None and len(self.decay) == 1:  # a single number in a flag becomes a tuple
            changes["decay"] = self.decay[0]
        return changes

    def _unread(self) -> set[str]:
        """Keys of other adversaries, which the preset's does not have."""
        if self.preset not in smart.PRESETS:  # which `smart.preset` reports
            return set()
        adversary = smart.PRESETS[self.preset].adversary
        read = adversary_fields(adversary)
        if isinstance(adversary, smart.ProjectedGradientAscent) and adversary.projection == "none":
            read -= {"radius"}
        return {"radius", "norm", "start", "num_steps"} - read


def _why_idle(name: str, settings: smart.SmartSettings, unread: set[str]) -> str:
    """Why a key of `smart.*` has no effect; "" if it has one."""
    if name in ("weight", "bregman_weight"):
        return ""
    if name in ("decay", "horizon"):
        if not settings.has_bregman:
            return "the Bregman term's weight is 0"
        return "--config.smart.horizon replaces it" if name == "decay" and settings.horizon is not None else ""
    if name in ("matched_dropout", "share") and settings.has_bregman:
        return ""
    if not settings.has_smoothness:
        return "R_s has weight 0"
    if name == "matched_dropout" and settings.matched_dropout and settings.adversary is None:
        return "R_s is then 0, as its two passes are equal"
    if settings.adversary is None and name in unread:
        return "R_s has no adversary"
    if name in unread:
        without = ""
        if isinstance(settings.adversary, smart.ProjectedGradientAscent) and settings.adversary.projection == "none":
            without = " without projection"
        return f"R_s's adversary, {type(settings.adversary).__name__}{without}, does not read it"
    return ""
