import copy
import dataclasses
import json

import pytest

from bertjax import smart
from bertjax.config import RunConfig
from bertjax.config.smart import SmartConfig
from bertjax.errors import UserError
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


def test_the_plan_has_each_trial_once_block_by_block_and_seed_by_seed(recipe):
    trials = plan.plan_trials(recipe)
    assert [(trial.method, trial.share, trial.seed) for trial in trials] == [
        ("fine-tune", 0.5, 0),
        ("smart", 0.5, 0),
        ("fine-tune", 0.5, 1),
        ("smart", 0.5, 1),
        ("longer", 0.5, 0),
        ("fine-tune", 1.0, 0),
        ("longer", 1.0, 0),
    ]
    config = trials[3].config
    assert (config.smart.preset, config.train_share, config.seed, config.learning_rate) == ("bertjax", 0.5, 1, 0.01)
    assert (trials[4].config.epochs, trials[5].config.train_share) == (2, 1.0)
    assert len({trial.folder for trial in trials}) == len(trials)


def test_joined_tasks_are_trained_together(recipe):
    recipe["blocks"] = {"both": block("sst5+sts")}
    (trial,) = plan.plan_trials(recipe)
    assert trial.config.tasks == ("sst5", "sts")
    assert trial.key == ("sst5+sts", "fine-tune", 1.0, 0)


def test_your_own_file_is_a_task(recipe):
    columns = {"text": "review", "label": "stars", "classes": ("bad", "good")}
    recipe["base"] |= {"data_file": "reviews.tsv", "columns": columns}
    recipe["domains"] = {"data_file": "data_file"}
    recipe["blocks"] = {"own": block("data_file", "further")}
    (trial,) = plan.plan_trials(recipe)
    assert trial.key == ("data_file", "further", 1.0, 0)
    assert (trial.config.data_file, trial.config.columns.classes) == ("reviews.tsv", ("bad", "good"))
    assert trial.further.texts.data_file == "reviews.tsv"


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
    (trial,) = plan.plan_trials(recipe)
    assert trial.config.train_share == 0.1
    assert (trial.further.domain, trial.further.texts.task, trial.further.texts.train_share) == (
        "cfimdb",
        "cfimdb",
        1.0,
    )
    assert trial.further.config.head_epochs == 1


def test_the_last_change_holds(recipe):
    recipe["blocks"] = {
        "1": block(changes={"learning_rate": 0.02, "epochs": 3}),
        "2": block(method="longer", changes={"epochs": 3}),
    }
    changed, longer = (trial.config for trial in plan.plan_trials(recipe))
    assert (changed.learning_rate, changed.epochs) == (0.02, 3)
    assert (longer.learning_rate, longer.epochs) == (0.01, 2)


