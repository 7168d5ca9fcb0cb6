"""A run's folder (`--workdir`): which run it holds, and whether a command may start, resume or read it."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bertjax.config import PretrainConfig, RunConfig, TrainerConfig, is_pretraining, read_config
from bertjax.errors import UserError
from bertjax.files.atomic import write_json
from bertjax.files.json_files import read_json
from bertjax.parallel import is_first_host
from bertjax.runs.lock import LOCK_FILE, lock_folder
from bertjax.runs.run_result import RESULT_FILE, read_result

CONFIG_FILE = "config.json"
_PATH_KEYS = ("data_dir", "data_file", "dev_file", "init_from")


def read_run_config(workdir: Path) -> RunConfig | PretrainConfig:
    """Reads a run's `config.json`; UserError if it is missing or is not the config of a run."""
    path, remedy = workdir / CONFIG_FILE, "fix it, or use another --workdir"
    try:
        values = read_json(path, remedy, shape={})
    except FileNotFoundError:
        raise UserError(f"{path}: not found; --workdir must be the folder of a run") from None
    try:
        return read_config(values, PretrainConfig) if is_pretraining(values) else read_config(values)
    except UserError as error:
        raise UserError(f"{path}: {error}; {remedy}") from None


def check_workdir(workdir: Path, config: TrainerConfig) -> dict[str, Any] | None:
    """Checks that a run with this config can start or resume in a folder, or is finished; changes nothing.

    Returns:
      The result of a finished run, None if there is work to do.

    Raises:
      UserError: the folder holds a run with another config (the message names the keys) or other files; or there is
        work to do and the folder cannot be written.
    """
    result = _finished_result(workdir, config) if workdir.exists() else None
    if result is None:
        _check_writable(workdir)
    return result


def _finished_result(workdir: Path, config: TrainerConfig) -> dict[str, Any] | None:
    """Like `check_workdir`, for a folder that exists and may be read-only."""
    if not workdir.is_dir():
        raise UserError(f"--workdir: expected a folder, found a file at {workdir}")
    if not (workdir / CONFIG_FILE).exists():
        if any(not file.name.endswith(".partial") and file.name != LOCK_FILE for file in workdir.iterdir()):
            raise UserError(f"--workdir: {workdir} holds files but no config.json, so it is no run; use another one")
        return None
    stored = read_run_config(workdir)
    if type(stored) is not type(config):
        kind = "further pre-training" if isinstance(stored, PretrainConfig) else "fine-tuning"
        raise UserError(f"--workdir: {workdir} holds a run of another kind, {kind}; use another one")
    is_finished = (workdir / RESULT_FILE).exists()
    differences = config_differences(stored.to_dict(), config.to_dict())
    if not is_finished:  # files may have moved: a resumed run compares their contents later
        differences = (entry for entry in differences if entry[0] not in _PATH_KEYS or None in entry)
    if changes := "; ".join(f"{key} was {before!r}, is now {after!r}" for key, before, after in differences):
        raise UserError(
            f"--workdir: {workdir} holds a run with another config: {changes}; use another one, or remove this one to "
            "start over"
        )
    return read_result(workdir) if is_finished else None


def _check_writable(workdir: Path) -> None:
    parent = next(folder for folder in (workdir, *workdir.absolute().parents) if folder.exists())
    if not parent.is_dir():
        raise UserError(f"--workdir: {workdir} cannot be created, because {parent} is a file; use another one")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"--workdir: {workdir} cannot be written, because {parent} is not writable; use another one")


@contextlib.contextmanager
def open_workdir(workdir: Path, config: TrainerConfig) -> Iterator[None]:
    """Creates a run's folder if needed, writes its config, and holds its lock; on several hosts, only the first does.

    Raises:
      UserError: the folder cannot be written, or another process uses it.
    """
    if not is_first_host():
        yield
        return
    with lock_folder(workdir):
        write_json(workdir / CONFIG_FILE, config.to_dict())
        yield


def config_differences(
    before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yields (dotted key, value before, value after) wherever two nested configs differ; a missing value is None."""
    for name in {**after, **before}:
        old, new = before.get(name), after.get(name)
        if (old or new) and all(isinstance(value, Mapping | None) for value in (old, new)):
            yield from config_differences(old or {}, new or {}, f"{prefix}{name}.")
        elif old != new:
            yield f"{prefix}{name}", old, new
