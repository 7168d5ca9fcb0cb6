"""Loads a checkpoint's parameters from any supported format; a tensor too many or too few is an error."""

import os
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
from bertjax.models.families import family_of
from bertjax.pretrained.encoder_files import read_model_config
from bertjax.pretrained.formats import orbax_folder
from bertjax.pretrained.notes import note
from bertjax.pretrained.param_names import (
    FlatParams,
    ParamPath,
    TensorShape,
    classifier_names,
    describe_mismatch,
    expected_names,
    is_kernel,
    param_shapes,
    pooler_paths,
    pretraining_head_names,
    tensor_shapes,
)
from bertjax.pretrained.source import find_run, other_modules, resolve_checkpoint
from bertjax.pretrained.stored_heads import has_sentence_classifier, read_heads, stored_architectures
from bertjax.pretrained.tensor_prefix import TensorGroups, group_tensors
from bertjax.pretrained.tensors import collect_tensors
from bertjax.pretrained.weight_files import has_weights, read_weights
from bertjax.runs.run_result import label_scales, read_result

PARAMS_FOLDER = "params"
"""Where `convert` writes parameters."""


def load_pretrained(source: str | os.PathLike[str], *, strict_heads: bool = False) -> tuple[BertConfig, dict[str, Any]]:
    """Loads the architecture and float32 parameters of a pre-trained encoder.

    Args:
      source: one of
        `minilm-l6` or `mpnet-base`: a starter;
        a hub name, such as `owner/model` or `owner/model@revision`;
        the folder of a finished run: its final checkpoint;
        a folder written by `convert`;
        a folder with `config.json` and the first that exists of `model.safetensors`, `pytorch_model.bin` and
          `flax_model.msgpack`, each single or sharded;
        a folder with Google's `bert_config.json` and `bert_model.ckpt.*` (needs the extra `tensorflow`).
        Old `gamma`/`beta` names and wrappers' prefixes are understood. No code in a pickle is run.
      strict_heads: whether a head of pre-training that cannot be read, such as one with an untied decoder, is an error.
        By default it is left out.

    Returns:
      The config, and the parameter tree of `Bert(config)`. If the checkpoint has them, the tree also holds
        "classifier": a sequence classification head, {"kernel": [D, C], "bias": [C]};
        "head_TASK": a run's head, of the same form; scores are in the labels' units;
        "head_nsp": the next-sentence head, C = 2; class 0 means that the second text follows the first;
        "mlm": {"transform": {"kernel": [D, E], "bias": [E]}, "norm": {"affine": {"scale": [E], "bias": [E]}},
          "bias": [V]}; its decoder is the word embeddings. ModernBERT's may lack any of the biases.
      "classifier" follows `architectures` in `config.json`: it is left out unless that names the family's class for
      sequence classification, such as `BertForSequenceClassification`, or nothing. "pooler" is the dense layer of the
      sentence head where the family's has one. Lines on stderr report all tensors that are left out.
      A checkpoint without a pooler gets a new one, N(0, initializer_range²) from a fixed key, with a warning on stderr.

    Raises:
      UserError: there is no checkpoint, the run is not finished, a file is broken or unsafe, or tensors of the encoder
        are missing, surplus or misshapen; the message lists them.
    """
    folder = resolve_checkpoint(source)
    config, flat = read_checkpoint(folder, strict_heads=strict_heads)
    if not any(path[0] == "pooler" for path in flat):
        if shared := _pooler_of_mlm(config, flat):
            note(f"{folder}: a sentence head starts with the layers of the masked-language-modelling head")
            flat |= shared
        else:
            print(f"warning: {folder}: no pooler in this checkpoint; it gets a new one, to be trained", file=sys.stderr)
            flat |= _new_pooler(config)
    params: dict[str, Any] = flax.traverse_util.unflatten_dict({path: jnp.asarray(x) for path, x in flat.items()})
    return config, params


