"""`python -m bertjax.pretrained check`: what it compares, prints and returns."""

import json
import sys

import numpy as np
import pytest
import safetensors.numpy
import zoo
from checkpoints import GOLDEN, LABELS, random_head, random_params, write_run

from bertjax.models.config import BertConfig
from bertjax.pretrained import check
from bertjax.pretrained.__main__ import main


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    zoo.bert_files(folder, "4", added=[zoo.E1, zoo.COVID])
    rng = np.random.default_rng(0)
    config = zoo.config_of(rng, zoo.size_of(folder))
    zoo.model(folder, config, rng, architecture="BertForSequenceClassification")
    return folder


def run_check(source, capsys):
    status = main(["check", str(source)])
    out, err = capsys.readouterr()
    return status, [line.split(maxsplit=1) for line in out.splitlines()], err


def test_every_part_is_compared_with_transformers(folder, capsys):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    status, lines, err = run_check(folder, capsys)
    assert (status, err) == (0, "")
    assert [line[1].partition(":")[0] for line in lines] == [
        "tokens after convert, read by us",
        "parameters after convert",
        "parameters after export",
        "tokens",
        "hidden states",
        "logits",
        "tokens after export, read by us",
        "tokens after export",
        "hidden states after export",
        "logits after export",
    ]
    assert {line[0] for line in lines} == {"equal"}
    assert f"by Transformers {transformers.__version__} of " in lines[3][1]


def test_a_run_is_compared_after_its_export(tmp_path, capsys):
    config = BertConfig.from_dict(GOLDEN["config"] | {"max_position_embeddings": 40})
    params = random_params(config) | {"head_sst5": random_head(config, 3, 2)}
    result = {"datasets": {"sst5": {"fingerprint": "f", "labels": "gold", "label_names": LABELS}}}
    status, lines, _ = run_check(write_run(tmp_path / "run", config, {1: params}, result), capsys)
    assert status == 0
    assert any(line[1].startswith("tokens after export, read by us") for line in lines)
    assert not any(line[0] == "DIFFERENT" for line in lines)


def test_without_transformers_it_says_what_it_did_not_compare(folder, capsys, monkeypatch):
    for name in ("torch", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    status, lines, _ = run_check(folder, capsys)
    assert status == 0
    skipped = [line[1] for line in lines if line[0] == "not"]
    assert len(skipped) == 4
    assert skipped[0] == "compared  tokens: needs Transformers: pip install transformers"
    assert sum(line[0] == "equal" for line in lines) == 4


def test_a_difference_is_status_1_and_names_the_text(folder, capsys, monkeypatch):
    transformers = pytest.importorskip("transformers")
    original = transformers.AutoTokenizer.from_pretrained

    def other(path, **options):
        tokenizer = original(path, **options)
        tokenizer.add_tokens(["film wa"])
        return tokenizer

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", other)
    status, lines, _ = run_check(folder, capsys)
    assert status == 1
    different = [line[1] for line in lines if line[0] == "DIFFERENT"]
    assert different[0].startswith("tokens: ids of [\"The film was superb, wasn't it?")


def test_hidden_states_that_differ(folder, capsys, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    original, classify = check.encode, check.classify

    def shifted(params, config, *inputs):
        hidden, pooled = original(params, config, *inputs)
        return hidden + 1e-3, pooled * 1.01

    monkeypatch.setattr(check, "encode", shifted)
    monkeypatch.setattr(check, "classify", lambda *inputs: classify(*inputs) * 1.01)
    status, lines, _ = run_check(folder, capsys)
    assert status == 1
    different = [line[1].partition(":")[0] for line in lines if line[0] == "DIFFERENT"]
    assert different == ["hidden states", "logits", "hidden states after export", "logits after export"]


def test_weights_that_transformers_does_not_find_are_not_compared(folder, capsys):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    wrapped = {f"module.{name}": x for name, x in tensors.items()}
    safetensors.numpy.save_file(wrapped, folder / "model.safetensors", metadata={"format": "pt"})
    status, lines, err = run_check(folder, capsys)
    assert status == 0
    assert "module." in err
    states = {line[1].partition(":")[0]: line[0] for line in lines}
    assert states["compared  hidden states"] == "not"
    assert states["hidden states after export"] == "equal"


def test_a_refusal_is_status_2(folder, capsys):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "BertJapaneseTokenizer"}))
    status, lines, err = run_check(folder, capsys)
    assert (status, lines) == (2, [])
    assert err.startswith(f"error: {path}: tokenizer_class: expected ")
    assert err.count("\n") == 1
