"""flax_model.msgpack as Transformers 4 wrote it: names spelt out, packed by msgpack itself."""

import json
import struct
import tracemalloc

import flax.traverse_util
import msgpack
import numpy as np
import pytest
from checkpoints import COARSE, GOLDEN, MLM, NSP, TENSORS, assert_holds, assert_holds_all, refusal

from bertjax.pretrained import load_pretrained

ATTENTION = {part: {"kernel": f"self.{part}.weight", "bias": f"self.{part}.bias"} for part in ("query", "key", "value")}


def dense(name):
    return {"kernel": f"{name}.dense.weight", "bias": f"{name}.dense.bias"}


def norm(name):
    return {"scale": f"{name}.LayerNorm.weight", "bias": f"{name}.LayerNorm.bias"}


def layer(i):
    name = f"encoder.layer.{i}"
    return {
        "attention": {
            "self": {
                part: {leaf: f"{name}.attention.{theirs}" for leaf, theirs in leaves.items()}
                for part, leaves in ATTENTION.items()
            },
            "output": {"dense": dense(f"{name}.attention.output"), "LayerNorm": norm(f"{name}.attention.output")},
        },
        "intermediate": {"dense": dense(f"{name}.intermediate")},
        "output": {"dense": dense(f"{name}.output"), "LayerNorm": norm(f"{name}.output")},
    }


BERT = {
    "embeddings": {
        "word_embeddings": {"embedding": "embeddings.word_embeddings.weight"},
        "position_embeddings": {"embedding": "embeddings.position_embeddings.weight"},
        "token_type_embeddings": {"embedding": "embeddings.token_type_embeddings.weight"},
        "LayerNorm": norm("embeddings"),
    },
    "encoder": {"layer": {"0": layer(0), "1": layer(1)}},
    "pooler": {"dense": dense("pooler")},
}
HEADS = {
    "predictions": {
        "transform": {
            "dense": dense("cls.predictions.transform"),
            "LayerNorm": norm("cls.predictions.transform"),
        },
        "bias": "cls.predictions.bias",
    },
    "seq_relationship": {"kernel": "cls.seq_relationship.weight", "bias": "cls.seq_relationship.bias"},
}


def tree_of(names, tensors, dtype="float32"):
    def leaf(name, key):
        x = tensors[name]
        return packed((x.T if key == "kernel" else x).astype(dtype))

    return {
        key: tree_of(value, tensors, dtype) if isinstance(value, dict) else leaf(value, key)
        for key, value in names.items()
    }


def packed(x):
    """An array as Flax's extension 1: shape, name of the dtype, bytes."""
    return msgpack.ExtType(1, msgpack.packb((x.shape, x.dtype.name, x.tobytes()), use_bin_type=True))


@pytest.fixture
def write(tmp_path):
    def write(tree):
        (tmp_path / "config.json").write_text(json.dumps(GOLDEN["config"]))
        (tmp_path / "flax_model.msgpack").write_bytes(msgpack.packb(tree))
        return tmp_path

    return write


def test_names_and_transposition(write):
    tensors = TENSORS | MLM | NSP
    folder = write({"bert": tree_of(BERT, tensors), "cls": tree_of(HEADS, tensors)})
    _, params = load_pretrained(folder)
    assert_holds_all(params)
    key = TENSORS["encoder.layer.0.attention.self.key.weight"]
    np.testing.assert_array_equal(params["layer_0"]["key"]["kernel"], key.T)


def test_a_bare_encoder(write):
    _, params = load_pretrained(write(tree_of(BERT, TENSORS)))
    assert_holds(params, TENSORS)
    assert "mlm" not in params


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_other_float_widths_become_float32(write, dtype):
    assert_holds(load_pretrained(write(tree_of(BERT, COARSE, dtype)))[1], COARSE)


