"""A run's log: metrics.jsonl and TensorBoard events."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboardX import SummaryWriter

from bertjax.errors import UserError
from bertjax.files import json_files
from bertjax.files.atomic import unwritable, write_text
from bertjax.parallel import is_first_host

LOG = "metrics.jsonl"


_RECORD = {"step": int, "epoch": float, "split": str, "values": {str: float}, "timing": {str: float}}


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
        json_files.check_shape(record, _RECORD, path.with_name(f"{LOG}:{number}"), "mend or remove the file")
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
                raise unwritable(self._path, unwritten) from None

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
            raise unwritable(self._path, error) from None
        for group in (values, timing):
            for name, value in group.items():
                self._board.add_scalar(f"{split}/{name}", value, step)
