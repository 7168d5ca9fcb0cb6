"""Evaluation by parts; test_loop.py evaluates a whole run."""

import json
import shutil
from functools import partial

import jax
import numpy as np
import pytest

from bertjax import loop
from bertjax.config import RunConfig
from bertjax.errors import UserError
from bertjax.evaluation import Predictor, evaluate
from bertjax.inputs import load_inputs
from bertjax.model import init_params
from bertjax.parallel import DataParallel
from bertjax.step import eval_step


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


@pytest.fixture
def run(config, tmp_path):
    loop.train_and_evaluate(config, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("devices", [1, 4])
def test_every_example_is_predicted_in_its_place(config, devices):
    inputs = load_inputs(config, config.init_from, ("dev",))
    params, data = init_params(jax.random.key(0), inputs.model), inputs.data["sst5"]
    dev = data.examples["dev"]
    step = partial(eval_step, model=inputs.model, task=data.task)
    parallel = DataParallel(jax.devices()[:devices])
    predictor = Predictor(step, parallel, pad_id=0)
    found = predictor.predict(parallel.replicate(params), dev, batch_size=8, edges=data.edges)
    one_by_one = jax.jit(partial(step, params))
    for i in (0, 1, 11, 22):
        example = {"input_ids": dev.input_ids[i], "token_type_ids": dev.token_type_ids[i]}
        logits = one_by_one(example | {"attention_mask": np.ones(len(dev.input_ids[i]), bool)})
        np.testing.assert_allclose(found[i], logits, atol=1e-5)
    assert found.shape == (23, 5)
    assert found.dtype == np.float32


def test_changed_data_are_told(run, sst_folder, capsys):
    evaluate(run, "dev")
    assert "warning" not in capsys.readouterr().err
    shutil.copy(sst_folder / "ids-sst-dev.csv", sst_folder / "ids-sst-test.csv")
    summary = evaluate(run, "test")
    assert "warning: the data of sst5 are not those of the run" in capsys.readouterr().err
    assert summary == json.loads((run / "eval-test.json").read_text())
    assert summary["metrics"] == json.loads((run / "eval-dev.json").read_text())["metrics"]


def test_a_split_that_is_not_there_is_one_line(run):
    with pytest.raises(UserError, match="--split: sst5 has train, dev, found 'test'"):
        evaluate(run, "test")
    shutil.rmtree(run / "encoder")
    with pytest.raises(UserError, match="encoder: expected the run's architecture and vocabulary"):
        evaluate(run, "dev")


def test_a_lost_checkpoint_is_one_line(run):
    shutil.rmtree(run / "checkpoints" / "1")
    with pytest.raises(UserError, match="this checkpoint cannot be read"):
        evaluate(run, "dev")
