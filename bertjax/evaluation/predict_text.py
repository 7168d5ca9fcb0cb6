"""Predicts for lines of text from a file or stdin; needs only the run's folder, not its data."""

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
from bertjax.models.encoder import Encoder
from bertjax.models.families import build_encoder
from bertjax.models.forward import Params, eval_step
from bertjax.parallel import DataParallel
from bertjax.pretrained import read_model_config
from bertjax.pretrained.tokenizer import check_tokenizer_fits, load_tokenizer
from bertjax.tasks import Task

STDIN = "-"
_CHUNK_LINES = 4096


@dataclasses.dataclass(frozen=True)
class TextModel:
    """A finished run and one of its tasks, ready for new texts.

    Attributes:
      task: the chosen task.
      config: the run's config.
      model: the model, with the heads of all tasks.
      restore: reads the parameters of the chosen checkpoint; slow, so call it once.
      tokenizer: the run's tokenizer.
      pad_id: token id of padding.
    """

    task: Task
    config: RunConfig
    model: Encoder
    restore: Callable[[], Params]
    tokenizer: Tokenizer
    pad_id: int

    def tokenize(self, lines: Sequence[str]) -> TokenizedExamples:
        """Tokenises lines from `read_texts`; their ids and labels are placeholders."""
        rows = (dict(zip(("text", "text_pair"), line.split("\t"), strict=False)) for line in lines)
        return tokenize(
            ({"id": "", "label": 0} | row for row in rows), self.tokenizer, max_length=self.config.max_length
        )


def load_text_model(workdir: Path, task: str | None, checkpoint: str) -> TextModel:
    """Opens a finished run; for arguments and errors see `predict_lines`."""
    run = load_run(workdir)
    tasks = run.tasks
    chosen = _choose_task(tasks, task)
    architecture = read_model_config(run.encoder)
    tokenizer = load_tokenizer(run.encoder)
    check_tokenizer_fits(tokenizer, architecture, run.encoder)
    model = build_encoder(architecture, {t.name: t.num_outputs for t in tasks}, dtype=jnp.dtype(run.config.dtype))
    restore = partial(run.restore, run.step(chosen.name, checkpoint), model)
    return TextModel(chosen, run.config, model, restore, tokenizer, architecture.pad_token_id)


def predict_lines(workdir: Path, source: str, task: str | None = None, checkpoint: str = "final") -> Iterator[str]:
    """Predicts for every line of a file.

    All lines are read and checked before the first prediction.

    Args:
      workdir: folder of a finished run.
      source: a UTF-8 file with one text per line, or for pairs two texts separated by a tab; "-" for stdin.
      task: the task's name; None if the run has only one.
      checkpoint: "final", or "best" by the task's main metric on dev.

    Yields:
      For each line, in order and without line end, three tab-separated columns: the predicted class's name, its
      probability, and the line as given. For scores: the score, an empty column, and the line.

    Raises:
      UserError: the folder holds no finished run, the task is unknown, or a line is blank, has the wrong number of
        columns or is not UTF-8.
    """
    run = load_text_model(workdir, task, checkpoint)
    lines = read_texts(source, len(run.task.schema.texts))
    parallel = DataParallel(jax.devices())
    params = parallel.replicate(run.restore())
    predictor = Predictor(partial(eval_step, model=run.model, task=run.task), parallel, run.pad_id)
    bucket_boundaries = _bucket_boundaries(run.config.max_length)
    for start in range(0, len(lines), _CHUNK_LINES):
        chunk = lines[start : start + _CHUNK_LINES]
        outputs = predictor.predict(
            params,
            run.tokenize(chunk),
            batch_size=parallel.round_up_batch_size(run.config.batch_size),
            bucket_boundaries=bucket_boundaries,
        )
        for line, (prediction, probability) in zip(chunk, _predictions(run.task, outputs), strict=True):
            yield f"{prediction}\t{probability}\t{line}"


def read_texts(source: str, columns: int) -> list[str]:
    """Reads and checks the lines of a file, or of stdin for "-", without their ends; errors as in `predict_lines`."""
    where = "stdin" if source == STDIN else source
    try:
        data = sys.stdin.buffer.read() if source == STDIN else user_path(source).read_bytes()
    except OSError as error:
        raise UserError(
            f"--input: expected a readable file of lines, found none at {where} ({error.strerror})"
        ) from None
    lines = list(split_lines(data.removesuffix(b"\n")))
    if [line.text for line in lines] == [""]:
        raise UserError(f"{where}: expected lines of text, found none")
    return [_checked_text(line, columns, f"{where}:{line.number}") for line in lines]


def _checked_text(line: Line, columns: int, where: str) -> str:
    text = line.text
    if line.flaw:
        raise UserError(f"{where}: {line.flaw}; the input must be UTF-8 text")
    texts = text.split("\t")
    if not text.strip():
        raise UserError(f"{where}: expected text, found a blank line; remove it")
    if len(texts) != columns:
        expected = "one text" if columns == 1 else "two texts separated by a tab"
        raise UserError(f"{where}: expected {expected}, found {len(texts)} tab-separated columns")
    if not all(map(str.strip, texts)):
        raise UserError(f"{where}: expected text in both columns, found a blank one")
    return text


def _choose_task(tasks: Sequence[Task], name: str | None) -> Task:
    names = [task.name for task in tasks]
    if name is None and len(tasks) > 1:
        raise UserError(f"--task: expected one of the run's tasks, {', '.join(names)}, found none; name the one to use")
    if name is not None and name not in names:
        raise UserError(f"--task: expected {' or '.join(names)}, found {name!r}{did_you_mean(name, names)}")
    return tasks[0 if name is None else names.index(name)]


def _bucket_boundaries(max_length: int) -> tuple[int, ...]:
    """Powers of two, then the maximum: fixed lengths, so that later chunks and runs compile nothing new."""
    boundaries = [8]
    while boundaries[-1] < max_length:
        boundaries.append(2 * boundaries[-1])
    return (*boundaries[:-1], max_length)


def _predictions(task: Task, outputs: np.ndarray) -> Iterator[tuple[str, str]]:
    """Class name and probability, or score and an empty text, of each row."""
    if task.schema.is_score:
        yield from ((f"{score:.7g}", "") for score in outputs[:, 0])
    else:
        for row in np.exp(log_softmax(outputs.astype(np.float64), axis=-1)):
            yield task.schema.label_names[row.argmax()], f"{row.max():.6f}"
