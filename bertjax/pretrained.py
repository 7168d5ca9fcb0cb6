"""Other people's BERT checkpoints, read strictly: every tensor is accounted for, or it is an error."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from bertjax import assets
from bertjax.errors import UserError
from bertjax.model import BertConfig

STARTER = "minilm-l6"
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")
# Buffers and the heads of other tasks: known, and no part of the encoder.
_PASSED_OVER = re.compile(r"(cls|classifier|qa_outputs)\..*|embeddings\.(position_ids|token_type_ids)")


def tensor_names(config: BertConfig) -> dict[tuple[str, ...], str]:
    """Maps each encoder parameter's path to its Hugging Face tensor name, without the `bert.` prefix."""
    names: dict[tuple[str, ...], str] = {}

    def dense(path: tuple[str, ...], name: str) -> None:
        names[(*path, "kernel")] = f"{name}.weight"
        names[(*path, "bias")] = f"{name}.bias"

    def norm(path: tuple[str, ...], name: str) -> None:
        names[(*path, "affine", "scale")] = f"{name}.weight"
        names[(*path, "affine", "bias")] = f"{name}.bias"

    for table in ("word", "position", "token_type"):
        theirs = f"embeddings.{table}_embeddings.weight"
        names[("embeddings", table, "embedding")] = theirs
    norm(("embeddings", "norm"), "embeddings.LayerNorm")
    for i in range(config.num_hidden_layers):
        ours, theirs = f"layer_{i}", f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            dense((ours, part), f"{theirs}.attention.self.{part}")
        dense((ours, "attention_output"), f"{theirs}.attention.output.dense")
        norm((ours, "attention_norm"), f"{theirs}.attention.output.LayerNorm")
        dense((ours, "intermediate"), f"{theirs}.intermediate.dense")
        dense((ours, "output"), f"{theirs}.output.dense")
        norm((ours, "output_norm"), f"{theirs}.output.LayerNorm")
    dense(("pooler",), "pooler.dense")
    return names


def tensor_shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    """The shape that each Hugging Face tensor of an encoder must have, PyTorch's [out, in] for weights."""
    d, f = config.hidden_size, config.intermediate_size
    special = {
        "word_embeddings.weight": (config.vocab_size, d),
        "position_embeddings.weight": (config.max_position_embeddings, d),
        "token_type_embeddings.weight": (config.type_vocab_size, d),
        "intermediate.dense.weight": (f, d),
        "intermediate.dense.bias": (f,),
    }

    def shape(name: str) -> tuple[int, ...]:
        for suffix, value in special.items():
            if name.endswith(suffix):
                return value
        if name.endswith(".bias") or "LayerNorm" in name:
            return (d,)
        return (d, f) if re.search(r"layer\.\d+\.output\.dense\.weight$", name) else (d, d)

    return {name: shape(name) for name in tensor_names(config).values()}


def resolve(source: str | os.PathLike[str]) -> Path:
    """The folder that holds a checkpoint: the starter's, the one named, or a hub snapshot.

    Args:
      source: `minilm-l6`, a folder in Hugging Face layout, or a hub name, with `@revision` if wanted.

    Raises:
      UserError: none of these is to be had.
    """
    if source == STARTER:
        return assets.fetch(STARTER)
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    name = os.fspath(source)
    if folder.exists() or not _HUB_NAME.fullmatch(name) or name.startswith((".", "/")):
        raise UserError(
            f"init_from: {name!r} is neither {STARTER!r}, nor a folder, nor a hub name such as "
            "'bert-base-uncased' or 'owner/model@revision'"
        )
    # The hub client costs half a second to import, and most runs never need it.
    import huggingface_hub

    repository, _, revision = name.partition("@")
    try:
        snapshot = huggingface_hub.snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=["config.json", "*.safetensors", "*.safetensors.index.json", "vocab.txt", "tokenizer*"],
        )
    except Exception as error:  # those of the client's transport have no base in common across its versions
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(
            f"init_from: no folder {name!r} here, and the hub gave no model of that name: {reason}; "
            f"download the checkpoint and pass its folder, or use --config.init_from={STARTER}"
        ) from error
    return Path(snapshot)


