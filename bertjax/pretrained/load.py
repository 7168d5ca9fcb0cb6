"""Loads a checkpoint's parameters from any supported format; a tensor too many or too few is an error."""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from bertjax.errors import UserError
from bertjax.label_scale import fold_heads
from bertjax.models.config import BertConfig
from bertjax.pretrained.encoder_files import read_model_config
from bertjax.pretrained.formats import flax_file, orbax_folder, safetensors_file, tensorflow_file, torch_file
from bertjax.pretrained.param_names import (
    CLASSIFIER_NAMES,
    PRETRAINING_HEAD_PREFIXES,
    FlatParams,
    describe_mismatch,
    expected_names,
    is_kernel,
    pretraining_head_shapes,
    tensor_shapes,
)
from bertjax.pretrained.source import find_run, resolve_checkpoint
from bertjax.pretrained.tensors import StoredTensor, collect_tensors, shard_files
from bertjax.runs.run_result import label_scales, read_result

PARAMS_FOLDER = "params"
"""Where `convert` writes parameters."""

# Buffers, and heads that no task here can use.
_IGNORED = re.compile(r"(classifier|qa_outputs|cls\.squad)\..*|embeddings\.(position_ids|token_type_ids)")
_TIED = {
    "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


def load_pretrained(source: str | os.PathLike[str]) -> tuple[BertConfig, dict[str, Any]]:
    """Loads the architecture and float32 parameters of a pre-trained BERT.

    Args:
      source: one of
        `minilm-l6`: the starter;
        a hub name, such as `owner/model` or `owner/model@revision`;
        the folder of a finished run: its final checkpoint;
        a folder written by `convert`;
        a folder with `config.json` and the first that exists of `model.safetensors`, `pytorch_model.bin` (each single
          or sharded) and `flax_model.msgpack`;
        a folder with Google's `bert_config.json` and `bert_model.ckpt.*` (needs the extra `tensorflow`).
        Old `gamma`/`beta` names and a `bert.` prefix are understood. No code in a pickle is run.

    Returns:
      The config, and the parameter tree of `Bert(config)`. If the checkpoint has them, the tree also holds
        "classifier": a sequence classification head, {"kernel": [D, C], "bias": [C]};
        "head_TASK": a run's head, of the same form; scores are in the labels' units;
        "head_nsp": the next-sentence head, C = 2; class 0 means that the second text follows the first;
        "mlm": {"transform": {"kernel": [D, D], "bias": [D]}, "norm": {"affine": {"scale": [D], "bias": [D]}},
          "bias": [V]}; its decoder is the word embeddings.
      A checkpoint without a pooler gets a new one, N(0, initializer_range²) from a fixed key, with a warning on stderr.

    Raises:
      UserError: there is no checkpoint, the run is not finished, a file is broken or unsafe, or tensors are missing,
        surplus or misshapen; the message lists them.
    """
    folder = resolve_checkpoint(source)
    config, flat = read_checkpoint(folder)
    if ("pooler", "kernel") not in flat:
        print(f"warning: {folder}: no pooler in this checkpoint; it gets a new one, to be trained", file=sys.stderr)
        flat |= _new_pooler(config)
    params: dict[str, Any] = flax.traverse_util.unflatten_dict({path: jnp.asarray(x) for path, x in flat.items()})
    return config, params


def read_checkpoint(folder: Path, step: int | None = None) -> tuple[BertConfig, FlatParams]:
    """Like `load_pretrained`, but flat, on the host, and without a new pooler.

    Args:
      folder: from `resolve_checkpoint`.
      step: which of a run's checkpoints; None for the final one.
    """
    config = read_model_config(folder)
    run = find_run(folder)
    if run is not None:
        result = read_result(run)
        step = result["steps"] if step is None else step
        trained = orbax_folder.read_orbax(run / "checkpoints" / str(step) / "params", config)
        tree = flax.traverse_util.unflatten_dict(trained)
        return config, flax.traverse_util.flatten_dict(fold_heads(tree, label_scales(result)))
    if (folder / PARAMS_FOLDER).is_dir():
        return config, orbax_folder.read_orbax(folder / PARAMS_FOLDER, config)
    return config, _to_params(folder, config, collect_tensors(_stored_tensors(folder)))


def _stored_tensors(folder: Path) -> list[StoredTensor]:
    for name, read in (
        ("model.safetensors", safetensors_file.read_safetensors),
        ("pytorch_model.bin", torch_file.read_torch),
    ):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return list(read(folder / name))
        if index.is_file():
            return [tensor for path in shard_files(index) for tensor in read(path)]
    if (folder / "flax_model.msgpack").is_file():
        return list(flax_file.read_flax(folder / "flax_model.msgpack"))
    if (folder / "bert_model.ckpt.index").is_file():
        return list(tensorflow_file.read_tensorflow(folder / "bert_model.ckpt"))
    raise UserError(
        f"{folder}: expected model.safetensors, pytorch_model.bin, either's .index.json, flax_model.msgpack, "
        "bert_model.ckpt.index or a run's checkpoints, found none"
    )


def _to_params(folder: Path, config: BertConfig, tensors: Mapping[str, StoredTensor]) -> FlatParams:
    """Reads tensors, by Hugging Face's names, into our parameters; UserError if they do not fit."""
    # If one tensor of an optional part exists, all of them must.
    prefixes = {"pooler": "pooler."} | PRETRAINING_HEAD_PREFIXES
    parts = {part for part, prefix in prefixes.items() if any(name.startswith(prefix) for name in tensors)}
    names, shapes = expected_names(config, parts), tensor_shapes(config) | pretraining_head_shapes(config)
    expected = {name: shapes[name] for name in names.values()}
    expected |= {name: shapes[tied_to] for name, tied_to in _TIED.items() if name in tensors}
    found = {name: tensor.shape for name, tensor in tensors.items() if not _IGNORED.fullmatch(name)}
    if mismatch := describe_mismatch(found, expected):
        raise UserError(f"{folder}: tensors do not fit config.json: {mismatch}")
    for name, tied_to in _TIED.items():
        if name in tensors and not np.array_equal(tensors[name].float32(), tensors[tied_to].float32()):
            raise UserError(f"{folder}: expected {name} to equal {tied_to}: only tied decoders are supported")
    if _has_sequence_classifier(config, tensors):
        names |= CLASSIFIER_NAMES
    arrays = {path: tensors[name].float32() for path, name in names.items()}
    return {path: array.T if is_kernel(path) else array for path, array in arrays.items()}


def _has_sequence_classifier(config: BertConfig, tensors: Mapping[str, StoredTensor]) -> bool:
    if not set(CLASSIFIER_NAMES.values()) <= tensors.keys():
        return False
    weight, bias = (tensors[name].shape for name in CLASSIFIER_NAMES.values())
    return len(bias) == 1 and weight == (*bias, config.hidden_size)


def _new_pooler(config: BertConfig) -> FlatParams:
    d = config.hidden_size
    kernel = config.initializer_range * jax.random.normal(jax.random.key(0), (d, d))
    return {("pooler", "kernel"): np.asarray(kernel), ("pooler", "bias"): np.zeros(d, np.float32)}
