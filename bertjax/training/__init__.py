"""Fine-tuning and further pre-training: runs, their loop and their steps."""

from typing import Any

__all__ = ["pretrain", "train_and_evaluate"]


def __getattr__(name: str) -> Any:
    # Lazy (PEP 562): a step needs JAX and optax alone, a run all that reads data and checkpoints.
    if name == "train_and_evaluate":
        from bertjax.training.finetuning import train_and_evaluate

        return train_and_evaluate
    if name == "pretrain":
        from bertjax.training.pretraining import pretrain

        return pretrain
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
