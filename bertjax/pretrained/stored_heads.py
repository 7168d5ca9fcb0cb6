"""Which of a checkpoint's tensors are heads that can be read, and which are left out with a line on stderr."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bertjax.errors import UserError
from bertjax.models.config import BertConfig, architecture_names
from bertjax.pretrained.encoder_files import config_path, read_small_json
from bertjax.pretrained.notes import note
from bertjax.pretrained.param_names import (
    CLASSIFIER_NAMES,
    GOOGLE_CLASSIFIER_NAMES,
    PRETRAINING_HEAD_PREFIXES,
    ParamPath,
    describe_mismatch,
    pretraining_head_names,
    pretraining_head_shapes,
    shorten,
)
from bertjax.pretrained.tensors import StoredTensor

HeadTensors = dict[ParamPath, StoredTensor]
_SENTENCE_CLASS = "BertForSequenceClassification"
_WITHOUT_CLASSIFIER = {
    *("BertModel", "BertForPreTraining", "BertForMaskedLM", "BertLMHeadModel", "BertForNextSentencePrediction"),
    "BertForQuestionAnswering",
}
_BIAS, _DECODER = "cls.predictions.bias", "cls.predictions.decoder."


def stored_architectures(folder: Path) -> list[str]:
    """The classes in a checkpoint's config.json; empty if it names none."""
    return architecture_names(read_small_json(config_path(folder), {}))


def has_sentence_classifier(architectures: Sequence[str]) -> bool:
    """Whether a `classifier` of such a checkpoint is one of whole texts: by its class, or because it names no class."""
    owners = [name for name in architectures if name not in _WITHOUT_CLASSIFIER]
    return not architectures or (bool(owners) and set(owners) == {_SENTENCE_CLASS})


def read_heads(
    folder: Path,
    config: BertConfig,
    words: StoredTensor,
    beside: Mapping[str, StoredTensor],
    others: Sequence[str],
    *,
    strict: bool,
) -> HeadTensors:
    """The heads of a checkpoint by their paths in our tree; a line on stderr for each that is left out.

    Args:
      folder: the checkpoint.
      config: its architecture.
      words: the word embeddings.
      beside: tensors where Transformers puts heads.
      others: names of tensors elsewhere.
      strict: whether a head of pre-training that cannot be read is an error.

    Raises:
      UserError: see `strict`; or config.json is broken.
    """
    heads: HeadTensors = {}
    left = dict(beside)
    for head, prefix in PRETRAINING_HEAD_PREFIXES.items():
        tensors = {name: left.pop(name) for name in beside if name.startswith(prefix)}
        if not tensors:
            continue
        found, complaint = _pretraining_head(head, config, words, tensors)
        if complaint and strict:
            raise UserError(f"{folder}: {complaint}")
        if complaint:
            note(f"{folder}: left out the head {prefix.removesuffix('.')}: {complaint}")
        heads |= found
    architectures = stored_architectures(folder)
    google = {path: left.pop(name) for path, name in GOOGLE_CLASSIFIER_NAMES.items() if name in left}
    tensors = {name: left.pop(name) for name in beside if name.startswith("classifier.")}
    if google:
        tensors |= {CLASSIFIER_NAMES[path]: tensor for path, tensor in google.items()}
    if tensors:
        heads |= _classifier(folder, config, tensors, architectures, is_google=bool(google))
    if strangers := sorted([*left, *others]):
        by = f" (config.json: {', '.join(architectures)})" if architectures else ""
        note(f"{folder}: left out {shorten(strangers)}: beside the encoder, and no head that is read here{by}")
    return heads


def _pretraining_head(
    head: str, config: BertConfig, words: StoredTensor, tensors: dict[str, StoredTensor]
) -> tuple[HeadTensors, str]:
    """A head of pre-training, or no tensors and why not."""
    names = pretraining_head_names()[head]
    shapes = pretraining_head_shapes(config)
    if _BIAS not in tensors and f"{_DECODER}bias" in tensors:  # where newer checkpoints keep it
        tensors = tensors | {_BIAS: tensors[f"{_DECODER}bias"]}
    tied = {f"{_DECODER}weight": words, f"{_DECODER}bias": tensors.get(_BIAS)}
    expected = {name: shapes[name] for name in names.values()}
    expected |= {name: tensor.shape for name, tensor in tied.items() if name in tensors and tensor is not None}
    if mismatch := describe_mismatch({name: tensor.shape for name, tensor in tensors.items()}, expected):
        return {}, f"tensors do not fit config.json: {mismatch}"
    for name, tensor in tied.items():
        if name not in tensors or tensor is None:
            continue
        if not np.array_equal(tensors[name].float32(), tensor.float32(), equal_nan=True):
            return {}, f"expected {name} to equal {tensor.name}: only tied decoders are supported"
    return {path: tensors[name] for path, name in names.items()}, ""


def _classifier(
    folder: Path,
    config: BertConfig,
    tensors: Mapping[str, StoredTensor],
    architectures: Sequence[str],
    *,
    is_google: bool,
) -> HeadTensors:
    listed = shorten([f"{name} {list(tensor.shape)}" for name, tensor in sorted(tensors.items())])
    if not has_sentence_classifier(architectures):
        note(f"{folder}: left out {listed}: a head of {', '.join(architectures)}, not of {_SENTENCE_CLASS}")
        return {}
    bias = tensors.get("classifier.bias")
    outputs = bias.shape if bias is not None and len(bias.shape) == 1 else (0,)
    expected = {"classifier.weight": (*outputs, config.hidden_size), "classifier.bias": outputs}
    if outputs == (0,) or {name: tensor.shape for name, tensor in tensors.items()} != expected:
        note(
            f"{folder}: left out {listed}: expected classifier.weight [classes, {config.hidden_size}] and "
            "classifier.bias [classes] alone"
        )
        return {}
    if not architectures and not is_google:
        note(f"{folder}: config.json names no architecture; {listed} are assumed to be those of a {_SENTENCE_CLASS}")
    return {path: tensors[name] for path, name in CLASSIFIER_NAMES.items()}
