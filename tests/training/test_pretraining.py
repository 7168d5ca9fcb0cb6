"""Whole runs of further pre-training, shrunken: both stages, cut and resumed, and what stops them at once."""

import dataclasses
import importlib.util
import itertools
import json
import random
import shutil
from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from helpers import Seen

from bertjax.config import PretrainConfig, RunConfig, is_pretraining
from bertjax.data.leakage import contamination_warnings
from bertjax.data.mlm import MlmBatches
from bertjax.data.sources import split_of
from bertjax.errors import UserError
from bertjax.evaluation.evaluator import evaluate
from bertjax.files import assets
from bertjax.models.bert import Bert
from bertjax.models.encoder import init_params
from bertjax.models.families.bert import BERT
from bertjax.pretrained import load_pretrained
from bertjax.runs.checkpoint import Checkpoints
from bertjax.training import finetuning, pretraining
from bertjax.training.pretraining import pretrain


@pytest.fixture(scope="module")
def model(tiny_config):
    return Bert(tiny_config, BERT.pretraining_heads, has_mlm=True)


@pytest.fixture(scope="module")
def params(model):
    """A tree in which nothing is 0 or 1: fresh biases and scales would hide what they do."""
    rng = np.random.default_rng(0)
    tree = jax.eval_shape(partial(init_params, model=model), jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(rng.uniform(-0.5, 0.5, x.shape), x.dtype), tree)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Documents of two topics whose sentences repeat a word of theirs: both tasks can be learnt."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = random.Random(0)
    topics = ["awful dreadful hated weak", "good warm clever superb"]
    blocks = []
    for i in range(60):
        words = topics[i % 2].split()
        blocks.append("\n".join(f"the {rng.choice(words)} film and the {rng.choice(words)} story" for _ in range(6)))
    for topic in topics:  # pairs of half the length
        blocks += [f"the {a} film\na {b} story" for a, b in itertools.product(topic.split(), repeat=2)]
    (folder / "a.txt").write_text("\n\n".join(blocks))
    return folder


@pytest.fixture
def config(tiny_checkpoint, corpus):
    return PretrainConfig(
        corpus=str(corpus),
        init_from=str(tiny_checkpoint),
        epochs=2,
        head_epochs=1,
        batch_size=16,
        learning_rate=0.01,
        head_learning_rate=0.01,
        max_length=20,
        eval_every=5,
    )


def change(config, **changes):
    return dataclasses.replace(config, **changes)


def lines(workdir, split="dev"):
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["split"] == split]


