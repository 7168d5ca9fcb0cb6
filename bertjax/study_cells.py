"""The cells of a study: methods × tasks × training-set sizes × seeds, each an ordinary run."""

import contextlib
import csv
import dataclasses
import itertools
import json
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bertjax.config import PretrainConfig, RunConfig, default_config, read_config
from bertjax.errors import UserError, nearest
from bertjax.workdir import write_text

CELLS = "cells.jsonl"
FURTHER = "further"
"""As `init_from` of a method: the study's own further pre-training on the task's domain."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
      tasks: trained on together.
      method: its name in the study.
      share: of each task's training examples.
      seed: of the run.
      config: of the run; `init_from` may be FURTHER.
    """

    tasks: tuple[str, ...]
    method: str
    share: float
    seed: int
    config: RunConfig

    @property
    def key(self) -> tuple[str, str, float, int]:
        """What tells it from all others."""
        return "+".join(self.tasks), self.method, self.share, self.seed

    @property
    def folder(self) -> Path:
        """Of its run, within the study's."""
        tasks, method, share, seed = self.key
        return Path("runs", tasks, method.replace(" ", "_"), f"{share:g}", str(seed))


def plan(study: Mapping[str, Any]) -> list[Cell]:
    """All cells of a study, in the order in which they are run: blocks by name, seed after seed.

    Args:
      study: of a recipe: `data_dir`; `base`, changes to a run's config for all cells; `by_task`, further ones by the
        name of a task or of several joined by "+"; `methods`, further ones by the method's name; `blocks` by name, each
        with `tasks`, `methods`, `shares` and the number of `seeds`.

    Raises:
      UserError: an unknown method, or a value that a run's config does not take.
    """
    cells: dict[Any, Cell] = {}
    for name, block in sorted(study["blocks"].items()):
        for method in block["methods"]:
            if method not in study["methods"]:
                raise UserError(f"--config.blocks.{name}: no method {method!r}{nearest(method, study['methods'])}")
        # Tasks last: neighbours are run at once, and those of one task would wait for the same further pre-training.
        axes = range(block["seeds"]), block["shares"], block["methods"], block["tasks"]
        for seed, share, method, joined in itertools.product(*axes):
            cell = _cell(study, joined, method, share, seed)
            cells.setdefault(cell.key, cell)
    return list(cells.values())


def _cell(study: Mapping[str, Any], joined: str, method: str, share: float, seed: int) -> Cell:
    tasks = tuple(joined.split("+"))
    values = default_config().to_dict()
    for changes in (study["base"], study["by_task"].get(joined, {}), study["methods"][method]):
        values = _changed(values, changes)
    values |= {"data_dir": study["data_dir"], "train_share": share, "seed": seed}
    values |= {"task": tasks[0]} if len(tasks) == 1 else {"tasks": tasks}
    return Cell(tasks, method, share, seed, read_config(values))


def remaining(study: Mapping[str, Any], root: Path) -> list[Cell]:
    """The cells of the plan that have no line in the results yet."""
    done = {key_of(line) for line in read_cells(root)}
    return [cell for cell in plan(study) if cell.key not in done]


def _changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    nested = {key: _changed(values.get(key, {}), x) for key, x in changes.items() if isinstance(x, Mapping)}
    return {**values, **changes, **nested}


