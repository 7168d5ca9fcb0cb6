"""From the names that TensorFlow's and Flax's checkpoints give to Hugging Face's: both tell kernels from tables."""

import re

_LAST = {
    "kernel": "weight",
    "embedding": "weight",
    "scale": "weight",
    "gamma": "weight",
    "beta": "bias",
    "output_weights": "weight",
    "output_bias": "bias",
}


def present_day(name: str) -> tuple[str, bool]:
    """The name of a tensor as PyTorch's, and whether it is to be transposed.

    Args:
      name: with slashes, `bert/encoder/layer_0/attention/self/query/kernel` (TensorFlow) or `layer/0` (Flax).
    """
    *parents, last = name.split("/")
    parts = [*parents, _LAST.get(last, last)]
    if not parents and last in ("output_weights", "output_bias"):  # of Google's run_classifier.py
        parts.insert(0, "classifier")
    if re.fullmatch(r"(word|position|token_type)_embeddings", last):
        parts.append("weight")
    return re.sub(r"\blayer_(\d+)\b", r"layer.\1", ".".join(parts)), last == "kernel"
