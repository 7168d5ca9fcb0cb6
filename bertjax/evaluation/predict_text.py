"""Predictions for raw lines of text, without the data that a run was trained on."""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import log_softmax
from tokenizers import Tokenizer

from bertjax.config import RunConfig
from bertjax.data.text_file import Line, split_lines
from bertjax.data.tokenize import TokenizedExamples, tokenize
from bertjax.errors import UserError, did_you_mean
from bertjax.evaluation.finished_run import load_run
from bertjax.evaluation.predictor import Predictor
from bertjax.files.paths import user_path
from bertjax.models.bert import Bert
from bertjax.models.forward import Params, eval_step
from bertjax.parallel import DataParallel
from bertjax.pretrained import read_model_config
from bertjax.pretrained.tokenizer import check_vocabulary, load_tokenizer
from bertjax.tasks import Task

STDIN = "-"


_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True)
class TextModel:
    """A finished run, ready for texts that are not its data.

    Attributes:
      task: the one that is asked for.
      config: the run's.
      model: with heads of all its tasks.
      restore: reads the parameters of the checkpoint that is asked for, which takes a while.
      tokenizer: its own.
      pad_id: token id of padding.
    """

    task: Task
    config: RunConfig
    model: Bert
    restore: Callable[[], Params]
    tokenizer: Tokenizer
    pad_id: int

    def tokenize(self, lines: Sequence[str]) -> TokenizedExamples:
        """Lines as `read_lines` gives them, without labels."""
        rows = (dict(zip(("text", "text_pair"), line.split("\t"), strict=False)) for line in lines)
        return tokenize(
            ({"id": "", "label": 0} | row for row in rows), self.tokenizer, max_length=self.config.max_length
        )


def load_text_model(workdir: Path, task: str | None, checkpoint: str) -> TextModel:
    """Opens a finished run; arguments and errors as of `predict_lines`."""
    run = load_run(workdir)
    tasks = run.tasks
    chosen = _choose(tasks, task)
    architecture = read_model_config(run.encoder)
    tokenizer = load_tokenizer(run.encoder)
    check_vocabulary(tokenizer, architecture.vocab_size, run.encoder)
    model = Bert(architecture, {t.name: t.num_outputs for t in tasks}, dtype=jnp.dtype(run.config.dtype))
    restore = partial(run.restore, run.step(chosen.name, checkpoint), model)
    return TextModel(chosen, run.config, model, restore, tokenizer, architecture.pad_token_id)


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
    run = load_text_model(workdir, task, checkpoint)
    lines = read_texts(source, len(run.task.schema.texts))
    parallel = DataParallel(jax.devices())
    params = parallel.replicate(run.restore())
    predictor = Predictor(partial(eval_step, model=run.model, task=run.task), parallel, run.pad_id)
    bucket_boundaries = _bucket_boundaries(run.config.max_length)
    for start in range(0, len(lines), _AT_ONCE):
        part = lines[start : start + _AT_ONCE]
        outputs = predictor.predict(
            params,
            run.tokenize(part),
            batch_size=parallel.up_to_even(run.config.batch_size),
            bucket_boundaries=bucket_boundaries,
        )
        for line, (value, probability) in zip(part, _columns(run.task, outputs), strict=True):
            yield f"{value}\t{probability}\t{line}"


def read_texts(source: str, columns: int) -> list[str]:
    """The lines of a file, or of stdin for "-", each checked, without their ends; errors as of `predict_lines`."""
    where = "stdin" if source == STDIN else source
    try:
        data = sys.stdin.buffer.read() if source == STDIN else user_path(source).read_bytes()
    except OSError as error:
        raise UserError(
            f"--input: expected a file of lines, found none to read at {where} ({error.strerror})"
        ) from None
    lines = list(split_lines(data.removesuffix(b"\n")))
    if [line.text for line in lines] == [""]:
        raise UserError(f"{where}: expected lines of text, found none")
    return [_check(line, columns, f"{where}:{line.number}") for line in lines]


def _check(line: Line, columns: int, where: str) -> str:
    text = line.text
    if line.flaw:
        raise UserError(f"{where}: {line.flaw}; the input must be UTF-8 text")
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
        raise UserError(f"--task: expected {' or '.join(names)}, found {name!r}{did_you_mean(name, names)}")
    return tasks[0 if name is None else names.index(name)]


def _bucket_boundaries(max_length: int) -> tuple[int, ...]:
    """Lengths to pad to that do not depend on the lines, so that later ones compile nothing new."""
    bucket_boundaries = [8]
    while bucket_boundaries[-1] < max_length:
        bucket_boundaries.append(2 * bucket_boundaries[-1])
    return (*bucket_boundaries[:-1], max_length)


def _columns(task: Task, outputs: np.ndarray) -> Iterator[tuple[str, str]]:
    if task.schema.is_score:
        yield from ((f"{score:.7g}", "") for score in outputs[:, 0])
    else:
        for row in np.exp(log_softmax(outputs.astype(np.float64), axis=-1)):
            yield task.schema.label_names[row.argmax()], f"{row.max():.6f}"
