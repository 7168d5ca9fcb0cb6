"""The scale of a score's labels: scores are learnt standardised and reported in the labels' units.

A regression head starts near 0. If the labels' mean is elsewhere, a short run spends its updates on learning it.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bertjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class LabelScale:
    """Mean and standard deviation of a score's training labels, in the labels' units.

    A head trained on standardised labels predicts (score − mean) / std. `fold` turns it into a head that predicts the
    score.
    """

    mean: float
    std: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise ValueError(f"expected a finite mean and a std above 0, found {self.mean} and {self.std}")

    @classmethod
    def from_labels(cls, labels: np.ndarray, name: str) -> "LabelScale":
        """The scale of the training labels [N] of task `name`; UserError if they are all equal."""
        labels = labels.astype(np.float64)
        if np.ptp(labels) == 0:
            raise UserError(
                f"{name}: expected training scores that differ, found {labels[0]:g} in all {len(labels)} rows; check "
                "the label column and --config.train_share"
            )
        return cls(float(labels.mean()), float(labels.std()))

    def standardize(self, labels: np.ndarray) -> np.ndarray:
        """Labels [N] in standard deviations from the mean, float32."""
        return ((labels.astype(np.float64) - self.mean) / self.std).astype(np.float32)

    def unstandardize(self, scores: np.ndarray) -> np.ndarray:
        """Scores in the labels' units from standardised scores."""
        return scores * self.std + self.mean

    def fold(self, head: Mapping[str, Any]) -> dict[str, Any]:
        """Turns a head {"kernel": [D, 1], "bias": [1]} of standardised scores into one of the labels' units."""
        return {"kernel": head["kernel"] * self.std, "bias": head["bias"] * self.std + self.mean}

    def unfold(self, head: Mapping[str, Any]) -> dict[str, Any]:
        """The inverse of `fold`, up to rounding."""
        return {"kernel": head["kernel"] / self.std, "bias": (head["bias"] - self.mean) / self.std}

    def is_near(self, other: "LabelScale") -> bool:
        """Whether both may come from the same labels: 0..5 is not near 0..100."""
        ratio = self.std / other.std
        return 1 / 3 < ratio < 3 and abs(self.mean - other.mean) < 2 * max(self.std, other.std)

    def __str__(self) -> str:
        return f"mean {self.mean:.3g}, standard deviation {self.std:.3g}"


def fold_heads(params: Mapping[str, Any], scales: Mapping[str, LabelScale]) -> dict[str, Any]:
    """Folds each task's scale into its head, which then predicts in the labels' units; other parameters stay."""
    return _map_heads(params, {name: scale.fold for name, scale in scales.items()})


def unfold_heads(params: Mapping[str, Any], scales: Mapping[str, LabelScale]) -> dict[str, Any]:
    """The inverse of `fold_heads`, up to rounding."""
    return _map_heads(params, {name: scale.unfold for name, scale in scales.items()})


def _map_heads(params: Mapping[str, Any], changes: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    heads = {f"head_{name}": change for name, change in changes.items()}
    return {top: heads[top](tree) if top in heads else tree for top, tree in params.items()}
