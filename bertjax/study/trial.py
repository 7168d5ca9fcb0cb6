"""A cell of a study: an ordinary run, and the line that its results get."""

import contextlib
import csv
import dataclasses
import hashlib
import platform
import statistics
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bertjax.config import PretrainConfig
from bertjax.errors import UserError, reason
from bertjax.runs.metrics_log import read_records
from bertjax.runs.workdir import read_run_config
from bertjax.study.code_version import code_version
from bertjax.study.plan import Further, Trial


def run_trial(cell: Trial, root: Path) -> dict[str, Any]:
    """Trains, evaluates on dev at the last update, and says what a line of the results holds.

    Returns:
      "tasks" (their names joined), "method", "share", "seed", "settings"; "resolved", as `Cell` has it; "code", the
      version that ran it; "fingerprints" of the data, by task; "dev", by task: all metrics with the measured smoothness
      and, of scores, "relative_smoothness", its share of the predictions' variance; the main one's name as "metric",
      its value as "score", and of every example what was "predicted" and, under "labels", its label, a class's number
      or a score; "steps", "cost" and "timing" of the run; "further_seconds", of further pre-training's updates, or 0;
      "log", of every reading [epoch, training loss]; "warnings"; "versions" and "devices"; "machine", from `machine`.

    Raises:
      UserError: whatever ended the cell, in one line; what is nobody's to put right, a device's want of memory, say,
        stands whole in the log beside the cell's folder.
    """
    try:
        return _run_trial(cell, root)
    except OSError as error:
        raise UserError(f"{error.filename or root}: cannot be read or written ({error.strerror})") from error
    except UserError:
        raise
    except Exception as error:  # want of memory, say: other cells may do
        folder = root / cell.folder
        with _log_beside(folder):
            traceback.print_exc()
        raise UserError(f"{type(error).__name__}: {reason(error)}; all of it is in {folder}.log") from error


def _run_trial(cell: Trial, root: Path) -> dict[str, Any]:
    # Here, so that a worker has its core to itself before JAX counts them.
    from bertjax.compilation import keep_compiled
    from bertjax.data.pipeline import declared_tasks, load_datasets
    from bertjax.evaluation.evaluator import evaluate
    from bertjax.training.finetuning import train_and_evaluate

    keep_compiled()
    code = code_version()  # now: the checkout may change while the cell runs
    config, folder, further_seconds = cell.config, root / cell.folder, 0.0
    if cell.further is not None:
        start = _pretrained(cell.further, root)
        config = dataclasses.replace(config, init_from=str(start))
        further_seconds = sum(_seconds(_readings(stage)) for stage in (start / "heads", start))
    with _log_beside(folder):
        result = train_and_evaluate(config, folder)
        summary = evaluate(folder, "dev")
        tasks = declared_tasks(config)
        datasets = load_datasets(tasks, config)
    dev = {}
    for task, dataset in zip(tasks, datasets, strict=True):
        predicted = _predicted(folder / f"predictions-{task.name}-dev.csv", task.schema.label_names)
        metrics = summary["metrics"][task.name] | {"smoothness": summary["smoothness"][task.name]["mean"]}
        if task.schema.is_score:
            # Of a model that shrinks its scores every perturbation moves little.
            std = result["datasets"][task.name]["label_scale"]["std"]
            metrics["relative_smoothness"] = (
                metrics["smoothness"] * std**2 / max(statistics.pvariance(predicted), 1e-30)
            )
        rounded = {name: _rounded(value) for name, value in metrics.items()}
        dev[task.name] = rounded | {"metric": task.main_metric, "score": rounded[task.main_metric]}
        dev[task.name] |= {"predicted": predicted, "labels": [row["label"] for row in dataset.splits["dev"]]}
    readings = _readings(folder)
    log = [
        [round(reading["epoch"], 3), round(reading["values"]["loss"], 4)]
        for reading in readings
        if "loss" in reading["values"]  # not so where every update was left out
    ]
    return {
        **cell.key._asdict(),
        "settings": cell.settings,
        "resolved": cell.resolved,
        "code": code,
        "fingerprints": {task.name: result["datasets"][task.name]["fingerprint"] for task in tasks},
        "dev": dev,
        "steps": result["steps"],
        "cost": result["cost"],
        "timing": {**result["timing"], "step_seconds_median": _median_seconds(readings)},
        "further_seconds": round(further_seconds, 1),
        "log": log,
        "warnings": summary["warnings"],
        "versions": result["versions"],
        "devices": result["devices"],
        "machine": machine(),
    }


def machine() -> str:
    """A name of this machine, of its last start where that can be known, that does not tell what it is called."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    name = boot.read_text() if boot.exists() else platform.node()
    return hashlib.blake2s(name.encode(), digest_size=4).hexdigest()


def _predicted(path: Path, label_names: Sequence[str]) -> list[float]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row["predicted"] for row in csv.DictReader(file)]
    return [label_names.index(name) for name in rows] if label_names else [_rounded(float(x)) for x in rows]


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _readings(folder: Path) -> list[dict[str, Any]]:
    """What a run logged of its updates; nothing where there is no run."""
    return [record for record in read_records(folder) if record["split"] == "train"]


def _median_seconds(readings: Sequence[Mapping[str, Any]]) -> float:
    """Of an update, of all calls that the run took; of a call that makes none, result.json has no time."""
    return statistics.median(reading["timing"]["step_seconds"] for reading in readings)


def _seconds(readings: Sequence[Mapping[str, Any]]) -> float:
    """Of all updates together."""
    before = [0, *(reading["step"] for reading in readings)]
    return sum(r["timing"]["step_seconds"] * (r["step"] - last) for r, last in zip(readings, before, strict=False))


def _pretrained(further: Further, root: Path) -> Path:
    """The folder of a further pre-training, which is run unless it is there."""
    from filelock import FileLock

    from bertjax.training.pretraining import pretrain

    folder, corpus = root / "pretrained" / further.domain, root / "corpora" / further.domain
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if (folder / "result.json").exists():
            if isinstance(finished := read_run_config(folder), PretrainConfig):
                corpus = Path(finished.corpus)  # elsewhere, if the study's folder was moved since
        else:
            _write_corpus(further, corpus)
        with _log_beside(folder):
            pretrain(dataclasses.replace(further.config, corpus=str(corpus)), folder)
    return folder


def _write_corpus(further: Further, folder: Path) -> None:
    """The texts of a task's training examples: a document each, a pair being two sentences."""
    from bertjax.data.corpus import split_sentences
    from bertjax.data.pipeline import declared_tasks, load_datasets

    (dataset,) = load_datasets(declared_tasks(further.texts), further.texts)
    documents = []
    for example in dataset.splits["train"]:
        pair = [" ".join(example[name].split()) for name in ("text", "text_pair") if name in example]
        documents.append("\n".join(pair if len(pair) > 1 else split_sentences(pair[0])))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "texts.txt").write_text("\n\n".join(documents) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _log_beside(folder: Path) -> Iterator[None]:
    """Sends what a run prints to a file beside its folder: a study shows its own progress."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(folder.with_name(folder.name + ".log").open("a", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(file))
        stack.enter_context(contextlib.redirect_stderr(file))
        yield
