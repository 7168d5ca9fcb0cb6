"""Trials, and a whole study of tiny runs started by its command."""

import json
import os
import re
import shutil
import subprocess
import sys

import helpers
import numpy as np
import pytest

from bertjax.config import RunConfig
from bertjax.errors import UserError
from bertjax.study.plan import Trial, plan_trials
from bertjax.study.results import read_results
from bertjax.study.trial import _median_seconds, _total_seconds, _train_records, machine_id, run_trial
from tools.manual import ROOT

RECIPE = """
from ml_collections import ConfigDict, config_dict

def get_config():
    config = ConfigDict()
    config.data_dir = config_dict.placeholder(str)
    config.base = {base}
    config.methods = {{
        "fine-tune": {{}},
        "smart": {{"smart": {{"preset": "bertjax"}}}},
        "diverging": {{"learning_rate": 1e30}},
        "further": {{"init_from": "further"}},
    }}
    config.domains = {{"sst5": "sts"}}
    config.pretraining = {pretraining}
    config.blocks = {{
        "1": {{"tasks": ("sst5",), "shares": (0.5,), "methods": ("fine-tune", "smart"), "seeds": 1}},
        "2": {{"tasks": ("sst5",), "shares": (0.5,), "methods": ("further", "diverging"), "seeds": 1}},
    }}
    return config
"""


def run(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "bertjax.study", f"--config={folder / 'tiny.py'}", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_an_unexpected_error_ends_one_trial(monkeypatch, tmp_path):
    def run(trial, root):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nby much")

    monkeypatch.setattr("bertjax.study.trial._run_trial", run)
    trial = Trial(("sts",), "smart", 0.1, 0, RunConfig())
    with pytest.raises(UserError, match="RuntimeError: RESOURCE_EXHAUSTED: Out of memory by much; ") as raised:
        run_trial(trial, tmp_path)
    log = tmp_path / f"{trial.folder}.log"
    assert str(log) in str(raised.value)
    assert "Traceback" in log.read_text()
    assert "by much" in log.read_text()


def test_times_cover_all_updates_of_all_calls(tmp_path):
    """Records of 10, 10 and, before an interruption, 5 updates: 10 · 1 + 10 · 2 + 5 · 6 seconds."""
    readings = [(10, "train", 1.0), (10, "dev", 9.0), (20, "train", 2.0), (25, "train", 6.0)]
    lines = [
        json.dumps({"step": step, "split": split, "epoch": 1, "values": {}, "timing": {"step_seconds": seconds}})
        for step, split, seconds in readings
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    records = _train_records(tmp_path)
    assert _total_seconds(records) == 60
    assert _median_seconds(records) == 2
    assert _total_seconds([]) == 0


@pytest.mark.slow
def test_a_study_from_recipe_to_report(tiny_checkpoint, sst_folder, tmp_path):
    small = {"init_from": str(tiny_checkpoint), "batch_size": 8, "max_length": 16, "epochs": 1}
    helpers.write_sts(sst_folder)  # for further pre-training
    recipe = RECIPE.format(base=small | {"eval_every": 100}, pretraining=small)
    (tmp_path / "tiny.py").write_text(recipe)
    flags = f"--config.data_dir={sst_folder}", "--workers=2"
    done = run(tmp_path, *flags)
    assert done.returncode == 2, done.stderr
    *_, title, failed = done.stderr.splitlines()
    assert title.startswith("error: 1 of 4 trials failed")
    assert failed.startswith("sst5 diverging 0.5 0: training diverged")
    assert "Traceback" not in done.stderr

    root = tmp_path / "runs" / "tiny"
    namespace = {}
    exec(recipe, namespace)
    trials = plan_trials(namespace["get_config"]().to_dict() | {"data_dir": str(sst_folder)})
    lines = read_results(root, trials)
    assert len(lines) == 3
    found = {line["method"]: line for line in lines}
    dev = found["smart"]["dev"]["sst5"]
    assert dev["metric"] == "accuracy"
    assert dev["score"] == dev["accuracy"]
    assert len(dev["predicted"]) == len(dev["labels"]) == 23
    assert dev["score"] == pytest.approx(np.mean(np.equal(dev["predicted"], dev["labels"])), abs=1e-6)
    (smart,) = (trial for trial in trials if trial.method == "smart")
    result = json.loads((root / smart.folder / "result.json").read_text())
    assert result["datasets"]["sst5"]["rows"] == {"train": 30, "dev": 23}
    assert dev["score"] == pytest.approx(result["dev"]["sst5"]["final"]["accuracy"], abs=1e-6)
    assert found["fine-tune"]["further_seconds"] == 0
    assert {line["machine"] for line in lines} == {machine_id()}
    assert re.fullmatch("[0-9a-f]{8}", machine_id())
    logs = [root / "pretrained/sts" / stage / "metrics.jsonl" for stage in ("heads", ".")]
    readings = [[x for x in map(json.loads, log.read_text().splitlines()) if x["split"] == "train"] for log in logs]
    by_hand = sum(only["step"] * only["timing"]["step_seconds"] for (only,) in readings)
    assert found["further"]["further_seconds"] == pytest.approx(by_hand, abs=0.06)
    report = (root / "README.md").read_text()
    assert report.count("\n| smart | 1 |") == 1
    assert report.count("\n| further | 1 |") == 1

    # Only the failed trial is tried again.
    again = run(tmp_path, *flags)
    assert again.returncode == 2
    assert "sst5 smart" not in again.stderr
    assert len((root / "cells.jsonl").read_text().splitlines()) == 3
    changed = run(tmp_path, *flags, "--config.base.epochs=2", "--report_only")
    assert changed.stderr.count("\n") == 1
    assert ": epochs was 1, is 2;" in changed.stderr

    # Finished further pre-training is still found after the folder was moved.
    moved = root.rename(tmp_path / "moved")
    shutil.rmtree(moved / "runs")
    (trial,) = (trial for trial in trials if trial.method == "further")
    assert run_trial(trial, moved)["dev"] == found["further"]["dev"]
