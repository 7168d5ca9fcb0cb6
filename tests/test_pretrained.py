"""Checkpoints written byte by byte as the safetensors format says, and what PyTorch Transformers makes of them."""

import json
import struct
from pathlib import Path

import chex
import huggingface_hub
import huggingface_hub.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import make_bert

from bertjax import assets, encode
from bertjax.errors import UserError
from bertjax.model import Bert, BertConfig, init_params
from bertjax.pretrained import load_pretrained, resolve, with_heads

GOLDEN = json.loads((Path(make_bert.__file__).with_name("bert.json")).read_text())
TENSORS = {name: make_bert.tensor(name, tuple(shape)) for name, shape in GOLDEN["shapes"].items()}
# Eight significant bits: exact in bfloat16, whose bytes are a float32's upper half.
COARSE = {name: np.round(x * 64) / np.float32(64) for name, x in TENSORS.items()}
WIDTHS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I8": np.int8, "F8_E4M3": np.int8}


def write_safetensors(path, tensors, dtype="F32"):
    header, body = {}, b""
    for name, x in tensors.items():
        kind = "I64" if x.dtype == np.int64 else dtype
        if kind == "BF16":
            data = (x.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        else:
            data = x.astype(WIDTHS[kind]).tobytes()
        header[name] = {"dtype": kind, "shape": x.shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


@pytest.fixture
def write(tmp_path):
    def write(tensors=TENSORS, config=GOLDEN["config"], dtype="F32"):
        write_safetensors(tmp_path / "model.safetensors", tensors, dtype)
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return write


def shard(folder, files, weight_map=None):
    """Replaces the single file by shards."""
    (folder / "model.safetensors").unlink()
    for name, tensors in files.items():
        write_safetensors(folder / name, tensors)
    weight_map = weight_map or {tensor: name for name, tensors in files.items() for tensor in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def refusal(source, error=UserError):
    with pytest.raises(error) as info:
        load_pretrained(source)
    assert len(str(info.value).splitlines()) == 1
    return str(info.value)


def assert_holds(params, tensors):
    """Some of each kind, spelt out; the golden outputs answer for all."""
    layer = params["layer_1"]
    found = {
        "embeddings.word_embeddings.weight": params["embeddings"]["word"]["embedding"],
        "embeddings.LayerNorm.weight": params["embeddings"]["norm"]["affine"]["scale"],
        "encoder.layer.1.attention.self.key.weight": layer["key"]["kernel"].T,
        "encoder.layer.1.attention.output.LayerNorm.bias": layer["attention_norm"]["affine"]["bias"],
        "encoder.layer.1.intermediate.dense.weight": layer["intermediate"]["kernel"].T,
        "encoder.layer.1.intermediate.dense.bias": layer["intermediate"]["bias"],
        "encoder.layer.1.output.dense.weight": layer["output"]["kernel"].T,
        "pooler.dense.weight": params["pooler"]["kernel"].T,
    }
    chex.assert_trees_all_equal(found, {name: tensors[name] for name in found})
    chex.assert_type(jax.tree.leaves(params), jnp.float32)


# Against PyTorch Transformers


def test_golden_outputs(write):
    config, params = load_pretrained(write())
    inputs = [np.array(GOLDEN["inputs"][name]) for name in ("input_ids", "attention_mask", "token_type_ids")]
    hidden, pooled = encode(params, config, *inputs)
    real = inputs[1] == 1
    chex.assert_trees_all_close(hidden[real], np.float32(GOLDEN["hidden"])[real], atol=2e-5, rtol=0)
    chex.assert_trees_all_close(pooled, np.float32(GOLDEN["pooled"]), atol=2e-5, rtol=0)


def test_the_golden_weights_are_the_recipe_s():
    assert GOLDEN["config"] == make_bert.CONFIG
    assert GOLDEN["inputs"] == make_bert.INPUTS
    # SHAKE-256 of "pooler.dense.bias" begins with these two bytes, low one first.
    first = np.frombuffer(bytes.fromhex("21fe"), "<u2")[0] / 2**16 - 0.5
    assert TENSORS["pooler.dense.bias"][0] == np.float32(first)


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("torch")
    return pytest.importorskip("transformers")


VARIANTS = [
    {"hidden_act": "gelu"},
    {"hidden_act": "gelu_new"},
    {"hidden_act": "relu"},
    {"type_vocab_size": 1},
    {"layer_norm_eps": 1e-12},
    {"layer_norm_eps": 0.3},
    {"num_hidden_layers": 3, "num_attention_heads": 2, "attn_implementation": "sdpa"},
]


def save(model, folder):
    make_bert.fill(model)
    model.save_pretrained(folder)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(map(str, variant.values())))
def test_outputs_against_transformers(transformers, variant, tmp_path):
    import torch

    config = transformers.BertConfig(**make_bert.CONFIG | {"attn_implementation": "eager"} | variant)
    model = transformers.BertModel(config).eval()
    save(model, tmp_path)
    inputs = {name: np.array(rows) for name, rows in make_bert.INPUTS.items()}
    inputs["token_type_ids"] %= config.type_vocab_size
    with torch.no_grad():
        outputs = model(**{name: torch.from_numpy(x) for name, x in inputs.items()})
    ours, params = load_pretrained(tmp_path)
    hidden, pooled = encode(params, ours, **inputs)
    real = inputs["attention_mask"] == 1
    chex.assert_trees_all_close(hidden[real], outputs.last_hidden_state.numpy()[real], atol=2e-5, rtol=0)
    chex.assert_trees_all_close(pooled, outputs.pooler_output.numpy(), atol=2e-5, rtol=0)


def test_a_classifier_s_logits_against_transformers(transformers, tmp_path):
    import torch

    model = transformers.BertForSequenceClassification(transformers.BertConfig(**make_bert.CONFIG, num_labels=5)).eval()
    save(model, tmp_path)
    inputs = {name: np.array(rows) for name, rows in make_bert.INPUTS.items()}
    with torch.no_grad():
        expected = model(**{name: torch.from_numpy(x) for name, x in inputs.items()}).logits.numpy()
    config, params = load_pretrained(tmp_path)
    params = with_heads(params, config, {"sst": 5}, jax.random.key(0))
    bert = Bert(config, {"sst": 5})

    @jax.jit
    def logits(params, ids, mask, types):
        return bert.apply({"params": params}, method=lambda m: m.logits(m.embed(ids, types), mask == 1, "sst"))

    found = logits(params, *(jnp.asarray(x, jnp.int32) for x in inputs.values()))
    chex.assert_trees_all_close(found, expected, atol=2e-5, rtol=0)


def test_a_checkpoint_of_bert_s_own_pre_training(transformers, tmp_path):
    save(transformers.BertForPreTraining(transformers.BertConfig(**make_bert.CONFIG)), tmp_path)
    _, params = load_pretrained(tmp_path)
    assert_holds(params, {name: make_bert.tensor(f"bert.{name}", x.shape) for name, x in TENSORS.items()})


# Layouts and names


def test_the_tree_is_the_model_s(write):
    config, params = load_pretrained(write())
    assert config == BertConfig(**{name: x for name, x in GOLDEN["config"].items() if name != "model_type"})
    assert_holds(params, TENSORS)
    chex.assert_trees_all_equal_shapes_and_dtypes(params, init_params(jax.random.key(0), Bert(config)))
    heads = {"sst": 5, "sts": 1}
    whole = with_heads(params, config, heads, jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(whole, init_params(jax.random.key(0), Bert(config, heads)))


def test_shards_are_one_checkpoint(write):
    folder = write()
    names = sorted(TENSORS)
    halves = [{name: TENSORS[name] for name in half} for half in (names[::2], names[1::2])]
    shard(folder, {f"model-0000{i + 1}-of-00002.safetensors": half for i, half in enumerate(halves)})
    _, params = load_pretrained(folder)
    assert_holds(params, TENSORS)


def old_name(name):
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


@pytest.mark.parametrize("rename", [old_name, "bert.{}".format, lambda name: f"bert.{old_name(name)}"])
def test_older_names(write, rename):
    _, params = load_pretrained(write({rename(name): x for name, x in TENSORS.items()}))
    assert_holds(params, TENSORS)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F64"])
def test_other_float_widths_become_float32(write, dtype):
    _, params = load_pretrained(write(COARSE, dtype=dtype))
    assert_holds(params, COARSE)


@pytest.mark.parametrize("dtype", ["I8", "F8_E4M3"])
def test_quantised_tensors_are_refused(write, dtype):
    folder = write(dtype=dtype)
    expected = f"is stored as {dtype}, expected one of F64, F32, F16, BF16"
    assert refusal(folder) == f"{folder / 'model.safetensors'}: tensor embeddings.word_embeddings.weight {expected}"


def test_buffers_and_other_heads_are_passed_over(write):
    extra = {
        "embeddings.position_ids": np.arange(10)[None],
        "embeddings.token_type_ids": np.zeros((1, 10), np.int64),
        "cls.predictions.bias": np.zeros(24, np.float32),
        "cls.predictions.transform.LayerNorm.gamma": np.zeros(12, np.float32),
        "cls.seq_relationship.weight": np.zeros((2, 12), np.float32),
        "qa_outputs.weight": np.zeros((2, 12), np.float32),
    }
    for prefix in ("", "bert."):
        _, params = load_pretrained(write(TENSORS | {prefix + name: x for name, x in extra.items()}))
        assert_holds(params, TENSORS)
        assert "classifier" not in params


# Heads

CLASSIFIER = {
    "classifier.weight": make_bert.tensor("classifier.weight", (5, 12)),
    "classifier.bias": make_bert.tensor("classifier.bias", (5,)),
}


def test_a_stored_classifier_serves_where_its_shape_is_right(write):
    config, params = load_pretrained(write(TENSORS | CLASSIFIER))
    stored = {"kernel": CLASSIFIER["classifier.weight"].T, "bias": CLASSIFIER["classifier.bias"]}
    chex.assert_trees_all_equal(params["classifier"], stored)
    whole = with_heads(params, config, {"sst": 5, "sts": 1}, jax.random.key(0))
    assert "classifier" not in whole
    assert "classifier" in params  # the caller's tree is left alone
    chex.assert_trees_all_equal(whole["head_sst"], stored)
    chex.assert_shape(whole["head_sts"]["kernel"], (12, 1))
    assert np.any(whole["head_sts"]["kernel"])


@pytest.mark.parametrize(("weight", "bias"), [((5, 11), (5,)), ((5,), (5,)), ((5, 12), (4,)), ((5, 12), None)])
def test_a_classifier_of_another_make_is_passed_over(write, weight, bias):
    extra = {"classifier.weight": np.zeros(weight, np.float32)}
    if bias is not None:
        extra["classifier.bias"] = np.zeros(bias, np.float32)
    _, params = load_pretrained(write(TENSORS | extra))
    assert "classifier" not in params


def test_new_heads_are_drawn_apart():
    config = BertConfig(hidden_size=600, initializer_range=0.3)
    heads = dict.fromkeys("abc", 4)
    params = with_heads({"kept": 1}, config, heads, jax.random.key(0))
    assert params.pop("kept") == 1
    assert set(params) == {"head_a", "head_b", "head_c"}
    kernels = np.stack([head["kernel"] for head in params.values()]).reshape(3, -1)
    for head in params.values():
        chex.assert_trees_all_equal(head["bias"], np.zeros(4, np.float32))
    # Five standard errors: of a standard deviation, and of a correlation of independent draws.
    assert np.all(np.abs(kernels.std(axis=1) - 0.3) < 5 * 0.3 / np.sqrt(2 * 2400))
    assert np.all(np.abs(np.corrcoef(kernels)[np.triu_indices(3, 1)]) < 5 / np.sqrt(2400))
    # The names decide, not the order; another key, other heads.
    again = with_heads({}, config, dict(reversed(heads.items())), jax.random.key(0))
    chex.assert_trees_all_equal(again, params)
    other = with_heads({}, config, heads, jax.random.key(1))
    assert all(np.any(other[name]["kernel"] != params[name]["kernel"]) for name in params)


# What does not fit


def test_missing_surplus_and_misshapen_tensors_in_one_line(write):
    tensors = TENSORS | {"encoder.layer.2.output.dense.bias": np.zeros(12, np.float32), "a": np.zeros(1, np.float32)}
    del tensors["pooler.dense.bias"]
    tensors["encoder.layer.0.output.dense.weight"] = np.zeros((20, 12), np.float32)
    folder = write(tensors)
    assert refusal(folder) == (
        f"{folder}: tensors do not fit config.json: missing: pooler.dense.bias; "
        "surplus: a, encoder.layer.2.output.dense.bias; "
        "misshapen: encoder.layer.0.output.dense.weight (expected [12, 20], found [20, 12])"
    )


def test_a_long_list_is_cut(write):
    folder = write({name: x for name, x in TENSORS.items() if not name.startswith("encoder.layer.1.")})
    message = refusal(folder)
    assert message.startswith(f"{folder}: tensors do not fit config.json: missing: encoder.layer.1.")
    assert message.count("encoder.layer.1.") == 8
    assert message.endswith(" and 8 more")


def test_a_tensor_under_two_names(write):
    folder = write(TENSORS | {"bert.pooler.dense.bias": TENSORS["pooler.dense.bias"]})
    expected = f"{folder / 'model.safetensors'}: tensor pooler.dense.bias stands twice in this checkpoint"
    assert refusal(folder) == expected
    shard(folder, {"a.safetensors": TENSORS, "b.safetensors": {"pooler.dense.bias": TENSORS["pooler.dense.bias"]}})
    assert refusal(folder) == expected.replace("model.", "b.")


def test_a_vocabulary_of_another_size(write):
    folder = write(config=GOLDEN["config"] | {"vocab_size": 25})
    expected = "misshapen: embeddings.word_embeddings.weight (expected [25, 12], found [24, 12])"
    assert refusal(folder) == f"{folder}: tensors do not fit config.json: {expected}"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "not found; a checkpoint folder needs config.json"),
        ("{", "not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        ("[" * 100_000, "not JSON ("),
        (b"\xff\xfe", "not JSON ("),
        ("[1]", "expected a JSON object, found list"),
        ('{"model_type": "roberta"}', "BERT config: model_type must be 'bert', found 'roberta'"),
        ("{}", "BERT config: hidden_size, num_attention_heads, num_hidden_layers, vocab_size missing"),
    ],
    ids=["missing", "cut", "deep", "not UTF-8", "list", "roberta", "empty"],
)
def test_a_bad_config(write, text, complaint):
    path = write() / "config.json"
    if text is None:
        path.unlink()
    else:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    message = refusal(path.parent)
    assert message.startswith(f"{path}: {complaint}")
    assert complaint.endswith("(") or message == f"{path}: {complaint}"


def test_a_config_that_is_a_folder(write):
    path = write() / "config.json"
    path.unlink()
    path.mkdir()
    assert refusal(path.parent) == f"{path}: cannot be read (Is a directory)"


def test_no_weights(write):
    folder = write()
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")
    expected = "expected model.safetensors or model.safetensors.index.json, found neither"
    assert refusal(folder) == f"{folder}: {expected}"


@pytest.mark.parametrize(
    "break_it",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[:20],
        lambda data: data + b"\0",
        lambda data: struct.pack("<Q", 2**62) + data[8:],
        lambda data: data.replace(b"F32", b"X32", 1),
    ],
    ids=["empty", "short", "cut in the header", "long", "a header of exabytes", "unknown dtype"],
)
def test_a_broken_safetensors_file(write, break_it):
    path = write() / "model.safetensors"
    path.write_bytes(break_it(path.read_bytes()))
    assert refusal(path.parent).startswith(f"{path}: not a readable safetensors file (")


@pytest.mark.parametrize("file", ["../out.safetensors", "/out.safetensors", "sub/out.safetensors"])
def test_an_index_that_leads_elsewhere(write, file, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for path in (tmp_path / "out.safetensors", folder / "sub" / "out.safetensors"):
        path.parent.mkdir(exist_ok=True)
        write_safetensors(path, TENSORS)
    file = file.replace("/out", f"{tmp_path}/out") if file.startswith("/") else file
    write()
    (tmp_path / "config.json").rename(folder / "config.json")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(TENSORS, file)}))
    assert refusal(folder) == f"{index}: shard {file!r} must be a file name in the same folder"


