"""Runs one trial of a study: an ordinary run and its line of results."""

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


def run_trial(trial: Trial, root: Path) -> dict[str, Any]:
    """Trains, evaluates on dev after the last update, and returns a line of the results file.

    Returns:
      A dictionary that can be written as JSON:

      - "tasks" (names joined by "+"), "method", "share", "seed": the trial's key.
      - "settings", "resolved": as in `Trial`.
      - "code": the version of bertjax.
      - "fingerprints": the data's fingerprint by task.
      - "dev": by task, all metrics and the measured "smoothness"; for score tasks also "relative_smoothness", the
        smoothness divided by the predictions' variance; "metric", the main metric's name, and "score", its value;
        "predicted" and "labels", a class index or a score for each example.
      - "steps", "cost", "timing": of the run.
      - "further_seconds": time of further pre-training's updates, or 0.
      - "log": [epoch, training loss] of every record.
      - "warnings": of the evaluation.
      - "versions", "devices", "machine": what the trial ran on.

    Raises:
      UserError: anything that ended the trial, in one line. If the cause is not the user's (say, out of memory), the
        traceback is in the log beside the run's folder.
    """
    try:
        return _run_trial(trial, root)
    except OSError as error:
        raise UserError(f"{error.filename or root}: cannot be read or written ({error.strerror})") from error
    except UserError:
        raise
    except Exception as error:  # say, out of memory: other trials may still succeed
        folder = root / trial.folder
        with _log_beside(folder):
            traceback.print_exc()
        raise UserError(f"{type(error).__name__}: {reason(error)}; see the traceback in {folder}.log") from error


def _run_trial(trial: Trial, root: Path) -> dict[str, Any]:
    # Imported here, after the worker is bound to its cores: JAX counts them when it starts.
    from bertjax.compilation import enable_compilation_cache
    from bertjax.data.pipeline import declared_tasks, load_datasets
    from bertjax.evaluation.evaluator import evaluate
    from bertjax.training.finetuning import train_and_evaluate

    enable_compilation_cache()
    code = code_version()  # now: the checkout may change during the run
    config, folder, further_seconds = trial.config, root / trial.folder, 0.0
    if trial.further is not None:
        start = _pretrain_once(trial.further, root)
        config = dataclasses.replace(config, init_from=str(start))
        further_seconds = sum(_total_seconds(_train_records(stage)) for stage in (start / "heads", start))
    with _log_beside(folder):
        result = train_and_evaluate(config, folder)
        summary = evaluate(folder, "dev")
        tasks = declared_tasks(config)
        datasets = load_datasets(tasks, config)
    dev = {}
    for task, dataset in zip(tasks, datasets, strict=True):
        predicted = _read_predictions(folder / f"predictions-{task.name}-dev.csv", task.schema.label_names)
        metrics = summary["metrics"][task.name] | {"smoothness": summary["smoothness"][task.name]["mean"]}
        if task.schema.is_score:
            # Smoothness alone would favour a model that shrinks its scores.
            std = result["datasets"][task.name]["label_scale"]["std"]
            metrics["relative_smoothness"] = (
                metrics["smoothness"] * std**2 / max(statistics.pvariance(predicted), 1e-30)
            )
        rounded = {name: _round(value) for name, value in metrics.items()}
        dev[task.name] = rounded | {"metric": task.main_metric, "score": rounded[task.main_metric]}
        dev[task.name] |= {"predicted": predicted, "labels": [row["label"] for row in dataset.splits["dev"]]}
    records = _train_records(folder)
    log = [
        [round(record["epoch"], 3), round(record["values"]["loss"], 4)]
        for record in records
        if "loss" in record["values"]  # missing where every update was skipped
    ]
    return {
        **trial.key._asdict(),
        "settings": trial.settings,
        "resolved": trial.resolved,
        "code": code,
        "fingerprints": {task.name: result["datasets"][task.name]["fingerprint"] for task in tasks},
        "dev": dev,
        "steps": result["steps"],
        "cost": result["cost"],
        "timing": {**result["timing"], "step_seconds_median": _median_seconds(records)},
        "further_seconds": round(further_seconds, 1),
        "log": log,
        "warnings": summary["warnings"],
        "versions": result["versions"],
        "devices": result["devices"],
        "machine": machine_id(),
    }


def machine_id() -> str:
    """An anonymous id of this machine, where possible of its current boot."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    name = boot.read_text() if boot.exists() else platform.node()
    return hashlib.blake2s(name.encode(), digest_size=4).hexdigest()


def _read_predictions(path: Path, label_names: Sequence[str]) -> list[float]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row["predicted"] for row in csv.DictReader(file)]
    return [label_names.index(name) for name in rows] if label_names else [_round(float(x)) for x in rows]


def _round(value: float) -> float:
    return float(f"{value:.6g}")


def _train_records(folder: Path) -> list[dict[str, Any]]:
    """A run's log records of training; empty if there is no run."""
    return [record for record in read_records(folder) if record["split"] == "train"]


def _median_seconds(records: Sequence[Mapping[str, Any]]) -> float:
    """Median time of an update over all calls of a run: result.json has that of the last call alone."""
    return statistics.median(record["timing"]["step_seconds"] for record in records)


def _total_seconds(records: Sequence[Mapping[str, Any]]) -> float:
    """Time of all updates."""
    starts = [0, *(record["step"] for record in records)]
    return sum(r["timing"]["step_seconds"] * (r["step"] - start) for r, start in zip(records, starts, strict=False))


def _pretrain_once(further: Further, root: Path) -> Path:
    """Runs a further pre-training unless it is finished; returns its folder."""
    from filelock import FileLock

    from bertjax.training.pretraining import pretrain

    folder, corpus = root / "pretrained" / further.domain, root / "corpora" / further.domain
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if (folder / "result.json").exists():
            if isinstance(finished := read_run_config(folder), PretrainConfig):
                corpus = Path(finished.corpus)  # differs if the study's folder was moved
        else:
            _write_corpus(further, corpus)
        with _log_beside(folder):
            pretrain(dataclasses.replace(further.config, corpus=str(corpus)), folder)
    return folder


def _write_corpus(further: Further, folder: Path) -> None:
    """Writes a task's training texts, one document for each example; a pair becomes two sentences."""
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
    """Redirects a run's output to a log file beside its folder, so that the study's progress bar stays readable."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(folder.with_name(folder.name + ".log").open("a", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(file))
        stack.enter_context(contextlib.redirect_stderr(file))
        yield
