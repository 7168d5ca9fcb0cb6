"""A run's folder: its config, log of metrics and result, written so that a cut leaves none of them broken."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bertjax.config import Config, PretrainConfig, RunConfig, is_pretraining, read_config
from bertjax.errors import UserError
from bertjax.files import json_files
from bertjax.files.atomic import write_json
from bertjax.parallel import is_first_host
from bertjax.runs import run_result
from bertjax.runs.lock import LOCK, lock_folder
from bertjax.runs.run_result import read_result

_PLACES = ("data_dir", "data_file", "dev_file", "init_from")


def read_run_config(workdir: Path) -> RunConfig | PretrainConfig:
    """Reads a run's `config.json`; UserError where it is missing, or no config of a run."""
    path, remedy = workdir / "config.json", "mend it, or use another --workdir"
    try:
        values = json_files.read_json(path, json_files.MIB, remedy)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; --workdir must be the folder of a run") from None
    json_files.check_shape(values, {}, path, remedy)
    try:
        return read_config(values, PretrainConfig) if is_pretraining(values) else read_config(values)
    except UserError as error:
        raise UserError(f"{path}: {error}; {remedy}") from None


def check_workdir(workdir: Path, config: Config) -> dict[str, Any] | None:
    """Looks at a run's folder before any work, and changes nothing.

    Returns:
      The result of a finished run, or None where there is work to do.

    Raises:
      UserError: the folder holds a run of another config (the message names the keys), or something else; or there
        is work to do and it cannot be written.
    """
    result = _result(workdir, config) if workdir.exists() else None
    if result is None:
        _check_writable(workdir)
    return result


def _result(workdir: Path, config: Config) -> dict[str, Any] | None:
    """As `begun`, of a folder that is there; whether it can be written is not asked."""
    if not workdir.is_dir():
        raise UserError(f"--workdir: expected a folder, found a file at {workdir}")
    path = workdir / "config.json"
    if not path.exists():
        if any(not file.name.endswith(".partial") and file.name != LOCK for file in workdir.iterdir()):
            raise UserError(f"--workdir: {workdir} holds files but no config.json, so no run; use another one")
        return None
    theirs = read_run_config(workdir)
    if type(theirs) is not type(config):
        kind = "further pre-training" if isinstance(theirs, PretrainConfig) else "fine-tuning"
        raise UserError(f"--workdir: {workdir} holds a run of {kind}, which this is not; use another one")
    is_finished = (workdir / run_result.RESULT_FILE).exists()
    differing = config_differences(theirs.to_dict(), config.to_dict())
    if not is_finished:  # what lies there is compared later, by its contents
        differing = (found for found in differing if found[0] not in _PLACES or None in found)
    if told := "; ".join(f"{key} was {was!r}, is now {is_now!r}" for key, was, is_now in differing):
        raise UserError(
            f"--workdir: {workdir} holds a run of another config: {told}; "
            "use another one, or remove this one to start anew"
        )
    return read_result(workdir) if is_finished else None


@contextlib.contextmanager
def open_workdir(workdir: Path, config: Config) -> Iterator[None]:
    """Makes a run's folder, if it is not there, and holds it, alone, until the end; on several hosts, the first does.

    Raises:
      UserError: as of `held`.
    """
    if not is_first_host():
        yield
        return
    with lock_folder(workdir):
        write_json(workdir / "config.json", config.to_dict())
        yield


def _check_writable(workdir: Path) -> None:
    there = next(folder for folder in (workdir, *workdir.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise UserError(f"--workdir: {workdir} cannot be made, as {there} is a file; use another one")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"--workdir: {workdir} cannot be written, as {there} may not be; use another one")


def config_differences(
    then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """The dotted keys at which two trees of settings differ, each with both values; None for what is not there."""
    for name in {**now, **then}:
        was, is_now = then.get(name), now.get(name)
        if (was or is_now) and all(isinstance(value, Mapping | None) for value in (was, is_now)):
            yield from config_differences(was or {}, is_now or {}, f"{prefix}{name}.")
        elif was != is_now:
            yield f"{prefix}{name}", was, is_now
