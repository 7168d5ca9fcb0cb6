"""Names and shapes: our parameter paths, and Hugging Face's tensors, to which other formats' names are mapped."""

import re
from collections.abc import Mapping

from bertjax.models.config import BertConfig

TensorPath = tuple[str, ...]


TensorShape = tuple[int, ...]


CLASSIFIER: dict[TensorPath, str] = {
    ("classifier", "kernel"): "classifier.weight",
    ("classifier", "bias"): "classifier.bias",
}


HEAD_PREFIXES = {"mlm": "cls.predictions.", "head_nsp": "cls.seq_relationship."}
"""How Hugging Face's names of each pre-training head begin."""


def tensor_names(config: BertConfig) -> dict[TensorPath, str]:
    """Maps each encoder parameter's path to its Hugging Face tensor name, without the `bert.` prefix."""
    names: dict[TensorPath, str] = {}
    for table in ("word", "position", "token_type"):
        names["embeddings", table, "embedding"] = f"embeddings.{table}_embeddings.weight"
    names |= _norm(("embeddings", "norm"), "embeddings.LayerNorm")
    for i in range(config.num_hidden_layers):
        ours, theirs = f"layer_{i}", f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            names |= _dense((ours, part), f"{theirs}.attention.self.{part}")
        names |= _dense((ours, "attention_output"), f"{theirs}.attention.output.dense")
        names |= _norm((ours, "attention_norm"), f"{theirs}.attention.output.LayerNorm")
        names |= _dense((ours, "intermediate"), f"{theirs}.intermediate.dense")
        names |= _dense((ours, "output"), f"{theirs}.output.dense")
        names |= _norm((ours, "output_norm"), f"{theirs}.output.LayerNorm")
    return names | _dense(("pooler",), "pooler.dense")


def tensor_shapes(config: BertConfig) -> dict[str, TensorShape]:
    """The shape that each Hugging Face tensor of an encoder must have, PyTorch's [out, in] for weights."""
    d, f = config.hidden_size, config.intermediate_size
    special = {
        "word_embeddings.weight": (config.vocab_size, d),
        "position_embeddings.weight": (config.max_position_embeddings, d),
        "token_type_embeddings.weight": (config.type_vocab_size, d),
        "intermediate.dense.weight": (f, d),
        "intermediate.dense.bias": (f,),
    }

    def shape(name: str) -> TensorShape:
        for suffix, value in special.items():
            if name.endswith(suffix):
                return value
        if name.endswith(".bias") or "LayerNorm" in name:
            return (d,)
        return (d, f) if re.search(r"layer\.\d+\.output\.dense\.weight$", name) else (d, d)

    return {name: shape(name) for name in tensor_names(config).values()}


def head_names() -> dict[str, dict[TensorPath, str]]:
    """As `tensor_names`, for each of the two pre-training heads: "mlm" and "head_nsp"."""
    return {
        "mlm": _dense(("mlm", "transform"), "cls.predictions.transform.dense")
        | _norm(("mlm", "norm"), "cls.predictions.transform.LayerNorm")
        | {("mlm", "bias"): "cls.predictions.bias"},
        "head_nsp": _dense(("head_nsp",), "cls.seq_relationship"),
    }


def head_shapes(config: BertConfig) -> dict[str, TensorShape]:
    """As `tensor_shapes`, for the pre-training heads."""
    d = config.hidden_size
    return {
        "cls.predictions.transform.dense.weight": (d, d),
        "cls.predictions.transform.dense.bias": (d,),
        "cls.predictions.transform.LayerNorm.weight": (d,),
        "cls.predictions.transform.LayerNorm.bias": (d,),
        "cls.predictions.bias": (config.vocab_size,),
        "cls.seq_relationship.weight": (2, d),
        "cls.seq_relationship.bias": (2,),
    }


def is_kernel(path: TensorPath) -> bool:
    """Whether Hugging Face stores a parameter transposed."""
    return path[-1] == "kernel"


def misfits(found: Mapping[str, TensorShape], expected: Mapping[str, TensorShape]) -> str:
    """Lists what is missing, surplus or misshapen, on one line; "" where everything fits."""
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "surplus": sorted(found.keys() - expected.keys()),
        "misshapen": [
            f"{name} (expected {list(shape)}, found {list(found[name])})"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ],
    }
    return "; ".join(f"{kind}: {_listing(names)}" for kind, names in problems.items() if names)


def _dense(path: TensorPath, name: str) -> dict[TensorPath, str]:
    return {(*path, "kernel"): f"{name}.weight", (*path, "bias"): f"{name}.bias"}


def _norm(path: TensorPath, name: str) -> dict[TensorPath, str]:
    return {(*path, "affine", "scale"): f"{name}.weight", (*path, "affine", "bias"): f"{name}.bias"}


def _listing(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


_LAST = {
    "kernel": "weight",
    "embedding": "weight",
    "scale": "weight",
    "gamma": "weight",
    "beta": "bias",
    "output_weights": "weight",
    "output_bias": "bias",
}


def from_slashed(name: str) -> tuple[str, bool]:
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
