"""What a run's `result.json` says, held to its shape when it is read back: the folder may be a stranger's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bertjax.errors import UserError
from bertjax.files import json_files
from bertjax.files.json_files import MIB, read_json
from bertjax.label_scale import LabelScale

RESULT_FILE = "result.json"


LINEAGE_SHAPE = [{str: str}]


LABEL_SCALE_SHAPE = {"mean": float, "std": float}


_REMEDY = "make the run anew"


_SHAPE = {
    # Further pre-training has no classes.
    "datasets": {str: {"fingerprint": str, "labels": str, "label_names?": [str], "label_scale?": LABEL_SCALE_SHAPE}},
    "lineage": LINEAGE_SHAPE,
    "warnings": [str],
    "dev": {str: {"final": {str: float}, "best": {"step": int, str: float}}},
    "steps": int,
}


def read_result(run: Path) -> dict[str, Any]:
    """Reads the result of a finished run.

    Args:
      run: its folder.

    Raises:
      UserError: the file is missing, too large, no JSON, or lacks what a run's result holds.
    """
    path = run / RESULT_FILE
    try:
        # It lists what was left out of the data, and may be long.
        result: dict[str, Any] = read_json(path, 64 * MIB, _REMEDY)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; --workdir must be the folder of a finished run") from None
    json_files.check_shape(result, _SHAPE, path, _REMEDY)
    try:
        label_scales(result)
    except (ValueError, OverflowError) as error:  # JSON's whole numbers have no end
        raise UserError(f"{path}: label_scale: {error}; {_REMEDY}") from None
    return result


def label_scales(result: Mapping[str, Any]) -> dict[str, LabelScale]:
    """Label scales of a run's score tasks, by task; empty for an earlier version's runs, which learnt raw scores."""
    found = {name: data["label_scale"] for name, data in result["datasets"].items() if "label_scale" in data}
    return {name: LabelScale(scale["mean"], scale["std"]) for name, scale in found.items()}
