"""Evaluation of finished runs: predictions, metrics with intervals, smoothness, explanations and plots."""

from bertjax.evaluation.evaluator import evaluate

__all__ = ["evaluate"]