@pytest.mark.parametrize("file", ["gone.safetensors", "two\nlines", "..", ""])
def test_a_shard_that_is_not_there(write, file):
    folder = write()
    shard(folder, {"a.safetensors": TENSORS}, weight_map={"pooler.dense.bias": file})
    index = folder / "model.safetensors.index.json"
    assert refusal(folder) == f"{index}: shard {file!r} is not in the folder; download it too"


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": []}}', '{"weight_map": 1}']
)
def test_a_broken_index(write, text):
    folder = write()
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(text)
    assert refusal(folder).startswith(f"{index}: expected a JSON object with 'weight_map' (")


# Where a checkpoint comes from


@pytest.fixture
def hub(monkeypatch):
    """Stands in for the hub; returns the calls made."""
    calls = []

    def set_outcome(outcome):
        def snapshot_download(*args, **kwargs):
            calls.append((args, kwargs))
            if isinstance(outcome, Exception):
                raise outcome
            return str(outcome)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return calls

    return set_outcome


@pytest.mark.parametrize(
    ("source", "repository", "revision"),
    [
        ("bert-base-uncased", "bert-base-uncased", None),
        ("owner/model_2.b", "owner/model_2.b", None),
        ("owner/model@refs/pr/1", "owner/model", "refs/pr/1"),
    ],
)
def test_a_hub_name(write, hub, source, repository, revision, tmp_path, monkeypatch):
    folder = write()
    calls = hub(folder)
    monkeypatch.chdir(tmp_path)
    _, params = load_pretrained(source)
    assert_holds(params, TENSORS)
    [(args, kwargs)] = calls
    assert args == (repository,)
    assert kwargs.pop("revision") == revision
    # No pickles, and no second copy of the weights in another framework's format.
    assert not any("bin" in pattern or pattern == "*" for pattern in kwargs.pop("allow_patterns"))
    assert not kwargs


