"""Checkpoints in Hugging Face's layout: names, shards, number formats, and what is refused."""

import json
import struct
from functools import partial

import chex
import jax
import numpy as np
import pytest
from checkpoints import COARSE, GOLDEN, TENSORS, assert_holds, refusal, write_checkpoint, write_safetensors

from bertjax.models.bert import Bert
from bertjax.models.config import BertConfig
from bertjax.models.encoder import init_params
from bertjax.pretrained import load_pretrained, with_heads

WIDE_INIT = GOLDEN["config"] | {"initializer_range": 3.0}


@pytest.fixture
def write(tmp_path):
    return partial(write_checkpoint, tmp_path)


def shard(folder, files, weight_map=None):
    """Replaces the single file by shards."""
    (folder / "model.safetensors").unlink()
    for name, tensors in files.items():
        write_safetensors(folder / name, tensors)
    weight_map = weight_map or {tensor: name for name, tensors in files.items() for tensor in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


# Layouts and names


def test_the_tree_fits_the_model(write):
    config, params = load_pretrained(write())
    assert config == BertConfig(**{name: x for name, x in GOLDEN["config"].items() if name != "model_type"})
    assert_holds(params, TENSORS)
    chex.assert_trees_all_equal_shapes_and_dtypes(params, init_params(jax.random.key(0), Bert(config)))
    heads = {"sst": 5, "sts": 1}
    whole = with_heads(params, config, heads, jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(whole, init_params(jax.random.key(0), Bert(config, heads)))


def test_shards_are_read_as_one_checkpoint(write):
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


def test_buffers_are_ignored(write, capsys):
    buffers = {
        "embeddings.position_ids": np.arange(10)[None],
        "embeddings.token_type_ids": np.zeros((1, 10), np.int64),
    }
    for prefix in ("", "bert."):
        _, params = load_pretrained(write({prefix + name: x for name, x in (TENSORS | buffers).items()}))
        assert_holds(params, TENSORS)
    assert capsys.readouterr().err == ""


def test_a_missing_pooler_is_replaced_with_a_warning(write, capsys):
    folder = write({name: x for name, x in TENSORS.items() if not name.startswith("pooler")}, WIDE_INIT)
    config, params = load_pretrained(folder)
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: {folder}: no pooler in this checkpoint; ")
    chex.assert_trees_all_equal_shapes_and_dtypes(params, init_params(jax.random.key(0), Bert(config)))
    kernel = params["pooler"]["kernel"]
    assert abs(np.std(kernel) - 3) < 5 * 3 / np.sqrt(2 * kernel.size)
    assert not np.any(params["pooler"]["bias"])
    chex.assert_trees_all_equal(load_pretrained(folder)[1], params)


# What is refused


@pytest.mark.parametrize("lost", ["pooler.dense.weight", "pooler.dense.bias"])
def test_half_a_pooler(write, lost):
    folder = write({name: x for name, x in TENSORS.items() if name != lost})
    assert refusal(folder) == f"{folder}: tensors do not fit config.json: missing: {lost}"


def test_missing_surplus_and_misshapen_tensors_in_one_line(write):
    tensors = TENSORS | {"encoder.layer.2.output.dense.bias": np.zeros(12, np.float32)}
    del tensors["pooler.dense.bias"]
    tensors["encoder.layer.0.output.dense.weight"] = np.zeros((20, 12), np.float32)
    folder = write(tensors)
    assert refusal(folder) == (
        f"{folder}: tensors do not fit config.json: missing: pooler.dense.bias; "
        "surplus: encoder.layer.2.output.dense.bias; "
        "misshapen: encoder.layer.0.output.dense.weight (expected [12, 20], found [20, 12])"
    )


def test_a_long_list_is_shortened(write):
    folder = write({name: x for name, x in TENSORS.items() if not name.startswith("encoder.layer.1.")})
    message = refusal(folder)
    assert message.startswith(f"{folder}: tensors do not fit config.json: missing: encoder.layer.1.")
    assert message.count("encoder.layer.1.") == 8
    assert message.endswith(" and 8 more")


def test_a_tensor_under_two_names(write):
    folder = write(TENSORS | {"bert.pooler.dense.bias": TENSORS["pooler.dense.bias"]})
    assert refusal(folder) == f"{folder}: tensors do not fit config.json: surplus: bert.pooler.dense.bias"
    write(TENSORS | {"embeddings.LayerNorm.gamma": TENSORS["embeddings.LayerNorm.weight"]})
    expected = f"{folder / 'model.safetensors'}: tensor embeddings.LayerNorm.weight appears twice in this checkpoint"
    assert refusal(folder) == expected
    shard(folder, {"a.safetensors": TENSORS, "b.safetensors": {"embeddings.LayerNorm.weight": np.float32([1])}})
    assert refusal(folder) == expected.replace("model.", "b.")


def test_a_vocabulary_of_another_size(write):
    folder = write(config=GOLDEN["config"] | {"vocab_size": 25})
    expected = "misshapen: embeddings.word_embeddings.weight (expected [25, 12], found [24, 12])"
    assert refusal(folder) == f"{folder}: tensors do not fit config.json: {expected}"


def test_no_weights(write):
    folder = write()
    (folder / "model.safetensors").unlink()
    assert refusal(folder) == (
        f"{folder}: expected model.safetensors, pytorch_model.bin, flax_model.msgpack, the .index.json of one, "
        "bert_model.ckpt.index or a run's checkpoints, found none"
    )


def test_safetensors_come_before_pickles(write):
    folder = write()
    (folder / "pytorch_model.bin").write_bytes(b"not read")
    assert_holds(load_pretrained(folder)[1], TENSORS)


@pytest.mark.parametrize(
    "break_it",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[:20],
        lambda data: data + b"\0",
        lambda data: data.replace(b"F32", b"X32", 1),
    ],
    ids=["empty", "short", "cut in the header", "long", "unknown dtype"],
)
def test_a_broken_safetensors_file(write, break_it):
    path = write() / "model.safetensors"
    path.write_bytes(break_it(path.read_bytes()))
    assert refusal(path.parent).startswith(f"{path}: not a readable safetensors file (")


def with_header(header, data=bytes(16)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "data",
    [
        with_header({"a": entry([4], 0, 16)}, bytes(8)),
        with_header({"a": entry([4], 16, 32)}),
        with_header({"a": entry([2], 0, 8), "b": entry([2], 0, 8)}),
        with_header({"a": entry([3], 0, 12), "b": entry([2], 8, 16)}),
        with_header({"a": entry([1], 0, 4), "b": entry([2], 8, 16)}),
        with_header({"a": entry([2**40, 2**40], 0, 16)}),
        with_header({"a": entry([2**62, 4], 0, 16)}),
        with_header({"a": entry([5], 0, 16)}),
        with_header({"a": entry([4], 16, 0)}),
        with_header({"a": entry([-4], 0, 16)}),
        with_header({"a": {"dtype": "F32", "shape": [4]}}),
        with_header(b'{"a":' * 10_000),
        with_header(b"[" * 10_000),
        with_header(b"\xff\xfe"),
        struct.pack("<Q", 10**6) + b"{}",
    ],
    ids=[
        *("beyond the file", "all beyond", "twice the same", "overlapping", "a hole", "overflow", "overflow by dtype"),
        *("more than its span", "backwards", "negative", "no offsets", "deep", "a deep list", "not UTF-8"),
        "a header beyond the file",
    ],
)
def test_an_inconsistent_safetensors_header(write, data):
    path = write() / "model.safetensors"
    path.write_bytes(data)
    message = refusal(path.parent)
    assert message.startswith(f"{path}: not a readable safetensors file (")
    assert message.endswith("; get it again")


def test_a_safetensors_header_that_is_too_large(write):
    path = write() / "model.safetensors"
    for size in (2**24 + 1, 2**62):
        with path.open("wb") as file:
            file.write(struct.pack("<Q", size))
            file.truncate(2**24 + 20)
        assert refusal(path.parent) == (
            f"{path}: expected a header of at most 16,777,216 bytes, found {size:,}; get the file again"
        )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("num_hidden_layers", x) for x in (10**9, 0, -1, 1.5, "12", True, None, [12], 10**400)),
        *(("vocab_size", 10**12), ("hidden_size", 10**6), ("intermediate_size", 10**9), ("type_vocab_size", 10**6)),
        *(("max_position_embeddings", 10**9), ("num_attention_heads", 10**9), ("pad_token_id", -1)),
        *(("pad_token_id", 10**6), ("layer_norm_eps", 10**400), ("initializer_range", float("nan"))),
        *(("layer_norm_eps", float("inf")), ("hidden_dropout_prob", 1), ("hidden_act", "x" * 10**5)),
    ],
)
def test_absurd_sizes_are_refused_before_they_take_time_or_memory(write, key, value):
    path = write() / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    message = refusal(path.parent)
    assert message.startswith(f"{path}: BERT config: ")
    assert key in message
    assert len(message) < len(str(path)) + 300


