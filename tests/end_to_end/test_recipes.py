"""Every recipe, shrunken, to its end; a task of one's own; a file of one's own."""

import json
import random

import jax
import numpy as np
import pytest
from helpers import FILLER, ROOT, WORDS, recipe

from bertjax.config import read_config
from bertjax.data.sources import SOURCES, CourseFiles
from bertjax.errors import UserError
from bertjax.files import assets
from bertjax.pretrained.convert import convert
from bertjax.pretrained.export import export
from bertjax.tasks import TASKS, classification_task
from bertjax.training import finetuning

RECIPES = [
    ("sst", None),
    ("sst_smart", None),
    *(("gold", variant) for variant in ("sst5", "quora", "sts", "sst5-head", "cfimdb-head-paper")),
]
# The same code on other data, or with another adversary.
SLOW = [
    ("sst_smart", "base"),
    ("sst_smart", "paper"),
    ("mtl_smart", None),
    *(("gold", variant) for variant in ("cfimdb", "sts-head", "sst5-paper")),
]
COURSE = {  # by prefix: text columns, label column, labels
    "ids-sst": (["sentence"], "sentiment", "01234"),
    "ids-cfimdb": (["sentence"], "sentiment", "01"),
    "quora": (["sentence1", "sentence2"], "is_duplicate", ["0.0", "1.0"]),
    "sts": (["sentence1", "sentence2"], "similarity", ["0", "1.25", "5"]),
}
RATED = ("movieReview", "nytEditorial", "amazonReview", "tweets")


def sentence(rng, mood):
    words = rng.choices(FILLER, k=rng.randint(1, 4))
    return " ".join([*words, rng.choice(WORDS[mood].split())])


