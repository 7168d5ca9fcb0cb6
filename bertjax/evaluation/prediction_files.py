"""Formats of prediction files: bertjax's own table, and the one CS224N's default project submits."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.special import log_softmax

from bertjax.errors import UserError
from bertjax.tasks import Task

COURSE_COLUMNS = {
    "sst5": "Predicted_Sentiment",
    "cfimdb": "Predicted_Sentiment",
    "quora": "Predicted_Is_Paraphrase",
    "sts": "Predicted_Similiary",  # the course's spelling
}


def format_table(task: Task, ids: Sequence[str], outputs: np.ndarray) -> str:
    """CSV with `id`, `predicted` (the class's name, or the score) and, for classes, one column of probabilities each.

    Args:
      task: the task.
      ids: ids of the N examples.
      outputs: [N, C] logits, or [N, 1] scores.
    """
    names = task.schema.label_names
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "predicted", *names])
    if task.schema.is_score:
        writer.writerows([name, f"{score:.7g}"] for name, score in zip(ids, outputs[:, 0], strict=True))
    else:
        for name, row in zip(ids, np.exp(log_softmax(outputs.astype(np.float64), axis=-1)), strict=True):
            writer.writerow([name, names[row.argmax()], *(f"{p:.6f}" for p in row)])
    return text.getvalue()


def format_course(task: Task, ids: Sequence[str], outputs: np.ndarray) -> str:
    r"""The format CS224N's default project submits for sst5, cfimdb, quora and sts.

    The header `id \t COLUMN ` has a tab, the lines `ID , VALUE ` a comma; the spaces around them and at the end are
    the course's. COLUMN is one of `COURSE_COLUMNS`; VALUE is the class index, or the score. For the arguments see
    `format_table`.
    """
    values = [f"{x:.6f}" for x in outputs[:, 0]] if task.schema.is_score else outputs.argmax(axis=-1)
    lines = [f"{name} , {value} \n" for name, value in zip(ids, values, strict=True)]
    return "".join([f"id \t {COURSE_COLUMNS[task.name]} \n", *lines])


FORMATS: Mapping[str, Callable[[Task, Sequence[str], np.ndarray], str]] = {
    "table": format_table,
    "course": format_course,
}
"""(task, ids, outputs) to the file's text."""


def check_format(name: str, tasks: Sequence[Task]) -> None:
    """Raises a UserError if the format "course" is not defined for one of the tasks."""
    for task in tasks:
        if name == "course" and task.name not in COURSE_COLUMNS:
            raise UserError(
                f"--format: course is for {', '.join(COURSE_COLUMNS)}, found a run of {task.name}; drop the flag"
            )
