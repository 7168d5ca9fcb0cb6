"""Scores are learnt standardised: the scale of a task's labels, and heads with it folded in or taken out.

A regression head starts near 0. Where the labels have another mean, a short run spends its updates on learning it.
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

    A head trained on `standardize`d labels predicts (score − mean) / std; `fold` turns it into one that predicts the
    score itself.
    """

    mean: float
    std: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise ValueError(f"expected a finite mean and a std above 0, found {self.mean} and {self.std}")

    @classmethod
    def of(cls, labels: np.ndarray, name: str) -> "LabelScale":
        """The scale of training labels [N]; UserError naming the task where all of them are equal."""
        labels = labels.astype(np.float64)
        if np.ptp(labels) == 0:
            raise UserError(
                f"{name}: expected training scores that differ, found {labels[0]:g} in all {len(labels)} rows; check "
                "the column of labels and --config.train_share"
            )
        return cls(float(labels.mean()), float(labels.std()))

    def standardize(self, labels: np.ndarray) -> np.ndarray:
        """Labels [N] with mean 0 and variance 1 over the training set, float32."""
        return ((labels.astype(np.float64) - self.mean) / self.std).astype(np.float32)

    def unstandardize(self, scores: np.ndarray) -> np.ndarray:
        """Standardised scores in the labels' units."""
        return scores * self.std + self.mean

    def fold(self, head: Mapping[str, Any]) -> dict[str, Any]:
        """A head {"kernel": [D, 1], "bias": [1]} of standardised scores as one of scores in the labels' units."""
        return {"kernel": head["kernel"] * self.std, "bias": head["bias"] * self.std + self.mean}

    def unfold(self, head: Mapping[str, Any]) -> dict[str, Any]:
        """The inverse of `fold`, up to rounding."""
        return {"kernel": head["kernel"] / self.std, "bias": (head["bias"] - self.mean) / self.std}

    def is_near(self, other: "LabelScale") -> bool:
        """Whether both may be samples of the same labels: 0..5 is not near 0..100."""
        ratio = self.std / other.std
        return 1 / 3 < ratio < 3 and abs(self.mean - other.mean) < 2 * max(self.std, other.std)

    def __str__(self) -> str:
        return f"mean {self.mean:.3g}, standard deviation {self.std:.3g}"


def fold_heads(params: Mapping[str, Any], scales: Mapping[str, LabelScale]) -> dict[str, Any]:
    """Parameters as trained to parameters whose heads, by their tasks' names, predict in the labels' units."""
    return _with_heads(params, {name: scale.fold for name, scale in scales.items()})


def unfold_heads(params: Mapping[str, Any], scales: Mapping[str, LabelScale]) -> dict[str, Any]:
    """The inverse of `fold_heads`, up to rounding."""
    return _with_heads(params, {name: scale.unfold for name, scale in scales.items()})


def _with_heads(params: Mapping[str, Any], changes: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    heads = {f"head_{name}": change for name, change in changes.items()}
    return {top: heads[top](tree) if top in heads else tree for top, tree in params.items()}
