"""SMART's presets by name."""

import dataclasses
from typing import Any

from bertjax.smart.settings import SmartSettings

PRESETS = {
    "none": SmartSettings(),
    "bertjax": SmartSettings(
        weight=1.0, start="task_gradient", num_steps=0, clean_gradient=False, bregman_weight=1.0, horizon=0.1
    ),
    "bertjax_exact": SmartSettings(weight=1.0, bregman_weight=1.0, horizon=0.1),
    "paper": SmartSettings(
        weight=1.0,
        adversary="projected_gradient_ascent",
        radius=1e-5,
        norm="linf",
        step_size=1e-3,
        noise=1e-5,
        bregman_weight=1.0,
    ),
    "mtdnn_2020": SmartSettings(
        weight=1.0,
        adversary="projected_gradient_ascent",
        norm="linf",
        step_size=1e-3,
        noise=1e-5,
        per="token",
        projection="none",
        matched_dropout=False,
    ),
    "mtdnn_head": SmartSettings(
        weight=1.0,
        adversary="projected_gradient_ascent",
        radius=1.0,
        norm="linf",
        step_size=1e-3,
        noise=1e-5,
        per="token",
        projection="sphere",
        normalize_gradient=False,
        matched_dropout=False,
    ),
    "sift": SmartSettings(
        weight=1.0,
        adversary="projected_gradient_ascent",
        norm="linf",
        step_size=1e-4,
        noise=1e-2,
        per="token",
        projection="none",
        matched_dropout=False,
    ),
    "vat": SmartSettings(weight=1.0, clean_gradient=False),
    "r3f": SmartSettings(weight=1.0, adversary="random_perturbation", radius=1e-5, matched_dropout=False),
    "rdrop": SmartSettings(weight=1.0, adversary="none", matched_dropout=False),
}
"""Settings by name. All perturb one site, the embeddings after their LayerNorm, and take the divergence they are
given; λ = 1 unless changed.

- `none`: plain fine-tuning.
- `bertjax`: our default: a relative ℓ2 ball, along the task's own gradient, which the backward pass has at hand, with
  the clean pass as a fixed target; matched dropout, and the Bregman term, whose anchor looks back a tenth of the run.
  At the paper's β an anchor of a short run is the untrained head, and D teaches the model to answer as it does
  (docs/study/corrections.md).
- `bertjax_exact`: one power step from noise in its place, and both passes differentiated.
- `paper`: Jiang et al., ACL 2020, Algorithm 1 and section 4.2 as printed. At its ε R_s is next to nothing. The
  paper does not say whether dropout is matched; here it is.
- `mtdnn_2020`: the authors' code (namisan/mt-dnn, `perturbation.py`) nearest publication: one step of 1e-3 along
  the gradient over its largest element, token by token, unprojected; no Bregman term; every pass draws its own
  dropout. It departs in keeping the starting noise (a hundredth of the step), in perturbing once after the
  LayerNorm (there positions and LayerNorm are applied again), and in differentiating both sides of the
  symmetric KL, so that λ = 1 here is about λ = 2 there.
- `mtdnn_head`: the same code today, and the packages that copy it: noise plus 1e-3 times the raw gradient, blown up
  to a largest element of 1 in every token. Departs as `mtdnn_2020` does.
- `sift`: DeBERTa's (He et al., ICLR 2021; `sift.py`): noise of 1e-2 and one step of 1e-4 along the gradient over its
  largest element, token by token, unprojected, dropout unmatched. There the noise is clipped at two standard
  deviations and the site is a LayerNorm of its own without gain, so that 1e-2 is 1% of the RMS; here it is absolute.
- `vat`: Miyato et al., TPAMI 2018: the power direction, and the clean pass as a fixed target. Hand `smart.kl` as the
  divergence for VAT's own; the radius is ours.
- `r3f`: Aghajanyan et al., ICLR 2021: Gaussian noise of 1e-5, dropout unmatched as in fairseq's criterion; the noise
  goes in after the LayerNorm, there before it.
- `rdrop`: Liang et al., NeurIPS 2021: two dropout masks, no perturbation. There the task's loss is taken on both
  passes, here on the clean one."""


def preset(name: str, **changes: Any) -> SmartSettings:
    """The preset of that name with some settings changed; ValueError for an unknown name or a bad value.

    A `decay` takes the place of the preset's `horizon`.

    Examples:
      >>> from bertjax import smart
      >>> smart.preset("bertjax", radius=0.05).radius
      0.05
    """
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, found {name!r}")
    if "decay" in changes:
        changes = {"horizon": None} | changes
    return dataclasses.replace(PRESETS[name], **changes)
