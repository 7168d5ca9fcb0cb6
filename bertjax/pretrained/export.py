"""Exports a checkpoint as a folder that Transformers' `from_pretrained` loads."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from bertjax.errors import UserError, reason
from bertjax.files.atomic import new_folder, write_json
from bertjax.files.paths import user_path
from bertjax.label_scale import LabelScale
from bertjax.models.config import BertConfig
from bertjax.models.families import family_of
from bertjax.pretrained.head_metadata import classifier_problem_type, configured_class_names
from bertjax.pretrained.lineage import LINEAGE_FILE, read_lineage
from bertjax.pretrained.load import read_checkpoint
from bertjax.pretrained.notes import note
from bertjax.pretrained.param_names import (
    FlatParams,
    classifier_names,
    is_kernel,
    pooler_paths,
    pretraining_head_names,
    tensor_names,
)
from bertjax.pretrained.source import find_run, resolve_checkpoint
from bertjax.pretrained.stored_heads import sentence_class
from bertjax.pretrained.tokenizer.writing import write_tokenizer
from bertjax.runs.run_result import RESULT_FILE, label_scales, read_result


def export(source: str | os.PathLike[str], out: str | os.PathLike[str], checkpoint: str = "final") -> list[Path]:
    """Writes a checkpoint for Transformers: config.json, model.safetensors, tokenizer files and lineage.json.

    A run of one task becomes a BertForSequenceClassification; a run of several tasks one for each, in `out/TASK`; a
    pre-training run a BertForPreTraining, or a RobertaForMaskedLM where the family has no next-sentence head, with its
    decoder tied to the word embeddings. The heads of any other checkpoint decide: BertForPreTraining, BertForMaskedLM,
    BertForNextSentencePrediction, BertForSequenceClassification or BertModel. Other families have classes of the same
    names, such as RobertaForSequenceClassification. Regression outputs are in the labels' units; config.json records
    their mean and std as `label_scale`.

    Args:
      source: see `load_pretrained`.
      out: the folder to write; it must not exist.
      checkpoint: which of a run's checkpoints: "final", or "best" by the task's main metric on dev.

    Returns:
      The folders with models.

    Raises:
      UserError: the source cannot be read or its labels have no names, or `out` exists or cannot be written. Nothing is
        left behind.
    """
    out = user_path(out)
    if checkpoint not in ("final", "best"):
        raise UserError(f"--checkpoint: expected final or best, found {checkpoint!r}")
    with new_folder(out) as partial:
        folder = resolve_checkpoint(source)
        run = find_run(folder)
        lineage = read_lineage(source)
        if run is None:
            if checkpoint != "final":
                raise UserError(f"--checkpoint={checkpoint}: only a run has one, and {source} is not a run")
            config, params = read_checkpoint(folder)
            _write(partial, folder, config, params, _labels_of_config(folder, params), lineage)
            return [out]
        result = read_result(run)
        config, params = read_checkpoint(folder, _step(run, result, checkpoint, None))
        tasks = sorted({path[0].removeprefix("head_") for path in params if path[0].startswith("head_")})
        if any(path[0] == "mlm" for path in params):
            _write(partial, folder, config, params, None, lineage)
            return [out]
        for task in tasks:
            if "/" in task or task in ("", ".", ".."):  # its folder would be outside `out`
                raise UserError(f"{run}: expected heads named after tasks, found one named {task!r}; get the run again")
            _, params = read_checkpoint(folder, _step(run, result, checkpoint, task))
            labels = _labels_of_run(run, result, task, params["head_" + task, "bias"].size)
            labels = dataclasses.replace(labels, scale=label_scales(result).get(task))
            target = partial / task if len(tasks) > 1 else partial
            _write(target, folder, config, _with_classifier(params, task), labels, lineage)
    return [out / task for task in tasks] if len(tasks) > 1 else [out]


@dataclasses.dataclass(frozen=True)
class _Labels:
    """What a classifier predicts, for config.json."""

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
            f"{run / RESULT_FILE}: expected the step of the best checkpoint under dev.{task or 'TASK'}.best.step, "
            "found none; use --checkpoint=final"
        )
    step: int = dev[name]["best"]["step"]
    return step


def _labels_of_run(run: Path, result: Mapping[str, Any], task: str, outputs: int) -> _Labels:
    names = result["datasets"].get(task, {}).get("label_names")
    where = f"{run / RESULT_FILE}: expected datasets.{task}.label_names"
    if names is None:
        raise UserError(f"{where}, found none: an older version wrote this run; run it again in another --workdir")
    if outputs == 1 and not names:
        return _Labels(["LABEL_0"], "regression")
    if len(names) != outputs or outputs == 1:
        raise UserError(f"{where} to have one name for each of the head's {outputs} outputs, found {len(names)}")
    return _Labels(names, "single_label_classification")


def _labels_of_config(folder: Path, params: FlatParams) -> _Labels | None:
    """The labels of a checkpoint's classifier, from its config.json; Transformers' default names if it has none."""
    task_heads = {path[0] for path in params if path[0].startswith("head_")} - {"head_nsp"}
    if task_heads:
        heads = ", ".join(sorted(task_heads))
        raise UserError(f"{folder}: expected no heads of a run, found {heads}; export the run's own folder")
    if ("classifier", "bias") not in params:
        return None
    outputs = params["classifier", "bias"].size
    kind = "regression" if outputs == 1 else "single_label_classification"
    return _Labels(configured_class_names(folder, outputs), classifier_problem_type(folder) or kind)


def _with_classifier(params: FlatParams, task: str) -> FlatParams:
    """The encoder with the head of one task as its classifier."""
    encoder = {path: array for path, array in params.items() if not path[0].startswith("head_")}
    return encoder | {("classifier", leaf): params["head_" + task, leaf] for leaf in ("kernel", "bias")}


def _architecture(config: BertConfig, params: FlatParams) -> str:
    heads = {path[0] for path in params}
    if "classifier" in heads:  # the last that was trained
        return sentence_class(config)
    end = "Model"
    if "mlm" in heads:
        end = "ForPreTraining" if "head_nsp" in heads else "ForMaskedLM"
    elif "head_nsp" in heads:
        end = "ForNextSentencePrediction"
    return f"{family_of(config).class_name}{end}"


def _write(
    target: Path,
    folder: Path,
    config: BertConfig,
    params: FlatParams,
    labels: _Labels | None,
    lineage: list[dict[str, Any]],
) -> None:
    target.mkdir(exist_ok=True)
    architecture = _architecture(config, params)
    prefix = "" if architecture.endswith("Model") else family_of(config).prefix
    names = {path: f"{prefix}{name}" for path, name in tensor_names(config).items()}
    if "classifier" in {path[0] for path in params}:
        names |= classifier_names(config)
    for head_tensors in pretraining_head_names(config).values():
        names |= head_tensors
    if unnamed := [path for path in pooler_paths(config) if path in params and path not in names]:
        note(f"{folder}: left out the pooler: {architecture} has none")
        params = {path: array for path, array in params.items() if path not in unnamed}
    tensors = {
        names[path]: np.ascontiguousarray(array.T if is_kernel(path) else array) for path, array in params.items()
    }
    try:
        safetensors.numpy.save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    except safetensors.SafetensorError as error:  # such as a full disk
        raise OSError(reason(error)) from None
    write_json(target / "config.json", _hf_config(config, architecture, labels))
    write_tokenizer(target, folder, config)
    write_json(target / LINEAGE_FILE, lineage)


def _hf_config(config: BertConfig, architecture: str, labels: _Labels | None) -> dict[str, Any]:
    # Without a decoder of its own, Transformers 4 would tie another layer of the head to the word embeddings.
    is_tied = family_of(config).mlm_decoder is not None
    values = {"architectures": [architecture], **config.to_dict(), "tie_word_embeddings": is_tied}
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
