"""What a study's checkpoint scores on pairs before any fine-tuning, beside the cells that fine-tune it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bertjax import shape
from bertjax.config import RunConfig
from bertjax.errors import UserError
from bertjax.inputs import declared_tasks
from bertjax.pretrained import is_sentence_encoder
from bertjax.small_files import MIB, read_json
from bertjax.study_plan import Cell
from bertjax.study_pool import each
from bertjax.tasks import Task
from bertjax.workdir import write_json

BASELINES = "baselines.json"
Baselines = Mapping[str, Mapping[str, Any]]
"""By task: "init_from", and what `zero_label.cosine_score` returns."""
_REMEDY = "remove it, and the study measures it again"


def read_baselines(root: Path) -> dict[str, dict[str, Any]]:
    """Those that a study's folder has; UserError where the file is broken."""
    path = root / BASELINES
    if not path.exists():
        return {}
    found: dict[str, dict[str, Any]] = read_json(path, MIB, _REMEDY)
    shape.check(found, {str: {"init_from": str, "metric": str, "score": float, "rows": int}}, path, _REMEDY)
    return found


def add_baselines(cells: Sequence[Cell], root: Path) -> list[str]:
    """Measures what the folder lacks of the tasks of pairs, where cells start from a sentence encoder.

    Returns:
      What is to be told of those that failed.
    """
    found, failed, jobs = read_baselines(root), [], dict[str, tuple[Task, RunConfig]]()
    for cell in cells:
        if cell.further is not None or not is_sentence_encoder(cell.config.init_from):
            continue
        for task in declared_tasks(cell.config):
            if len(task.schema.texts) == 2 and task.outputs <= 2 and task.name not in found:
                jobs.setdefault(task.name, (task, cell.config))
    for (task, config), line in each(_measure, list(jobs.values()), 1):
        if isinstance(line, UserError):
            failed.append(f"{task.name}, before any fine-tuning: {line}")
            continue
        found[task.name] = {"init_from": config.init_from, **line}
        write_json(root / BASELINES, found)
    return failed


def _measure(job: tuple[Task, RunConfig]) -> dict[str, Any]:
    from bertjax.zero_label import cosine_score  # and JAX, in a process of its own

    return cosine_score(*job)
