"""Names and shapes of parameters: our paths, Hugging Face's tensors, and how other formats' names map to those."""

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache, partial
from types import MappingProxyType

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from bertjax.models.config import BertConfig
from bertjax.models.encoder import init_params
from bertjax.models.families import build_encoder, family_of

ParamPath = tuple[str, ...]
"""A parameter's place in our tree, such as ("layer_0", "query", "kernel")."""
FlatParams = dict[ParamPath, np.ndarray]
"""Our parameter tree, flattened, on the host."""
TensorShape = tuple[int, ...]
_LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight", "bias": "bias"}
GOOGLE_CLASSIFIER_NAMES = {"output_weights": "classifier.weight", "output_bias": "classifier.bias"}
"""Of a BERT's sequence classification head by Google's run_classifier.py."""


def tensor_names(config: BertConfig) -> dict[ParamPath, str]:
    """Maps each parameter of the plain encoder to its Hugging Face tensor name, without the family's prefix."""
    family = family_of(config)
    pooler = {} if family.pooler is None else {"pooler": family.pooler}
    return _tensors(config, {**family.modules, **pooler})


def classifier_names(config: BertConfig) -> dict[ParamPath, str]:
    """Like `tensor_names`, for a sequence classification head; its own dense layer, if any, is our pooler."""
    modules = family_of(config).classifier
    own = {("classifier", leaf): f"{modules['classifier']}.{_LEAVES[leaf]}" for leaf in ("kernel", "bias")}
    return _tensors(config, modules) | own


def pretraining_head_names(config: BertConfig) -> dict[str, dict[ParamPath, str]]:
    """Like `tensor_names`, for each of the pre-training heads "mlm" and "head_nsp" that the family has."""
    family = family_of(config)
    bias = {path: family.mlm_bias for path in param_shapes(config) if path == ("mlm", "bias")}
    heads = {"mlm": _tensors(config, family.mlm) | bias}
    return heads if family.nsp is None else heads | {"head_nsp": _tensors(config, {"head_nsp": family.nsp})}


def pretraining_head_prefixes(config: BertConfig) -> dict[str, tuple[str, ...]]:
    """How Hugging Face's names of each pre-training head begin."""
    family = family_of(config)
    if family.nsp is None:
        modules = [*family.mlm.values(), family.mlm_decoder, family.mlm_bias.rpartition(".")[0]]
        return {"mlm": tuple(sorted({f"{module.partition('.')[0]}." for module in modules if module}))}
    return {"mlm": (f"{family.mlm_bias.removesuffix('bias')}",), "head_nsp": (f"{family.nsp}.",)}


def shared_head_prefixes(config: BertConfig) -> tuple[str, ...]:
    """How names begin that the masked-language-modelling head and the sentence head have in common; often none do."""
    family = family_of(config)
    return tuple(f"{module}." for module in sorted({*family.mlm.values()} & {*family.classifier.values()}))


@lru_cache(maxsize=32)
def param_shapes(config: BertConfig) -> Mapping[ParamPath, TensorShape]:
    """The shape of each parameter of the encoder and its pre-training heads, [in, out] for kernels."""
    # All layers after the first have the same parameters.
    few = dataclasses.replace(config, num_hidden_layers=min(config.num_hidden_layers, 2))
    model = build_encoder(few, family_of(config).pretraining_heads, has_mlm=True)
    shapes = flatten_dict(jax.eval_shape(partial(init_params, model=model), jax.random.key(0)))
    others = {path: array.shape for path, array in shapes.items() if path[0] != "layer_1"}
    layer = {path[1:]: array.shape for path, array in shapes.items() if path[0] == "layer_1"}
    later = [f"layer_{i}" for i in range(1, config.num_hidden_layers)]
    return MappingProxyType(others | {(name, *path): shape for name in later for path, shape in layer.items()})


def pooler_paths(config: BertConfig) -> list[ParamPath]:
    """The parameters between the hidden states and a sentence head."""
    return [path for path in param_shapes(config) if path[0] == "pooler"]


def tensor_shapes(config: BertConfig) -> dict[str, TensorShape]:
    """The shape of each Hugging Face tensor of an encoder, in PyTorch's layout: [out, in] for weights."""
    return torch_shapes(config, tensor_names(config))


def torch_shapes(config: BertConfig, names: Mapping[ParamPath, str]) -> dict[str, TensorShape]:
    """Like `tensor_shapes`, for any of the names above but "classifier"."""
    shapes = param_shapes(config)
    return {name: shapes[path][::-1] if is_kernel(path) else shapes[path] for path, name in names.items()}


def _tensors(config: BertConfig, modules: Mapping[str, str]) -> dict[ParamPath, str]:
    """Hugging Face's names of the parameters of these modules; modules that the architecture lacks have none."""
    names, order = {}, list(modules)
    for path in param_shapes(config):
        *parts, leaf = (part for part in path if part != "affine")
        numbered = re.fullmatch(r"layer_(\d+)", path[0])
        if numbered:
            parts[0] = "layer"
        module = "/".join(parts)
        if module not in modules:  # a parameter that is no module's
            module, leaf = "/".join((*parts, leaf)), "embedding"
        if module in modules:
            number = int(numbered[1]) if numbered else config.num_hidden_layers if path[0] == "pooler" else -1
            place = number, order.index(module), _LEAVES[leaf] == "bias"
            names[path] = place, f"{modules[module].format(number)}.{_LEAVES[leaf]}"
    # As in the model: embeddings, layers, pooler. Messages list them so.
    return {path: name for path, (_, name) in sorted(names.items(), key=lambda item: item[1])}


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