@pytest.fixture
def data(tmp_path, tiny_checkpoint, monkeypatch):
    """Stands in for the starter assets and for a folder of the course's files; one device, which compiles faster."""
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: one)
    monkeypatch.setenv("BERTJAX_CACHE", str(tmp_path / "cache"))
    rng, starter, folder = random.Random(0), tmp_path / "starter", tmp_path / "gold"
    starter.mkdir()
    folder.mkdir()
    for name in RATED:
        lines = [f"{i}\t{i % 9 - 4}\t{sentence(rng, i % 5)}" for i in range(1, 61)]
        end = "_GroundTruth.txt" if name == "tweets" else "Snippets_GroundTruth.txt"
        (starter / f"{name}{end}").write_text("\n".join(lines))
    for prefix, (texts, label, labels) in COURSE.items():
        for split, rows in (("train", 24), ("dev", 16)):
            lines = ["\t".join(["", "id", *texts, label])]
            for i in range(rows):
                lines.append(
                    "\t".join([str(i), f"r{i}", *(sentence(rng, i % 5) for _ in texts), labels[i % len(labels)]])
                )
            (folder / f"{prefix}-{split}.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(assets, "fetch_asset", lambda name: {"minilm-l6": tiny_checkpoint, "hutto-2014": starter}[name])
    return folder


def shrunken(config, data, tiny_checkpoint):
    config.init_from = str(tiny_checkpoint)
    config.batch_size, config.max_length = 8, 8
    config.max_steps = 2 * len(config.tasks or [1])
    if set(config.tasks or [config.task]) & {"sst5", "cfimdb", "quora", "sts"}:
        config.data_dir = str(data)
    return config


@pytest.mark.parametrize(
    ("name", "variant"),
    [*RECIPES, *(pytest.param(*recipe, marks=pytest.mark.slow) for recipe in SLOW)],
    ids=lambda value: value or "",
)
def test_a_shrunken_recipe_runs_to_its_end(name, variant, data, tiny_checkpoint, tmp_path):
    config = shrunken(recipe(name, variant), data, tiny_checkpoint)
    result = finetuning.train_and_evaluate(config, tmp_path / "run")
    tasks = config.tasks or (config.task,)
    assert list(result["datasets"]) == list(tasks)
    for task in tasks:
        final = result["dev"][task]["final"]
        assert all(np.isfinite(value) for value in final.values())
        assert TASKS[task].main_metric in final
    if len(tasks) > 1:
        mains = [result["dev"][task]["final"][TASKS[task].main_metric] for task in tasks]
        assert result["dev"]["mean"]["final"]["score"] == pytest.approx(sum(mains) / len(mains))
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result


def test_every_recipe_is_here():
    assert {path.stem for path in (ROOT / "configs").glob("*.py")} == {
        *(name for name, _ in RECIPES + SLOW),
        "glue",  # in test_glue_recipes.py
        "own",  # in test_classes_of_a_file_of_ones_own
        "pretrain_editorials",  # in test_pretrain_loop.py
        "study",  # in test_study_cells.py
    }


def test_bad_rows_are_skipped_only_where_there_are_known_ones():
    assert {task: recipe("gold", task).on_bad_row for task in ("sst5", "cfimdb", "quora", "sts")} == {
        "sst5": "error",
        "cfimdb": "error",
        "quora": "skip",
        "sts": "error",
    }


@pytest.mark.parametrize("name", ["sst_smart", "mtl_smart", "gold"])
def test_an_unknown_variant_names_the_known(name):
    with pytest.raises(ValueError, match=rf"configs/{name}.py: expected .*found 'x'"):
        recipe(name, "x")


@pytest.mark.slow
def test_surgery_to_the_end(data, tiny_checkpoint, tmp_path):
    config = recipe("mtl_smart")
    config.tasks = config.tasks[:2]
    config = shrunken(config, data, tiny_checkpoint)
    config.pcgrad, config.max_steps = True, 2
    result = finetuning.train_and_evaluate(config, tmp_path / "run")
    assert result["steps"] == 2
    assert result["cost"]["compiled_shapes"] == 1
    assert 2 < result["cost"]["flops_ratio"] < 4


def test_a_task_is_one_entry_and_one_source(data, tiny_checkpoint, tmp_path, monkeypatch):
    for split in ("train", "dev"):
        (data / f"spam-{split}.csv").write_text((data / f"ids-cfimdb-{split}.csv").read_text())
    monkeypatch.setitem(TASKS, "spam", classification_task("spam", ("sentence",), "sentiment", ("ham", "spam")))
    monkeypatch.setitem(SOURCES, "spam", CourseFiles("spam", "by hand"))
    config = shrunken(recipe("gold"), data, tiny_checkpoint)
    config.task, config.data_dir = "spam", str(data)
    result = finetuning.train_and_evaluate(config, tmp_path / "run")
    assert result["datasets"]["spam"]["label_names"] == ["ham", "spam"]
    assert result["datasets"]["spam"]["labels"] == "by hand"


def own(tiny_checkpoint, path, **changes):
    columns = {"text": "review", "label": "stars", **changes.pop("columns", {})}
    small = {"batch_size": 8, "max_length": 8, "max_steps": 2}
    return read_config(
        {"data_file": str(path), "init_from": str(tiny_checkpoint), "columns": columns, **small, **changes}
    )


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.setenv("BERTJAX_CACHE", str(tmp_path / "cache"))
    rng, path = random.Random(0), tmp_path / "my.tsv"
    lines = [f"{('bad', 'good')[i % 2]}\t{sentence(rng, i % 5)} {FILLER[i % 12]}\t{i % 6}" for i in range(80)]
    path.write_text("\n".join(["stars\treview\tscore", *lines]))
    return path


def test_classes_of_a_file_of_ones_own(table, tiny_checkpoint, tmp_path):
    config = recipe("own")
    config.columns.update(text="review", label="stars", classes=("bad", "good"))
    config.data_file, config.init_from = str(table), str(tiny_checkpoint)
    config.batch_size, config.max_length, config.max_steps = 8, 8, 2
    result = finetuning.train_and_evaluate(config, tmp_path / "run")
    assert result["datasets"]["data_file"]["label_names"] == ["bad", "good"]
    assert sum(result["datasets"]["data_file"]["rows"].values()) == 80
    assert "accuracy" in result["dev"]["data_file"]["final"]


@pytest.mark.slow
def test_a_head_of_other_classes_does_not_go_on(table, tiny_checkpoint, tmp_path, capsys):
    first = own(tiny_checkpoint, table, columns={"classes": ["bad", "good"]})
    finetuning.train_and_evaluate(first, tmp_path / "first")
    export(tmp_path / "first", tmp_path / "exported")
    convert(tmp_path / "first", tmp_path / "converted")
    for source in ("first", "exported", "converted"):
        for classes, is_told in ((["bad", "good"], False), (["good", "bad"], True)):
            capsys.readouterr()
            config = own(tmp_path / source, table, columns={"classes": classes})
            finetuning.train_and_evaluate(config, tmp_path / f"{source}-{classes[0]}")
            told = "data_file: a new head: the checkpoint's is for ['bad', 'good']\n"
            assert (told in capsys.readouterr().err) == is_told


def test_scores_and_a_file_for_dev(table, tiny_checkpoint, tmp_path):
    dev = tmp_path / "dev.tsv"
    dev.write_text("\n".join(table.read_text().splitlines()[:21]))
    config = own(tiny_checkpoint, table, dev_file=str(dev), columns={"label": "score", "range": [0, 5]})
    result = finetuning.train_and_evaluate(config, tmp_path / "run")
    assert result["datasets"]["data_file"]["rows"] == {"train": 80, "dev": 20}
    assert "pearson" in result["dev"]["data_file"]["final"]


def test_a_file_too_small_to_split(table, tiny_checkpoint, tmp_path):
    table.write_text("\n".join(table.read_text().splitlines()[:2]))
    config = own(tiny_checkpoint, table, columns={"classes": ["bad", "good"]})
    with pytest.raises(UserError, match=r"my\.tsv: .*found 1\b.*--config\.dev_file"):
        finetuning.train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_one_task_after_several(data, tiny_checkpoint, tmp_path):
    config = shrunken(recipe("mtl_smart", "gold"), data, tiny_checkpoint)
    config.smart.preset = "none"  # a third of the time, and the starter's variant has it
    several = finetuning.train_and_evaluate(config, tmp_path / "several")
    assert list(several["dev"]) == ["sst5", "quora", "sts", "mean"]
    config = shrunken(recipe("gold", "sts"), data, tiny_checkpoint)
    config.init_from = str(tmp_path / "several")
    result = finetuning.train_and_evaluate(config, tmp_path / "one")
    names = [entry.get("trained_on") for entry in result["lineage"]]
    assert names == [None, "sst5", "quora", "sts", "sts"]
