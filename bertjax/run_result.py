"""What a run's `result.json` says, held to its shape when it is read back: the folder may be a stranger's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bertjax import shape
from bertjax.errors import UserError
from bertjax.label_scale import LabelScale
from bertjax.small_files import MIB, read_json

NAME = "result.json"
LINEAGE = [{str: str}]
_REMEDY = "make the run anew"
_SHAPE = {
    # Further pre-training has no classes.
    "datasets": {
        str: {"fingerprint": str, "labels": str, "label_names?": [str], "label_scale?": {"mean": float, "std": float}}
    },
    "lineage": LINEAGE,
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
    path = run / NAME
    try:
        # It lists what was left out of the data, and may be long.
        result: dict[str, Any] = read_json(path, 64 * MIB, _REMEDY)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; --workdir must be the folder of a finished run") from None
    shape.check(result, _SHAPE, path, _REMEDY)
    return result


def label_scales(result: Mapping[str, Any]) -> dict[str, LabelScale]:
    """By task, the scales of a run's scores; none of classes, nor of an older version's scores, learnt as they are."""
    datasets = result["datasets"].items()
    return {name: LabelScale(**data["label_scale"]) for name, data in datasets if "label_scale" in data}
