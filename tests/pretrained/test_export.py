"""Exports as Transformers loads them, and what `export` refuses."""

import json
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from checkpoints import (
    GOLDEN,
    LABELS,
    LINEAGE,
    MLM,
    NSP,
    TENSORS,
    random_head,
    random_mlm,
    random_params,
    write_checkpoint,
    write_run,
    write_tokenizer,
)
from zoo import write

from bertjax.errors import UserError
from bertjax.models.bert import Bert
from bertjax.models.config import BertConfig
from bertjax.pretrained import load_pretrained, resolve_checkpoint
from bertjax.pretrained.__main__ import main
from bertjax.pretrained.convert import convert
from bertjax.pretrained.export import export
from bertjax.pretrained.tokenizer import load_tokenizer

CONFIG = BertConfig.from_dict(GOLDEN["config"])
TEXT = "The FILM was café, undulls [MASK] 映画!"
CLASSES = {"fingerprint": "f", "labels": "gold", "label_names": LABELS}


@pytest.fixture
def run(tmp_path):
    final = random_params(CONFIG, 1) | {"head_sst5": random_head(CONFIG, 3, 2)}
    best = random_params(CONFIG, 3) | {"head_sst5": random_head(CONFIG, 3, 4)}
    result = {"datasets": {"sst5": CLASSES}, "dev": {"sst5": {"final": {}, "best": {"accuracy": 0.5, "step": 3}}}}
    return write_run(tmp_path / "run", CONFIG, {3: best, 7: final}, result)


def logits_of(params, config, head, text, folder):
    """Our logits for one text, with our tokenizer."""
    encoding = load_tokenizer(folder).encode(text)
    ids, types = (jnp.asarray([x], jnp.int32) for x in (encoding.ids, encoding.type_ids))
    bert = Bert(config, {head: params[f"head_{head}"]["bias"].size})

    @jax.jit
    def apply(params, ids, types):
        mask = jnp.ones_like(ids, bool)
        return bert.apply({"params": params}, method=lambda m: m.logits(m.embed(ids, types), mask, head))

    return apply(jax.tree.map(jnp.asarray, params), ids, types)


# As Transformers loads them


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("torch")
    return pytest.importorskip("transformers")


def theirs(transformers, folder, text, architecture="AutoModelForSequenceClassification"):
    import torch

    model, loading = getattr(transformers, architecture).from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values()), loading
    inputs = transformers.AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        return model, model.eval()(**inputs)


def drawn(seed):
    """A random small architecture."""
    rng = np.random.default_rng(seed)
    heads = int(rng.integers(1, 5))
    return BertConfig(
        vocab_size=int(rng.integers(24, 60)),
        hidden_size=heads * int(rng.integers(2, 7)),
        num_attention_heads=heads,
        num_hidden_layers=int(rng.integers(1, 4)),
        intermediate_size=int(rng.integers(5, 40)),
        hidden_act=("gelu", "gelu_new", "relu")[seed % 3],
        type_vocab_size=1 + seed % 2,
        max_position_embeddings=int(rng.integers(20, 40)),
        layer_norm_eps=float(rng.choice([1e-12, 1e-5, 0.1])),
        hidden_dropout_prob=0.2,
    )


@pytest.mark.parametrize("seed", range(6))
def test_a_classifier_s_logits(transformers, tmp_path, seed):
    config = drawn(seed)
    params = random_params(config, seed) | {"head_a": random_head(config, 3, seed)}
    run = write_run(tmp_path / "run", config, {5: params}, {"datasets": {"a": CLASSES}})
    assert export(run, tmp_path / "out") == [tmp_path / "out"]
    model, outputs = theirs(transformers, tmp_path / "out", TEXT)
    expected = logits_of(params, config, "a", TEXT, run / "encoder")
    assert np.ptp(outputs.logits.numpy()) > 0.1
    chex.assert_trees_all_close(outputs.logits.numpy(), expected, atol=1e-4, rtol=0)
    assert type(model).__name__ == "BertForSequenceClassification"
    assert model.config.id2label == dict(enumerate(LABELS))
    assert model.config.label2id == {name: i for i, name in enumerate(LABELS)}
    assert model.config.problem_type == "single_label_classification"
    assert model.config.num_labels == 3
    assert model.dropout.p == 0.2
    for name, value in vars(config).items():
        assert getattr(model.config, name) == value


