"""What a study's checkpoint scores on pairs before any fine-tuning, beside the cells that fine-tune it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bertjax.config import RunConfig
from bertjax.data.pipeline import declared_tasks
from bertjax.errors import UserError
from bertjax.files import json_files
from bertjax.files.atomic import write_json
from bertjax.files.json_files import MIB, read_json
from bertjax.pretrained import is_sentence_encoder
from bertjax.study.plan import Trial
from bertjax.study.pool import run_jobs
from bertjax.tasks import Task

BASELINES = "baselines.json"


Baselines = Mapping[str, Mapping[str, Any]]
"""By task, what `zero_label.cosine_score` returns."""


_REMEDY = "remove it, and the study measures it again"


_SHAPE = {str: {"init_from": str, "fingerprint": str, "metric": str, "score": float, "rows": int}}


def read_baselines(root: Path, lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The baselines in a study's folder whose data match its finished cells; UserError if the file is broken.

    Args:
      root: folder of the study.
      lines: of the finished cells, from `study_results.read_lines`.
    """
    fingerprints = {task: fingerprint for line in lines for task, fingerprint in line["fingerprints"].items()}
    return {task: found for task, found in _read(root).items() if fingerprints.get(task) == found["fingerprint"]}


def add_baselines(cells: Sequence[Trial], root: Path) -> list[str]:
    """Measures the missing baselines of pair tasks whose cells start from a sentence encoder.

    Returns:
      A line for each that failed.
    """
    found, failed, jobs = _read(root), [], dict[str, tuple[Task, RunConfig]]()
    for source in dict.fromkeys(cell.config.init_from for cell in cells if cell.further is None):
        try:
            if not is_sentence_encoder(source):
                continue
        except UserError as error:
            failed.append(f"{source}, before any fine-tuning: {error}")
            continue
        for cell in cells:
            for task in declared_tasks(cell.config) if cell.config.init_from == source else ():
                is_measured = task.name in found and found[task.name]["init_from"] == source
                if len(task.schema.texts) == 2 and task.outputs <= 2 and not is_measured:
                    jobs.setdefault(task.name, (task, cell.config))
    for (task, _), line in run_jobs(_measure, list(jobs.values()), 1):
        if isinstance(line, UserError):
            failed.append(f"{task.name}, before any fine-tuning: {line}")
            continue
        found[task.name] = line
        write_json(root / BASELINES, found)
    return failed


def _read(root: Path) -> dict[str, dict[str, Any]]:
    path = root / BASELINES
    if not path.exists():
        return {}
    found: dict[str, dict[str, Any]] = read_json(path, MIB, _REMEDY)
    json_files.check_shape(found, _SHAPE, path, _REMEDY)
    return found


def _measure(job: tuple[Task, RunConfig]) -> dict[str, Any]:
    from bertjax.study.zero_label import cosine_score  # and JAX, in a process of its own

    return cosine_score(*job)
