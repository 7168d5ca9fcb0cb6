"""A checkpoint's parameters, read strictly from whichever format its folder holds, and the heads of a run on them."""

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
from bertjax.pretrained.formats import flax_file, orbax_folder, safetensors_file, tensorflow_file, torch_file
from bertjax.pretrained.formats.orbax_folder import Parameters
from bertjax.pretrained.param_names import (
    CLASSIFIER,
    HEAD_PREFIXES,
    head_names,
    head_shapes,
    is_kernel,
    misfits,
    tensor_names,
    tensor_shapes,
)
from bertjax.pretrained.source import read_model_config, resolve, run_of
from bertjax.pretrained.tensors import StoredTensor, collect_tensors, shard_files
from bertjax.runs.run_result import label_scales, read_result

# Buffers, and heads that no task here has use for: known, and no part of the encoder.
_PASSED_OVER = re.compile(r"(classifier|qa_outputs|cls\.squad)\..*|embeddings\.(position_ids|token_type_ids)")


_TIED = {
    "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


PARAMS = "params"
"""Folder of a converted checkpoint's parameters."""


def load_pretrained(source: str | os.PathLike[str]) -> tuple[BertConfig, dict[str, Any]]:
    """Loads a pre-trained BERT's architecture and float32 parameters.

    Args:
      source: `minilm-l6` (the starter), a hub name, with `@revision` if wanted, or a folder: a finished run's, whose
        final checkpoint it is; one made by `convert`; or one that holds `config.json` and, in this order,
        `model.safetensors` or `pytorch_model.bin` (single or sharded), `flax_model.msgpack`, or Google's
        `bert_model.ckpt.*` beside `bert_config.json` (needs the extra `tensorflow`). Old `gamma`/`beta` names and a
        `bert.` prefix are known. Nothing in a pickle is run.

    Returns:
      The config, and the parameter tree of `Bert(config)`. Where the checkpoint has them there are also
        "classifier": a sequence classification head, {"kernel": [D, C], "bias": [C]};
        "head_TASK": the heads of a run, alike, those of scores in the labels' units;
        "head_nsp": the next-sentence head, C = 2, class 0 where the second text is the next;
        "mlm": {"transform": {"kernel": [D, D], "bias": [D]}, "norm": {"affine": {"scale": [D], "bias": [D]}},
          "bias": [V]}, whose decoder is the word embeddings.
      A checkpoint without a pooler gets a new one, N(0, initializer_range²) from a fixed key, and a line on stderr
      says so.

    Raises:
      UserError: nothing found, a run that is not finished, a file that is broken or not to be trusted, or tensors
        missing, surplus or misshapen; the message lists them.
    """
    folder = resolve(source)
    config, flat = read_checkpoint(folder)
    if ("pooler", "kernel") not in flat:
        print(f"warning: {folder}: no pooler in this checkpoint; a new one is drawn, to be trained", file=sys.stderr)
        flat |= _new_pooler(config)
    params: dict[str, Any] = flax.traverse_util.unflatten_dict({path: jnp.asarray(x) for path, x in flat.items()})
    return config, params


def read_checkpoint(folder: Path, step: int | None = None) -> tuple[BertConfig, Parameters]:
    """As `load_pretrained`, but on the host, by paths, and without a new pooler.

    Args:
      folder: from `resolve`.
      step: of a run's checkpoint; the final one where None.
    """
    config = read_model_config(folder)
    run = run_of(folder)
    if run is not None:
        result = read_result(run)
        step = result["steps"] if step is None else step
        trained = orbax_folder.read_orbax(run / "checkpoints" / str(step) / "params", config)
        tree = flax.traverse_util.unflatten_dict(trained)
        return config, flax.traverse_util.flatten_dict(fold_heads(tree, label_scales(result)))
    if (folder / PARAMS).is_dir():
        return config, orbax_folder.read_orbax(folder / PARAMS, config)
    return config, _fit(folder, config, collect_tensors(_stored(folder)))


def _stored(folder: Path) -> list[StoredTensor]:
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


def _fit(folder: Path, config: BertConfig, found: Mapping[str, StoredTensor]) -> Parameters:
    """Parameters by our paths from tensors by Hugging Face's names; UserError where they do not fit."""
    names, shapes = tensor_names(config), tensor_shapes(config) | head_shapes(config)
    if not any(name.startswith("pooler.") for name in found):
        names = {path: name for path, name in names.items() if path[0] != "pooler"}
    for head, head_tensors in head_names().items():
        if any(name.startswith(HEAD_PREFIXES[head]) for name in found):  # then all of it must be there
            names |= head_tensors
    expected = {name: shapes[name] for name in names.values()}
    for name, tied_to in _TIED.items():
        if name in found:
            expected[name] = shapes[tied_to]
    known = {name: tensor.shape for name, tensor in found.items() if not _PASSED_OVER.fullmatch(name)}
    if problem := misfits(known, expected):
        raise UserError(f"{folder}: tensors do not fit config.json: {problem}")
    for name, tied_to in _TIED.items():
        if name in found and not np.array_equal(found[name].float32(), found[tied_to].float32()):
            raise UserError(f"{folder}: expected {name} to equal {tied_to}, to which a decoder is tied, found another")
    if _is_classifier(config, found):
        names |= CLASSIFIER
    arrays = {path: found[name].float32() for path, name in names.items()}
    return {path: array.T if is_kernel(path) else array for path, array in arrays.items()}


def _is_classifier(config: BertConfig, found: Mapping[str, StoredTensor]) -> bool:
    if not set(CLASSIFIER.values()) <= found.keys():
        return False
    weight, bias = (found[name].shape for name in CLASSIFIER.values())
    return len(bias) == 1 and weight == (*bias, config.hidden_size)


def _new_pooler(config: BertConfig) -> Parameters:
    d = config.hidden_size
    kernel = config.initializer_range * jax.random.normal(jax.random.key(0), (d, d))
    return {("pooler", "kernel"): np.asarray(kernel), ("pooler", "bias"): np.zeros(d, np.float32)}
