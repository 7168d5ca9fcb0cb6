"""A run's log: one record per line of metrics.jsonl, also written as TensorBoard events."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboardX import SummaryWriter

from bertjax.errors import UserError
from bertjax.files.atomic import unwritable, write_text
from bertjax.files.json_files import check_shape
from bertjax.parallel import is_first_host

LOG_FILE = "metrics.jsonl"
_RECORD_SHAPE = {"step": int, "epoch": float, "split": str, "values": {str: float}, "timing": {str: float}}


def read_records(workdir: Path) -> list[dict[str, Any]]:
    """Reads all complete records of a run's log; an empty list if there is no log.

    An incomplete last line is dropped: its write was interrupted.

    Raises:
      UserError: the log cannot be read, or a line is not a record.
    """
    path = workdir / LOG_FILE
    if not path.exists():
        return []
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except ValueError as error:
        raise UserError(f"{path}: expected one JSON object per line ({error}); fix the file or remove it") from None
    for number, record in enumerate(records, 1):
        check_shape(record, _RECORD_SHAPE, path.with_name(f"{LOG_FILE}:{number}"), "fix the file or remove it")
    return records


class MetricsLog:
    """Appends records to metrics.jsonl and to TensorBoard events; on several hosts, only the first writes.

    A record is {"step", "epoch", "split", "values", "timing"}. Only "timing" depends on the clock, so the rest of the
    log is reproducible.
    """

    def __init__(self, workdir: Path, step: int, *, eval_pending: bool = False):
        """Opens the log of a run that resumes after update `step`, and drops the records it will write again.

        Args:
          workdir: the run's folder.
          step: number of updates done.
          eval_pending: whether the evaluation after update `step` comes next.
        """
        self._path = workdir / LOG_FILE
        self._is_writer = is_first_host()
        if not self._is_writer:
            return
        kept = [
            record
            for record in read_records(workdir)
            if record["step"] < step or (record["step"] == step and (not eval_pending or record["split"] == "train"))
        ]
        write_text(self._path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = self._path.open("ab", buffering=0)
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_writer:
            return
        try:
            self._file.close()
            self._board.close()
        except OSError as close_error:
            if error is None:  # on a full disk, the first error is enough
                raise unwritable(self._path, close_error) from None

    def write(
        self, step: int, epoch: float, split: str, values: Mapping[str, float], timing: Mapping[str, float]
    ) -> None:
        """Appends one record, which is in the file on return."""
        if not self._is_writer:
            return
        record = {"step": step, "epoch": epoch, "split": split, "values": values, "timing": timing}
        try:
            line = f"{json.dumps(record)}\n".encode()
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise unwritable(self._path, error) from None
        for group in (values, timing):
            for name, value in group.items():
                self._board.add_scalar(f"{split}/{name}", value, step)
