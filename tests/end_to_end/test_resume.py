"""Every kind of run, cut at every kind of moment, comes to the same end bit for bit; also on other devices, nearly."""

import json
import os
import signal

import jax
import numpy as np
import pytest
from family_checkpoints import write_checkpoint

from bertjax.config import PretrainConfig, RunConfig
from bertjax.config.smart import SmartConfig
from bertjax.signals import Interrupted
from bertjax.training import finetuning, train_loop
from bertjax.training.pretraining import pretrain
from tools.soak import final_state

KINDS = {
    "smart, lazily": {"task": "sst5", "smart": SmartConfig(preset="bertjax", every=2)},
    "several tasks, annealed": {"tasks": ("sst5", "sts"), "sampling": "annealed"},
    "pcgrad": {"tasks": ("sst5", "sts"), "pcgrad": True},
    "head": {"task": "sst5", "tune": "head"},
}


class Kill(BaseException):
    """Stands in for SIGKILL."""


@pytest.fixture
def one_device(monkeypatch):
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: devices)


@pytest.fixture
def make_config(tiny_checkpoint, sst_folder):
    rows = (sst_folder / "ids-sst-train.csv").read_text().splitlines()[1:25]
    lines = ["\tid\tsentence1\tsentence2\tsimilarity"]
    for i, row in enumerate(rows):
        text = row.split("\t")[2]
        lines.append(f"{i}\t{i}\t{text}\t{text}\t{i % 6}")
    for split in ("train", "dev"):
        (sst_folder / f"sts-{split}.csv").write_text("\n".join(lines) + "\n")

    def make(**changes):
        common = {"epochs": 3, "batch_size": 8, "learning_rate": 0.02, "max_length": 8, "max_steps": 14}
        paths = {"data_dir": str(sst_folder), "init_from": str(tiny_checkpoint)}
        return RunConfig(**paths, **{**common, "eval_every": 6, "checkpoint_every": 4, **changes})

    return make


def cut(monkeypatch, moment, how):
    """From now on, update number `moment` of a loop is cut: killed before it, or asked to stop within it."""
    real, count = train_loop.CompiledByShape.__call__, [0]

    def call(self, tree, batch, *rest):
        if rest:  # an update, not an evaluation
            count[0] += 1
            if count[0] == moment:
                if how is Kill:
                    raise Kill
                os.kill(os.getpid(), how)
        return real(self, tree, batch, *rest)

    monkeypatch.setattr(train_loop.CompiledByShape, "__call__", call)


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if "lazily" not in kind else []) for kind in KINDS]
)
def test_a_cut_run_comes_to_the_same_end(make_config, tmp_path, monkeypatch, kind):
    config = make_config(**KINDS[kind])
    finetuning.train_and_evaluate(config, tmp_path / "whole")
    # The second cut counts from where the first left off, at update 4.
    for moment, how, error in ((6, Kill, Kill), (2, signal.SIGTERM, Interrupted)):
        with monkeypatch.context() as patch, pytest.raises(error):
            cut(patch, moment, how)
            finetuning.train_and_evaluate(config, tmp_path / "cut")
    finetuning.train_and_evaluate(config, tmp_path / "cut")
    assert final_state(tmp_path / "cut") == final_state(tmp_path / "whole")


@pytest.mark.usefixtures("one_device")
@pytest.mark.slow
@pytest.mark.parametrize("moments", [pytest.param((3, 2), id="heads"), pytest.param((7, 3, 2), id="all")])
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_a_cut_run_of_pre_training_comes_to_the_same_end(tiny_checkpoint, tmp_path, monkeypatch, family, moments):
    checkpoint = tiny_checkpoint if family == "bert" else write_checkpoint(tmp_path / "checkpoint", family)
    blocks = [f"the film\na {word} story\nwith this director" for word in ("good", "warm", "awful", "weak")]
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").write_text(
        "\n\n".join(f"{block}\nand {i} scenes\n\nfilm {i}\nstory" for block in blocks for i in range(9))
    )
    common = {"corpus": str(tmp_path / "corpus"), "init_from": str(checkpoint), "batch_size": 8, "max_length": 16}
    config = PretrainConfig(**common, head_epochs=2, max_steps=6, eval_every=4, checkpoint_every=1)
    shapes = pretrain(config, tmp_path / "whole")["cost"]["compiled_shapes"]
    assert shapes > 1 or family != "bert"  # full sentences fill every example to nearly the same length
    for i, moment in enumerate(moments):
        with monkeypatch.context() as patch, pytest.raises((Kill, Interrupted)):
            cut(patch, moment, Kill if i % 2 else signal.SIGTERM)
            pretrain(config, tmp_path / "cut")
    pretrain(config, tmp_path / "cut")
    assert final_state(tmp_path / "cut") == final_state(tmp_path / "whole")
    assert final_state(tmp_path / "cut" / "heads", has_checkpoints=False) == final_state(
        tmp_path / "whole" / "heads", has_checkpoints=False
    )


@pytest.mark.slow
def test_the_device_count_may_change(make_config, tmp_path, monkeypatch):
    config = make_config(**KINDS["several tasks, annealed"])
    four = jax.devices()
    finetuning.train_and_evaluate(config, tmp_path / "whole")
    for devices, moment in ((four, 6), (four[:1], 3)):
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            patch.setattr(jax, "devices", lambda devices=devices: devices)
            cut(patch, moment, signal.SIGTERM)
            finetuning.train_and_evaluate(config, tmp_path / "cut")
    finetuning.train_and_evaluate(config, tmp_path / "cut")  # on four again
    ours, theirs = (
        [json.loads(line)["values"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("cut", "whole")
    )
    assert len(ours) == len(theirs)
    for here, there in zip(ours, theirs, strict=True):
        assert here.keys() == there.keys()
        losses = [name for name in here if name.endswith("loss")]
        np.testing.assert_allclose([here[name] for name in losses], [there[name] for name in losses], rtol=2e-3)


@pytest.mark.usefixtures("one_device")
def test_another_run_would_be_seen(make_config, tmp_path):
    for seed in (0, 1):
        # One checkpoint: which of several is best depends on the seed.
        finetuning.train_and_evaluate(make_config(**KINDS["head"], seed=seed, eval_every=14), tmp_path / str(seed))
    ours, theirs = final_state(tmp_path / "0"), final_state(tmp_path / "1")
    assert ours.keys() == theirs.keys()
    assert {"14/params/head_sst5/kernel", "14/rest/step"} <= ours.keys()
    assert ours["14/params/head_sst5/kernel"] != theirs["14/params/head_sst5/kernel"]
    assert ours["14/params/embeddings/word/embedding"] == theirs["14/params/embeddings/word/embedding"]
    assert ours["metrics.jsonl"] != theirs["metrics.jsonl"]
