"""The inputs of a run, from its config."""

import dataclasses
import json
import shutil

import jax.numpy as jnp
import pytest

from bertjax.config import RunConfig
from bertjax.data.pipeline import load_inputs
from bertjax.data.problems import BadData
from bertjax.errors import UserError


@pytest.fixture
def config(sst_folder):
    return RunConfig(task="sst5", data_dir=str(sst_folder), max_length=16, dtype="bfloat16")


def test_inputs_fit_together(config, tiny_checkpoint):
    inputs = load_inputs(config, tiny_checkpoint, ("train", "dev"))
    data = inputs.data["sst5"]
    assert {split: len(examples) for split, examples in data.examples.items()} == {"train": 61, "dev": 23}
    assert inputs.model.heads == {"sst5": 5}
    assert inputs.model.dtype == jnp.bfloat16
    assert inputs.model.param_dtype == jnp.float32
    longest = max(examples.lengths.max() for examples in data.examples.values())
    assert longest == 16
    assert data.bucket_boundaries == (8, 16)


def test_a_share_of_the_training_examples(config, tiny_checkpoint):
    examples = [
        load_inputs(dataclasses.replace(config, train_share=0.1, seed=seed), tiny_checkpoint, ("train", "dev"))
        .data["sst5"]
        .examples
        for seed in range(2)
    ]
    assert [len(part["train"]) for part in examples] == [6, 6]
    assert [len(part["dev"]) for part in examples] == [23, 23]
    assert examples[0]["train"].ids != examples[1]["train"].ids


def test_no_boundary_exceeds_the_models_positions(config, tiny_checkpoint, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    architecture = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 14}
    (folder / "config.json").write_text(json.dumps(architecture))
    inputs = load_inputs(dataclasses.replace(config, max_length=14), folder, ("train",))
    assert inputs.data["sst5"].bucket_boundaries == (8, 14)


def test_a_vocabulary_that_does_not_fit_is_refused(config, tiny_checkpoint, tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text((tiny_checkpoint / "config.json").read_text())
    (folder / "vocab.txt").write_text((tiny_checkpoint / "vocab.txt").read_text() + "more\n")
    with pytest.raises(UserError, match="expected a vocabulary of at most 40 entries"):
        load_inputs(config, folder, ("dev",))


def test_pairs_need_room_for_two_texts(config, tiny_checkpoint, tmp_path):
    for split in ("train", "dev"):
        rows = "0\tp\tone\ttwo\t2.5\n1\tq\tthree\tfour\t5\n"
        (tmp_path / f"sts-{split}.csv").write_text(f"\tid\tsentence1\tsentence2\tsimilarity\n{rows}")
    config = dataclasses.replace(config, task="sts", data_dir=str(tmp_path), max_length=4)
    with pytest.raises(UserError, match="--config.max_length: expected at least 5 tokens for pairs, found 4"):
        load_inputs(config, tiny_checkpoint, ("train",))


def test_data_of_all_tasks_are_checked(config, tiny_checkpoint, sst_folder):
    with (sst_folder / "ids-sst-train.csv").open("a") as file:
        file.write("61\ttrain61\tthe film\t7\n")
    for split in ("train", "dev"):
        (sst_folder / f"sts-{split}.csv").write_text("\tid\tsentence1\tsentence2\tsimilarity\n0\tp\tone\ttwo\t5.5\n")
    config = dataclasses.replace(config, task=RunConfig.task, tasks=("sst5", "quora", "sts"))
    with pytest.raises(BadData) as raised:
        load_inputs(config, tiny_checkpoint, ("train",))
    assert [(problem.file.rpartition("/")[2], problem.line) for problem in raised.value.problems] == [
        ("ids-sst-train.csv", 63),
        ("--config.data_dir", None),
        ("sts-train.csv", 2),
        ("sts-dev.csv", 2),
    ]


def test_skipped_rows_are_shown_and_counted(config, tiny_checkpoint, sst_folder, capsys):
    with (sst_folder / "ids-sst-train.csv").open("a") as file:
        file.writelines(f"{i}\ttrain{i}\tthe film\t7\n" for i in range(61, 121))
    load_inputs(dataclasses.replace(config, on_bad_row="skip"), tiny_checkpoint, ("train",))
    *rows, last = capsys.readouterr().err.splitlines()
    assert len(rows) == 50
    assert all(row.startswith(f"skipped: ids-sst-train.csv:{line}: ") for line, row in enumerate(rows, 63))
    assert last.startswith("skipped: 60 ")
    assert "sst5" in last


@pytest.mark.parametrize("task", ["rated_sst", "sst2"])
def test_a_folder_for_a_task_without_files_is_refused(config, tiny_checkpoint, task):
    with pytest.raises(UserError, match=f"--config.data_dir: {task} takes no files of yours"):
        load_inputs(dataclasses.replace(config, task=task), tiny_checkpoint, ("train",))