def test_a_pair_of_texts(transformers, tmp_path):
    for seed in (0, 1):  # one and two token types
        config = drawn(seed)
        params = random_params(config, seed) | {"head_a": random_head(config, 3, seed)}
        run = write_run(tmp_path / f"run{seed}", config, {5: params}, {"datasets": {"a": CLASSES}})
        export(run, tmp_path / f"out{seed}")
        import torch

        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / f"out{seed}")
        model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / f"out{seed}")
        with torch.no_grad():
            found = model(**tokenizer("the film", "a dull film", return_tensors="pt")).logits.numpy()
        encoding = load_tokenizer(run / "encoder").encode("the film", "a dull film")
        ids, types = (jnp.asarray(x, jnp.int32) for x in (encoding.ids, encoding.type_ids))
        bert = Bert(config, {"a": 3})
        tree = {"params": jax.tree.map(jnp.asarray, params)}
        mask = jnp.ones_like(ids, bool)
        expected = bert.apply(tree, method=lambda m, i=ids, t=types, k=mask: m.logits(m.embed(i, t), k, "a"))
        chex.assert_trees_all_close(found[0], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"do_lower_case": True},
        {"do_lower_case": False},
        {"do_lower_case": None},  # the vocabulary decides: it is cased
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
        {"do_lower_case": True, "tokenize_chinese_chars": False},
        {"do_lower_case": True, "unk_token": "a", "mask_token": {"content": "b"}},
    ],
    ids=str,
)
@pytest.mark.parametrize("only", ["vocab.txt", "tokenizer.json"])
def test_the_tokenizer_equals_that_of_training(transformers, run, tmp_path, settings, only):
    encoder = run / "encoder"
    write_tokenizer(encoder, CONFIG.vocab_size, **settings)
    ours = load_tokenizer(encoder)
    if only == "tokenizer.json":
        ours.save(str(encoder / "tokenizer.json"))
        (encoder / "vocab.txt").unlink()
        if settings["do_lower_case"] is None:  # else tokenizer.json would say one thing and Transformers another
            write(encoder, "tokenizer_config.json", {"do_lower_case": False})
    export(run, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in (TEXT, "Film film FILM", "cafe\u0301 É", "[mask] [MASK]", ""):
        assert tokenizer(text)["input_ids"] == ours.encode(text).ids
    assert tokenizer.pad_token_id == 0
    assert tokenizer.unk_token == settings.get("unk_token", "[UNK]")
    assert tokenizer.mask_token == settings.get("mask_token", {"content": "[MASK]"})["content"]
    assert tokenizer.model_max_length == CONFIG.max_position_embeddings
    again = load_tokenizer(tmp_path / "out")
    assert again.encode(TEXT).ids == ours.encode(TEXT).ids
    written = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert written["do_lower_case"] is bool(settings["do_lower_case"])


def test_a_run_of_several_tasks(transformers, tmp_path):
    heads = {"head_sst5": random_head(CONFIG, 3, 2), "head_sts": random_head(CONFIG, 1, 3)}
    params = random_params(CONFIG) | heads
    result = {"datasets": {"sst5": CLASSES, "sts": CLASSES | {"label_names": []}}}
    run = write_run(tmp_path / "run", CONFIG, {1: params}, result)
    folders = export(run, tmp_path / "out")
    assert folders == [tmp_path / "out" / "sst5", tmp_path / "out" / "sts"]
    for folder, (task, kind) in zip(
        folders, {"sst5": "single_label_classification", "sts": "regression"}.items(), strict=True
    ):
        model, outputs = theirs(transformers, folder, "a dull film")
        expected = logits_of(params, CONFIG, task, "a dull film", run / "encoder")
        chex.assert_trees_all_close(outputs.logits.numpy(), expected, atol=1e-4, rtol=0)
        assert model.config.problem_type == kind
        assert model.config.num_labels == expected.shape[1]


def test_a_pre_training_run(transformers, tmp_path):
    params = random_params(CONFIG) | {"mlm": random_mlm(CONFIG), "head_nsp": random_head(CONFIG, 2, 3)}
    run = write_run(tmp_path / "run", CONFIG, {1: params}, {})
    export(run, tmp_path / "out")
    model, outputs = theirs(transformers, tmp_path / "out", "a dull film", "AutoModelForPreTraining")
    assert type(model).__name__ == "BertForPreTraining"
    encoding = load_tokenizer(run / "encoder").encode("a dull film")
    ids = jnp.asarray(encoding.ids, jnp.int32)
    tree = {"params": jax.tree.map(jnp.asarray, {k: v for k, v in params.items() if k not in ("mlm", "head_nsp")})}
    hidden, pooled = (np.asarray(x) for x in Bert(CONFIG).apply(tree, ids, jnp.ones_like(ids, bool), ids * 0))
    mlm, nsp = params["mlm"], params["head_nsp"]
    x = np.asarray(jax.nn.gelu(hidden @ mlm["transform"]["kernel"] + mlm["transform"]["bias"], approximate=False))
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + CONFIG.layer_norm_eps)
    x = x * mlm["norm"]["affine"]["scale"] + mlm["norm"]["affine"]["bias"]
    expected = x @ params["embeddings"]["word"]["embedding"].T + mlm["bias"]
    chex.assert_trees_all_close(outputs.prediction_logits.numpy()[0], expected, atol=1e-4, rtol=0)
    expected = pooled @ nsp["kernel"] + nsp["bias"]
    chex.assert_trees_all_close(outputs.seq_relationship_logits.numpy()[0], expected, atol=1e-4, rtol=0)