def test_a_whole_run(config, corpus, sst_folder, tmp_path, capsys):
    config = change(config, epochs=15, eval_every=60)
    result = pretrain(config, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result
    (dev,) = result["dev"].values()
    assert dev["before"].keys() == {"mlm_accuracy", "mlm_perplexity", "nsp_accuracy"}
    # Each frame has the words "the film and the story" in their places, and one of four in the other two.
    assert dev["final"]["mlm_accuracy"] > 0.6 > dev["before"]["mlm_accuracy"]
    assert dev["final"]["mlm_perplexity"] < 4 < dev["before"]["mlm_perplexity"]
    data = result["datasets"][corpus.name]
    assert data["documents"]["train"] + data["documents"]["dev"] == 60 + 32
    assert len(data["fingerprint"]) == 16
    assert result["cost"]["compiled_shapes"] == 2
    assert 0.7 < result["cost"]["real_token_fraction"] < 1
    assert result["lineage"] == [
        {"init_from": config.init_from},
        {"pretrained_on": corpus.name, "fingerprint": data["fingerprint"]},
    ]
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {
        *("config.json", "metrics.jsonl", "checkpoints", "tensorboard", "curves.png", "encoder", "heads", "result.json")
    }
    assert not (tmp_path / "run" / "heads" / "checkpoints").exists()
    assert lines(tmp_path / "run" / "heads")[-1]["values"] == dev["before"]
    assert lines(tmp_path / "run")[-1]["values"] == dev["final"]
    assert "before" in capsys.readouterr().out

    # A finished run is read, not run again.
    assert pretrain(config, tmp_path / "run") == result
    assert "finished; nothing to do" in capsys.readouterr().out

    with pytest.raises(UserError, match="holds a pre-training run"):
        evaluate(tmp_path / "run", "dev")
    with pytest.raises(UserError, match="holds a run of another kind, further pre-training"):
        finetuning.train_and_evaluate(RunConfig(), tmp_path / "run")

    # The run is a checkpoint, for fine-tuning, and for pre-training that has its heads already.
    tuned = RunConfig(
        task="sst5", data_dir=str(sst_folder), init_from=str(tmp_path / "run"), max_steps=1, batch_size=16
    )
    fine = finetuning.train_and_evaluate(dataclasses.replace(tuned, max_length=16), tmp_path / "fine")
    assert fine["lineage"][:2] == result["lineage"]
    more = pretrain(change(config, init_from=str(tmp_path / "run"), max_steps=1), tmp_path / "more")
    assert more["lineage"] == [*result["lineage"], result["lineage"][1]]
    assert not (tmp_path / "more" / "heads").exists()
    assert more["dev"][corpus.name]["before"] == pytest.approx(dev["final"], rel=1e-5)


def test_the_recipe_shrunken(corpus, tiny_checkpoint, tmp_path, monkeypatch):
    starter = tmp_path / "starter"
    starter.mkdir()
    blocks = [block.split("\n") for block in (corpus / "a.txt").read_text().split("\n\n")]
    rows = [f"{i}_{j}\t0.5\t{text}" for i, block in enumerate(blocks) for j, text in enumerate(block)]
    (starter / "nytEditorialSnippets_GroundTruth.txt").write_text("\n".join(rows))
    monkeypatch.setattr(assets, "fetch_asset", {"minilm-l6": tiny_checkpoint, "hutto-2014": starter}.__getitem__)
    recipe = Path(__file__).parents[2] / "configs" / "pretrain_editorials.py"
    spec = importlib.util.spec_from_file_location("recipe", recipe)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    assert is_pretraining(config)
    config.batch_size, config.max_length, config.max_steps = 8, 20, 1
    result = pretrain(config, tmp_path / "run")
    assert result["dev"]["editorials"].keys() == {"before", "final", "best"}
    assert sum(result["datasets"]["editorials"]["documents"].values()) == 60 + 32
    assert result["lineage"][0]["init_from"] == "minilm-l6"


def test_the_frozen_stage_leaves_the_encoder_of_the_checkpoint(config, tmp_path, monkeypatch):
    class Cut(Exception):
        pass

    stage = pretraining._Run.stage

    def only_heads(run, workdir, params, key, *, tune, meter):
        if tune == "all":
            raise Cut
        return stage(run, workdir, params, key, tune=tune, meter=meter)

    monkeypatch.setattr(pretraining._Run, "stage", only_heads)
    with pytest.raises(Cut):
        pretrain(config, tmp_path / "run")
    architecture, loaded = load_pretrained(config.init_from)
    model = Bert(architecture, BERT.pretraining_heads, has_mlm=True)
    like = jax.eval_shape(partial(init_params, model=model), jax.random.key(0))
    folder = tmp_path / "run" / "heads" / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        found = checkpoints.restore_params(max(int(step.name) for step in folder.glob("[0-9]*")), like)
    chex.assert_trees_all_equal({top: found[top] for top in loaded}, loaded)


def test_a_head_that_cannot_be_read_is_not_replaced_by_a_new_one(config, tmp_path):
    folder = tmp_path / "untied"
    shutil.copytree(config.init_from, folder)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    decoder = {"cls.predictions.decoder.weight": np.zeros_like(tensors["embeddings.word_embeddings.weight"])}
    safetensors.numpy.save_file(tensors | decoder, folder / "model.safetensors")
    load_pretrained(folder)
    with pytest.raises(UserError, match="untied: tensors do not fit config.json: missing: cls.predictions.bias"):
        pretrain(change(config, init_from=str(folder)), tmp_path / "run")


def test_a_checkpoint_with_heads_skips_the_first_stage(config, tmp_path, monkeypatch, model, params):
    monkeypatch.setattr(pretraining, "load_pretrained", lambda *_, **__: (model.config, dict(params)))
    (dev,) = pretrain(change(config, max_steps=1, warmup=1.0, learning_rate=0.0), tmp_path / "run")["dev"].values()
    assert not (tmp_path / "run" / "heads").exists()
    # Nothing has moved: what was measured at once is what is measured at the end.
    assert dev["before"] == pytest.approx(dev["final"], rel=1e-5)


@pytest.mark.slow
def test_one_device_gives_the_run_of_four(config, tmp_path, monkeypatch):
    config = change(config, max_steps=3)
    four = pretrain(config, tmp_path / "four")
    one_device = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: one_device)
    one = pretrain(config, tmp_path / "one")
    assert (one["devices"]["count"], four["devices"]["count"]) == (1, 4)
    ((ours,), (theirs,)) = (result["dev"].values() for result in (one, four))
    assert ours["final"]["mlm_perplexity"] == pytest.approx(theirs["final"]["mlm_perplexity"], rel=1e-3)


