"""Names and shapes of parameters: our paths, Hugging Face's tensors, and how other formats' names map to those."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from bertjax.models.config import BertConfig
from bertjax.models.families import family_of

ParamPath = tuple[str, ...]
"""A parameter's place in our tree, such as ("layer_0", "query", "kernel")."""
FlatParams = dict[ParamPath, np.ndarray]
"""Our parameter tree, flattened, on the host."""
TensorShape = tuple[int, ...]
_LEAVES = ("kernel", "bias", "embedding", "scale")
POOLER: tuple[ParamPath, ...] = (("pooler", "kernel"), ("pooler", "bias"))
GOOGLE_CLASSIFIER_NAMES = {"output_weights": "classifier.weight", "output_bias": "classifier.bias"}
"""Of a BERT's sequence classification head by Google's run_classifier.py."""


def tensor_names(config: BertConfig) -> dict[ParamPath, str]:
    """Maps each parameter of the plain encoder to its Hugging Face tensor name, without the family's prefix."""
    family, shapes = family_of(config), _module_shapes(config)
    names: dict[ParamPath, str] = {}
    for module, theirs in family.modules.items():
        if module in shapes and not module.startswith("layer/"):
            names |= _tensors(module, theirs, shapes)
    for i in range(config.num_hidden_layers):
        for module, theirs in family.modules.items():
            if module.startswith("layer/"):
                names |= _tensors(module.replace("layer", f"layer_{i}"), theirs.format(i), shapes, module)
    return names if family.pooler is None else names | _tensors("pooler", family.pooler, shapes)


def classifier_names(config: BertConfig) -> dict[ParamPath, str]:
    """Like `tensor_names`, for a sequence classification head; its own dense layer, if any, is our pooler."""
    shapes = _module_shapes(config)
    modules = family_of(config).classifier.items()
    return {path: name for ours, theirs in modules for path, name in _tensors(ours, theirs, shapes).items()}


def pretraining_head_names(config: BertConfig) -> dict[str, dict[ParamPath, str]]:
    """Like `tensor_names`, for each of the pre-training heads "mlm" and "head_nsp" that the family has."""
    family, shapes = family_of(config), _module_shapes(config)
    mlm = {path: name for ours, theirs in family.mlm.items() for path, name in _tensors(ours, theirs, shapes).items()}
    heads = {"mlm": mlm | {("mlm", "bias"): family.mlm_bias}}
    return heads if family.nsp is None else heads | {"head_nsp": _tensors("head_nsp", family.nsp, shapes)}


def pretraining_head_prefixes(config: BertConfig) -> dict[str, tuple[str, ...]]:
    """How Hugging Face's names of each pre-training head begin."""
    family = family_of(config)
    if family.nsp is None:
        modules = [*family.mlm.values(), family.mlm_decoder, family.mlm_bias.rpartition(".")[0]]
        return {"mlm": tuple(sorted({f"{module.partition('.')[0]}." for module in modules}))}
    return {"mlm": (f"{family.mlm_bias.removesuffix('bias')}",), "head_nsp": (f"{family.nsp}.",)}


def param_shapes(config: BertConfig, paths: Iterable[ParamPath]) -> dict[ParamPath, TensorShape]:
    """The shapes of parameters other than "classifier" and a run's heads, [in, out] for kernels."""
    shapes = _module_shapes(config)

    def shape(path: ParamPath) -> TensorShape:
        if path == ("mlm", "bias"):
            return (config.vocab_size,)
        module = "/".join(part for part in path if part not in (*_LEAVES, "affine"))
        sizes = shapes[re.sub(r"^layer_\d+/", "layer/", module)]
        return sizes if path[-1] in ("kernel", "embedding", "relative_bias") else sizes[-1:]

    return {path: shape(path) for path in paths}


def tensor_shapes(config: BertConfig) -> dict[str, TensorShape]:
    """The shape of each Hugging Face tensor of an encoder, in PyTorch's layout: [out, in] for weights."""
    return torch_shapes(config, tensor_names(config))


def torch_shapes(config: BertConfig, names: Mapping[ParamPath, str]) -> dict[str, TensorShape]:
    """Like `tensor_shapes`, for any of the names above but "classifier"."""
    shapes = param_shapes(config, names)
    return {name: shapes[path][::-1] if is_kernel(path) else shapes[path] for path, name in names.items()}


def _module_shapes(config: BertConfig) -> dict[str, TensorShape]:
    """The shape of each module's kernel [in, out], table or LayerNorm; those that an architecture lacks are missing."""
    d, e, f = config.hidden_size, config.embedding_size, config.intermediate_size
    shapes: dict[str, TensorShape] = {
        "embeddings/word": (config.vocab_size, e),
        "embeddings/position": (config.max_position_embeddings, e),
        "embeddings/norm": (e,),
        **dict.fromkeys(("layer/query", "layer/key", "layer/value", "layer/attention_output", "pooler"), (d, d)),
        **dict.fromkeys(("layer/attention_norm", "layer/output_norm"), (d,)),
        "layer/intermediate": (d, f),
        "layer/output": (f, d),
        "mlm/transform": (d, e),
        "mlm/norm": (e,),
        "head_nsp": (d, 2),
    }
    if config.type_vocab_size:
        shapes["embeddings/token_type"] = (config.type_vocab_size, e)
    if e != d:
        shapes["projection"] = (e, d)
    if config.num_relative_buckets:
        shapes["relative_bias"] = (config.num_relative_buckets, config.num_attention_heads)
    return shapes


def _tensors(
    ours: str, theirs: str, shapes: Mapping[str, TensorShape], module: str | None = None
) -> dict[ParamPath, str]:
    """The tensors of a module: a table, a LayerNorm or a dense layer."""
    path, kind = tuple(ours.split("/")), module or ours
    if kind == "relative_bias":
        return {path: f"{theirs}.weight"}
    if kind.startswith("embeddings/") and len(shapes[kind]) == 2:
        return {(*path, "embedding"): f"{theirs}.weight"}
    if len(shapes.get(kind, ())) == 1:
        return {(*path, "affine", "scale"): f"{theirs}.weight", (*path, "affine", "bias"): f"{theirs}.bias"}
    return {(*path, "kernel"): f"{theirs}.weight", (*path, "bias"): f"{theirs}.bias"}


def expected_names(config: BertConfig, parts: Collection[str]) -> dict[ParamPath, str]:
    """Like `tensor_names`, for a checkpoint with these of the optional parts "pooler", "mlm" and "head_nsp"."""
    names = {path: name for path, name in tensor_names(config).items() if path[0] != "pooler" or "pooler" in parts}
    for head, head_tensors in pretraining_head_names(config).items():
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