def read_config(folder: Path) -> BertConfig:
    """Reads `config.json`; UserError where it is missing, is no JSON, or describes no BERT."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; a checkpoint folder needs config.json") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(values).__name__}")
    try:
        return BertConfig.from_dict(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def load_pretrained(source: str | os.PathLike[str]) -> tuple[BertConfig, dict[str, Any]]:
    """Loads a pre-trained BERT's architecture and float32 parameters.

    Args:
      source: `minilm-l6` (the starter), a folder in Hugging Face layout (`config.json` and
        `model.safetensors`, single or sharded; old `gamma`/`beta` names and a `bert.` prefix are known), or a
        hub name, with `@revision` if wanted.

    Returns:
      The config, and the parameter tree of `Bert(config)`. A sequence classification head found in the
      checkpoint stands under "classifier" as {"kernel": [D, C], "bias": [C]}.

    Raises:
      UserError: nothing found, or tensors missing, surplus or misshapen; the message lists them.
    """
    folder = resolve(source)
    config = read_config(folder)
    tensors = _Tensors(folder)
    expected = tensor_shapes(config)
    found = tensors.shapes
    surplus = sorted(name for name in found.keys() - expected.keys() if not _PASSED_OVER.fullmatch(name))
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "surplus": surplus,
        "misshapen": [
            f"{name} (expected {list(shape)}, found {list(found[name])})"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ],
    }
    if any(problems.values()):
        listing = "; ".join(f"{kind}: {_listing(names)}" for kind, names in problems.items() if names)
        raise UserError(f"{folder}: tensors do not fit config.json: {listing}")

    def parameter(name: str) -> jax.Array:
        array = tensors.read(name)
        is_kernel = array.ndim == 2 and "embeddings" not in name
        return jnp.asarray((array.T if is_kernel else array).astype(np.float32))

    flat = {path: parameter(name) for path, name in tensor_names(config).items()}
    weight, bias = found.get("classifier.weight", ()), found.get("classifier.bias", ())
    if len(weight) == 2 and weight[1] == config.hidden_size and bias == weight[:1]:
        flat["classifier", "kernel"] = parameter("classifier.weight")
        flat["classifier", "bias"] = parameter("classifier.bias")
    return config, flax.traverse_util.unflatten_dict(flat)


def with_heads(
    params: Mapping[str, Any], config: BertConfig, heads: Mapping[str, int], key: jax.Array
) -> dict[str, Any]:
    """Adds a head for each task: the checkpoint's own where its shape is right, else a new one.

    Args:
      params: the tree from `load_pretrained`.
      config: its architecture.
      heads: outputs of each head by its name.
      key: for the new heads' kernels, N(0, initializer_range²); their biases are zero.
    """
    params = dict(params)
    stored = params.pop("classifier", None)
    for i, (name, outputs) in enumerate(sorted(heads.items())):
        if stored is not None and stored["bias"].shape == (outputs,):
            params[f"head_{name}"] = jax.tree.map(jnp.copy, stored)
            continue
        shape = (config.hidden_size, outputs)
        kernel = config.initializer_range * jax.random.normal(jax.random.fold_in(key, i), shape)
        params[f"head_{name}"] = {"kernel": kernel, "bias": jnp.zeros(outputs)}
    return params


class _Tensors:
    """The tensors of a safetensors checkpoint, single or sharded, under their present-day names."""

    def __init__(self, folder: Path):
        index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
        if single.is_file():
            paths = [single]
        elif index.is_file():
            paths = _shards(index)
        else:
            raise UserError(f"{folder}: expected model.safetensors or model.safetensors.index.json, found neither")
        self._where: dict[str, tuple[Path, str]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path in paths:
            try:
                with safetensors.safe_open(path, framework="numpy") as file:
                    for stored in file.keys():  # noqa: SIM118 (the handle is no mapping)
                        name = _present_day_name(stored)
                        if name in self._where:
                            raise UserError(f"{path}: tensor {name} stands twice in this checkpoint")
                        self._where[name] = path, stored
                        self.shapes[name] = tuple(file.get_slice(stored).get_shape())
            except (OSError, safetensors.SafetensorError) as error:
                raise UserError(f"{path}: not a readable safetensors file ({error})") from None

    def read(self, name: str) -> np.ndarray:
        path, stored = self._where[name]
        with safetensors.safe_open(path, framework="numpy") as file:
            dtype = file.get_slice(stored).get_dtype()
            if dtype not in _DTYPES:
                raise UserError(f"{path}: tensor {name} is stored as {dtype}, expected one of {', '.join(_DTYPES)}")
            return file.get_tensor(stored)


def _shards(index: Path) -> list[Path]:
    try:
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index}: expected a JSON object with 'weight_map' ({error!r})") from None
    for file in files:
        if not isinstance(file, str) or Path(file).name != file:
            raise UserError(f"{index}: shard {file!r} must be a file name in the same folder")
        if not (index.parent / file).is_file():
            raise UserError(f"{index}: shard {file!r} is not in the folder; download it too")
    return [index.parent / file for file in files]


def _present_day_name(name: str) -> str:
    name = name.removeprefix("bert.")
    return re.sub(r"LayerNorm\.(gamma|beta)$", lambda m: f"LayerNorm.{_NORM[m[1]]}", name)


# Integers and 8-bit floats mean a quantised checkpoint, whose scales stand elsewhere.
_DTYPES = ("F64", "F32", "F16", "BF16")
_NORM = {"gamma": "weight", "beta": "bias"}


def _listing(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
