"""The checkpoint that a run started from, recorded so that the run cannot be resumed from another one."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bertjax.errors import UserError, shown
from bertjax.files.atomic import write_json
from bertjax.files.json_files import read_json
from bertjax.pretrained import encoder_files
from bertjax.runs.workdir import config_differences

INIT_CHECKPOINT = "origin.json"
_RECORDED_SINCE = ("special_tokens_map.json", "added_tokens.json")
"""Files that records of earlier versions do not mention; in newer ones, null says that the checkpoint has none."""


def describe_init_checkpoint(past: list[dict[str, Any]], folder: Path, params: Mapping[str, Any]) -> dict[str, Any]:
    """A record that identifies a checkpoint.

    Args:
      past: Its lineage.
      folder: Folder of its architecture and vocabulary.
      params: From `load_pretrained`. Only the word embeddings are hashed: training all parameters changes them.

    Raises:
      UserError: A file cannot be read.
    """
    words = np.ascontiguousarray(params["embeddings"]["word"]["embedding"])
    try:
        digests = {name: _digest(path.read_bytes()) for name, path in encoder_files(folder).items()}
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); check its permissions") from None
    files: dict[str, str | None] = {**dict.fromkeys(_RECORDED_SINCE), **digests}
    return {"lineage": past, "files": files, "word_embeddings": _digest(words.data)}


def keep_init_checkpoint(workdir: Path, origin: Mapping[str, Any]) -> None:
    """Writes `origin.json`, or compares `origin` with the existing one.

    Raises:
      UserError: The run began from another checkpoint, or the file is broken or cannot be written.
    """
    path, remedy = workdir / INIT_CHECKPOINT, f"use another --workdir, or remove {workdir} to start again"
    if not path.exists():
        write_json(path, origin)
        return
    then = read_json(path, remedy)
    recorded = then["files"] if isinstance(then, dict) and isinstance(then.get("files"), dict) else {}
    unrecorded = set(_RECORDED_SINCE) - recorded.keys()
    origin = {**origin, "files": {name: x for name, x in origin["files"].items() if name not in unrecorded}}
    differing = config_differences({"origin": then}, {"origin": origin})
    if changes := "; ".join(f"{key} was {shown(was)}, is now {shown(is_now)}" for key, was, is_now in differing):
        raise UserError(
            f"{path}: this run began from another checkpoint than --config.init_from is now: {changes}; restore that "
            f"one, or {remedy}"
        )


def _digest(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()
