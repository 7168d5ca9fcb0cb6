"""Further pre-training of every family: its result, fine-tuning from it, and its export as Transformers reads it."""

import json

import jax
import numpy as np
import pytest
from family_checkpoints import write_checkpoint, write_corpus

from bertjax.config import PretrainConfig, RunConfig
from bertjax.errors import UserError
from bertjax.models.families import FAMILIES, build_encoder
from bertjax.pretrained import load_pretrained
from bertjax.pretrained.export import export
from bertjax.pretrained.tokenizer import read_tokenizer
from bertjax.training import finetuning, pretraining
from bertjax.training.pretraining import pretrain

WORDS = {"mlm_accuracy", "mlm_perplexity"}


def make_config(tmp_path, name, **changes):
    values = {
        "corpus": str(write_corpus(tmp_path / "corpus")),
        "init_from": str(write_checkpoint(tmp_path / "checkpoint", name)),
        "batch_size": 8,
        "max_length": 24,
        "max_steps": 3,
        "eval_every": 3,
        "learning_rate": 0.01,
    }
    return PretrainConfig(**values | changes)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_pretrain_finetune_and_export(tmp_path, sst_folder, capsys, name):
    config, run = make_config(tmp_path, name), tmp_path / "run"
    result = pretrain(config, run)
    has_nsp = FAMILIES[name].nsp is not None
    expected = WORDS | {"nsp_accuracy"} if has_nsp else WORDS
    (dev,) = result["dev"].values()
    assert dev["before"].keys() == dev["final"].keys() == expected
    records = [
        json.loads(line) for log in (run, run / "heads") for line in (log / "metrics.jsonl").read_text().splitlines()
    ]
    assert {record["split"] for record in records} == {"train", "dev"}
    assert all(("nsp_accuracy" in record["values"]) == has_nsp for record in records)
    assert ("nsp" in capsys.readouterr().out) == has_nsp
    assert ("second text" in json.dumps(result)) == has_nsp

    # Everything that has a gradient has moved. Nothing reads the pooler but next-sentence prediction.
    _, before = load_pretrained(config.init_from)
    architecture, after = load_pretrained(run)
    heads = {"mlm", "head_nsp"} if has_nsp else {"mlm"}
    assert after.keys() == before.keys() | heads
    moved = {top for top in before if not all(map(np.array_equal, *map(jax.tree.leaves, (before[top], after[top]))))}
    assert moved == before.keys() - (set() if has_nsp else {"pooler"})

    tuned = RunConfig(
        task="sst5", data_dir=str(sst_folder), init_from=str(run), batch_size=8, max_length=16, max_steps=1
    )
    assert finetuning.train_and_evaluate(tuned, tmp_path / "tuned")["lineage"][:2] == result["lineage"]

    (exported,) = export(run, tmp_path / "exported")
    again, params = load_pretrained(exported)
    assert again == architecture
    assert all(np.array_equal(params["mlm"]["bias"], tree["mlm"]["bias"]) for tree in (params, after))
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    end = "ForPreTraining" if has_nsp else "ForMaskedLM"
    assert json.loads((exported / "config.json").read_text())["architectures"] == [f"{FAMILIES[name].class_name}{end}"]
    theirs, loading = transformers.AutoModelForMaskedLM.from_pretrained(exported, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["mismatched_keys"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    inputs = tokenizer(["the film was superb", "a dull movie, the film"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected_logits = theirs.eval()(**inputs).logits.numpy()
    ids, mask = (inputs[key].numpy() for key in ("input_ids", "attention_mask"))
    model = build_encoder(architecture, FAMILIES[name].pretraining_heads, has_mlm=True)
    positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    logits = model.apply(
        {"params": after},
        method=lambda m: m.pretraining_logits(m.embed(ids, np.zeros_like(ids)), mask == 1, positions)["mlm"],
    )
    real = mask == 1
    scale = np.abs(expected_logits[real]).max()
    np.testing.assert_allclose(logits[real], expected_logits[real], rtol=0, atol=2e-5 * scale)


def test_an_example_is_full_sentences_by_the_familys_tokenizer(tmp_path):
    run = pretraining._Run(make_config(tmp_path, "roberta", max_length=40))
    special = read_tokenizer(tmp_path / "checkpoint").special_ids
    separators = set()
    for batch in run.train_batches(1):
        assert "label" not in batch
        ids, mask = (batch[name][batch["valid"]] for name in ("input_ids", "attention_mask"))
        assert (ids[:, 0] == special["cls_token"]).all()
        assert (ids[np.arange(len(ids)), mask.sum(axis=1) - 1] == special["sep_token"]).all()
        assert (ids == special["mask_token"]).any()
        assert (ids[~mask] == special["pad_token"]).all()
        separators |= set((ids == special["sep_token"]).sum(axis=1).tolist())
    assert separators == {1, 2}  # some run into the next document


@pytest.mark.parametrize(("name", "positions"), [("roberta", 40), ("distilbert", 42)])
def test_max_length_is_what_the_positions_allow(tmp_path, name, positions):
    with pytest.raises(UserError, match=f"at most the model's {positions} positions, found {positions + 1}$"):
        pretrain(make_config(tmp_path, name, max_length=positions + 1), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["roberta", "distilbert"])
def test_one_device_gives_the_run_of_four(tmp_path, monkeypatch, name):
    config = make_config(tmp_path, name, micro_batches=2)
    four = pretrain(config, tmp_path / "four")
    one_device = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: one_device)
    one = pretrain(config, tmp_path / "one")
    assert (one["devices"]["count"], four["devices"]["count"]) == (1, 4)
    assert one["dev"]["corpus"]["final"] == pytest.approx(four["dev"]["corpus"]["final"], rel=1e-3)