def test_small_files_that_are_too_large(write):
    folder = write()
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.ljust(2**20 + 1))
    assert refusal(folder).startswith(f"{folder / 'config.json'}: expected at most 1,048,576 bytes, found more; ")
    (folder / "config.json").write_text(config)
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text('{"weight_map": {}}'.ljust(2**24 + 1))
    assert refusal(folder).startswith(f"{index}: expected at most 16,777,216 bytes, found more")


@pytest.mark.parametrize("file", ["../out.safetensors", "/out.safetensors", "sub/out.safetensors"])
def test_an_index_that_points_outside_the_folder(write, file, tmp_path):
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
    assert refusal(folder) == f"{index}: shard {file!r} must be a file name in the same folder; get it again"


@pytest.mark.parametrize("file", ["gone.safetensors", "two\nlines", "..", ""])
def test_a_missing_shard(write, file):
    folder = write()
    shard(folder, {"a.safetensors": TENSORS}, weight_map={"pooler.dense.bias": file})
    index = folder / "model.safetensors.index.json"
    assert refusal(folder) == f"{index}: shard {file!r} is not in the folder; download it too"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "JSON, found something else ("),
        ("[]", "an object, found []"),
        ("{}", "weight_map, found none"),
        ('{"weight_map": []}', "an object as weight_map, found []"),
        ('{"weight_map": {"a": []}}', "a string as weight_map.a, found []"),
        ('{"weight_map": 1}', "an object as weight_map, found 1"),
    ],
)
def test_a_broken_index(write, text, complaint):
    folder = write()
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(text)
    assert refusal(folder).startswith(f"{index}: expected {complaint}")