class ProxyError(Exception):
    """As in httpx: no OSError."""


@pytest.mark.parametrize(
    "error",
    [
        huggingface_hub.errors.LocalEntryNotFoundError("no snapshot\nPlease check your connection."),
        huggingface_hub.errors.HFValidationError("no snapshot"),
        ConnectionError("no snapshot"),
        ProxyError("no snapshot"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_hub_out_of_reach(hub, error):
    hub(error)
    assert refusal("owner/model") == (
        "init_from: no folder 'owner/model' here, and the hub gave no model of that name: no snapshot; "
        "download the checkpoint and pass its folder, or use --config.init_from=minilm-l6"
    )


def test_an_error_without_a_message(hub):
    hub(TimeoutError())
    assert ": TimeoutError; download" in refusal("owner/model")


@pytest.mark.parametrize("source", ["./gone", "/gone/model", "~/gone", "a/b/c", "a model", "owner/", "a\nb"])
def test_an_unknown_source(hub, source, monkeypatch, tmp_path):
    calls = hub(AssertionError("asked the hub"))
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = (
        "is neither 'minilm-l6', nor a folder, nor a hub name such as 'bert-base-uncased' or 'owner/model@revision'"
    )
    assert refusal(source) == f"init_from: {source!r} {expected}"
    assert not calls


def test_a_file_is_no_checkpoint(hub, write, monkeypatch):
    calls = hub(AssertionError("asked the hub"))
    monkeypatch.chdir(write())
    assert refusal("model.safetensors").startswith(
        "init_from: 'model.safetensors' is neither 'minilm-l6', nor a folder"
    )
    assert not calls


def test_the_starter_and_folders_ask_no_hub(hub, write, monkeypatch):
    calls = hub(AssertionError("asked the hub"))
    folder = write()
    asked = []
    monkeypatch.setattr(assets, "fetch", lambda name: asked.append(name) or folder)
    assert resolve("minilm-l6") == folder
    assert asked == ["minilm-l6"]
    assert resolve(folder) == resolve(str(folder)) == folder
    monkeypatch.setenv("HOME", str(folder.parent))
    assert resolve(f"~/{folder.name}") == folder
    assert not calls
