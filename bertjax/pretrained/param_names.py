"""Names and shapes of parameters: our paths, Hugging Face's tensors, and how other formats' names map to those."""

import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from bertjax.models.config import BertConfig

ParamPath = tuple[str, ...]
"""A parameter's place in our tree, such as ("layer_0", "query", "kernel")."""
FlatParams = dict[ParamPath, np.ndarray]
"""Our parameter tree, flattened, on the host."""
TensorShape = tuple[int, ...]
CLASSIFIER_NAMES: dict[ParamPath, str] = {
    ("classifier", "kernel"): "classifier.weight",
    ("classifier", "bias"): "classifier.bias",
}
"""Of a sequence classification head."""
GOOGLE_CLASSIFIER_NAMES: dict[ParamPath, str] = {
    ("classifier", "kernel"): "output_weights",
    ("classifier", "bias"): "output_bias",
}
"""Of one by Google's run_classifier.py."""
PRETRAINING_HEAD_PREFIXES = {"mlm": "cls.predictions.", "head_nsp": "cls.seq_relationship."}
"""How Hugging Face's names of each pre-training head begin."""


def tensor_names(config: BertConfig) -> dict[ParamPath, str]:
    """Maps each encoder parameter to its Hugging Face tensor name, without the `bert.` prefix."""
    names: dict[ParamPath, str] = {}
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
    """The shape of each Hugging Face tensor of an encoder, in PyTorch's layout: [out, in] for weights."""
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


def pretraining_head_names() -> dict[str, dict[ParamPath, str]]:
    """Like `tensor_names`, for each of the pre-training heads "mlm" and "head_nsp"."""
    return {
        "mlm": _dense(("mlm", "transform"), "cls.predictions.transform.dense")
        | _norm(("mlm", "norm"), "cls.predictions.transform.LayerNorm")
        | {("mlm", "bias"): "cls.predictions.bias"},
        "head_nsp": _dense(("head_nsp",), "cls.seq_relationship"),
    }


def pretraining_head_shapes(config: BertConfig) -> dict[str, TensorShape]:
    """Like `tensor_shapes`, for the pre-training heads."""
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


def expected_names(config: BertConfig, parts: Collection[str]) -> dict[ParamPath, str]:
    """Like `tensor_names`, for a checkpoint with these of the optional parts "pooler", "mlm" and "head_nsp"."""
    names = {path: name for path, name in tensor_names(config).items() if path[0] != "pooler" or "pooler" in parts}
    for head, head_tensors in pretraining_head_names().items():
        if head in parts:
            names |= head_tensors
    return names


def is_kernel(path: ParamPath) -> bool:
    """Whether Hugging Face stores a parameter transposed."""
    return path[-1] == "kernel"


def describe_mismatch(found: Mapping[str, TensorShape], expected: Mapping[str, TensorShape]) -> str:
    """Lists missing, surplus and misshapen tensors on one line; "" if everything fits."""
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "surplus": sorted(found.keys() - expected.keys()),
        "misshapen": [
            f"{name} (expected {list(shape)}, found {list(found[name])})"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ],
    }
    return "; ".join(f"{kind}: {shorten(names)}" for kind, names in problems.items() if names)


def shorten(names: Sequence[str], max_names: int = 8) -> str:
    """The first names, and the number of others."""
    more = f" and {len(names) - max_names} more" if len(names) > max_names else ""
    return ", ".join(names[:max_names]) + more


def _dense(path: ParamPath, name: str) -> dict[ParamPath, str]:
    return {(*path, "kernel"): f"{name}.weight", (*path, "bias"): f"{name}.bias"}


def _norm(path: ParamPath, name: str) -> dict[ParamPath, str]:
    return {(*path, "affine", "scale"): f"{name}.weight", (*path, "affine", "bias"): f"{name}.bias"}


_TORCH_LEAVES = {
    "kernel": "weight",
    "embedding": "weight",
    "scale": "weight",
    "gamma": "weight",
    "beta": "bias",
    "output_weights": "weight",
    "output_bias": "bias",
}


def torch_name(slashed_name: str) -> tuple[str, bool]:
    """PyTorch's name of a TensorFlow or Flax tensor, and whether the tensor must be transposed.

    Args:
      slashed_name: such as `bert/encoder/layer_0/attention/self/query/kernel` (TensorFlow), or with `layer/0` (Flax).
    """
    *parents, leaf = slashed_name.split("/")
    if not parents:
        return leaf, False
    parts = [*parents, _TORCH_LEAVES.get(leaf, leaf)]
    if re.fullmatch(r"(word|position|token_type)_embeddings", leaf):
        parts.append("weight")
    return re.sub(r"\blayer_(\d+)\b", r"layer.\1", ".".join(parts)), leaf == "kernel"