def test_settings_are_those_that_differ_from_the_defaults(recipe):
    recipe["blocks"] = {"1": block(method="smart"), "2": block(method="further")}
    smart, further = (trial.settings for trial in plan.plan_trials(recipe))
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
        (without("blocks"), "--config: expected the key blocks,"),
        (lambda r: r.update(by_tsak={}), "--config.by_tsak: no such key; did you mean 'by_task'?"),
        (lambda r: r["by_task"].update(sts5={}), "--config.by_task: no task 'sts5'; did you mean 'sts'?"),
        (lambda r: r["blocks"].update(main=3), "--config.blocks.main: expected keys and values, found 3"),
        (
            lambda r: r["blocks"]["main"].pop("seeds"),
            "--config.blocks.main: expected the key seeds,",
        ),
        (with_block(sede=1), "--config.blocks.main.sede: no such key; did you mean 'seeds'?"),
        (
            with_block(tasks="data_file"),
            "--config.blocks.main: 'data_file' .* --config.base.data_file, found none",
        ),
        (with_block(shares=(0.1)), "--config.blocks.main.shares: expected a tuple, .*, found 0.1"),
        (with_block(methods="smart"), "--config.blocks.main.methods: expected a tuple, .*, found 'smart'"),
        (with_block(tasks=[1]), "--config.blocks.main.tasks: expected a tuple, .*, found .*1"),
        (with_block(seeds=0), "--config.blocks.main.seeds: .* found 0"),
        (with_block(seeds=(0, 1)), "--config.blocks.main.seeds: .* found \\(0, 1\\)"),
        (with_block(changes=None), "--config.blocks.main.changes: expected keys and values, found None"),
        (with_block(changes={"seed": 1}), "--config.blocks.main.changes.seed: .* leave it out"),
        (with_block(method="../x"), "--config.blocks.main.methods: expected letters, digits, .*, found '../x'"),
        (lambda r: r.update(blocks=[1]), "--config.blocks: expected keys and values"),
        (lambda r: r.update(base=None), "--config.base: expected keys and values, found None"),
        (lambda r: r["methods"].update(smart=None), "--config.methods.smart: expected keys and values, found None"),
        (
            lambda r: r["base"].update(data_dir="x"),
            "--config.base.data_dir: .* --config.data_dir .* leave it out",
        ),
        (with_block(method="smrat"), "--config.blocks.main: no method 'smrat'; did you mean 'smart'?"),
        (with_block(tasks="sts5"), "--config.blocks.main: no task 'sts5'; did you mean 'sts'?"),
        (with_block(tasks="sst5+data_file"), "--config.blocks.main: no task 'data_file'"),
        (with_block(tasks="sts", method="further"), "config.domains .* for sts, found None"),
        (with_block(changes={"epohcs": 1}), "--config.epohcs: no such key; did you mean 'epochs'?"),
        (
            lambda r: r["blocks"].update(other=block(shares=[0.5], changes={"epochs": 9})),
            "--config.blocks.other: sst5 fine-tune 0.5 0 has different settings in an earlier block;",
        ),
        (lambda r: r["by_task"].update(sst5={"smrat": {"weight": 1.0}}), "--config.smrat: no such key; did you mean"),
        (lambda r: r["methods"]["smart"]["smart"].update(raduis=1.0), "raduis: no such key; did you mean 'radius'?"),
    ],
)
def test_mistakes_in_a_recipe_are_refused(recipe, break_it, message):
    break_it(recipe)
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        plan.plan_trials(recipe)


def test_one_folder_for_two_methods_is_refused(recipe):
    recipe["methods"] |= {"a b": {}, "a_b": {}}
    recipe["blocks"] = {"1": block(methods=["a b", "a_b"])}
    with pytest.raises(UserError, match="'a_b' and 'a b' share .* runs/sst5/a_b/1/0-[0-9a-f]{8};"):
        plan.plan_trials(recipe)


def test_a_metric_that_cannot_be_compared_is_refused(recipe, monkeypatch):
    task = dataclasses.replace(plan.TASKS["sst5"], main_metric="macro_f1")
    monkeypatch.setattr(plan, "TASKS", plan.TASKS | {"sst5": task})
    with pytest.raises(UserError, match="sst5 .* macro_f1; expected one of accuracy, pearson, matthews"):
        plan.plan_trials(recipe)


def test_every_task_can_be_compared():
    assert {task.main_metric for task in TASKS.values()} <= statistics.SCORES.keys()


def test_another_meaning_has_another_folder(monkeypatch):
    """Otherwise a run from when a preset had other values would be reused."""
    trial = Trial(("sst5",), "smart", 0.1, 0, RunConfig(smart=SmartConfig(preset="bertjax")))
    before = trial.folder
    assert str(before).startswith("runs/sst5/smart/0.1/0-")
    monkeypatch.setitem(smart.PRESETS, "bertjax", smart.preset("bertjax", radius=0.5))
    assert trial.folder != before
    assert trial.resolved["smart"]["radius"] == 0.5


def test_resolved_leaves_out_what_nothing_reads():
    def resolved(**changes):
        return Trial(("sst5",), "a", 1.0, 0, RunConfig(smart=SmartConfig(**changes))).resolved

    assert resolved() == {}
    assert resolved(preset="vat") == resolved(preset="vat", decay=(0.5,))
    assert resolved(preset="bertjax", weight=0.0) == resolved(preset="bertjax", weight=0.0, radius=0.5)
    assert resolved(preset="bertjax") != resolved(preset="bertjax", radius=0.5)
