"""Google's checkpoints: the names in its BERT, through a fake of TensorFlow's reader and through TensorFlow itself."""

import json
import subprocess
import sys

import numpy as np
import pytest
from checkpoints import GOLDEN, MLM, NSP, TENSORS, assert_holds_all, refusal

from bertjax.errors import UserError
from bertjax.pretrained import load_pretrained
from bertjax.pretrained.formats import tensorflow_file

# The names of one layer, repeated below for each of two.
EMBEDDINGS = {
    "bert/embeddings/word_embeddings": "embeddings.word_embeddings.weight",
    "bert/embeddings/position_embeddings": "embeddings.position_embeddings.weight",
    "bert/embeddings/token_type_embeddings": "embeddings.token_type_embeddings.weight",
    "bert/embeddings/LayerNorm/gamma": "embeddings.LayerNorm.weight",
    "bert/embeddings/LayerNorm/beta": "embeddings.LayerNorm.bias",
    "bert/pooler/dense/kernel": "pooler.dense.weight",
    "bert/pooler/dense/bias": "pooler.dense.bias",
}
LAYER = {
    "attention/self/query/kernel": "attention.self.query.weight",
    "attention/self/query/bias": "attention.self.query.bias",
    "attention/self/key/kernel": "attention.self.key.weight",
    "attention/self/key/bias": "attention.self.key.bias",
    "attention/self/value/kernel": "attention.self.value.weight",
    "attention/self/value/bias": "attention.self.value.bias",
    "attention/output/dense/kernel": "attention.output.dense.weight",
    "attention/output/dense/bias": "attention.output.dense.bias",
    "attention/output/LayerNorm/gamma": "attention.output.LayerNorm.weight",
    "attention/output/LayerNorm/beta": "attention.output.LayerNorm.bias",
    "intermediate/dense/kernel": "intermediate.dense.weight",
    "intermediate/dense/bias": "intermediate.dense.bias",
    "output/dense/kernel": "output.dense.weight",
    "output/dense/bias": "output.dense.bias",
    "output/LayerNorm/gamma": "output.LayerNorm.weight",
    "output/LayerNorm/beta": "output.LayerNorm.bias",
}
HEADS = {
    "cls/predictions/transform/dense/kernel": "cls.predictions.transform.dense.weight",
    "cls/predictions/transform/dense/bias": "cls.predictions.transform.dense.bias",
    "cls/predictions/transform/LayerNorm/gamma": "cls.predictions.transform.LayerNorm.weight",
    "cls/predictions/transform/LayerNorm/beta": "cls.predictions.transform.LayerNorm.bias",
    "cls/predictions/output_bias": "cls.predictions.bias",
    "cls/seq_relationship/output_weights": "cls.seq_relationship.weight",
    "cls/seq_relationship/output_bias": "cls.seq_relationship.bias",
}
NAMES = EMBEDDINGS | HEADS
for i in (0, 1):
    NAMES |= {f"bert/encoder/layer_{i}/{a}": f"encoder.layer.{i}.{b}" for a, b in LAYER.items()}


def variables():
    theirs = {name: (TENSORS | MLM | NSP)[hf] for name, hf in NAMES.items()}
    theirs = {name: x.T if name.endswith("kernel") else x for name, x in theirs.items()}
    slots = {f"{name}/adam_{slot}": np.zeros_like(x) for name, x in theirs.items() for slot in "mv"}
    return theirs | slots | {"global_step": np.array(7)}


class Reader:
    """A fake of what `tf.train.load_checkpoint` returns."""

    def __init__(self, tensors):
        self.tensors = tensors

    def get_variable_to_shape_map(self):
        return {name: list(x.shape) for name, x in self.tensors.items()}

    def get_tensor(self, name):
        return self.tensors[name]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "bert_config.json").write_text(json.dumps(GOLDEN["config"]))
    (tmp_path / "bert_model.ckpt.index").write_bytes(b"")
    return tmp_path


@pytest.fixture
def use(monkeypatch, folder):
    def use(tensors, reader=Reader):
        def fake(prefix):
            assert prefix == folder / "bert_model.ckpt"
            return reader(tensors)

        monkeypatch.setattr(tensorflow_file, "_open", fake)

    return use


