"""Our outputs against those of PyTorch Transformers: golden arrays, and side by side on random models."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import GOLDEN, TENSORS, assert_holds, write_checkpoint
from golden import make_bert

from bertjax import encode
from bertjax.models.bert import Bert
from bertjax.models.config import ACTIVATIONS
from bertjax.pretrained import load_pretrained, with_heads


@pytest.fixture
def write(tmp_path):
    return partial(write_checkpoint, tmp_path)


def test_golden_outputs(write):
    config, params = load_pretrained(write())
    inputs = [np.array(GOLDEN["inputs"][name]) for name in ("input_ids", "attention_mask", "token_type_ids")]
    hidden, pooled = encode(params, config, *inputs)
    real = inputs[1] == 1
    chex.assert_trees_all_close(hidden[real], np.float32(GOLDEN["hidden"])[real], atol=2e-5, rtol=0)
    chex.assert_trees_all_close(pooled, np.float32(GOLDEN["pooled"]), atol=2e-5, rtol=0)


def test_the_golden_weights_match_their_recipe():
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
    *({"hidden_act": name} for name in ACTIVATIONS),
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


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_against_transformers(transformers, name):
    import torch

    x = np.concatenate([np.linspace(-12, 12, 2401), [-1e4, -100, 100, 1e4]]).astype(np.float32)
    expected = transformers.activations.ACT2FN[name](torch.from_numpy(x)).numpy()
    chex.assert_trees_all_close(ACTIVATIONS[name](jnp.asarray(x)), expected, atol=2e-6, rtol=2e-6)


HEADS = {
    "BertForSequenceClassification": {"classifier"},
    "BertForTokenClassification": set(),
    "BertForMultipleChoice": set(),
    "BertForQuestionAnswering": set(),
    "BertForMaskedLM": {"mlm"},
    "BertForNextSentencePrediction": {"head_nsp"},
    "BertForPreTraining": {"mlm", "head_nsp"},
}


@pytest.mark.parametrize("architecture", HEADS)
def test_heads_of_transformers_models(transformers, architecture, tmp_path, capsys):
    model = getattr(transformers, architecture)(transformers.BertConfig(**make_bert.CONFIG, num_labels=3))
    save(model, tmp_path)
    capsys.readouterr()
    _, params = load_pretrained(tmp_path)
    assert {top for top in params if top in ("classifier", "mlm") or top.startswith("head_")} == HEADS[architecture]
    lines = [line for line in capsys.readouterr().err.splitlines() if "no pooler" not in line]
    assert len(lines) == (not HEADS[architecture])
    assert all(architecture in line and "left out" in line for line in lines)


@pytest.mark.parametrize("name", ["module", "_orig_mod", "model"])  # of DataParallel, torch.compile, Lightning
def test_wrapped_models_of_pytorch(transformers, name, tmp_path):
    import torch

    model = transformers.BertForSequenceClassification(transformers.BertConfig(**make_bert.CONFIG, num_labels=3))
    save(model, tmp_path / "plain")
    wrapped = torch.nn.Module()
    wrapped.add_module(name, model)
    (tmp_path / "wrapped").mkdir()
    torch.save(wrapped.state_dict(), tmp_path / "wrapped" / "pytorch_model.bin")
    (tmp_path / "wrapped" / "config.json").write_bytes((tmp_path / "plain" / "config.json").read_bytes())
    plain, found = (load_pretrained(tmp_path / name)[1] for name in ("plain", "wrapped"))
    assert "classifier" in plain
    chex.assert_trees_all_equal(found, plain)


def drawn(seed):
    """Keyword arguments of a random small BERT."""
    rng = np.random.default_rng(seed)
    heads = int(rng.integers(1, 5))
    return {
        "vocab_size": int(rng.integers(24, 60)),
        "hidden_size": heads * int(rng.integers(2, 7)),
        "num_attention_heads": heads,
        "num_hidden_layers": int(rng.integers(1, 4)),
        "intermediate_size": int(rng.integers(5, 40)),
        "hidden_act": ("gelu", "gelu_new", "relu")[seed % 3],
        "type_vocab_size": 1 + seed % 2,
        "max_position_embeddings": int(rng.integers(8, 20)),
        "layer_norm_eps": float(rng.choice([1e-12, 1e-5, 0.1])),
    }


@pytest.mark.parametrize("has_pooler", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_random_architectures_against_transformers(transformers, seed, has_pooler, tmp_path, capsys):
    import torch

    config = transformers.BertConfig(**drawn(seed))
    model = transformers.BertModel(config, add_pooling_layer=has_pooler).eval()
    save(model, tmp_path)
    inputs = {name: np.array(rows) for name, rows in make_bert.INPUTS.items()}
    inputs["token_type_ids"] %= config.type_vocab_size
    with torch.no_grad():
        outputs = model(**{name: torch.from_numpy(x) for name, x in inputs.items()})
    capsys.readouterr()
    ours, params = load_pretrained(tmp_path)
    assert ("no pooler" in capsys.readouterr().err) != has_pooler
    hidden, pooled = encode(params, ours, **inputs)
    real = inputs["attention_mask"] == 1
    chex.assert_trees_all_close(hidden[real], outputs.last_hidden_state.numpy()[real], atol=1e-4, rtol=0)
    if has_pooler:
        chex.assert_trees_all_close(pooled, outputs.pooler_output.numpy(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("act", ["gelu", "gelu_new", "relu"])
def test_the_logits_of_pre_training_against_transformers(transformers, act, tmp_path):
    import torch

    model = transformers.BertForPreTraining(transformers.BertConfig(**make_bert.CONFIG | {"hidden_act": act})).eval()
    save(model, tmp_path)
    inputs = {name: np.array(rows) for name, rows in make_bert.INPUTS.items()}
    with torch.no_grad():
        expected = model(**{name: torch.from_numpy(x) for name, x in inputs.items()})
    config, params = load_pretrained(tmp_path)
    hidden, pooled = encode(params, config, **inputs)
    head = params["mlm"]
    x = ACTIVATIONS[act](hidden @ head["transform"]["kernel"] + head["transform"]["bias"][None, None])
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + config.layer_norm_eps)
    affine = {name: value[None, None] for name, value in head["norm"]["affine"].items()}
    x = x * affine["scale"] + affine["bias"]
    logits = x @ params["embeddings"]["word"]["embedding"].T + head["bias"][None, None]
    real = inputs["attention_mask"] == 1
    chex.assert_trees_all_close(logits[real], expected.prediction_logits.numpy()[real], atol=1e-4, rtol=0)
    nsp = pooled @ params["head_nsp"]["kernel"] + params["head_nsp"]["bias"][None]
    chex.assert_trees_all_close(nsp, expected.seq_relationship_logits.numpy(), atol=1e-4, rtol=0)


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
