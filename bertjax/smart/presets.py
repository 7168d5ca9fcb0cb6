"""SMART's settings by name: ours, the paper's, and those of published code."""

import dataclasses
from typing import Any

from bertjax.smart.settings import PowerIteration, ProjectedGradientAscent, RandomPerturbation, SmartSettings

PRESETS = {
    "none": SmartSettings(),
    "bertjax": SmartSettings(
        weight=1.0,
        adversary=PowerIteration(start="task_gradient", num_steps=0),
        clean_gradient=False,
        bregman_weight=1.0,
        horizon=0.1,
    ),
    "bertjax_exact": SmartSettings(weight=1.0, bregman_weight=1.0, horizon=0.1),
    "paper": SmartSettings(
        weight=1.0, adversary=ProjectedGradientAscent(step_size=1e-3, noise=1e-5, radius=1e-5), bregman_weight=1.0
    ),
    "mtdnn_2020": SmartSettings(
        weight=1.0,
        adversary=ProjectedGradientAscent(step_size=1e-3, noise=1e-5, per="token", projection="none"),
        matched_dropout=False,
    ),
    "mtdnn_head": SmartSettings(
        weight=1.0,
        adversary=ProjectedGradientAscent(
            step_size=1e-3, noise=1e-5, radius=1.0, per="token", projection="sphere", normalize_gradient=False
        ),
        matched_dropout=False,
    ),
    "sift": SmartSettings(
        weight=1.0,
        adversary=ProjectedGradientAscent(step_size=1e-4, noise=1e-2, per="token", projection="none"),
        matched_dropout=False,
    ),
    "vat": SmartSettings(weight=1.0, clean_gradient=False),
    "r3f": SmartSettings(weight=1.0, adversary=RandomPerturbation(radius=1e-5), matched_dropout=False),
    "rdrop": SmartSettings(weight=1.0, adversary=None, matched_dropout=False),
}
"""Settings by name. All perturb the embeddings after their LayerNorm, and use the divergence they are given; λ = 1.

- `none`: Plain fine-tuning.
- `bertjax`: Our default. A relative ℓ2 ball, along the task's own gradient, which the backward pass computes anyway;
  the clean pass is a fixed target; matched dropout; and the Bregman term, whose anchor averages over a tenth of the
  run. At the paper's β the anchor of a short run keeps the untrained head, and D pulls the model towards its
  outputs (docs/study/corrections.md).
- `bertjax_exact`: As `bertjax`, but one power step from noise, and both passes differentiated.
- `paper`: Jiang et al., ACL 2020, Algorithm 1 and section 4.2 as printed. At its ε, R_s is almost 0. The paper does not
  say whether dropout is matched; here it is.
- `mtdnn_2020`: The authors' code (namisan/mt-dnn, `perturbation.py`) nearest to the publication: one step of 1e-3 along
  the gradient divided by its largest element, token by token, without projection; no Bregman term; a dropout mask per
  pass. Three differences: here the starting noise (a hundredth of the step) is kept, the perturbation is added once,
  after the LayerNorm (there positions and LayerNorm are applied again), and both sides of the symmetric KL are
  differentiated, so that λ = 1 here is about λ = 2 there.
- `mtdnn_head`: The same code today, and the packages that copy it: noise plus 1e-3 times the raw gradient, scaled to a
  largest element of 1 in every token. The same three differences apply.
- `sift`: DeBERTa's (He et al., ICLR 2021; `sift.py`): noise of 1e-2 and one step of 1e-4 along the gradient divided by
  its largest element, token by token, without projection, dropout not matched. There the noise is clipped at two
  standard deviations, and added after a LayerNorm without gain, so that 1e-2 is 1% of the RMS; here it is absolute.
- `vat`: Miyato et al., TPAMI 2018: the power direction, and the clean pass as a fixed target. Pass `smart.kl` as the
  divergence for VAT's own; the radius is ours.
- `r3f`: Aghajanyan et al., ICLR 2021: Gaussian noise of 1e-5, dropout not matched, as in fairseq's criterion. There the
  noise is added before the LayerNorm, here after it.
- `rdrop`: Liang et al., NeurIPS 2021: two dropout masks, no perturbation. There the task's loss is computed on both
  passes, here on the clean one."""


def preset(name: str, **changes: Any) -> SmartSettings:
    """The preset of that name with some values changed.

    Args:
      name: A key of `PRESETS`.
      **changes: Fields of `SmartSettings`, or of the preset's adversary. A `decay` replaces the preset's `horizon`.

    Raises:
      ValueError: An unknown name or field, or a value out of range.

    Examples:
      >>> from bertjax import smart
      >>> smart.preset("bertjax", radius=0.05).adversary
      PowerIteration(radius=0.05, norm='l2', start='task_gradient', num_steps=0, relative=True)
    """
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, found {name!r}")
    return changed(PRESETS[name], **changes)


def as_settings(settings: Any) -> SmartSettings:
    """The settings, from a preset's name or themselves; ValueError for anything else."""
    settings = preset(settings) if isinstance(settings, str) else settings
    if not isinstance(settings, SmartSettings):
        raise ValueError(f"settings must be a preset's name or SmartSettings, found {settings!r}")
    return settings


def changed(settings: SmartSettings, **changes: Any) -> SmartSettings:
    """The settings with some values changed; for the arguments and errors see `preset`."""
    if "decay" in changes:
        changes.setdefault("horizon", None)
    adversary: Any = changes.pop("adversary", settings.adversary)
    if adversary_changes := {key: changes.pop(key) for key in adversary_fields(adversary) & changes.keys()}:
        adversary = dataclasses.replace(adversary, **adversary_changes)
    if unknown := changes.keys() - {field.name for field in dataclasses.fields(SmartSettings)}:
        raise ValueError(f"{min(unknown)}: expected a field of SmartSettings or of its adversary, {adversary}")
    return dataclasses.replace(settings, adversary=adversary, **changes)


def adversary_fields(adversary: Any) -> set[str]:
    """Names of an adversary's fields; empty for None."""
    return {field.name for field in dataclasses.fields(adversary)} if dataclasses.is_dataclass(adversary) else set()
