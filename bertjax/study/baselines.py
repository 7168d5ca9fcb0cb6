"""Baselines without training: what a study's checkpoint scores on pair tasks before any fine-tuning."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bertjax.config import RunConfig
from bertjax.data.pipeline import declared_tasks
from bertjax.errors import UserError
from bertjax.files.atomic import write_json
from bertjax.files.json_files import read_json
from bertjax.pretrained import is_sentence_encoder
from bertjax.study.plan import Trial
from bertjax.study.pool import run_jobs
from bertjax.study.results import TrialLine
from bertjax.tasks import Task

BASELINES_FILE = "baselines.json"
Baselines = Mapping[str, Mapping[str, Any]]
"""By task, the result of `bertjax.study.zero_label.cosine_score`."""
_REMEDY = "remove it, and the study measures it again"
_SHAPE = {str: {"init_from": str, "fingerprint": str, "metric": str, "score": float, "rows": int}}


def read_baselines(root: Path, lines: Sequence[TrialLine]) -> dict[str, dict[str, Any]]:
    """Returns the baselines in a study's folder that were measured on the data of its finished trials.

    Args:
      root: the study's folder.
      lines: the finished trials, from `bertjax.study.results.read_results`.

    Raises:
      UserError: the file is broken.
    """
    fingerprints = {task: fingerprint for line in lines for task, fingerprint in line["fingerprints"].items()}
    baselines = _read_file(root).items()
    return {task: baseline for task, baseline in baselines if fingerprints.get(task) == baseline["fingerprint"]}


def measure_baselines(trials: Sequence[Trial], root: Path) -> list[str]:
    """Measures the missing baselines of pair tasks that start from a sentence encoder, and adds them to the file.

    Returns:
      A message for each one that failed.
    """
    baselines, failures, jobs = _read_file(root), [], dict[str, tuple[Task, RunConfig]]()
    for source in dict.fromkeys(trial.config.init_from for trial in trials if trial.further is None):
        try:
            if not is_sentence_encoder(source):
                continue
        except UserError as error:
            failures.append(f"{source}, before any fine-tuning: {error}")
            continue
        for trial in trials:
            for task in declared_tasks(trial.config) if trial.config.init_from == source else ():
                is_measured = task.name in baselines and baselines[task.name]["init_from"] == source
                if len(task.schema.texts) == 2 and task.num_outputs <= 2 and not is_measured:
                    jobs.setdefault(task.name, (task, trial.config))
    for (task, _), baseline in run_jobs(_measure, list(jobs.values()), 1):
        if isinstance(baseline, UserError):
            failures.append(f"{task.name}, before any fine-tuning: {baseline}")
            continue
        baselines[task.name] = baseline
        write_json(root / BASELINES_FILE, baselines)
    return failures


def _read_file(root: Path) -> dict[str, dict[str, Any]]:
    path = root / BASELINES_FILE
    if not path.exists():
        return {}
    baselines: dict[str, dict[str, Any]] = read_json(path, _REMEDY, _SHAPE)
    return baselines


def _measure(job: tuple[Task, RunConfig]) -> dict[str, Any]:
    from bertjax.study.zero_label import cosine_score  # imports JAX, so only in the worker process

    return cosine_score(*job)
