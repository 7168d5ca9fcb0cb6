"""A checkpoint's lineage: what it was trained on, as far as its files say."""

import os
from typing import Any

from bertjax.files.paths import user_path
from bertjax.pretrained import hub
from bertjax.pretrained.encoder_files import read_small_json
from bertjax.pretrained.source import STARTERS, find_run, is_hub_name
from bertjax.runs.run_result import LINEAGE_SHAPE, read_result

LINEAGE_FILE = "lineage.json"
"""Written by `convert` and `export`."""


def read_lineage(source: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """What a checkpoint was trained on, oldest first.

    Args:
      source: see `resolve_checkpoint`.

    Returns:
      The lineage in a run's `result.json`, or in the `lineage.json` of a converted or exported folder. For any other
      source, {"init_from": source} alone, with the commit of a hub name, and a note on a starter.

    Raises:
      UserError: the run is not finished, a file is broken, or the hub does not know the name.
    """
    if source in STARTERS:
        return [{"init_from": os.fspath(source), "note": "its own training saw Quora duplicates, SNLI and MultiNLI"}]
    folder = user_path(source)
    if folder.is_dir():
        lineage: list[dict[str, Any]]
        if (run := find_run(folder)) is not None:
            lineage = read_result(run)["lineage"]
            return lineage
        if (path := folder / LINEAGE_FILE).is_file():
            lineage = read_small_json(path, LINEAGE_SHAPE, "fix it, or delete it")
            return lineage
    name = os.fspath(source)
    return [{"init_from": hub.pinned_name(name) if is_hub_name(source) else name}]
