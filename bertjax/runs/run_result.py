"""Reads a run's `result.json` and checks its shape: the folder may come from a stranger."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bertjax.errors import UserError
from bertjax.files.json_files import MIB, read_json
from bertjax.label_scale import LabelScale

RESULT_FILE = "result.json"
LINEAGE_SHAPE = [{str: str}]
LABEL_SCALE_SHAPE = {"mean": float, "std": float}
_REMEDY = "run again in another --workdir"
_RESULT_SHAPE = {
    # Pre-training runs have no label_names.
    "datasets": {str: {"fingerprint": str, "labels": str, "label_names?": [str], "label_scale?": LABEL_SCALE_SHAPE}},
    "lineage": LINEAGE_SHAPE,
    "warnings": [str],
    "dev": {str: {"final": {str: float}, "best": {"step": int, str: float}}},
    "steps": int,
}


def read_result(run: Path) -> dict[str, Any]:
    """Reads the result of a finished run.

    Args:
      run: the run's folder.

    Raises:
      UserError: the file is missing, too large, or is not the result of a run.
    """
    path = run / RESULT_FILE
    try:
        # It lists the skipped rows of the data, so it may be long.
        result: dict[str, Any] = read_json(path, _REMEDY, _RESULT_SHAPE, max_bytes=64 * MIB)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; --workdir must be the folder of a finished run") from None
    for data in result["datasets"].values():
        if "label_scale" in data:
            parse_label_scale(data["label_scale"], path, _REMEDY)
    return result


def label_scales(result: Mapping[str, Any]) -> dict[str, LabelScale]:
    """The label scale of each regression task in a run's result; empty for older runs, which learnt raw scores."""
    scales = {task: data["label_scale"] for task, data in result["datasets"].items() if "label_scale" in data}
    return {task: LabelScale(scale["mean"], scale["std"]) for task, scale in scales.items()}


def parse_label_scale(values: Mapping[str, float], path: Path, remedy: str) -> LabelScale:
    """The label scale in a JSON file, of `LABEL_SCALE_SHAPE`.

    Args:
      values: its mean and std.
      path: the file, for the error message.
      remedy: what to do; ends the error message.

    Raises:
      UserError: the mean is not finite, or the std is not finite and positive.
    """
    try:
        return LabelScale(values["mean"], values["std"])
    except (ValueError, OverflowError) as error:  # integers in JSON may exceed every float
        raise UserError(f"{path}: label_scale: {error}; {remedy}") from None
