"""Writers of small checkpoints and runs, and checks of what is read back from them."""

import json
import struct
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden import make_bert

from bertjax import smart
from bertjax.errors import UserError
from bertjax.models.bert import Bert
from bertjax.models.encoder import init_params
from bertjax.pretrained import load_pretrained
from bertjax.runs.checkpoint import Checkpoints
from bertjax.training.state import init_state

GOLDEN = json.loads((Path(make_bert.__file__).with_name("bert.json")).read_text())
TENSORS = {name: make_bert.tensor(name, tuple(shape)) for name, shape in GOLDEN["shapes"].items()}
MLM = {
    name: make_bert.tensor(name, shape)
    for name, shape in {
        "cls.predictions.transform.dense.weight": (12, 12),
        "cls.predictions.transform.dense.bias": (12,),
        "cls.predictions.transform.LayerNorm.weight": (12,),
        "cls.predictions.transform.LayerNorm.bias": (12,),
        "cls.predictions.bias": (24,),
    }.items()
}
NSP = {
    "cls.seq_relationship.weight": make_bert.tensor("cls.seq_relationship.weight", (2, 12)),
    "cls.seq_relationship.bias": make_bert.tensor("cls.seq_relationship.bias", (2,)),
}
# Eight significant bits are exact in bfloat16, the upper half of a float32's bytes.
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


def write_checkpoint(folder, tensors=TENSORS, config=GOLDEN["config"], dtype="F32"):
    write_safetensors(folder / "model.safetensors", tensors, dtype)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def refusal(source):
    """The one-line message of the UserError that loading a source raises."""
    with pytest.raises(UserError) as info:
        load_pretrained(source)
    assert len(str(info.value).splitlines()) == 1
    return str(info.value)


def assert_holds(params, tensors):
    """Checks one tensor of each kind; the golden outputs check all of them."""
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


def assert_holds_all(params):
    assert_holds(params, TENSORS)
    np.testing.assert_array_equal(params["mlm"]["transform"]["kernel"], MLM["cls.predictions.transform.dense.weight"].T)
    np.testing.assert_array_equal(params["mlm"]["bias"], MLM["cls.predictions.bias"])
    np.testing.assert_array_equal(params["head_nsp"]["kernel"], NSP["cls.seq_relationship.weight"].T)


VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "film", "Film", "was", "superb", "dull", "un"]
VOCABULARY += ["##dull", "!", "é", "e", "café", "cafe", "映", "画", "a", "b", "c", "##s"]
LABELS = ["bad", "so-so", "good"]
LINEAGE = [{"init_from": "minilm-l6", "note": "n"}, {"trained_on": "rated_sst", "fingerprint": "f"}]
RESULT = {"datasets": {}, "lineage": LINEAGE, "warnings": [], "dev": {}, "steps": 7}


def write_tokenizer(folder, size=24, **settings):
    folder.mkdir(exist_ok=True)
    pieces = VOCABULARY + [f"[unused{i}]" for i in range(size - len(VOCABULARY))]
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces))
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True} | settings))


def random_params(config, seed=0):
    """An encoder's parameters, as our tree."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: init_params(jax.random.key(0), Bert(config)))
    return jax.tree.map(lambda x: rng.normal(scale=0.3, size=x.shape).astype(np.float32), shapes)


def random_head(config, outputs, seed):
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(config.hidden_size, outputs)).astype(np.float32)
    return {"kernel": kernel, "bias": rng.normal(size=outputs).astype(np.float32)}


def random_mlm(config, seed=1):
    rng = np.random.default_rng(seed)
    d = config.hidden_size
    shapes = {
        "transform": {"kernel": (d, d), "bias": (d,)},
        "norm": {"affine": {"scale": (d,), "bias": (d,)}},
        "bias": (config.vocab_size,),
    }
    draw = lambda shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return jax.tree.map(draw, shapes, is_leaf=lambda x: isinstance(x, tuple))


def write_run(folder, config, params_of_step, result):
    """Writes a finished run's folder, with checkpoints as the training loop saves them; the last step is final."""
    encoder = folder / "encoder"
    encoder.mkdir(parents=True)
    (encoder / "config.json").write_text(json.dumps({"model_type": "bert"} | vars(config)))
    write_tokenizer(encoder, config.vocab_size)
    (folder / "config.json").write_text(json.dumps({"init_from": "minilm-l6"}))
    with Checkpoints(folder / "checkpoints", ["accuracy"]) as checkpoints:
        for step, params in params_of_step.items():
            params = jax.tree.map(jnp.asarray, params)
            state = init_state(params, optax.adam(0.1), smart.preset("none"))
            state = state.replace(step=jnp.asarray(step, state.step.dtype))
            # The first is the best, so both are kept.
            checkpoints.save(step, state, {}, {"accuracy": 1 / (1 + step)})
    result = RESULT | {"steps": max(params_of_step)} | result
    (folder / "result.json").write_text(json.dumps(result))
    return folder
