"""What a checkpoint's heads predict: the names of their classes, and the label scales of their scores.

A run keeps both in its result; `convert` in two files of its own; `export` and Transformers in config.json.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bertjax.errors import UserError, shown
from bertjax.files.atomic import write_json
from bertjax.files.json_files import check_shape
from bertjax.label_scale import LabelScale
from bertjax.pretrained.encoder_files import config_path, read_small_json
from bertjax.pretrained.source import find_run, resolve_checkpoint
from bertjax.runs.run_result import LABEL_SCALE_SHAPE, label_scales, parse_label_scale, read_result

_CLASS_NAMES_FILE = "labels.json"
_SCALES_FILE = "label_scales.json"
_REMEDY = "get the file again"
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
"""Transformers' names of what a classifier is trained for."""


def head_class_names(source: str | os.PathLike[str]) -> dict[str, list[str]]:
    """The names of the classes of each head, "head_TASK" or "classifier"; heads without names are left out.

    Numbers count as names by their text. Transformers' default names (LABEL_0, LABEL_1, ...) and the classes' own
    indices do not.

    Raises:
      UserError: the run is not finished, or a file is broken.
    """
    folder = resolve_checkpoint(source)
    if (run := find_run(folder)) is not None:
        datasets = read_result(run)["datasets"]
        return {f"head_{task}": data["label_names"] for task, data in datasets.items() if "label_names" in data}
    if (path := folder / _CLASS_NAMES_FILE).is_file():
        stored: dict[str, list[str]] = read_small_json(path, {str: [str]})
        return stored
    return {"classifier": names} if (names := _class_names_in_config(folder)) else {}


def head_label_scales(source: str | os.PathLike[str]) -> dict[str, LabelScale]:
    """The label scale of each head of scores, "head_TASK" or "classifier"; heads without one are left out.

    Raises:
      UserError: the run is not finished, or a file is broken.
    """
    folder = resolve_checkpoint(source)
    if (run := find_run(folder)) is not None:
        return {f"head_{task}": scale for task, scale in label_scales(read_result(run)).items()}
    if (path := folder / _SCALES_FILE).is_file():
        scales = read_small_json(path, {str: LABEL_SCALE_SHAPE})
        return {head: parse_label_scale(scale, path, _REMEDY) for head, scale in scales.items()}
    path = config_path(folder)
    config = read_small_json(path, {})
    if config.get("label_scale") is None:
        return {}
    check_shape(config, {"label_scale": LABEL_SCALE_SHAPE}, path, _REMEDY)
    return {"classifier": parse_label_scale(config["label_scale"], path, _REMEDY)}


def write_head_metadata(source: Path, target: Path) -> None:
    """Writes what is known of a checkpoint's heads to a folder, unless its config.json says it already."""
    if (names := head_class_names(source)).keys() - {"classifier"}:
        write_json(target / _CLASS_NAMES_FILE, names)
    if (scales := head_label_scales(source)).keys() - {"classifier"}:
        write_json(target / _SCALES_FILE, {head: dataclasses.asdict(scale) for head, scale in scales.items()})


def classifier_problem_type(source: str | os.PathLike[str]) -> str | None:
    """What a checkpoint's classifier is trained for, one of `PROBLEM_TYPES`; None if its config.json does not say.

    Raises:
      UserError: the run is not finished, or a file is broken.
    """
    path = config_path(resolve_checkpoint(source))
    kind: Any = read_small_json(path, {}).get("problem_type")
    if kind is not None and kind not in PROBLEM_TYPES:
        raise UserError(
            f"{path}: expected problem_type to be one of {', '.join(PROBLEM_TYPES)}, found {shown(kind)}; fix it"
        )
    checked: str | None = kind
    return checked


def configured_class_names(folder: Path, outputs: int) -> list[str]:
    """The names of a classifier's outputs in config.json, or Transformers' default ones.

    Raises:
      UserError: the names are not those of the outputs 0 to `outputs` - 1, are no text, number or truth value, or
        `id2label` and `label2id` differ.
    """
    path = config_path(folder)
    if (id2label := read_small_json(path, {}).get("id2label")) is not None:
        check_shape(id2label, {}, path, _REMEDY, "id2label")
    names = _configured_names(path)
    if names is None:
        return [f"LABEL_{i}" for i in range(outputs)]
    if names.keys() != {str(i) for i in range(outputs)}:
        raise UserError(
            f"{path}: expected id2label to have the keys 0 to {outputs - 1}, one for each output of the classifier, "
            f"found {shown(sorted(names))}; fix it"
        )
    return [names[str(i)] for i in range(outputs)]


def _class_names_in_config(folder: Path) -> list[str]:
    """The names in config.json, in order; empty if a class lacks one, or all have their numbers for names."""
    names = _configured_names(config_path(folder))
    if names is None or names.keys() != {str(i) for i in range(len(names))}:
        return []
    return [] if _are_default(names) else [names[str(i)] for i in range(len(names))]


def _configured_names(path: Path) -> dict[str, str] | None:
    """The names of classes by their index in `id2label`, or in `label2id` if that alone has names."""
    config = read_small_json(path, {})
    id2label, label2id = config.get("id2label"), config.get("label2id")
    names = None
    if isinstance(id2label, dict):
        names = {index: _class_name(name, path) for index, name in id2label.items()}
    if not isinstance(label2id, dict) or not label2id:
        return names
    inverse = {str(index): name for name, index in label2id.items()}
    if names is None or (_are_default(names) and not _are_default(inverse)):
        return inverse
    if not _are_default(inverse) and inverse != names:
        raise UserError(
            f"{path}: expected id2label and label2id to name the same classes, found {shown(names)} and "
            f"{shown(inverse)}; correct the wrong one"
        )
    return names


def _are_default(names: Mapping[str, str]) -> bool:
    return all(name in (index, f"{index}.0", f"LABEL_{index}") for index, name in names.items())


def _class_name(value: Any, path: Path) -> str:
    if not isinstance(value, str | int | float):
        raise UserError(f"{path}: expected names in id2label, found {shown(value)}; fix it")
    return str(value)
