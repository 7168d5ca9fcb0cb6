"""Dev scores of the recipes with gold labels: the last linear layer, fine-tuning, several tasks, further pre-training.

    python -m benchmarks.gold --data_dir=FOLDER --runs=runs/gold

Runs what is not yet finished, one recipe and seed after another (hours on two CPU cores); a rerun goes on. Then writes
benchmarks/results/gold.json and docs/gold.md from all that is finished; `--report` does only that.
"""

import argparse
import importlib.util
import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bertjax.config import read_config
from bertjax.study.zero_label import cosine_score
from bertjax.tasks import TASKS, get_task
from bertjax.training.finetuning import train_and_evaluate
from bertjax.training.pretraining import pretrain

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = Path(__file__).parent / "results" / "gold.json", ROOT / "docs" / "gold.md"
# By row of the table: the recipe, its variant, changes to it, and how many seeds.
ROWS: dict[str, tuple[str, str, dict[str, Any], int]] = {
    **{f"{task}, last layer": ("gold", f"{task}-head", {}, 3) for task in ("sst5", "cfimdb", "quora", "sts")},
    **{f"{task}, fine-tuned": ("gold", task, {}, 3) for task in ("sts", "quora", "cfimdb", "sst5")},
    "sst5, after further pre-training": ("gold", "sst5", {"init_from": "{runs}/editorials"}, 1),
    "three tasks, plain": ("mtl_smart", "gold", {"smart.preset": "none"}, 1),
    "three tasks, SMART": ("mtl_smart", "gold", {}, 1),
}


def folder(runs: Path, row: str, seed: int) -> Path:
    """The folder of a run."""
    return runs / f"{row.replace(',', '').replace(' ', '-')}-{seed}"


def recipe(name: str) -> Any:
    """The module of a recipe."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train(runs: Path, data_dir: str, row: str, seed: int) -> None:
    """Trains a row with one seed, unless its run is finished."""
    name, variant, changes, _ = ROWS[row]
    config = recipe(name).get_config(variant)
    changes = {key: value.format(runs=runs) for key, value in changes.items()}
    config.update_from_flattened_dict(changes | {"seed": seed, "data_dir": data_dir})
    train_and_evaluate(config, folder(runs, row, seed))


def collect(runs: Path) -> list[dict]:
    """Final dev scores and settings of every finished run."""
    found = []
    for row, (recipe, variant, changes, seeds) in ROWS.items():
        for seed in range(seeds):
            path = folder(runs, row, seed) / "result.json"
            if path.exists():
                result = json.loads(path.read_text())
                about = {"row": row, "recipe": f"{recipe}:{variant}", "changes": changes, "seed": seed}
                scores = {task: dev["final"] for task, dev in result["dev"].items()}
                keys = ("steps", "datasets", "warnings", "cost", "versions", "devices")
                found.append(
                    about | {"dev": scores, "seconds": result["timing"]["seconds"]} | {k: result[k] for k in keys}
                )
    return found


def pretrained(runs: Path) -> dict[str, Any] | None:
    """Dev scores of the further pre-training on the starter's editorials; None if it is not finished."""
    path = runs / "editorials" / "result.json"
    return json.loads(path.read_text())["dev"]["editorials"] if path.exists() else None


def is_score(task: str) -> bool:
    """Whether a task predicts scores; False for "mean", the mean over tasks."""
    return task in TASKS and TASKS[task].schema.is_score


def fitted(found: Mapping[str, Any]) -> str:
    """What was fitted for a cosine's score."""
    return "" if found["threshold"] is None else f"one threshold, {found['threshold']:.2f}, fitted on train"


