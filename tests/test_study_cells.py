import copy
import json

import numpy as np
import pytest

from bertjax import study_cells as study
from bertjax.errors import UserError


@pytest.fixture
def recipe(tiny_checkpoint, sst_folder):
    return {
        "data_dir": str(sst_folder),
        "base": {"init_from": str(tiny_checkpoint), "batch_size": 8, "max_length": 16, "epochs": 1, "eval_every": 100},
        "by_task": {"sst5": {"learning_rate": 0.01}},
        "methods": {"fine-tune": {}, "smart": {"smart": {"preset": "bertjax"}}, "longer": {"epochs": 2}},
        "domains": {"sst5": "sst5"},
        "pretraining": {},
        "blocks": {
            "main": {"tasks": ["sst5"], "shares": [0.5], "methods": ["fine-tune", "smart"], "seeds": 2},
            "more": {"tasks": ["sst5"], "shares": [0.5, 1.0], "methods": ["fine-tune", "longer"], "seeds": 1},
        },
    }


def test_the_plan_goes_block_by_block_and_seed_by_seed_each_cell_once(recipe):
    cells = study.plan(recipe)
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
    recipe["blocks"] = {"both": {"tasks": ["sst5+sts"], "shares": [1.0], "methods": ["fine-tune"], "seeds": 1}}
    (cell,) = study.plan(recipe)
    assert cell.config.tasks == ("sst5", "sts")
    assert cell.key == ("sst5+sts", "fine-tune", 1.0, 0)


def test_mistakes_in_a_recipe_are_told(recipe):
    wrong = copy.deepcopy(recipe)
    wrong["blocks"]["main"]["methods"] = ["smrat"]
    with pytest.raises(UserError, match="--config.blocks.main: no method 'smrat'; did you mean 'smart'?"):
        study.plan(wrong)
    wrong = copy.deepcopy(recipe)
    wrong["by_task"]["sst5"] = {"smrat": {"weight": 1.0}}
    with pytest.raises(UserError, match="--config.smrat: no such key; did you mean 'smart'?"):
        study.plan(wrong)
    recipe["methods"]["smart"]["smart"]["raduis"] = 1.0
    with pytest.raises(UserError, match="raduis: no such key; did you mean 'radius'?"):
        study.plan(recipe)


@pytest.mark.slow
def test_a_study_goes_on_where_it_was_cut_off(recipe, tmp_path):
    root = tmp_path / "study"
    cells = study.plan(recipe)
    running = study.run_study(recipe, root, 1)
    first, line = next(running)
    running.close()  # as a cut would: the pool is gone
    assert first == cells[0]
    assert study.read_cells(root)[0] == line
    rest = [cell for cell, _ in study.run_study(recipe, root, 1)]
    lines = study.read_cells(root)
    assert [study.key_of(line) for line in lines] == [cell.key for cell in cells]
    assert cells[0] not in rest
    dev = lines[1]["dev"]["sst5"]
    assert dev["metric"] == "accuracy"
    assert dev["score"] == dev["accuracy"]
    assert len(dev["predicted"]) == len(dev["labels"]) == 23
    assert dev["score"] == pytest.approx(np.mean(np.equal(dev["predicted"], dev["labels"])), abs=1e-6)
    result = json.loads((root / cells[1].folder / "result.json").read_text())
    assert result["datasets"]["sst5"]["rows"] == {"train": 30, "dev": 23}
    assert dev["score"] == pytest.approx(result["dev"]["sst5"]["final"]["accuracy"], abs=1e-6)
    assert list(study.run_study(recipe, root, 1)) == []
