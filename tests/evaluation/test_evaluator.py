"""`evaluate` on a run of two tasks, and `Predictor` by itself."""

import contextlib
import csv
import io
import json
import shutil
from functools import partial

import jax
import numpy as np
import pytest

from bertjax.config import RunConfig
from bertjax.data.batching import eval_batches
from bertjax.data.pipeline import load_inputs
from bertjax.errors import UserError
from bertjax.evaluation.calibration import expected_calibration_error
from bertjax.evaluation.evaluator import evaluate
from bertjax.evaluation.finished_run import load_run
from bertjax.evaluation.predictor import Predictor
from bertjax.evaluation.smoothness import smoothness_step
from bertjax.models.encoder import init_params
from bertjax.models.forward import as_smart_model, eval_step
from bertjax.parallel import DataParallel
from bertjax.runs.checkpoint import Checkpoints
from bertjax.tasks import SENTIMENTS


@pytest.fixture
def config(tiny_checkpoint, sst_folder):
    return RunConfig(
        task="sst5",
        data_dir=str(sst_folder),
        init_from=str(tiny_checkpoint),
        batch_size=8,
        max_length=16,
        max_steps=1,
    )


@pytest.mark.parametrize("devices", [1, 4])
def test_predictions_are_in_the_split_s_order(config, devices):
    inputs = load_inputs(config, config.init_from, ("dev",))
    params, data = init_params(jax.random.key(0), inputs.model), inputs.data["sst5"]
    dev = data.examples["dev"]
    step = partial(eval_step, model=inputs.model, task=data.task)
    parallel = DataParallel(jax.devices()[:devices])
    predictor = Predictor(step, parallel, pad_id=0)
    found = predictor.predict(parallel.replicate(params), dev, batch_size=8, bucket_boundaries=data.bucket_boundaries)
    one_by_one = jax.jit(partial(step, params))
    for i in (0, 1, 11, 22):
        example = {"input_ids": dev.input_ids[i], "token_type_ids": dev.token_type_ids[i]}
        logits = one_by_one(example | {"attention_mask": np.ones(len(dev.input_ids[i]), bool)})
        np.testing.assert_allclose(found[i], logits, atol=1e-5)
    assert found.shape == (23, 5)
    assert found.dtype == np.float32


def changed_copy(gold_run, tmp_path, file, change):
    """A copy of the run with one of its files changed."""
    shutil.copytree(gold_run, tmp_path / "run")
    path = tmp_path / "run" / file
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    return tmp_path / "run"


