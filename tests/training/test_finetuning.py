"""A shrunken run from the config to the result, and all that can come between."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import Seen, write_sts

from bertjax import smart
from bertjax.config import RunConfig
from bertjax.config.smart import SmartConfig
from bertjax.errors import UserError
from bertjax.evaluation.evaluator import evaluate
from bertjax.runs.checkpoint import Checkpoints
from bertjax.signals import Interrupted
from bertjax.training import finetuning, finetuning_data


@pytest.fixture
def config(tiny_checkpoint, sst_folder):
    return RunConfig(
        task="sst5",
        data_dir=str(sst_folder),
        init_from=str(tiny_checkpoint),
        epochs=2,
        batch_size=16,
        learning_rate=0.02,
        max_length=8,  # one batch shape, one compilation
        smart=SmartConfig(preset="bertjax"),
    )


def change(config, **changes):
    return RunConfig(**{**vars(config), **changes})


def train_lines(workdir, split="train"):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == split]


def test_a_whole_run_and_its_evaluation(config, tmp_path, capsys):
    config = change(config, epochs=30, max_length=16, eval_every=40)
    result = finetuning.train_and_evaluate(config, tmp_path / "run")
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written == result
    assert set(result) == {
        *(
            "config_digest",
            "seed",
            "steps",
            "datasets",
            "lineage",
            "warnings",
            "dev",
            "cost",
            "timing",
            "versions",
            "devices",
        )
    }
    assert result["steps"] == 30 * 4
    assert result["datasets"]["sst5"]["rows"] == {"train": 61, "dev": 23}
    assert result["lineage"][1]["trained_on"] == "sst5"
    assert result["devices"] == {"platform": "cpu", "count": jax.device_count()}
    # One word gives the label away, and a random encoder suffices to find it.
    assert result["dev"]["sst5"]["final"]["accuracy"] > 0.6
    assert result["dev"]["sst5"]["best"]["accuracy"] >= result["dev"]["sst5"]["final"]["accuracy"]
    assert 0 < result["cost"]["real_token_fraction"] <= 1
    assert 2 < result["cost"]["flops_ratio"] < 4
    assert result["cost"]["peak_bytes"] > 0
    lines = train_lines(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(10, 121, 10))
    for line in lines:
        assert all(np.isfinite(value) for value in line["values"].values())
        assert line["values"]["smoothness"] > 0
        assert line["values"]["bregman"] >= 0
        # The anchor looks back a tenth of 120 updates: 1/(1 − β) = 12.
        assert line["values"]["anchor_start"] == pytest.approx((11 / 12) ** line["step"], rel=1e-4)
    assert lines[-1]["values"]["loss"] < lines[0]["values"]["loss"]
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {
        *("config.json", "metrics.jsonl", "checkpoints", "tensorboard", "curves.png", "encoder", "result.json")
    }

    # A finished run is read, not run again.
    capsys.readouterr()
    assert finetuning.train_and_evaluate(config, tmp_path / "run") == result
    assert "finished; nothing to do" in capsys.readouterr().out

    for checkpoint in ("final", "best"):
        summary = evaluate(tmp_path / "run", "dev", checkpoint)
        expected = result["dev"]["sst5"][checkpoint]
        for name, value in summary["metrics"]["sst5"].items():
            assert name == "calibration_error" or value == pytest.approx(expected[name], abs=1e-5)
    with (tmp_path / "run" / "predictions-sst5-dev.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [f"dev{i}" for i in range(23)]
    names = list(rows[0])[2:]
    for row in rows:
        probabilities = [float(row[name]) for name in names]
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert row["predicted"] == names[int(np.argmax(probabilities))]
    hits = np.mean([names.index(row["predicted"]) == i % 5 for i, row in enumerate(rows)])
    assert hits == pytest.approx(result["dev"]["sst5"]["best"]["accuracy"])


def test_changed_data_are_not_gone_on_with(config, sst_folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Checkpoints, "reached_preemption", lambda _, step: step == 2)
        finetuning.train_and_evaluate(config, tmp_path / "cut")
    assert not (tmp_path / "cut" / "result.json").exists()
    dev = sst_folder / "ids-sst-dev.csv"
    dev.write_text(dev.read_text() + "23\tdev23\tthe film\t0\n")
    with pytest.raises(UserError, match="the data of sst5 have changed since this run began"):
        finetuning.train_and_evaluate(config, tmp_path / "cut")


def test_the_seed_decides_the_run(config, tmp_path):
    config = change(config, max_steps=3, smart=SmartConfig())
    results = [
        finetuning.train_and_evaluate(change(config, seed=seed), tmp_path / name)["dev"]["sst5"]["final"]["loss"]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_a_backend_that_counts_nothing_ends_no_run(config, tmp_path, monkeypatch):
    for name in ("cost_analysis", "memory_analysis"):
        monkeypatch.setattr(jax.stages.Compiled, name, lambda _: None)
    cost = finetuning.train_and_evaluate(change(config, max_steps=1), tmp_path / "run")["cost"]
    assert (cost["flops_ratio"], cost["peak_bytes"]) == (None, None)


def test_an_anchor_that_stays_at_the_start_is_told(config, tmp_path, capsys):
    config = change(config, max_steps=2, smart=SmartConfig(preset="bertjax", weight=0.0, decay=(0.5, 0.8)))
    result = finetuning.train_and_evaluate(config, tmp_path / "run")
    # Of two updates the first tenth is none: 0.8 twice.
    told = "64% the start"
    assert told in capsys.readouterr().err
    assert sum(told in line for line in result["warnings"]) == 1


@pytest.mark.slow
def test_one_device_gives_the_run_of_four(config, tmp_path, monkeypatch):
    config = change(config, max_steps=3)
    four = finetuning.train_and_evaluate(config, tmp_path / "four")
    one_device = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: one_device)
    one = finetuning.train_and_evaluate(config, tmp_path / "one")
    assert (one["devices"]["count"], four["devices"]["count"]) == (1, 4)
    assert one["dev"]["sst5"]["final"]["loss"] == pytest.approx(four["dev"]["sst5"]["final"]["loss"], abs=1e-3)


def test_keys_reach_what_they_are_for(config, sst_folder, tmp_path, monkeypatch, seen):
    write_sts(sst_folder)
    found = seen(finetuning, "train_step")

    def task_schedule(sizes, sampling, num_steps, seed):
        found.update(sampling=sampling, seed=seed)
        return ["sts"] * num_steps

    monkeypatch.setattr(finetuning_data, "task_schedule", task_schedule)
    config = change(
        config,
        task=RunConfig.task,
        tasks=("sst5", "sts"),
        task_weights=(0.5, 2.0),
        sampling="annealed",
        max_steps=10,
        warmup=0.2,
        weight_decay=0.3,
        micro_batches=2,
        remat=True,
        dtype="bfloat16",
        seed=7,
        smart=SmartConfig(preset="bertjax", radius=0.05),
    )
    with pytest.raises(Seen):
        finetuning.train_and_evaluate(config, tmp_path / "run")
    assert [(task.name, task.weight) for task in found["tasks"]] == [("sst5", 0.5), ("sts", 2.0)]
    assert (found["sampling"], found["seed"], found["num_steps"], found["tune"]) == ("annealed", 7, 10, "all")
    # Up for two updates, then down to 0 at the last.
    assert found["rates"] == pytest.approx([0, 0.02, 0.01, 0], abs=1e-6)
    assert (found["weight_decay"], found["micro_batches"]) == (0.3, 2)
    assert (found["model"].remat, found["model"].dtype) == (True, jnp.bfloat16)
    assert found["settings"] == smart.preset("bertjax", radius=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "sst"}, "--config.task: expected one of"),
        ({"data_dir": None}, "--config.data_dir"),
        ({"data_dir": "/nowhere"}, "/nowhere"),
        ({"init_from": "/nowhere"}, "init_from"),
        ({"batch_size": 6}, "--config.batch_size: expected a multiple of 4 (devices: 4"),
        ({"task": "rated_sst"}, "--config.data_dir: rated_sst takes no files of yours"),
        ({"max_length": 64}, "--config.max_length: expected at most the model's 32 positions, found 64"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(config, tmp_path, changes, message):
    with pytest.raises(UserError) as raised:
        finetuning.train_and_evaluate(change(config, **changes), tmp_path / "run")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_operations_of_a_lazy_run_are_those_of_its_updates(config, tmp_path):
    def ratio(**changes):
        changed = change(config, max_steps=1, smart=SmartConfig(preset="bertjax", **changes))
        return finetuning.train_and_evaluate(changed, tmp_path / str(changes))["cost"]["flops_ratio"]

    each, never = ratio(), ratio(weight=0.0)
    assert never < each - 0.5
    # The condition itself counts a little, too.
    assert ratio(every=4) == pytest.approx(never + (each - never) / 4, rel=0.02)


DIVERGING = {"learning_rate": 1e30, "max_steps": 8, "warmup": 0.0, "smart": SmartConfig()}


def test_a_diverging_run_stops_in_one_line_and_keeps_nothing_of_it(config, tmp_path):
    config = change(config, **DIVERGING, max_skipped=2)
    with pytest.raises(UserError, match="training diverged: 3 updates in a row, up to 4, .* rows train") as raised:
        finetuning.train_and_evaluate(config, tmp_path / "run")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run" / "result.json").exists()
    assert not any(path.name.isdigit() for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_what_diverged_by_the_next_evaluation_is_not_kept(config, tmp_path):
    config = change(config, **DIVERGING, checkpoint_every=1, eval_every=1)
    with pytest.raises(UserError, match="training diverged: loss is .* at update 1;"):
        finetuning.train_and_evaluate(config, tmp_path / "run")
    assert not any(path.name.isdigit() for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.parametrize("missing", ["run", "result.json"])
def test_evaluation_wants_a_finished_run(tmp_path, missing):
    if missing == "result.json":
        (tmp_path / "config.json").write_text(json.dumps(RunConfig().to_dict()))
    with pytest.raises(UserError, match="not found; --workdir must be the folder of a"):
        evaluate(tmp_path, "dev")


def test_skipped_rows_are_told_and_kept_in_the_result(config, sst_folder, tmp_path, capsys):
    with (sst_folder / "ids-sst-train.csv").open("a") as file:
        file.write("61\ttrain61\tthe film\t7\n")
    with pytest.raises(UserError, match=r"ids-sst-train.csv:63: .*found '7'.*--config.on_bad_row=skip"):
        finetuning.train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    result = finetuning.train_and_evaluate(
        change(config, on_bad_row="skip", max_steps=1, smart=SmartConfig()), tmp_path / "run"
    )
    (reason,) = result["datasets"]["sst5"]["skipped"]
    assert reason.startswith("ids-sst-train.csv:63: ")
    assert f"skipped: {reason}\n" in capsys.readouterr().err
    assert result["datasets"]["sst5"]["rows"]["train"] == 61


def test_warnings_are_told_first_and_kept_in_the_result(config, sst_folder, tmp_path, capsys):
    text = (sst_folder / "ids-sst-dev.csv").read_text().splitlines()[1].split("\t")[2]
    with (sst_folder / "ids-sst-train.csv").open("a") as file:
        file.write(f"61\ttrain61\t{text}\t2\n")
    idle = SmartConfig(radius=0.1)
    result = finetuning.train_and_evaluate(change(config, max_steps=1, smart=idle), tmp_path / "run")
    err = capsys.readouterr().err
    assert "sst5: --config.max_steps ends the run after 1 of 8 updates\n" in err
    (line,) = result["warnings"]
    assert line.startswith("sst5: 1 of 62 rows of train have texts that are also in dev, the first of them train61; ")
    told = f"warning: --config.smart.radius has no effect: the preset none is plain fine-tuning\nwarning: {line}\n"
    assert err.startswith(told)
