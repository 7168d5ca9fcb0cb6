"""ModernBERT's head.dense and head.norm: of the sentence head or of the MLM head, as `architectures` says."""

import json

import numpy as np
import pytest
import safetensors.numpy
import zoo
from families_export import export_without_tokenizer

from bertjax.errors import UserError
from bertjax.models.modernbert_config import ModernBertConfig
from bertjax.pretrained import load_pretrained
from bertjax.pretrained.load import read_checkpoint
from bertjax.pretrained.param_names import tensor_shapes

D, V = 8, 30
CLASSIFIER = {"classifier.weight": (3, D), "classifier.bias": (3,)}
DECODER = {"decoder.bias": (V,)}
HEAD = {"head.dense.weight": (D, D), "head.norm.weight": (D,)}
SENTENCE, MASKED = "ModernBertForSequenceClassification", "ModernBertForMaskedLM"


def write(folder, architecture, heads, *, prefix="model.", **changes):
    """A random checkpoint with these tensors of heads."""
    values = {
        "vocab_size": V,
        "hidden_size": D,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 6,
        "pad_token_id": 0,
    }
    config = ModernBertConfig(**values | changes)
    rng = np.random.default_rng(0)
    shapes = {f"{prefix}{name}": shape for name, shape in tensor_shapes(config).items()} | heads
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    folder.mkdir(exist_ok=True)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    names = {} if architecture is None else {"architectures": [architecture]}
    zoo.write(folder, "config.json", config.to_dict() | names)
    return tensors


def parts(folder):
    return {path[0] for path in read_checkpoint(folder)[1]} & {"pooler", "classifier", "mlm"}


@pytest.mark.parametrize(
    ("architecture", "heads", "found", "said"),
    [
        (SENTENCE, HEAD | CLASSIFIER, {"pooler", "classifier"}, ""),
        (MASKED, HEAD | DECODER, {"mlm"}, ""),
        ("ModernBertForTokenClassification", HEAD | CLASSIFIER, set(), "not of ModernBertForSequenceClassification"),
        ("ModernBertModel", HEAD | DECODER, set(), "left out"),
        (SENTENCE, HEAD | CLASSIFIER | DECODER, {"pooler", "classifier"}, "left out the head decoder"),
        (MASKED, HEAD | CLASSIFIER | DECODER, {"mlm"}, "left out classifier.bias"),
        (SENTENCE, HEAD | DECODER, set(), "expected classifier.weight"),
        (MASKED, HEAD | CLASSIFIER, set(), "missing: decoder.bias"),
        # Without architectures, the tensors beside head.* decide, with a line.
        (None, HEAD | CLASSIFIER, {"pooler", "classifier"}, f"assumed to be those of a {SENTENCE}"),
        (None, HEAD | DECODER, {"mlm"}, f"assumed to be those of a {MASKED}"),
        (None, HEAD | CLASSIFIER | DECODER, set(), "left out head.dense.weight, head.norm.weight"),
        (None, HEAD, set(), "missing: decoder.bias"),
        (None, {}, set(), ""),
    ],
)
def test_whose_the_shared_tensors_are(tmp_path, capsys, architecture, heads, found, said):
    tensors = write(tmp_path, architecture, heads)
    assert parts(tmp_path) == found
    said_of_it = capsys.readouterr().err
    assert said in said_of_it
    assert bool(said) == bool(said_of_it)
    params = read_checkpoint(tmp_path)[1]
    if "pooler" in found:
        np.testing.assert_array_equal(params["pooler", "dense", "kernel"].T, tensors["head.dense.weight"])
        np.testing.assert_array_equal(params["pooler", "norm", "affine", "scale"], tensors["head.norm.weight"])
    if "mlm" in found:
        np.testing.assert_array_equal(params["mlm", "transform", "kernel"].T, tensors["head.dense.weight"])
        np.testing.assert_array_equal(params["mlm", "bias"], tensors["decoder.bias"])


def test_a_decoder_without_bias(tmp_path, capsys):
    """With its weight tied, nothing of it is stored."""
    write(tmp_path / "tied", MASKED, HEAD, decoder_bias=False)
    assert parts(tmp_path / "tied") == {"mlm"}
    assert ("mlm", "bias") not in read_checkpoint(tmp_path / "tied")[1]
    assert not capsys.readouterr().err
    write(tmp_path / "surplus", MASKED, HEAD | DECODER, decoder_bias=False)
    assert parts(tmp_path / "surplus") == set()
    assert "surplus: decoder.bias" in capsys.readouterr().err


def test_an_untied_decoder(tmp_path, capsys):
    write(tmp_path, MASKED, HEAD | DECODER | {"decoder.weight": (V, D)})
    assert parts(tmp_path) == set()
    assert "only tied decoders" in capsys.readouterr().err
    with pytest.raises(UserError, match="only tied decoders"):
        load_pretrained(tmp_path, strict_heads=True)


@pytest.mark.parametrize("prefix", ["", "model.", "module.model.", "modernbert."])
def test_prefixes(tmp_path, prefix):
    tensors = write(tmp_path, "ModernBertModel", {}, prefix=prefix)
    _, params = read_checkpoint(tmp_path)
    name = f"{prefix}layers.1.attn.Wqkv.weight"
    np.testing.assert_array_equal(params["layer_1", "qkv", "kernel"].T, tensors[name])


def test_tensors_of_another_family(tmp_path):
    write(tmp_path, "ModernBertModel", {})
    words = {"bert.embeddings.word_embeddings.weight": np.zeros((V, D), np.float32)}
    safetensors.numpy.save_file(words, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"expected a ModernBERT with a tensor embeddings\.tok_embeddings\.weight"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(("architecture", "own"), [(SENTENCE, HEAD | CLASSIFIER), (MASKED, HEAD | DECODER)])
def test_export_writes_the_head_under_the_same_names(tmp_path, architecture, own):
    tensors = write(tmp_path / "first", architecture, own)
    export_without_tokenizer(tmp_path / "first", tmp_path / "second")
    written = safetensors.numpy.load_file(tmp_path / "second" / "model.safetensors")
    assert written.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(written[name], array)
    assert json.loads((tmp_path / "second" / "config.json").read_text())["architectures"] == [architecture]