@pytest.fixture(scope="module")
def evaluated(gold_run):
    """What `evaluate` returns for dev and prints to stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        summary = evaluate(gold_run, "dev")
    return summary, out.getvalue(), err.getvalue()


def predicted(workdir, task, split="dev"):
    with (workdir / f"predictions-{task}-{split}.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_summary_holds_every_measurement(gold_run, evaluated):
    summary, _, errors = evaluated
    assert summary == json.loads((gold_run / "eval-dev.json").read_text())
    result = json.loads((gold_run / "result.json").read_text())
    assert set(summary["metrics"]["sst5"]) == {"accuracy", "macro_f1", "loss", "calibration_error"}
    assert set(summary["metrics"]["sts"]) == {"pearson", "spearman", "r2", "mse", "loss"}
    for task in ("sst5", "sts"):
        for name, value in result["dev"][task]["final"].items():
            assert summary["metrics"][task][name] == pytest.approx(value, abs=1e-5)
        assert set(summary["intervals"][task]) == set(summary["metrics"][task])
        for name in result["dev"][task]["final"]:
            low, high = summary["intervals"][task][name]
            assert low <= summary["metrics"][task][name] <= high
        assert summary["smoothness"][task]["radius"] == 0.02
        assert summary["smoothness"][task]["mean"] > 0
    assert summary["steps"] == {"sst5": 4, "sts": 4}
    assert summary["lineage"] == result["lineage"]
    assert summary["warnings"] == []
    assert errors == ""


def test_intervals_and_calibration_error_match_the_prediction_files(gold_run, evaluated):
    summary = evaluated[0]
    rows = predicted(gold_run, "sst5")
    probabilities = np.array([[float(x) for x in list(row.values())[2:]] for row in rows])
    labels = np.arange(23) % 5
    hits = probabilities.argmax(1) == labels
    rng = np.random.default_rng(0)
    draws = [hits[rng.integers(23, size=23)].mean() for _ in range(1000)]
    assert summary["intervals"]["sst5"]["accuracy"] == pytest.approx(np.percentile(draws, [2.5, 97.5]))
    expected = expected_calibration_error(np.log(probabilities), labels)
    assert summary["metrics"]["sst5"]["calibration_error"] == pytest.approx(expected, abs=1e-5)


def test_smoothness_is_the_mean_divergence_over_the_split(gold_run, evaluated):
    run = load_run(gold_run)
    inputs = load_inputs(run.config, run.encoder, ("dev",))
    data = inputs.data["sts"]
    (batch,) = eval_batches(data.examples["dev"], batch_size=9, bucket_boundaries=data.bucket_boundaries)
    cut, divergence = as_smart_model(inputs.model, data.task), data.task.divergence
    step = jax.jit(partial(smoothness_step, model=cut, divergence=divergence, radius=0.02))
    expected = step(run.restore(4, inputs.model), batch)
    # The 16 labels of train are 0, 1, … 5, 0, …
    variance = np.var([i % 6 for i in range(16)])
    assert evaluated[0]["smoothness"]["sts"]["mean"] == pytest.approx(float(expected.mean()) / variance, rel=1e-3)


def test_the_table_has_a_row_for_each_task(evaluated):
    summary, out, _ = evaluated
    header, _, *rows = out.splitlines()[:4]
    assert header.split()[:5] == ["task", "split", "checkpoint", "step", "rows"]
    assert "smoothness at 0.02" in header
    assert rows[0].split()[:5] == ["sst5", "dev", "final", "4", "23"]
    assert rows[1].split()[:5] == ["sts", "dev", "final", "4", "9"]
    low, high = summary["intervals"]["sts"]["pearson"]
    assert f"{summary['metrics']['sts']['pearson']:.4f} [{low:.3f}, {high:.3f}]" in rows[1]
    for row, task in zip(rows, ("sst5", "sts"), strict=True):
        assert row.split()[5] == f"{summary['smoothness'][task]['mean']:.3g}"


def test_predictions_and_plots_are_written(gold_run, evaluated):
    rows = predicted(gold_run, "sst5")
    assert [row["id"] for row in rows] == [f"dev{i}" for i in range(23)]
    assert list(rows[0]) == ["id", "predicted", *SENTIMENTS]
    assert [list(row) for row in predicted(gold_run, "sts")] == [["id", "predicted"]] * 9
    for task in ("sst5", "sts"):
        path = gold_run / f"plot-{task}-dev.png"
        assert path.read_bytes().startswith(b"\x89PNG")
        assert f"plot in {path}" in evaluated[1]


def test_best_is_each_task_s_own_checkpoint(gold_run, tmp_path, monkeypatch):
    steps = []

    def own_steps(result):
        result["dev"]["sst5"]["best"]["step"], result["dev"]["sts"]["best"]["step"] = 2, 3

    def restore(self, step, like):
        steps.append(step)
        return read(self, 4, like)

    workdir = changed_copy(gold_run, tmp_path, "result.json", own_steps)
    read = Checkpoints.restore_params
    monkeypatch.setattr(Checkpoints, "restore_params", restore)
    summary = evaluate(workdir, "dev", "best", radius=0)
    assert steps == [2, 3]
    assert summary["steps"] == {"sst5": 2, "sts": 3}
    assert summary["smoothness"] == {}


def test_a_split_without_labels_has_only_predictions(gold_run, tmp_path, capsys):
    shutil.copytree(gold_run, tmp_path / "run", ignore=shutil.ignore_patterns("*.png"))
    summary = evaluate(tmp_path / "run", "test", layout="course", radius=0)
    assert set(summary["metrics"]) == set(summary["intervals"]) == {"sts"}
    assert "sst5: test has no labels" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "run").glob("*.png")] == ["plot-sts-test.png"]
    lines = (tmp_path / "run" / "predictions-sst5-test.csv").read_text().splitlines()
    assert lines[0] == "id \t Predicted_Sentiment "
    assert [line.split(" , ")[0] for line in lines[1:]] == [f"dev{i}" for i in range(6)]


def test_warnings_of_the_run_and_of_changed_data_are_printed(gold_run, tmp_path, capsys):
    def warn(result):
        result["warnings"] = ["sst5: seen before"]
        result["datasets"]["sts"]["fingerprint"] = "another"

    summary = evaluate(changed_copy(gold_run, tmp_path, "result.json", warn), "dev", radius=0)
    expected = ["sst5: seen before", "the data of sts differ from those of the run, another"]
    assert summary["warnings"] == expected
    assert capsys.readouterr().err.splitlines() == [f"warning: {line}" for line in expected]


@pytest.mark.parametrize("radius", [-0.1, float("nan"), float("inf")])
def test_a_radius_out_of_range_is_one_line(gold_run, radius):
    with pytest.raises(UserError, match="--radius: expected a finite number of at least 0, found"):
        evaluate(gold_run, "dev", radius=radius)


def test_a_pretraining_run_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"corpus": "editorials"}))
    with pytest.raises(UserError, match="holds a pre-training run"):
        evaluate(tmp_path, "dev")


def test_the_course_format_is_refused_before_any_work(gold_run, tmp_path):
    def other(config):
        config["tasks"] = ["sst5", "rated_sst"]

    def rename(result):
        for part in ("datasets", "dev"):
            result[part]["rated_sst"] = result[part].pop("sts")

    workdir = changed_copy(gold_run, tmp_path, "config.json", other)
    with pytest.raises(UserError, match=r"result\.json: expected rated_sst in datasets and dev, found none"):
        evaluate(workdir, "dev", layout="course")
    with pytest.raises(UserError, match="--format: course is for"):
        evaluate(changed_copy(workdir, tmp_path / "renamed", "result.json", rename), "dev", layout="course")


def test_a_missing_split_is_one_line(gold_run, tmp_path):
    def own_file(config):
        config.update(tasks=["sts"], data_dir=str(tmp_path))

    for split in ("train", "dev"):
        shutil.copy(gold_run.parent / f"sts-{split}.csv", tmp_path)
    workdir = changed_copy(gold_run, tmp_path, "config.json", own_file)
    with pytest.raises(UserError, match="--split: sts has train, dev, found 'test'"):
        evaluate(workdir, "test")


def test_data_that_have_moved(gold_run, tmp_path, evaluated):
    def elsewhere(config):
        config["data_dir"] = str(tmp_path / "gone")

    workdir = changed_copy(gold_run, tmp_path, "config.json", elsewhere)
    with pytest.raises(UserError, match="--config.data_dir: expected the file .*gone"):
        evaluate(workdir, "dev", radius=0)
    found = evaluate(workdir, "dev", radius=0, moved={"data_dir": str(gold_run.parent)})
    assert found["metrics"] == evaluated[0]["metrics"]
    with pytest.raises(UserError, match="--config.data_file: .*trained without it; drop the flag"):
        evaluate(workdir, "dev", moved={"data_file": "x.tsv"})


def test_a_run_with_missing_parts_is_one_line(gold_run, tmp_path):
    shutil.copytree(gold_run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    with pytest.raises(UserError, match="this checkpoint cannot be read"):
        evaluate(tmp_path / "run", "dev")
    shutil.rmtree(tmp_path / "run" / "encoder")
    with pytest.raises(UserError, match="encoder: expected the run's architecture and vocabulary"):
        evaluate(tmp_path / "run", "dev")
