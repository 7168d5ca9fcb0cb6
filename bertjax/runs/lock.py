"""A run's folder: its config, log of metrics and result, written so that a cut leaves none of them broken."""

import contextlib
import fcntl
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from matplotlib.figure import Figure
from tensorboardX import SummaryWriter

from bertjax import run_result, shape, small_files, whole_file
from bertjax.config import Config, PretrainConfig, RunConfig, is_pretraining, read_config
from bertjax.errors import UserError
from bertjax.parallel import is_first_host
from bertjax.run_result import read_result

LOCK = ".lock"
LOG = "metrics.jsonl"
_PLACES = ("data_dir", "data_file", "dev_file", "init_from")
_RECORD = {"step": int, "epoch": float, "split": str, "values": {str: float}, "timing": {str: float}}


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    _write(path, text.encode())


def write_figure(path: Path, figure: Figure) -> None:
    """Writes a PNG whole or not at all."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=120, format="png")
    _write(path, drawn.getvalue())


def _write(path: Path, data: bytes) -> None:
    try:
        whole_file.write(path, data)
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path}: cannot be written ({error.strerror}); free space, or make the folder writable, and run the same "
        "command again: it goes on"
    )


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_run_config(workdir: Path) -> RunConfig | PretrainConfig:
    """Reads a run's `config.json`; UserError where it is missing, or no config of a run."""
    path, remedy = workdir / "config.json", "mend it, or use another --workdir"
    try:
        values = small_files.read_json(path, small_files.MIB, remedy)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; --workdir must be the folder of a run") from None
    shape.check(values, {}, path, remedy)
    try:
        return read_config(values, PretrainConfig) if is_pretraining(values) else read_config(values)
    except UserError as error:
        raise UserError(f"{path}: {error}; {remedy}") from None


def begun(workdir: Path, config: Config) -> dict[str, Any] | None:
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
    is_finished = (workdir / run_result.NAME).exists()
    differing = differences(theirs.to_dict(), config.to_dict())
    if not is_finished:  # what lies there is compared later, by its contents
        differing = (found for found in differing if found[0] not in _PLACES or None in found)
    if told := "; ".join(f"{key} was {was!r}, is now {is_now!r}" for key, was, is_now in differing):
        raise UserError(
            f"--workdir: {workdir} holds a run of another config: {told}; "
            "use another one, or remove this one to start anew"
        )
    return read_result(workdir) if is_finished else None


@contextlib.contextmanager
def begin(workdir: Path, config: Config) -> Iterator[None]:
    """Makes a run's folder, if it is not there, and holds it, alone, until the end; on several hosts, the first does.

    Raises:
      UserError: as of `held`.
    """
    if not is_first_host():
        yield
        return
    with held(workdir):
        write_json(workdir / "config.json", config.to_dict())
        yield


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Makes a folder, if it is not there, and keeps other processes that ask out of it.

    Raises:
      UserError: it cannot be written, or another process holds it.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--workdir: {workdir} cannot be written ({error.strerror}); use another one") from None
    with lock:  # what dies lets go of it too
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise UserError(
                f"--workdir: {workdir} is in use by another run, process {lock.read().strip()}; wait for its end, "
                "or use another one"
            ) from None
        except OSError as error:  # some network file systems
            print(f"warning: {workdir} cannot be locked ({error.strerror}): start no second run there", file=sys.stderr)
        try:
            lock.truncate(0)
            os.write(lock.fileno(), f"{os.getpid()}\n".encode())  # past a buffer, which closing would write again
        except OSError as error:
            raise _unwritable(workdir / LOCK, error) from None
        yield


def _check_writable(workdir: Path) -> None:
    there = next(folder for folder in (workdir, *workdir.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise UserError(f"--workdir: {workdir} cannot be made, as {there} is a file; use another one")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"--workdir: {workdir} cannot be written, as {there} may not be; use another one")


def differences(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The dotted keys at which two trees of settings differ, each with both values; None for what is not there."""
    for name in {**now, **then}:
        was, is_now = then.get(name), now.get(name)
        if (was or is_now) and all(isinstance(value, Mapping | None) for value in (was, is_now)):
            yield from differences(was or {}, is_now or {}, f"{prefix}{name}.")
        elif was != is_now:
            yield f"{prefix}{name}", was, is_now


def read_records(workdir: Path) -> list[dict[str, Any]]:
    """All whole lines of a run's log so far, none where there is no log; a last line that was cut off is dropped.

    Raises:
      UserError: it cannot be read, or a line is no record.
    """
    path = workdir / LOG
    if not path.exists():
        return []
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except ValueError as error:
        raise UserError(f"{path}: expected a JSON object a line ({error}); mend or remove it") from None
    for number, record in enumerate(records, 1):
        shape.check(record, _RECORD, path.with_name(f"{LOG}:{number}"), "mend or remove the file")
    return records


class MetricsLog:
    """metrics.jsonl and TensorBoard events, a line and an event a record; on several hosts, the first writes them.

    A line is {"step", "epoch", "split", "values", "timing"}; all that depends on the clock stands under
    "timing".
    """

    def __init__(self, workdir: Path, step: int, *, is_judged: bool = True):
        """Opens the log of a run that goes on after `step`, or with its evaluation; what comes again is dropped."""
        self._path = workdir / LOG
        self._is_ours = is_first_host()
        if not self._is_ours:
            return
        kept = [
            record
            for record in read_records(workdir)
            if record["step"] < step or (record["step"] == step and (is_judged or record["split"] == "train"))
        ]
        write_text(self._path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = self._path.open("ab", buffering=0)
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_ours:
            return
        try:
            self._file.close()
            self._board.close()
        except OSError as unwritten:  # of a full disk, the first complaint is enough
            if error is None:
                raise _unwritable(self._path, unwritten) from None

    def write(
        self, step: int, epoch: float, split: str, values: Mapping[str, float], timing: Mapping[str, float]
    ) -> None:
        """Appends one record."""
        if not self._is_ours:
            return
        record = {"step": step, "epoch": epoch, "split": split, "values": values, "timing": timing}
        try:
            line = f"{json.dumps(record)}\n".encode()
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise _unwritable(self._path, error) from None
        for group in (values, timing):
            for name, value in group.items():
                self._board.add_scalar(f"{split}/{name}", value, step)