def read_checkpoint(
    folder: Path, step: int | None = None, *, strict_heads: bool = False
) -> tuple[BertConfig, FlatParams]:
    """Like `load_pretrained`, but flat, on the host, and without a new pooler.

    Args:
      folder: from `resolve_checkpoint`.
      step: which of a run's checkpoints; None for the final one.
      strict_heads: see `load_pretrained`.
    """
    config = read_model_config(folder)
    run = find_run(folder)
    if run is not None:
        result = read_result(run)
        step = result["steps"] if step is None else step
        trained = orbax_folder.read_orbax(run / "checkpoints" / str(step) / "params", config)
        tree = flax.traverse_util.unflatten_dict(trained)
        return config, flax.traverse_util.flatten_dict(fold_heads(tree, label_scales(result)))
    if (folder / PARAMS_FOLDER).is_dir() and not has_weights(folder):
        converted = orbax_folder.read_orbax(folder / PARAMS_FOLDER, config)
        return config, _without_foreign_classifier(folder, config, converted)
    if modules := other_modules(folder):
        note(f"{folder}: left out {', '.join(modules)}, which sentence-transformers computes after the encoder")
    groups = group_tensors(folder, family_of(config), collect_tensors(read_weights(folder)))
    return config, _to_params(folder, config, groups, strict_heads=strict_heads)


def _to_params(folder: Path, config: BertConfig, groups: TensorGroups, *, strict_heads: bool) -> FlatParams:
    """Reads tensors, by Hugging Face's names, into our parameters; UserError if they do not fit."""
    # If one tensor of the pooler exists, both must.
    has_pooler = any(name.startswith("pooler.") for name in groups.encoder)
    names, shapes = expected_names(config, {"pooler"} if has_pooler else ()), tensor_shapes(config)
    unused = [name for name in family_of(config).unused if name in groups.encoder and name not in names.values()]
    if unused:
        note(f"{folder}: left out {', '.join(unused)}: config.json says that the encoder has no use for it")
    found = {name: tensor.shape for name, tensor in groups.encoder.items() if name not in unused}
    if mismatch := describe_mismatch(found, {name: shapes[name] for name in names.values()}):
        raise UserError(f"{folder}: tensors do not fit config.json: {mismatch}")
    words = groups.encoder[names["embeddings", "word", "embedding"]]
    heads = read_heads(folder, config, words, groups.beside, groups.others, strict=strict_heads)
    if has_pooler and any(path in heads for path in pooler_paths(config)):
        note(f"{folder}: left out {family_of(config).pooler}: the sentence head has a dense layer of its own")
    stored = {path: groups.encoder[name] for path, name in names.items()} | heads
    arrays = {path: tensor.float32() for path, tensor in stored.items()}
    return {path: array.T if is_kernel(path) else array for path, array in arrays.items()}


def _without_foreign_classifier(folder: Path, config: BertConfig, params: FlatParams) -> FlatParams:
    """A converted checkpoint without a "classifier" that is no head of whole texts: earlier versions kept any."""
    architectures = stored_architectures(folder)
    if ("classifier", "bias") not in params or has_sentence_classifier(architectures, config):
        return params
    note(f"{folder}: left out classifier: a head of {', '.join(architectures)}")
    return {path: array for path, array in params.items() if path[0] != "classifier"}


def _pooler_of_mlm(config: BertConfig, params: FlatParams) -> FlatParams:
    """The pooler from the MLM head, where both have the same names in Transformers, which shares them; else nothing."""
    heads = pretraining_head_names(config)["mlm"]
    theirs = {name: path for path, name in heads.items() if path in params}
    names = {path: name for path, name in classifier_names(config).items() if path[0] == "pooler"}
    if not names or not all(name in theirs for name in names.values()):
        return {}
    return {path: params[theirs[name]].copy() for path, name in names.items()}


def check_head_alone(config: BertConfig, params: Mapping[str, Any], source: str | os.PathLike[str]) -> None:
    """UserError if a sentence head of this checkpoint needs more training than its last linear layer alone."""
    is_trained = "classifier" in params or any(name.startswith("head_") and name != "head_nsp" for name in params)
    has_own_dense = any(module.startswith("pooler") for module in family_of(config).classifier)
    new, found = _new_pooler(config), flax.traverse_util.flatten_dict(dict(params))
    is_new = all(np.array_equal(found[path], array) for path, array in new.items())
    if is_new or (has_own_dense and not is_trained):
        raise UserError(
            "--config.tune: head trains the last linear layer alone, but the dense layer before it is new in "
            f"{source}; use all, or a checkpoint with a trained sentence head"
        )


def _new_pooler(config: BertConfig) -> FlatParams:
    def new(path: ParamPath, shape: TensorShape) -> np.ndarray:
        if is_kernel(path):
            return np.asarray(config.initializer_range * jax.random.normal(jax.random.key(0), shape))
        return np.full(shape, path[-1] == "scale", np.float32)

    return {path: new(path, param_shapes(config)[path]) for path in pooler_paths(config)}
