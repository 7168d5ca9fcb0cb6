"""Which of a checkpoint's tensors are heads that can be read, and which are left out with a line on stderr."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bertjax.errors import UserError
from bertjax.models.config import BertConfig, architecture_names
from bertjax.models.families import family_of
from bertjax.pretrained.encoder_files import config_path, read_small_json
from bertjax.pretrained.notes import note
from bertjax.pretrained.param_names import (
    GOOGLE_CLASSIFIER_NAMES,
    ParamPath,
    classifier_names,
    describe_mismatch,
    pretraining_head_names,
    pretraining_head_prefixes,
    shared_head_prefixes,
    shorten,
    torch_shapes,
)
from bertjax.pretrained.tensors import StoredTensor

HeadTensors = dict[ParamPath, StoredTensor]
_WITHOUT_CLASSIFIER = (
    *("Model", "ForPreTraining", "ForMaskedLM", "LMHeadModel", "ForNextSentencePrediction", "ForQuestionAnswering"),
)
"""Ends of the names of classes without a classifier."""


def stored_architectures(folder: Path) -> list[str]:
    """The classes in a checkpoint's config.json; empty if it names none."""
    return architecture_names(read_small_json(config_path(folder), {}))


def sentence_class(config: BertConfig) -> str:
    """The family's class with a head for whole texts."""
    return f"{family_of(config).class_name}ForSequenceClassification"


def has_sentence_classifier(architectures: Sequence[str], config: BertConfig) -> bool:
    """Whether a `classifier` of such a checkpoint is one of whole texts: by its class, or because it names no class."""
    without = {f"{family_of(config).class_name}{end}" for end in _WITHOUT_CLASSIFIER}
    owners = [name for name in architectures if name not in without]
    return not architectures or (bool(owners) and set(owners) == {sentence_class(config)})


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
    architectures = stored_architectures(folder)
    shared, owner = shared_head_prefixes(config), _owner_of_shared(folder, config, beside, architectures)

    def take(head: str, prefixes: tuple[str, ...]) -> dict[str, StoredTensor]:
        names = [name for name in left if name.startswith(prefixes) and (head == owner or not name.startswith(shared))]
        return {name: left.pop(name) for name in names}

    for head, prefix in pretraining_head_prefixes(config).items():
        tensors = take(head, prefix)
        if not tensors:
            continue
        found, complaint = _pretraining_head(folder, head, config, words, tensors)
        if complaint and strict:
            raise UserError(f"{folder}: {complaint}")
        if complaint:
            note(f"{folder}: left out the head {prefix[0].removesuffix('.')}: {complaint}")
        heads |= found
    is_bert = family_of(config).config.model_type == "bert"
    google = {name: left.pop(name) for name in GOOGLE_CLASSIFIER_NAMES if is_bert and name in left}
    modules = tuple({f"{module.partition('.')[0]}." for module in family_of(config).classifier.values()})
    tensors = take("classifier", modules)
    tensors |= {GOOGLE_CLASSIFIER_NAMES[name]: tensor for name, tensor in google.items()}
    if tensors:
        heads |= _classifier(folder, config, tensors, architectures, is_google=bool(google))
    if strangers := sorted([*left, *others]):
        by = f" (config.json: {', '.join(architectures)})" if architectures else ""
        note(f"{folder}: left out {shorten(strangers)}: beside the encoder, and no head that is read here{by}")
    return heads


def _owner_of_shared(
    folder: Path, config: BertConfig, beside: Mapping[str, StoredTensor], architectures: Sequence[str]
) -> str | None:
    """The head, "mlm" or "classifier", of the tensors that both name alike; None if there are none, or nobody knows."""
    shared = shared_head_prefixes(config)
    if not any(name.startswith(shared) for name in beside):
        return None
    masked_class = f"{family_of(config).class_name}ForMaskedLM"
    if architectures:
        return "mlm" if masked_class in architectures else "classifier"
    has_decoder, has_classifier = (
        any(name.startswith(f"{module}.") for name in beside)
        for module in (family_of(config).mlm_decoder, family_of(config).classifier["classifier"])
    )
    if has_classifier:  # what `_classifier` assumes, it says
        return None if has_decoder else "classifier"
    listed = shorten(sorted(name for name in beside if name.startswith(shared)))
    note(f"{folder}: config.json names no architecture; {listed} are assumed to be those of a {masked_class}")
    return "mlm"


def _pretraining_head(
    folder: Path, head: str, config: BertConfig, words: StoredTensor, tensors: dict[str, StoredTensor]
) -> tuple[HeadTensors, str]:
    """A head of pre-training, or no tensors and why not."""
    names = pretraining_head_names(config)[head]
    shapes = torch_shapes(config, names)
    bias, decoder = family_of(config).mlm_bias, family_of(config).mlm_decoder
    tied: dict[str, StoredTensor | None] = {} if decoder is None else {f"{decoder}.weight": words}
    if decoder is not None and bias != f"{decoder}.bias":  # where newer checkpoints keep it
        if bias not in tensors and f"{decoder}.bias" in tensors:
            tensors = tensors | {bias: tensors[f"{decoder}.bias"]}
        tied[f"{decoder}.bias"] = tensors.get(bias)
    expected = {name: shapes[name] for name in names.values()}
    expected |= {name: tensor.shape for name, tensor in tied.items() if name in tensors and tensor is not None}
    if mismatch := describe_mismatch({name: tensor.shape for name, tensor in tensors.items()}, expected):
        return {}, f"tensors do not fit config.json: {mismatch}"
    values = read_small_json(config_path(folder), {})
    if decoder is not None and values.get("tie_word_embeddings") is False and f"{decoder}.weight" not in tensors:
        return {}, f"tie_word_embeddings is false, and {decoder}.weight is missing: only tied decoders are supported"
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
    if not has_sentence_classifier(architectures, config):
        note(f"{folder}: left out {listed}: a head of {', '.join(architectures)}, not of {sentence_class(config)}")
        return {}
    names = classifier_names(config)
    weight, bias_name = (names["classifier", leaf] for leaf in ("kernel", "bias"))
    bias = tensors.get(bias_name)
    outputs = bias.shape if bias is not None and len(bias.shape) == 1 else (0,)
    expected = torch_shapes(config, {path: name for path, name in names.items() if path[0] != "classifier"})
    expected |= {weight: (*outputs, config.hidden_size), bias_name: outputs}
    if outputs == (0,) or {name: tensor.shape for name, tensor in tensors.items()} != expected:
        own = (weight, bias_name)
        others = "".join(f", {name} {list(shape)}" for name, shape in expected.items() if name not in own)
        note(
            f"{folder}: left out {listed}: expected {weight} [classes, {config.hidden_size}] and {bias_name} [classes]"
            f"{others} alone"
        )
        return {}
    if not architectures and not is_google:
        note(
            f"{folder}: config.json names no architecture; {listed} are assumed to be those of a "
            f"{sentence_class(config)}"
        )
    return {path: tensors[name] for path, name in names.items()}