# Round trip: convert a checkpoint from Transformers, export it again

CLASSIFIER = {"classifier.weight": np.float32([[1] * 12, [2] * 12, [3] * 12]), "classifier.bias": np.arange(3.0)}
CLASSIFIER["classifier.bias"] = CLASSIFIER["classifier.bias"].astype(np.float32)


def test_the_round_trip_is_exact_for_transformers_models(transformers, tmp_path):
    config = transformers.BertConfig(**GOLDEN["config"], id2label=dict(enumerate(LABELS)))
    write_tokenizer(tmp_path / "a")
    names = ("BertModel", "BertForPreTraining", "BertForMaskedLM", "BertForNextSentencePrediction")
    for name in (*names, "BertForSequenceClassification"):
        model = getattr(transformers, name)(config)
        model.save_pretrained(tmp_path / "a")
        convert(tmp_path / "a", tmp_path / f"{name}-b")
        export(tmp_path / f"{name}-b", tmp_path / f"{name}-c")
        again, loading = getattr(transformers, name).from_pretrained(tmp_path / f"{name}-c", output_loading_info=True)
        assert not any(loading.values()), loading
        assert again.config.architectures == [name]
        before, after = model.state_dict(), again.state_dict()
        assert before.keys() == after.keys()
        for key, x in before.items():
            assert x.numpy().tobytes() == after[key].numpy().tobytes(), key
    assert again.config.id2label == dict(enumerate(LABELS))


ODD = np.float32([0.0, -0.0, 1e-45, -1e-42, 3.4e38, 1 / 3, np.inf, -np.inf, 1.1754944e-38, -1.0, 5e-324, 2.0**-126])


