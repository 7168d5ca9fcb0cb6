"""Predictions for raw lines of text, without the data that a run was trained on."""

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.data.text import load_tokenizer, tokenize
from bertjax.errors import UserError, nearest
from bertjax.evaluation import Predictor
from bertjax.finished import open_run
from bertjax.inputs import declared_tasks
from bertjax.metrics import log_softmax
from bertjax.model import Bert
from bertjax.parallel import DataParallel
from bertjax.pretrained import read_config as read_bert_config
from bertjax.step import eval_step
from bertjax.tasks import Task

STDIN = "-"
_AT_ONCE = 4096
_BOM = b"\xef\xbb\xbf"


def predict_lines(workdir: Path, source: str, task: str | None = None, checkpoint: str = "final") -> Iterator[str]:
    """Predicts for every line of a file.

    Args:
      workdir: of a finished run.
      source: a UTF-8 file with a text a line, or for pairs two, parted by a tab; "-" for stdin.
      task: its name; may be None where the run has but one.
      checkpoint: "final", or "best" by the task's main metric on dev.

    Yields:
      For each line, in order, and without its end: the class's name, its probability and the line as given, parted by
      tabs. For a score the first column holds the score and the second is empty. All lines are read and checked
      before the first comes.

    Raises:
      UserError: no finished run there, no such task, or a line that is blank, has another number of columns or is not
        UTF-8.
    """
    run = open_run(workdir)
    tasks = declared_tasks(run.config)
    chosen = _choose(tasks, task)
    lines = read_lines(source, len(chosen.schema.texts))
    parallel = DataParallel(jax.devices())
    architecture = read_bert_config(run.encoder)
    model = Bert(architecture, {t.name: t.outputs for t in tasks}, dtype=jnp.dtype(run.config.dtype))
    tokenizer = load_tokenizer(run.encoder)
    params = parallel.replicate(run.restore(run.step(chosen.name, checkpoint), model))
    predictor = Predictor(partial(eval_step, model=model, task=chosen), parallel, architecture.pad_token_id)
    edges = _edges(run.config.max_length)
    for start in range(0, len(lines), _AT_ONCE):
        part = lines[start : start + _AT_ONCE]
        rows = [dict(zip(("text", "text_pair"), line.split("\t"), strict=False)) for line in part]
        examples = tokenize(({"id": "", "label": 0} | row for row in rows), tokenizer, max_length=run.config.max_length)
        outputs = predictor.predict(
            params, examples, batch_size=parallel.up_to_even(run.config.batch_size), edges=edges
        )
        for line, (value, probability) in zip(part, _columns(chosen, outputs), strict=True):
            yield f"{value}\t{probability}\t{line}"


def read_lines(source: str, columns: int) -> list[str]:
    """The lines of a file, or of stdin for "-", each checked, without their ends; errors as of `predict_lines`."""
    where = "stdin" if source == STDIN else source
    try:
        data = sys.stdin.buffer.read() if source == STDIN else Path(source).read_bytes()
    except OSError as error:
        raise UserError(
            f"--input: expected a file of lines, found none to read at {where} ({error.strerror})"
        ) from None
    # Only LF ends a line, as in the data: texts may hold what str.splitlines takes for an end.
    raw = data.removeprefix(_BOM).removesuffix(b"\n").split(b"\n")
    if raw == [b""]:
        raise UserError(f"{where}: expected lines of text, found none")
    return [_check(line.removesuffix(b"\r"), columns, f"{where}:{number}") for number, line in enumerate(raw, 1)]


def _check(line: bytes, columns: int, where: str) -> str:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: expected UTF-8, found byte 0x{line[error.start]:02x}; convert the input to UTF-8"
        ) from None
    texts = text.split("\t")
    if not text.strip():
        raise UserError(f"{where}: expected text, found a blank line; remove it")
    if len(texts) != columns:
        expected = "one text" if columns == 1 else "two texts, parted by a tab"
        raise UserError(f"{where}: expected {expected}, found {len(texts)} tab-separated columns")
    if not all(map(str.strip, texts)):
        raise UserError(f"{where}: expected text in both columns, found a blank one")
    return text


def _choose(tasks: Sequence[Task], name: str | None) -> Task:
    names = [task.name for task in tasks]
    if name is None and len(tasks) > 1:
        raise UserError(f"--task: expected one of the run's tasks, {', '.join(names)}, found none; name the one to use")
    if name is not None and name not in names:
        raise UserError(f"--task: expected {' or '.join(names)}, found {name!r}{nearest(name, names)}")
    return tasks[0 if name is None else names.index(name)]


def _edges(max_length: int) -> tuple[int, ...]:
    """Lengths to pad to that do not depend on the lines, so that later ones compile nothing new."""
    edges = [8]
    while edges[-1] < max_length:
        edges.append(2 * edges[-1])
    return (*edges[:-1], max_length)


def _columns(task: Task, outputs: np.ndarray) -> Iterator[tuple[str, str]]:
    if task.schema.is_score:
        yield from ((f"{score:.6f}", "") for score in outputs[:, 0])
    else:
        for row in np.exp(log_softmax(outputs)):
            yield task.schema.label_names[row.argmax()], f"{row.max():.6f}"