def test_shards(write):
    """As Transformers 4 wrote them: each shard is a tree, and the index names tensors by their paths."""
    folder = write({})
    (folder / "flax_model.msgpack").unlink()
    whole, weight_map = flax.traverse_util.flatten_dict({"bert": tree_of(BERT, TENSORS)}, sep="/"), {}
    for i in (0, 1):
        file = f"flax_model-0000{i + 1}-of-00002.msgpack"
        part = {name: x for j, (name, x) in enumerate(whole.items()) if j % 2 == i}
        (folder / file).write_bytes(msgpack.packb(flax.traverse_util.unflatten_dict(part, sep="/")))
        weight_map |= dict.fromkeys(part, file)
    (folder / "flax_model.msgpack.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert_holds(load_pretrained(folder)[1], TENSORS)


def test_a_classifier(write):
    weight, bias = np.arange(36, dtype=np.float32).reshape(12, 3), np.arange(3, dtype=np.float32)
    head = {"kernel": packed(weight), "bias": packed(bias)}
    _, params = load_pretrained(write({"bert": tree_of(BERT, TENSORS), "classifier": head}))
    np.testing.assert_array_equal(params["classifier"]["kernel"], weight)
    np.testing.assert_array_equal(params["classifier"]["bias"], bias)


def test_missing_surplus_and_misshapen_tensors(write):
    tree = tree_of(BERT, TENSORS)
    del tree["embeddings"]["LayerNorm"]["scale"]
    tree["encoder"]["layer"]["2"] = {"output": {"dense": {"kernel": packed(np.zeros((1, 1), np.float32))}}}
    tree["encoder"]["layer"]["0"]["intermediate"]["dense"]["kernel"] = packed(np.zeros((20, 12), np.float32))
    folder = write(tree)
    assert refusal(folder) == (
        f"{folder}: tensors do not fit config.json: missing: embeddings.LayerNorm.weight; "
        "surplus: encoder.layer.2.output.dense.weight; "
        "misshapen: encoder.layer.0.intermediate.dense.weight (expected [20, 12], found [12, 20])"
    )


def test_integers_are_refused(write):
    path = write(tree_of(BERT, TENSORS, "int8")) / "flax_model.msgpack"
    assert refusal(path.parent) == (
        f"{path}: tensor embeddings.word_embeddings.weight is stored as int8, expected one of F64, F32, F16, BF16"
    )


@pytest.mark.parametrize("break_it", [lambda data: b"", lambda data: data[:-1], lambda data: data[:40] + b"\xc1" * 9])
def test_a_broken_file(write, break_it):
    path = write(tree_of(BERT, TENSORS)) / "flax_model.msgpack"
    path.write_bytes(break_it(path.read_bytes()))
    assert refusal(path.parent).startswith(f"{path}: not a readable Flax file (")


def peak_of(call, *args):
    tracemalloc.start()
    try:
        return call(*args), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


LIST = b"\xdd" + struct.pack(">I", 2**20)  # claims 2**20 items and holds none


@pytest.mark.parametrize(
    "data",
    [
        LIST * 400,
        b"\x81\xa1a" + LIST * 400,
        b"\x81\xa1a\xc9" + struct.pack(">I", 2000 + 2**21) + b"\x01" + LIST * 400,
        b"\x81\xa1a\xc9" + struct.pack(">I", 2**31) + b"\x01",
        b"\xdf" + struct.pack(">I", 2**31),
        b"\xdb" + struct.pack(">I", 2**31),
    ],
    ids=["lists", "lists in a tree", "lists in an array", "an array", "a map", "a text"],
)
def test_false_lengths_take_no_memory(write, data):
    path = write({}) / "flax_model.msgpack"
    path.write_bytes(data + bytes(2**21))  # msgpack itself refuses lengths beyond the file's
    message, peak = peak_of(refusal, path.parent)
    assert message.startswith(f"{path}: not a readable Flax file (")
    assert peak < 2**25


@pytest.mark.parametrize(
    ("shape", "dtype", "data"),
    [
        ((2**40,), "float32", b""),
        ((2**62, 4), "float32", bytes(16)),
        ((-1, 0), "float32", b""),
        ((4,), "float32", bytes(15)),
        ((1,), "object", bytes(8)),
        ((1,), "V99999999999", bytes(8)),
        ((1,), "no such", bytes(4)),
        (("a",), "float32", bytes(4)),
        (3, 3, 3),
    ],
)
def test_an_inconsistent_array(write, shape, dtype, data):
    payload = msgpack.packb((shape, dtype, data), use_bin_type=True)
    folder = write({"bert": {"a": msgpack.ExtType(1, payload)}})
    assert refusal(folder).startswith(f"{folder / 'flax_model.msgpack'}: not a readable Flax file (")


@pytest.mark.parametrize("code", [2, 3, 5, 127])
def test_other_extensions(write, code):
    refusal(write({"bert": {"a": msgpack.ExtType(code, b"\x93\x01\x01\x01")}}))


@pytest.mark.parametrize("byte", [b"\x81\xa1a", b"\x91"])
def test_a_deep_tree(write, byte):
    path = write({}) / "flax_model.msgpack"
    path.write_bytes(byte * 100_000)
    assert refusal(path.parent).startswith(f"{path}: not a readable Flax file (")


@pytest.mark.parametrize("tree", [3, [1], {"bert": "text"}, {"bert": {"a": None}}])
def test_a_file_that_is_not_a_tree_of_arrays(write, tree):
    refusal(write(tree))
