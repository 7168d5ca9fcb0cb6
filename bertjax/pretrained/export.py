"""From ours to folders that Transformers' `from_pretrained` loads."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from bertjax.errors import UserError, reason
from bertjax.files import json_files
from bertjax.files.atomic import new_folder, write_json
from bertjax.files.paths import user_path
from bertjax.label_scale import LabelScale
from bertjax.models.config import BertConfig
from bertjax.pretrained.formats.orbax_folder import Parameters
from bertjax.pretrained.load import read_checkpoint
from bertjax.pretrained.param_names import CLASSIFIER, head_names, is_kernel, tensor_names
from bertjax.pretrained.source import LINEAGE_FILE, config_path, lineage, read_object, resolve, run_of
from bertjax.pretrained.tokenizer import check_vocabulary, load_tokenizer, tokenizer_settings
from bertjax.runs.run_result import label_scales, read_result


def export(source: str | os.PathLike[str], out: str | os.PathLike[str], checkpoint: str = "final") -> list[Path]:
    """Writes a checkpoint for Transformers: config.json, model.safetensors, vocabulary and tokenizer, lineage.json.

    A run of one task gives a BertForSequenceClassification; a run of several tasks one for each, in `out/TASK`; a
    pre-training run a BertForPreTraining, its decoder tied to the word embeddings. Any other checkpoint gives what
    its own heads make it: BertForPreTraining, BertForMaskedLM, BertForNextSentencePrediction,
    BertForSequenceClassification or BertModel. A regression head's output is in the labels' units, whose mean and std
    config.json has as `label_scale`.

    Args:
      source: a run's folder, or anything else that `load_pretrained` takes.
      out: the folder to write, which must not be there.
      checkpoint: of a run: "final", or "best" by a task's main metric on dev.

    Returns:
      The folders with models.

    Raises:
      UserError: the source cannot be read or does not say what its labels mean, or `out` is there or cannot be
        written; nothing is then left behind.
    """
    out = user_path(out)
    if checkpoint not in ("final", "best"):
        raise UserError(f"--checkpoint: expected final or best, found {checkpoint!r}")
    with new_folder(out) as partial:
        folder = resolve(source)
        run = run_of(folder)
        past = lineage(source)
        if run is None:
            if checkpoint != "final":
                raise UserError(f"--checkpoint={checkpoint}: only a run has one, and {source} is none")
            config, params = read_checkpoint(folder)
            _write(partial, folder, config, params, _labels_of_config(folder, params), past)
            return [out]
        result = read_result(run)
        config, params = read_checkpoint(folder, _step(run, result, checkpoint, None))
        tasks = sorted({path[0].removeprefix("head_") for path in params if path[0].startswith("head_")})
        if ("mlm", "bias") in params:
            _write(partial, folder, config, params, None, past)
            return [out]
        for task in tasks:
            if "/" in task or task in ("", ".", ".."):  # its folder would lie elsewhere
                raise UserError(f"{run}: expected the name of a task, found a head of {task!r}; get the run again")
            _, params = read_checkpoint(folder, _step(run, result, checkpoint, task))
            labels = _labels_of_run(run, result, task, params["head_" + task, "bias"].size)
            labels = dataclasses.replace(labels, scale=label_scales(result).get(task))
            target = partial / task if len(tasks) > 1 else partial
            _write(target, folder, config, _with_classifier(params, task), labels, past)
    return [out / task for task in tasks] if len(tasks) > 1 else [out]


@dataclasses.dataclass(frozen=True)
class _Labels:
    names: Sequence[str]
    problem_type: str
    scale: LabelScale | None = None


def _step(run: Path, result: Mapping[str, Any], checkpoint: str, task: str | None) -> int | None:
    """The step to export; None for the final one."""
    if checkpoint == "final":
        return None
    dev = result["dev"]
    name = next(iter(dev), None) if task is None else task
    if name not in dev:
        raise UserError(
            f"{run / 'result.json'}: expected the step of the best checkpoint under dev.{task or 'TASK'}.best.step, "
            "found none; use --checkpoint=final"
        )
    step: int = dev[name]["best"]["step"]
    return step


def _labels_of_run(run: Path, result: Mapping[str, Any], task: str, outputs: int) -> _Labels:
    names = result["datasets"].get(task, {}).get("label_names")
    where = f"{run / 'result.json'}: expected datasets.{task}.label_names"
    if names is None:
        raise UserError(f"{where}, found none; the run is of an older version: run it again in another --workdir")
    if outputs == 1 and not names:
        return _Labels(["LABEL_0"], "regression")
    if len(names) != outputs or outputs == 1:
        raise UserError(f"{where} to fit the head's {outputs} outputs, found {len(names)}")
    return _Labels(names, "single_label_classification")


def _labels_of_config(folder: Path, params: Parameters) -> _Labels | None:
    """Those of a classifier as its own config.json names them, or else as Transformers numbers them."""
    if own := sorted({path[0] for path in params if path[0].startswith("head_")} - head_names().keys()):
        raise UserError(f"{folder}: expected no heads of a run, found {', '.join(own)}; export the run's own folder")
    if ("classifier", "bias") not in params:
        return None
    outputs = params["classifier", "bias"].size
    path = config_path(folder)
    config = {name: value for name, value in read_object(path).items() if value is not None}
    json_files.check_shape(config, {"id2label?": {str: str}, "problem_type?": str}, path, "mend it")
    names = config.get("id2label", {})
    kind = "regression" if outputs == 1 else "single_label_classification"
    return _Labels([names.get(str(i), f"LABEL_{i}") for i in range(outputs)], config.get("problem_type", kind))


def _with_classifier(params: Parameters, task: str) -> Parameters:
    encoder = {path: array for path, array in params.items() if not path[0].startswith("head_")}
    return encoder | {path: params["head_" + task, path[1]] for path in CLASSIFIER}


def _architecture(params: Parameters) -> str:
    heads = {path[0] for path in params}
    if "mlm" in heads:
        return "BertForPreTraining" if "head_nsp" in heads else "BertForMaskedLM"
    if "classifier" in heads:
        return "BertForSequenceClassification"
    return "BertForNextSentencePrediction" if "head_nsp" in heads else "BertModel"


def _write(
    target: Path,
    folder: Path,
    config: BertConfig,
    params: Parameters,
    labels: _Labels | None,
    past: list[dict[str, Any]],
) -> None:
    target.mkdir(exist_ok=True)
    architecture = _architecture(params)
    prefix = "" if architecture == "BertModel" else "bert."
    names = {path: f"{prefix}{name}" for path, name in tensor_names(config).items()} | CLASSIFIER
    for more in head_names().values():
        names |= more
    tensors = {
        names[path]: np.ascontiguousarray(array.T if is_kernel(path) else array) for path, array in params.items()
    }
    try:
        safetensors.numpy.save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    except safetensors.SafetensorError as error:  # a full disk, say
        raise OSError(reason(error)) from None
    write_json(target / "config.json", _hf_config(config, architecture, labels))
    _write_tokenizer(target, folder, config)
    write_json(target / LINEAGE_FILE, past)


def _hf_config(config: BertConfig, architecture: str, labels: _Labels | None) -> dict[str, Any]:
    values = {"architectures": [architecture], "model_type": "bert", **vars(config), "tie_word_embeddings": True}
    if labels is not None:
        values |= {
            "num_labels": len(labels.names),
            "id2label": {str(i): name for i, name in enumerate(labels.names)},
            "label2id": {name: i for i, name in enumerate(labels.names)},
            "problem_type": labels.problem_type,
        }
        if labels.scale is not None:
            values["label_scale"] = dataclasses.asdict(labels.scale)
    return values


def _write_tokenizer(target: Path, folder: Path, config: BertConfig) -> None:
    tokenizer = load_tokenizer(folder)
    check_vocabulary(tokenizer, config.vocab_size, folder)
    settings = tokenizer_settings(folder, tokenizer) | {
        "tokenizer_class": "BertTokenizer",
        "model_max_length": config.max_position_embeddings,
    }
    if config.type_vocab_size == 1:  # Transformers would look up type 1 of a pair's second text
        settings["model_input_names"] = ["input_ids", "attention_mask"]
    write_json(target / "tokenizer_config.json", settings)
    # Both: a tokenizer made of the vocabulary alone knows nothing of the other's added tokens.
    (target / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    if (folder / "vocab.txt").is_file():
        (target / "vocab.txt").write_bytes((folder / "vocab.txt").read_bytes())
