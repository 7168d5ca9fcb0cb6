import copy
import dataclasses
import json

import pytest

from bertjax import smart
from bertjax.config import RunConfig
from bertjax.errors import UserError
from bertjax.smart_config import SmartConfig
from bertjax.study import plan, statistics
from bertjax.study.plan import Trial
from bertjax.tasks import TASKS

RECIPE = {
    "data_dir": "data",
    "base": {"batch_size": 8, "max_length": 16, "epochs": 1, "eval_every": 100},
    "by_task": {"sst5": {"learning_rate": 0.01}},
    "methods": {
        "fine-tune": {},
        "smart": {"smart": {"preset": "bertjax"}},
        "longer": {"epochs": 2},
        "further": {"init_from": "further"},
    },
    "domains": {"sst5": "cfimdb"},
    "pretraining": {"head_epochs": 1},
    "blocks": {
        "main": {"tasks": ["sst5"], "shares": [0.5], "methods": ["fine-tune", "smart"], "seeds": 2},
        "more": {"tasks": ["sst5"], "shares": [0.5, 1.0], "methods": ["fine-tune", "longer"], "seeds": 1},
    },
}


@pytest.fixture
def recipe():
    return copy.deepcopy(RECIPE)


def block(tasks="sst5", method="fine-tune", **others):
    return {"tasks": [tasks], "shares": [1.0], "methods": [method], "seeds": 1} | others


def test_the_plan_goes_block_by_block_and_seed_by_seed_each_cell_once(recipe):
    cells = plan.plan_trials(recipe)
    assert [(cell.method, cell.share, cell.seed) for cell in cells] == [
        ("fine-tune", 0.5, 0),
        ("smart", 0.5, 0),
        ("fine-tune", 0.5, 1),
        ("smart", 0.5, 1),
        ("longer", 0.5, 0),
        ("fine-tune", 1.0, 0),
        ("longer", 1.0, 0),
    ]
    config = cells[3].config
    assert (config.smart.preset, config.train_share, config.seed, config.learning_rate) == ("bertjax", 0.5, 1, 0.01)
    assert (cells[4].config.epochs, cells[5].config.train_share) == (2, 1.0)
    assert len({cell.folder for cell in cells}) == len(cells)


def test_tasks_that_are_joined_are_trained_together(recipe):
    recipe["blocks"] = {"both": block("sst5+sts")}
    (cell,) = plan.plan_trials(recipe)
    assert cell.config.tasks == ("sst5", "sts")
    assert cell.key == ("sst5+sts", "fine-tune", 1.0, 0)


def test_a_file_of_ones_own_is_a_task(recipe):
    columns = {"text": "review", "label": "stars", "classes": ("bad", "good")}
    recipe["base"] |= {"data_file": "reviews.tsv", "columns": columns}
    recipe["domains"] = {"data_file": "data_file"}
    recipe["blocks"] = {"own": block("data_file", "further")}
    (cell,) = plan.plan_trials(recipe)
    assert cell.key == ("data_file", "further", 1.0, 0)
    assert (cell.config.data_file, cell.config.columns.classes) == ("reviews.tsv", ("bad", "good"))
    assert cell.further.texts.data_file == "reviews.tsv"


def test_each_task_has_its_own_data(recipe):
    columns = {"text": "review", "label": "stars", "classes": ("bad", "good")}
    recipe["base"] |= {"data_file": "reviews.tsv", "dev_file": "dev.tsv", "columns": columns}
    recipe["domains"] = {"data_file": "cfimdb", "sst5": "data_file"}
    recipe["blocks"] = {"1": block("data_file", "further"), "2": block("sst5", "further"), "3": block("rated_sst")}
    own, course, starter = plan.plan_trials(recipe)
    assert (own.config.data_file, own.config.data_dir) == ("reviews.tsv", None)
    assert (own.further.texts.data_file, own.further.texts.task, own.further.texts.data_dir) == (None, "cfimdb", "data")
    assert (course.config.data_file, course.config.dev_file, course.config.data_dir) == (None, None, "data")
    assert course.config.columns.classes is None
    assert course.further.texts.data_file == "reviews.tsv"
    assert (starter.config.task, starter.config.data_dir) == ("rated_sst", None)


def test_further_pretraining_is_on_all_of_the_domain(recipe):
    recipe["blocks"] = {"further": block(method="further", shares=[0.1])}
    (cell,) = plan.plan_trials(recipe)
    assert cell.config.train_share == 0.1
    assert (cell.further.domain, cell.further.texts.task, cell.further.texts.train_share) == ("cfimdb", "cfimdb", 1.0)
    assert cell.further.config.head_epochs == 1


def test_the_last_change_holds(recipe):
    recipe["blocks"] = {
        "1": block(changes={"learning_rate": 0.02, "epochs": 3}),
        "2": block(method="longer", changes={"epochs": 3}),
    }
    changed, longer = (cell.config for cell in plan.plan_trials(recipe))
    assert (changed.learning_rate, changed.epochs) == (0.02, 3)
    assert (longer.learning_rate, longer.epochs) == (0.01, 2)


def test_settings_are_what_is_not_the_default(recipe):
    recipe["blocks"] = {"1": block(method="smart"), "2": block(method="further")}
    smart, further = (cell.settings for cell in plan.plan_trials(recipe))
    shared = {"batch_size": 8, "max_length": 16, "epochs": 1, "eval_every": 100, "learning_rate": 0.01}
    assert smart == shared | {"smart": {"preset": "bertjax"}}
    assert further == shared | {"init_from": "further", "further": {"domain": "cfimdb", "head_epochs": 1}}
    assert json.loads(json.dumps(further)) == further