def test_names_and_transposition(folder, use):
    use(variables())
    config, params = load_pretrained(folder)
    assert config.hidden_size == 12
    assert_holds_all(params)
    query = TENSORS["encoder.layer.1.attention.self.query.weight"]
    np.testing.assert_array_equal(params["layer_1"]["query"]["kernel"], query.T)


def test_a_classifier_by_google_s_own_script(folder, use, capsys):
    weight, bias = np.arange(36, dtype=np.float32).reshape(3, 12), np.arange(3, dtype=np.float32)
    use(variables() | {"output_weights": weight, "output_bias": bias})
    _, params = load_pretrained(folder)
    np.testing.assert_array_equal(params["classifier"]["kernel"], weight.T)
    np.testing.assert_array_equal(params["classifier"]["bias"], bias)
    assert capsys.readouterr().err == ""


def test_a_question_answering_head_by_google_s_own_script_is_left_out(folder, use, capsys):
    head = {"cls/squad/output_weights": np.zeros((2, 12), np.float32), "cls/squad/output_bias": np.zeros(2, np.float32)}
    use(variables() | head)
    assert_holds_all(load_pretrained(folder)[1])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{folder}: left out cls.squad.bias, cls.squad.weight: beside the encoder, ")


def test_missing_surplus_and_misshapen_tensors(folder, use):
    tensors = variables() | {"bert/more": np.zeros(1), "bert/pooler/dense/kernel": np.zeros((12, 11))}
    del tensors["bert/pooler/dense/bias"]
    use(tensors)
    assert refusal(folder) == (
        f"{folder}: tensors do not fit config.json: missing: pooler.dense.bias; "
        "surplus: more; misshapen: pooler.dense.weight (expected [12, 12], found [11, 12])"
    )


def test_without_tensorflow(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    message = refusal(folder)
    assert message.startswith(f"{folder / 'bert_model.ckpt'}: reading Google's checkpoints needs TensorFlow")
    assert message.endswith('; pip install "tensorflow>=2.20"')


def test_a_tensor_that_cannot_be_read(folder, use):
    class Broken(Reader):
        def get_tensor(self, name):
            raise RuntimeError("no such\nfile")

    use(variables(), Broken)
    assert refusal(folder) == (
        f"{folder / 'bert_model.ckpt'}: not a readable TensorFlow checkpoint (no such file); get both its files again"
    )


# Through TensorFlow, in a process of its own, which keeps its warnings and threads out of the other tests

WRITE = """
import sys, numpy as np, tensorflow as tf
v1 = tf.compat.v1
tensors = dict(np.load(sys.argv[1]))
with tf.Graph().as_default(), v1.Session() as session:
    for name, x in tensors.items():
        v1.get_variable(name, initializer=x)
    session.run(v1.global_variables_initializer())
    v1.train.Saver().save(session, sys.argv[2], write_meta_graph=False)
"""
READ = """
import sys
from bertjax.errors import UserError
from bertjax.pretrained import load_pretrained
try:
    params = load_pretrained(sys.argv[1])[1]
except UserError as error:
    sys.exit(str(error))
print(float(params["layer_1"]["query"]["kernel"].sum()), float(params["mlm"]["bias"][3]))
"""


def test_through_tensorflow(tmp_path, folder):
    pytest.importorskip("tensorflow")
    np.savez(tmp_path / "tensors.npz", **variables())
    subprocess.run(
        [sys.executable, "-c", WRITE, tmp_path / "tensors.npz", folder / "bert_model.ckpt"],
        check=True,
        capture_output=True,
    )
    read = subprocess.run([sys.executable, "-c", READ, folder], check=True, capture_output=True, text=True)
    assert read.stderr == ""
    kernel, bias = map(float, read.stdout.split())
    assert kernel == pytest.approx(TENSORS["encoder.layer.1.attention.self.query.weight"].sum(), abs=1e-5)
    assert bias == MLM["cls.predictions.bias"][3]
    _, params = load_pretrained(folder)
    assert_holds_all(params)
    for damaged in ("bert_model.ckpt.data-00000-of-00001", "bert_model.ckpt.index"):
        (folder / damaged).write_bytes(b"nothing")
        with pytest.raises(UserError, match="not a readable TensorFlow checkpoint") as raised:
            load_pretrained(folder)
        assert "\n" not in str(raised.value)