def page(records: Sequence[Mapping], editorials: Mapping | None, cosines: Mapping[str, Mapping]) -> str:
    """The text of docs/gold.md."""
    rows, warnings = [], set()
    about_raw = "¹ By an earlier version: scores learnt raw, SMART with its old anchor"
    raw = f"\n{about_raw}: [what we got wrong](study/corrections.md).\n"
    for row in ROWS:
        runs = [record for record in records if record["row"] == row]
        for task in runs[0]["dev"] if runs else ():
            if task == "mean":
                continue
            warnings.update(warning for record in runs for warning in record["warnings"])
            metric = get_task(task).main_metric
            others = [name for name in runs[0]["dev"][task] if name not in (metric, "loss")]
            values = [record["dev"][task][metric] for record in runs]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            rest = ", ".join(f"{name} {statistics.mean(r['dev'][task][name] for r in runs):.3f}" for name in others)
            is_raw = any("label_scale" not in r["datasets"][t] for r in runs for t in r["dev"] if is_score(t))
            minutes = statistics.median(record["seconds"] for record in runs) / 60
            rows.append(
                f"| {row}{'¹' if is_raw else ''} | {task} | {metric} {statistics.mean(values):.3f}{spread} | {rest} "
                f"| {len(runs)} | {runs[0]['steps']:,} | {minutes:.0f} |"
            )
    before_after = "".join(
        f"| {when} | {scores['mlm_accuracy']:.3f} | {scores['mlm_perplexity']:.0f} | {scores['nsp_accuracy']:.3f} |\n"
        for when, scores in (editorials or {}).items()
        if when in ("before", "final")
    )
    notes = "\n".join(f"- {warning}" for warning in sorted(warnings))
    rows += [
        f"| {task}, cosine, before any fine-tuning | {task} | {found['metric']} {found['score']:.3f} | "
        f"{fitted(found)} | | 0 | |"
        for task, found in cosines.items()
    ]
    table = "\n".join(rows)
    return f"""# Scores with gold labels

The scores to expect on dev from `configs/gold.py` and `configs/mtl_smart.py:gold`, starting from MiniLM-L6. Written by
`python -m benchmarks.gold`; edit that file, not this one.

<!-- not run: it needs CS224N's files -->
```bash
python train.py --config=configs/gold.py:sts --config.data_dir=FOLDER
```

- **Scores** are those after the last update: means over seeds ± standard deviation.
- **Data**: a folder in CS224N's layout. Quora is 14,000 pairs of train and 3,000 of dev, drawn from the course's 20,214
  dev pairs.
- **Minutes**: on two CPU cores, shared with other work.

| what | task | score | also | seeds | updates | minutes |
| --- | --- | --- | --- | --- | --- | --- |
{table}
{raw if "¹" in table else ""}
The cosine is that of both texts' mean-pooled vectors. MiniLM-L6 is a sentence encoder trained on pairs, Quora's among
them, so sts and quora say little about how to fine-tune it.

Warnings of these runs:

{notes}

## Further pre-training

`configs/pretrain_editorials.py` on its 36 held-out documents. "before": the heads alone have been trained, on the
frozen encoder. Measured when batches were padded to `max_length`; the same seed now gives other batches and masks.

| | masked words right | perplexity | next sentence right |
| --- | --- | --- | --- |
{before_after}
## Published

For bert-base-uncased, last layer and fine-tuned: SST-5 0.390 and 0.515, CFIMDB 0.780 and 0.966.
"""


def main() -> None:
    """Runs and reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir")
    parser.add_argument("--runs", type=Path, default=Path("runs/gold"))
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if not options.report:
        if options.data_dir is None:
            parser.error("--data_dir: expected the folder of CS224N's files")
        pretrain(recipe("pretrain_editorials").get_config(), options.runs / "editorials")
        for row, (*_, seeds) in ROWS.items():
            for seed in range(seeds):
                train(options.runs, options.data_dir, row, seed)
        for task in ("sts", "quora"):
            config = recipe("gold").get_config(task)
            config.data_dir = options.data_dir
            path = options.runs / f"cosine-{task}.json"
            path.write_text(json.dumps(cosine_score(get_task(task), read_config(config))))
    records = collect(options.runs)
    if not records:
        raise SystemExit(f"no finished runs in {options.runs}: run python -m benchmarks.gold --data_dir=FOLDER first")
    editorials = pretrained(options.runs)
    machine = platform.processor() or platform.machine()
    paths = sorted(options.runs.glob("cosine-*.json"))
    cosines = {path.stem.removeprefix("cosine-"): json.loads(path.read_text()) for path in paths}
    results = {"machine": machine, "rows": records, "editorials": editorials, "cosines": cosines}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(page(records, editorials, cosines))


if __name__ == "__main__":
    main()