def without(name):
    return lambda recipe: recipe.pop(name)


def with_block(**others):
    return lambda recipe: recipe["blocks"].update(main=block(**others))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (without("blocks"), "--config: expected a study's, as in configs/study.py, with blocks; found none"),
        (lambda r: r.update(by_tsak={}), "--config.by_tsak: no such key; did you mean 'by_task'?"),
        (lambda r: r["by_task"].update(sts5={}), "--config.by_task: no task 'sts5'; did you mean 'sts'?"),
        (lambda r: r["blocks"].update(main=3), "--config.blocks.main: expected keys and values, found 3"),
        (
            lambda r: r["blocks"]["main"].pop("seeds"),
            "--config.blocks.main: expected a study's, .* seeds; found none",
        ),
        (with_block(sede=1), "--config.blocks.main.sede: no such key; did you mean 'seeds'?"),
        (
            with_block(tasks="data_file"),
            "'data_file' is a file of your own; expected config.base to name one",
        ),
        (with_block(shares=(0.1)), "--config.blocks.main.shares: expected several, as .*, found 0.1"),
        (with_block(methods="smart"), "--config.blocks.main.methods: expected several, as .*, found 'smart'"),
        (with_block(tasks=[1]), "--config.blocks.main.tasks: expected several"),
        (with_block(seeds=0), "--config.blocks.main.seeds: expected how many, from 1, found 0"),
        (with_block(seeds=(0, 1)), "--config.blocks.main.seeds: expected how many, from 1, found \\(0, 1\\)"),
        (with_block(changes=None), "--config.blocks.main.changes: expected keys and values, found None"),
        (with_block(changes={"seed": 1}), "--config.blocks.main.changes.seed: expected blocks to say what varies"),
        (with_block(method="../x"), "--config.blocks.main.methods: expected letters, digits, .*, found '../x'"),
        (lambda r: r.update(blocks=[1]), "--config.blocks: expected keys and values"),
        (lambda r: r.update(base=None), "--config.base: expected keys and values, found None"),
        (lambda r: r["methods"].update(smart=None), "--config.methods.smart: expected keys and values, found None"),
        (
            lambda r: r["base"].update(data_dir="x"),
            "--config.base.data_dir: expected .* or --config.data_dir; leave",
        ),
        (with_block(method="smrat"), "--config.blocks.main: no method 'smrat'; did you mean 'smart'?"),
        (with_block(tasks="sts5"), "--config.blocks.main: no task 'sts5'; did you mean 'sts'?"),
        (with_block(tasks="sst5+data_file"), "--config.blocks.main: no task 'data_file'"),
        (with_block(tasks="sts", method="further"), "expected config.domains to name a task .* for sts, found None"),
        (with_block(changes={"epohcs": 1}), "--config.epohcs: no such key; did you mean 'epochs'?"),
        (
            lambda r: r["blocks"].update(other=block(shares=[0.5], changes={"epochs": 9})),
            "--config.blocks.other: sst5 fine-tune 0.5 0 has other settings in an earlier block; give the method",
        ),
        (lambda r: r["by_task"].update(sst5={"smrat": {"weight": 1.0}}), "--config.smrat: no such key; did you mean"),
        (lambda r: r["methods"]["smart"]["smart"].update(raduis=1.0), "raduis: no such key; did you mean 'radius'?"),
    ],
)
def test_mistakes_in_a_recipe_are_told(recipe, break_it, message):
    break_it(recipe)
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        plan.plan_trials(recipe)


def test_one_folder_for_two_methods_is_told(recipe):
    recipe["methods"] |= {"a b": {}, "a_b": {}}
    recipe["blocks"] = {"1": block(methods=["a b", "a_b"])}
    with pytest.raises(UserError, match="'a_b' and 'a b' have one folder, runs/sst5/a_b/1/0-[0-9a-f]{8}; rename one"):
        plan.plan_trials(recipe)


def test_a_task_whose_metric_cannot_be_compared_is_told(recipe, monkeypatch):
    task = dataclasses.replace(plan.TASKS["sst5"], main_metric="macro_f1")
    monkeypatch.setattr(plan, "TASKS", plan.TASKS | {"sst5": task})
    with pytest.raises(UserError, match="sst5 is judged by macro_f1; expected .* one of accuracy, pearson, matthews"):
        plan.plan_trials(recipe)


def test_every_task_can_be_compared():
    assert {task.main_metric for task in TASKS.values()} <= statistics.SCORES.keys()


def test_a_cell_of_another_meaning_has_a_folder_of_its_own(monkeypatch):
    """Else a run that was made when a preset meant something else would be taken for one of today's."""
    cell = Trial(("sst5",), "smart", 0.1, 0, RunConfig(smart=SmartConfig(preset="bertjax")))
    before = cell.folder
    assert str(before).startswith("runs/sst5/smart/0.1/0-")
    monkeypatch.setitem(smart.PRESETS, "bertjax", dataclasses.replace(smart.PRESETS["bertjax"], radius=0.5))
    assert cell.folder != before
    assert cell.resolved["smart"]["radius"] == 0.5


def test_what_nothing_reads_has_no_meaning():
    def resolved(**changes):
        return Trial(("sst5",), "a", 1.0, 0, RunConfig(smart=SmartConfig(**changes))).resolved

    assert resolved() == {}
    assert resolved(preset="vat") == resolved(preset="vat", decay=(0.5,))
    assert resolved(preset="bertjax", weight=0.0) == resolved(preset="bertjax", weight=0.0, radius=0.5)
    assert resolved(preset="bertjax") != resolved(preset="bertjax", radius=0.5)