def run_cell(cell: Cell, study: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Trains, evaluates on dev at the last update, and says what a line of the results holds.

    Returns:
      "tasks" (their names joined), "method", "share", "seed"; "dev", by task: all metrics with the measured
      smoothness, the main one's name as "metric", its value as "score", and of every example what was "predicted" and,
      under "labels", its label, a class's number or a score; "steps", "cost" and "timing" of the run; "log", of every
      reading [epoch, training loss]; "warnings" of lineage; "versions" and "devices".
    """
    # Here, so that a worker has its core to itself before JAX counts them.
    from bertjax.compilation import keep_compiled
    from bertjax.evaluation import evaluate
    from bertjax.inputs import declared_tasks, load_datasets
    from bertjax.loop import train_and_evaluate

    keep_compiled()
    config, folder = cell.config, root / cell.folder
    if config.init_from == FURTHER:
        config = dataclasses.replace(config, init_from=str(_pretrained(cell.tasks[0], study, root)))
    with _log_beside(folder):
        result = train_and_evaluate(config, folder)
        summary = evaluate(folder, "dev")
        datasets = load_datasets(declared_tasks(config), config)
    dev = {}
    for task, dataset in zip(declared_tasks(config), datasets, strict=True):
        predicted = _predicted(folder / f"predictions-{task.name}-dev.csv", task.schema.label_names)
        metrics = summary["metrics"][task.name] | {"smoothness": summary["smoothness"][task.name]["mean"]}
        rounded = {name: round(value, 6) for name, value in metrics.items()}
        dev[task.name] = rounded | {"metric": task.main_metric, "score": rounded[task.main_metric]}
        dev[task.name] |= {"predicted": predicted, "labels": [row["label"] for row in dataset.splits["dev"]]}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    log = [[round(x["epoch"], 3), round(x["values"]["loss"], 4)] for x in lines if x["split"] == "train"]
    tasks, method, share, seed = cell.key
    return {
        "tasks": tasks,
        "method": method,
        "share": share,
        "seed": seed,
        "dev": dev,
        "steps": result["steps"],
        "cost": result["cost"],
        "timing": result["timing"],
        "log": log,
        "warnings": summary["warnings"],
        "versions": result["versions"],
        "devices": result["devices"],
    }


def _predicted(path: Path, label_names: Sequence[str]) -> list[float]:
    with path.open(newline="") as file:
        rows = [row["predicted"] for row in csv.DictReader(file)]
    return [label_names.index(name) for name in rows] if label_names else [round(float(x), 3) for x in rows]


def _pretrained(task: str, study: Mapping[str, Any], root: Path) -> Path:
    """The folder of the further pre-training for a task, which is run unless it is there."""
    from filelock import FileLock

    from bertjax.pretrain_loop import pretrain

    folder = root / "pretrained" / task
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "result.json").exists():
            corpus = _corpus(study["domains"][task], study, root)
            values = _changed(default_config(PretrainConfig).to_dict(), study["pretraining"])
            with _log_beside(folder):
                pretrain(read_config(values | {"corpus": str(corpus)}, PretrainConfig), folder)
    return folder


def _corpus(task: str, study: Mapping[str, Any], root: Path) -> Path:
    """A folder with the texts of a task's training examples: a document each, a pair being two sentences."""
    from bertjax.data.documents import sentences
    from bertjax.inputs import load_datasets
    from bertjax.tasks import get_task

    config = read_config(_changed(default_config().to_dict(), study["base"]) | {"data_dir": study["data_dir"]})
    (dataset,) = load_datasets([get_task(task)], config)
    documents = []
    for example in dataset.splits["train"]:
        pair = [" ".join(example[name].split()) for name in ("text", "text_pair") if name in example]
        documents.append("\n".join(pair if len(pair) > 1 else sentences(pair[0])))
    folder = root / "corpora" / task
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "texts.txt").write_text("\n\n".join(documents) + "\n")
    return folder


@contextlib.contextmanager
def _log_beside(folder: Path) -> Iterator[None]:
    """Sends what a run prints to a file beside its folder: a study shows its own progress."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(folder.with_name(folder.name + ".log").open("a"))
        stack.enter_context(contextlib.redirect_stdout(file))
        stack.enter_context(contextlib.redirect_stderr(file))
        yield


def read_cells(root: Path) -> list[dict[str, Any]]:
    """The lines of a study's results so far."""
    path = root / CELLS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def key_of(line: Mapping[str, Any]) -> tuple[str, str, float, int]:
    """The key of the cell that a line of the results is of."""
    return line["tasks"], line["method"], line["share"], line["seed"]


def run_study(study: Mapping[str, Any], root: Path, workers: int) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Runs what is left of a study; gives each cell and its line as it is done and written."""
    todo = remaining(study, root)
    root.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, _start_worker, (context.Value("i", 0), workers)) as pool:
        jobs = ((cell, study, root) for cell in todo)
        for cell, line in pool.imap_unordered(_job, jobs):
            path = root / CELLS
            so_far = path.read_text() if path.exists() else ""
            write_text(path, so_far + json.dumps(line, ensure_ascii=False) + "\n")  # whole or not at all
            yield cell, line


def _job(arguments: tuple[Cell, Mapping[str, Any], Path]) -> tuple[Cell, dict[str, Any]]:
    return arguments[0], run_cell(*arguments)


def _start_worker(count: Any, workers: int) -> None:
    with count.get_lock():
        place = count.value
        count.value += 1
    os.nice(10)
    if hasattr(os, "sched_getaffinity") and 1 < workers <= len(cores := sorted(os.sched_getaffinity(0))):
        os.sched_setaffinity(0, cores[place::workers])  # XLA then starts as many threads