@pytest.mark.parametrize(
    ("extra", "architecture", "prefix"),
    [
        ({}, "BertModel", ""),
        (MLM | NSP, "BertForPreTraining", "bert."),
        (MLM, "BertForMaskedLM", "bert."),
        (NSP, "BertForNextSentencePrediction", "bert."),
        (CLASSIFIER, "BertForSequenceClassification", "bert."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_round_trip_is_exact(tmp_path, extra, architecture, prefix):
    (tmp_path / "a").mkdir()
    tensors = TENSORS | {"encoder.layer.0.output.dense.bias": ODD}  # subnormals and signed zeros too
    write_checkpoint(tmp_path / "a", tensors | extra)
    write_tokenizer(tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "b")
    export(tmp_path / "b", tmp_path / "c")
    found = safetensors.numpy.load_file(tmp_path / "c" / "model.safetensors")
    expected = {prefix + name: x for name, x in tensors.items()} | extra
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        assert (found[name].dtype, found[name].shape) == (x.dtype, x.shape)
        assert found[name].tobytes() == np.ascontiguousarray(x).tobytes(), name
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    assert config["architectures"] == [architecture]
    assert config["model_type"] == "bert"
    assert config | GOLDEN["config"] == config
    if extra is CLASSIFIER:
        assert config["id2label"] == {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
    with safetensors.safe_open(tmp_path / "c" / "model.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}


# Which checkpoint, and which tasks


@pytest.mark.parametrize(("checkpoint", "seed"), [("final", 1), ("best", 3)])
def test_final_and_best_checkpoints(run, tmp_path, checkpoint, seed):
    export(run, tmp_path / "out", checkpoint)
    _, params = load_pretrained(tmp_path / "out")
    head = params.pop("classifier")
    chex.assert_trees_all_equal(params, jax.tree.map(jnp.asarray, random_params(CONFIG, seed)))
    chex.assert_trees_all_equal(head, jax.tree.map(jnp.asarray, random_head(CONFIG, 3, seed + 1)))
    assert json.loads((tmp_path / "out" / "lineage.json").read_text()) == LINEAGE
    assert resolve_checkpoint(tmp_path / "out") == tmp_path / "out"


def change(run, **changes):
    path = run / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


def complaint(*arguments):
    with pytest.raises(UserError) as raised:
        export(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_labels_without_names(run, tmp_path):
    before = sorted(tmp_path.iterdir())
    nameless = {name: value for name, value in CLASSES.items() if name != "label_names"}
    for datasets in ({}, {"sst5": nameless}):
        path = change(run, datasets=datasets)
        assert complaint(run, tmp_path / "out").startswith(f"{path}: expected datasets.sst5.label_names, found none")
    change(run, datasets={"sst5": CLASSES | {"label_names": ["a", "b"]}})
    message = complaint(run, tmp_path / "out")
    assert message.startswith(f"{path}: expected datasets.sst5.label_names ")
    assert message.endswith("3 outputs, found 2")
    assert sorted(tmp_path.iterdir()) == before


def test_a_run_that_does_not_record_its_best_checkpoint(run, tmp_path):
    path = change(run, dev={})
    assert complaint(run, tmp_path / "out", "best") == (
        f"{path}: expected the step of the best checkpoint under dev.TASK.best.step, found none; use --checkpoint=final"
    )


@pytest.mark.parametrize("name", ["../evil", "/evil", ".."])
def test_a_head_named_after_a_path_outside_the_folder(tmp_path, name):
    params = random_params(CONFIG) | {"head_" + task: random_head(CONFIG, 3, 2) for task in ("a", name)}
    run = write_run(tmp_path / "run", CONFIG, {1: params}, {"datasets": {"a": CLASSES, name: CLASSES}})
    before = sorted(tmp_path.iterdir())
    message = complaint(run, tmp_path / "out")
    assert message.startswith(f"{run}: ")
    assert f"found one named {name!r}; " in message
    assert sorted(tmp_path.iterdir()) == before


def test_the_task_heads_of_a_converted_run(run, tmp_path):
    converted = convert(run, tmp_path / "converted")
    assert complaint(converted, tmp_path / "out").startswith(
        f"{converted}: expected no heads of a run, found head_sst5"
    )


def test_a_vocabulary_of_another_size(run, tmp_path):
    write_tokenizer(run / "encoder", 30)
    assert "expected a vocabulary of at most 24 entries" in complaint(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The command


def test_the_commands(run, tmp_path, capsys):
    assert main(["export", str(run), str(tmp_path / "a"), "--checkpoint=best"]) == 0
    assert main(["convert", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert capsys.readouterr() == (f"wrote {tmp_path / 'a'}\nwrote {tmp_path / 'b'}\n", "")
    assert "classifier" in load_pretrained(tmp_path / "b")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "{run}", "{run}"], "expected a new folder to write, found an existing one"),
        (["convert", "{run}", "{run}"], "expected a new folder to write, found an existing one"),
        (["export", "./gone", "out"], "init_from: './gone' is neither 'minilm-l6' nor 'mpnet-base', nor a folder"),
        (["convert", "./gone", "out"], "init_from: './gone' is neither 'minilm-l6' nor 'mpnet-base', nor a folder"),
        (["export", "{run}/encoder/../encoder", "{run}/checkpoints"], "expected a new folder"),
        (["export", "{plain}", "{run}/out", "--checkpoint=best"], "--checkpoint=best: only a run has one, and "),
        (["export", "{run}", "out", "--checkpoint=first"], "argument --checkpoint: invalid choice: 'first'"),
        (["export", "{run}"], "the following arguments are required: OUT; see --help"),
        (["exprot", "{run}", "out"], "invalid choice: 'exprot'"),
        ([], "the following arguments are required: export|convert|check; see --help"),
    ],
)
def test_a_refusal_is_one_line_and_status_2(run, tmp_path, arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").mkdir()
    write_checkpoint(tmp_path / "plain")
    before = sorted(tmp_path.rglob("*"))
    try:
        status = main([text.format(run=run, plain=tmp_path / "plain") for text in arguments])
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_in_a_process_of_its_own(run, tmp_path):
    command = [sys.executable, "-m", "bertjax.pretrained", "export", run, tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"wrote {tmp_path / 'out'}\n", "")
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
