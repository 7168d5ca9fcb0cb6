"""A checkpoint's parameters, read strictly from whichever format its folder holds, and the heads of a run on them."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from bertjax.bert_config import BertConfig
from bertjax.errors import UserError, shown
from bertjax.label_scale import LabelScale, fold_heads
from bertjax.pretrained import flax_file, orbax_folder, safetensors_file, tensorflow_file, torch_file
from bertjax.pretrained.names import (
    CLASSIFIER,
    HEAD_PREFIXES,
    head_names,
    head_shapes,
    is_kernel,
    misfits,
    tensor_names,
    tensor_shapes,
)
from bertjax.pretrained.orbax_folder import Parameters
from bertjax.pretrained.source import read_config, resolve, run_of
from bertjax.pretrained.stored import Stored, collect, shards
from bertjax.run_result import label_scales, read_result

# Buffers, and heads that no task here has use for: known, and no part of the encoder.
_PASSED_OVER = re.compile(r"(classifier|qa_outputs|cls\.squad)\..*|embeddings\.(position_ids|token_type_ids)")
_TIED = {
    "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
_FAR = 5.0
"""Standard deviations of the labels from their mean, beyond which a head's bias is in other units."""
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


def fitting_heads(
    params: Mapping[str, Any], labels: Mapping[str, Sequence[str]], classes: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """The tree with, as a task's "head_TASK", its own head or else the classifier, where the classes are the task's.

    Lines on stderr tell of a head whose classes are others, which is left out, and of one whose classes have no names:
    their order is taken on trust.

    Args:
      params: the tree from `load_pretrained`.
      labels: its heads' classes, from `head_labels`.
      classes: by task, in order; none for a score.
    """
    fitting = {top: tree for top, tree in params.items() if top != "classifier"}
    for name, ours in classes.items():
        own = f"head_{name}"
        top = own if own in params else "classifier"
        if top not in params:
            continue
        theirs = labels.get(top)
        if theirs is not None and not _are_same(theirs, ours):
            told = shown(theirs) if theirs else "a score"
            print(f"{name}: a new head: the checkpoint's is for {told}", file=sys.stderr)
            fitting.pop(own, None)
        elif params[top]["bias"].shape == (len(ours) or 1,):
            fitting[own] = params[top]
            if theirs is None and ours:
                print(f"{name}: a head of classes without names, taken for {', '.join(ours)}", file=sys.stderr)
    return fitting


def standardized_heads(
    params: Mapping[str, Any], theirs: Mapping[str, LabelScale], ours: Mapping[str, LabelScale]
) -> dict[str, Any]:
    """The tree with score heads converted from the labels' units to this run's standardised units.

    A head trained on labels of another scale is left out. A head of unknown scale is taken to be in the labels' units,
    unless its bias is far from them. Lines on stderr say so.

    Args:
      params: from `fitting_heads`.
      theirs: from `head_scales`.
      ours: by task.
    """
    found = dict(params)
    for name, scale in ours.items():
        head = f"head_{name}"
        if head not in params or params[head]["bias"].shape != (1,):
            continue
        known = theirs.get(head, theirs.get("classifier"))
        unfolded = scale.unfold(params[head])
        is_far = abs(float(unfolded["bias"][0])) > _FAR if known is None else not scale.is_near(known)
        if is_far:
            del found[head]
            about = "in other units" if known is None else f"of {known}"
            print(f"{name}: a new head: the checkpoint's is for scores {about}, here {scale}", file=sys.stderr)
            continue
        found[head] = unfolded
        if known is None:
            print(
                f"{name}: the checkpoint does not say which scores its head is for; taken for those of the labels, "
                f"{scale}",
                file=sys.stderr,
            )
    return found


def _are_same(theirs: Sequence[str], ours: Sequence[str]) -> bool:
    if not ours:  # a score, whose one output some name
        return len(theirs) < 2
    return [name.casefold() for name in theirs] == [name.casefold() for name in ours]


def with_heads(
    params: Mapping[str, Any], config: BertConfig, heads: Mapping[str, int], key: jax.Array
) -> dict[str, Any]:
    """The encoder with a head for each task: the checkpoint's own where its shape is right, else a new one.

    The checkpoint's own is "head_NAME", or else "classifier"; those not asked for, and "mlm", are left out.

    Args:
      params: the tree from `load_pretrained`.
      config: its architecture.
      heads: outputs of each head by its name.
      key: for the new heads' kernels, N(0, initializer_range²); their biases are zero.
    """
    encoder = {top: tree for top, tree in params.items() if not _is_head(top)}
    for i, (name, outputs) in enumerate(sorted(heads.items())):
        stored = [params[top] for top in (f"head_{name}", "classifier") if top in params]
        fitting = [head for head in stored if head["bias"].shape == (outputs,)]
        if fitting:
            encoder[f"head_{name}"] = jax.tree.map(jnp.copy, fitting[0])
            continue
        shape = (config.hidden_size, outputs)
        kernel = config.initializer_range * jax.random.normal(jax.random.fold_in(key, i), shape)
        encoder[f"head_{name}"] = {"kernel": kernel, "bias": jnp.zeros(outputs)}
    return encoder


def read_checkpoint(folder: Path, step: int | None = None) -> tuple[BertConfig, Parameters]:
    """As `load_pretrained`, but on the host, by paths, and without a new pooler.

    Args:
      folder: from `resolve`.
      step: of a run's checkpoint; the final one where None.
    """
    config = read_config(folder)
    run = run_of(folder)
    if run is not None:
        result = read_result(run)
        step = result["steps"] if step is None else step
        trained = orbax_folder.read(run / "checkpoints" / str(step) / "params", config)
        tree = flax.traverse_util.unflatten_dict(trained)
        return config, flax.traverse_util.flatten_dict(fold_heads(tree, label_scales(result)))
    if (folder / PARAMS).is_dir():
        return config, orbax_folder.read(folder / PARAMS, config)
    return config, _fit(folder, config, collect(_stored(folder)))


def _stored(folder: Path) -> list[Stored]:
    for name, read in (("model.safetensors", safetensors_file.read), ("pytorch_model.bin", torch_file.read)):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return list(read(folder / name))
        if index.is_file():
            return [tensor for path in shards(index) for tensor in read(path)]
    if (folder / "flax_model.msgpack").is_file():
        return list(flax_file.read(folder / "flax_model.msgpack"))
    if (folder / "bert_model.ckpt.index").is_file():
        return list(tensorflow_file.read(folder / "bert_model.ckpt"))
    raise UserError(
        f"{folder}: expected model.safetensors, pytorch_model.bin, either's .index.json, flax_model.msgpack, "
        "bert_model.ckpt.index or a run's checkpoints, found none"
    )


def _fit(folder: Path, config: BertConfig, found: Mapping[str, Stored]) -> Parameters:
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


def _is_classifier(config: BertConfig, found: Mapping[str, Stored]) -> bool:
    if not set(CLASSIFIER.values()) <= found.keys():
        return False
    weight, bias = (found[name].shape for name in CLASSIFIER.values())
    return len(bias) == 1 and weight == (*bias, config.hidden_size)


def _is_head(top: str) -> bool:
    return top in ("classifier", "mlm") or top.startswith("head_")


def _new_pooler(config: BertConfig) -> Parameters:
    d = config.hidden_size
    kernel = config.initializer_range * jax.random.normal(jax.random.key(0), (d, d))
    return {("pooler", "kernel"): np.asarray(kernel), ("pooler", "bias"): np.zeros(d, np.float32)}