@pytest.mark.parametrize(("tune", "peak", "epochs"), [("head", 0.04, 1), ("all", 0.01, 2)])
def test_keys_reach_what_they_are_for(config, tmp_path, monkeypatch, seen, model, params, tune, peak, epochs):
    found = seen(pretraining, "pretrain_step")

    def mlm_batches(planner, *arguments, **options):
        found.update(options, max_length=planner.max_length)
        return MlmBatches(planner, *arguments, **options)

    monkeypatch.setattr(pretraining, "MlmBatches", mlm_batches)
    if tune == "all":  # the checkpoint has heads, and the first stage is passed over
        monkeypatch.setattr(pretraining, "load_pretrained", lambda *_, **__: (model.config, dict(params)))
        monkeypatch.setattr(pretraining._Run, "evaluate", lambda run, _: {run.corpus.name: {}})
    config = change(
        config,
        head_learning_rate=0.04,
        max_steps=10,
        warmup=0.2,
        weight_decay=0.3,
        micro_batches=2,
        whole_word=True,
        remat=True,
        dtype="bfloat16",
        seed=7,
    )
    with pytest.raises(Seen):
        pretrain(config, tmp_path / "run")
    # Up for two updates, then down to 0 at the last.
    assert found["rates"] == pytest.approx([0, peak, peak / 2, 0], abs=1e-6)
    assert (found["tune"], found["weight_decay"], found["micro_batches"]) == (tune, 0.3, 2)
    assert (found["model"].remat, found["model"].dtype) == (True, jnp.bfloat16)
    assert (found["seed"], found["epochs"], found["whole_word"]) == (7, epochs, True)
    assert (found["max_length"], found["batch_size"]) == (20, 16)


def test_changed_text_is_not_gone_on_with(config, corpus, tmp_path, monkeypatch):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text((corpus / "a.txt").read_text())
    config = change(config, corpus=str(folder), max_steps=2)
    monkeypatch.setattr(pretraining, "write_json", lambda path, value: None)
    pretrain(config, tmp_path / "run")
    monkeypatch.undo()
    (tmp_path / "run" / "config.json").write_text(json.dumps(config.to_dict()))
    (folder / "b.txt").write_text("another\ndocument")
    with pytest.raises(UserError, match="the data of corpus have changed since this run began"):
        pretrain(config, tmp_path / "run")


def test_held_out_documents_without_a_pair_stop_a_run_at_once(config, tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    text = [f"the film {'good ' * i}" for i in range(1, 60)]
    held_out = [[line] for line in text if split_of(line) == "dev"]
    others = [[line, "a story"] for line in text if split_of(f"{line.strip()} a story") != "dev"]
    (folder / "a.txt").write_text("\n\n".join("\n".join(lines) for lines in held_out + others))
    with pytest.raises(UserError, match="one of them of 2 sentences or more, found [2-9] documents"):
        pretrain(change(config, corpus=str(folder)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_training_documents_without_a_pair_stop_a_run_at_once(config, tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    text = [f"the film {'good ' * i}" for i in range(1, 90)]
    train = [[line] for line in text if split_of(line) != "dev"]
    held_out = [[line, "a story"] for line in text if split_of(f"{line.strip()} a story") == "dev"]
    (folder / "a.txt").write_text("\n\n".join("\n".join(lines) for lines in train + held_out))
    with pytest.raises(UserError, match=r"one of them of 2 sentences or more, found \d+ documents"):
        pretrain(change(config, corpus=str(folder)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": "/nowhere"}, "--config.corpus: expected 'editorials', a folder"),
        ({"init_from": "/nowhere"}, "init_from"),
        ({"batch_size": 6}, "--config.batch_size: expected a multiple of 4 (devices: 4"),
        ({"max_length": 64}, "--config.max_length: expected at most the model's 32 positions, found 64"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(config, tmp_path, changes, message):
    with pytest.raises(UserError) as raised:
        pretrain(change(config, **changes), tmp_path / "run")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_a_score_on_text_that_was_pre_trained_on_has_a_warning():
    past = [{"init_from": "x"}, {"pretrained_on": "editorials", "fingerprint": "0"}]
    (line,) = contamination_warnings(past, ["rated_editorials", "rated_sst"])
    assert line.startswith("rated_editorials: this model was trained on editorials, which holds its sentences")
