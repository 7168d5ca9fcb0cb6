"""Predictions, metrics with intervals, explanations and plots of finished runs."""

from typing import Any

__all__ = ["evaluate"]


def __getattr__(name: str) -> Any:
    # Lazy (PEP 562): training needs a predictor, not the plots and files of a whole evaluation.
    if name != "evaluate":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bertjax.evaluation.evaluator import evaluate

    return evaluate
