"""The heads of pre-training against Transformers and NumPy, and one step of it."""

import dataclasses
import math
from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden import make_bert

from bertjax.data.batching import resumable_iterator
from bertjax.data.masking import Vocabulary
from bertjax.data.mlm import MlmBatches
from bertjax.data.sentence_pairs import SentencePairs
from bertjax.models.bert import Bert
from bertjax.models.encoder import init_params
from bertjax.models.families.bert import BERT
from bertjax.parallel import DataParallel
from bertjax.pretrained import load_pretrained
from bertjax.training import optimizer
from bertjax.training.pretraining_step import (
    init_pretraining_state,
    pretrain_eval_step,
    pretrain_step,
    pretraining_metrics,
    with_pretraining_heads,
)
from bertjax.training.state import init_state

B, S = 8, 12


@pytest.fixture(scope="module")
def model(tiny_config):
    return Bert(tiny_config, BERT.pretraining_heads, has_mlm=True)


@pytest.fixture(scope="module")
def params(model):
    """A tree in which nothing is 0 or 1: fresh biases and scales would hide what they do."""
    rng = np.random.default_rng(0)
    tree = jax.eval_shape(partial(init_params, model=model), jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(rng.uniform(-0.5, 0.5, x.shape), x.dtype), tree)


def make_batch(seed=0):
    rng = np.random.default_rng(seed)
    is_special, is_continued = np.zeros((2, 40), bool)
    is_special[:5] = True
    vocabulary = Vocabulary(2, 3, 4, 0, is_special, is_continued)
    documents = [[rng.integers(5, 40, rng.integers(1, 7)).astype(np.int32) for _ in range(6)] for _ in range(8)]
    source = MlmBatches(SentencePairs(documents, vocabulary, S), vocabulary, batch_size=B, seed=seed, epochs=1)
    return next(resumable_iterator(source))


def to_numpy(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def full_logits(params, hidden, config):
    """Every position's logits over the vocabulary, [B, S, V], as Devlin et al.'s code makes them."""
    head, table = params["mlm"], params["embeddings"]["word"]["embedding"]
    x = hidden @ head["transform"]["kernel"] + head["transform"]["bias"]
    erf = np.vectorize(math.erf)
    x = x * 0.5 * (1 + erf(x / np.sqrt(2)))
    centred = x - x.mean(-1, keepdims=True)
    x = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + config.layer_norm_eps)
    x = x * head["norm"]["affine"]["scale"] + head["norm"]["affine"]["bias"]
    return x @ table.T + head["bias"]


def in_numpy(model, params, batch):
    """Losses and hits by looping over positions; the encoder is that of tests/models/test_bert.py."""
    hidden, pooled = model.apply(
        {"params": params}, *(batch[k] for k in ("input_ids", "attention_mask", "token_type_ids"))
    )
    exact = to_numpy(params)
    logits = full_logits(exact, np.asarray(hidden, np.float64), model.config)
    nsp = np.asarray(pooled, np.float64) @ exact["head_nsp"]["kernel"] + exact["head_nsp"]["bias"]
    mlm_losses, mlm_hits = [], []
    for row in range(B):
        for place in range(batch["masked_ids"].shape[1]):
            if batch["masked_valid"][row, place] and batch["valid"][row]:
                here = log_softmax(logits[row, batch["masked_positions"][row, place]])
                mlm_losses.append(-here[batch["masked_ids"][row, place]])
                mlm_hits.append(here.argmax() == batch["masked_ids"][row, place])
    rows = np.flatnonzero(batch["valid"])
    nsp_losses = -log_softmax(nsp)[rows, batch["label"][rows]]
    return {
        "mlm_loss": np.mean(mlm_losses),
        "mlm_accuracy": np.mean(mlm_hits),
        "nsp_loss": np.mean(nsp_losses),
        "nsp_accuracy": np.mean(nsp.argmax(-1)[rows] == batch["label"][rows]),
    }


def without_dropout(model):
    config = dataclasses.replace(model.config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return model.clone(config=config)


SGD = optax.sgd(0.1)


@cache
def jitted(config, tx, tune, micro_batches):
    model = Bert(config, BERT.pretraining_heads, has_mlm=True)
    return jax.jit(partial(pretrain_step, model=model, tx=tx, tune=tune, micro_batches=micro_batches))


def run_step(model, params, batch, tune="all", tx=SGD, key=0, state=None, micro_batches=1):
    state = init_state(jax.tree.map(jnp.copy, params), tx, tune=tune) if state is None else state
    return jitted(model.config, tx, tune, micro_batches)(state, batch, jax.random.key(key))


# Heads


def test_logits_are_those_of_transformers(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BertForPreTraining(transformers.BertConfig(**make_bert.CONFIG)).eval()
    make_bert.fill(theirs)
    theirs.save_pretrained(tmp_path)
    inputs = {name: np.array(rows, np.int32) for name, rows in make_bert.INPUTS.items()}
    with torch.no_grad():
        outputs = theirs(**{name: torch.from_numpy(x).long() for name, x in inputs.items()})

    config, params = load_pretrained(tmp_path)
    bert = Bert(config, BERT.pretraining_heads, has_mlm=True)
    positions = np.array([[1, 4, 7, 0], [3, 1, 0, 0]], np.int32)
    logits = bert.apply(
        {"params": params},
        method=lambda m: m.pretraining_logits(
            m.embed(inputs["input_ids"], inputs["token_type_ids"]), inputs["attention_mask"] == 1, positions
        ),
    )
    expected = np.take_along_axis(outputs.prediction_logits.numpy(), positions[..., None].astype(int), 1)
    assert np.abs(expected).max() > 1
    chex.assert_trees_all_close(logits["mlm"], expected, atol=1e-4, rtol=0)
    chex.assert_trees_all_close(logits["nsp"], outputs.seq_relationship_logits.numpy(), atol=1e-4, rtol=0)


def test_the_tree_of_the_heads(model):
    tree = jax.eval_shape(partial(init_params, model=model), jax.random.key(0))
    d, v = model.config.hidden_size, model.config.vocab_size
    shapes = jax.tree.map(lambda x: x.shape, {name: tree[name] for name in ("mlm", "head_nsp")})
    assert shapes == {
        "mlm": {
            "transform": {"kernel": (d, d), "bias": (d,)},
            "norm": {"affine": {"scale": (d,), "bias": (d,)}},
            "bias": (v,),
        },
        "head_nsp": {"kernel": (d, 2), "bias": (2,)},
    }
    plain = jax.eval_shape(partial(init_params, model=model.clone(heads={}, has_mlm=False)), jax.random.key(0))
    assert plain.keys() == tree.keys() - {"mlm", "head_nsp"}


def test_logits_are_float32_in_bfloat16_and_one_example_is_a_row_of_the_batch(model, params):
    batch = make_batch()

    def logits(model, batch):
        @jax.jit  # as it is, JAX 0.7.2 lacks a product of bfloat16 that gives float32
        def run(batch):
            def body(bert):
                embeddings = bert.embed(batch["input_ids"], batch["token_type_ids"])
                return bert.pretraining_logits(embeddings, batch["attention_mask"], batch["masked_positions"])

            return model.apply({"params": params}, method=body)

        return run(batch)

    whole = logits(model, batch)
    one = logits(model, {name: x[3] for name, x in batch.items()})
    chex.assert_trees_all_close(one, jax.tree.map(lambda x: x[3], whole), atol=1e-5)
    coarse = logits(model.clone(dtype=jnp.bfloat16), batch)
    chex.assert_type(list(coarse.values()), jnp.float32)
    chex.assert_trees_all_close(coarse, whole, atol=0.3)


def test_heads_of_the_checkpoint_are_kept_and_missing_ones_are_new(model, params):
    key = jax.random.key(0)
    found, is_new = with_pretraining_heads(params | {"classifier": {"bias": 0}, "head_sst5": {"bias": 0}}, model, key)
    assert not is_new
    chex.assert_trees_all_equal(found, params)
    for name in ("mlm", "head_nsp"):
        rest = {top: x for top, x in params.items() if top != name}
        found, is_new = with_pretraining_heads(rest, model, key)
        assert is_new
        chex.assert_trees_all_equal({top: found[top] for top in rest}, rest)
        chex.assert_trees_all_equal_shapes_and_dtypes(found, params)
    fresh = with_pretraining_heads({}, model, key)[0]["mlm"]
    assert fresh["transform"]["kernel"].std() == pytest.approx(model.config.initializer_range, rel=0.2)
    assert not fresh["bias"].any()


# One step


def test_the_loss_is_the_mean_over_masked_positions_and_pairs(model, params):
    model, batch = without_dropout(model), make_batch()
    batch["valid"][2] = batch["valid"][-1] = False
    expected = in_numpy(model, params, batch)
    _, means = run_step(model, params, batch)
    assert means.keys() == {"loss", "mlm_loss", "mlm_accuracy", "nsp_accuracy", "gradient_norm", "skipped"}
    for name in ("mlm_loss", "mlm_accuracy", "nsp_accuracy"):
        assert float(means[name]) == pytest.approx(expected[name], abs=1e-5)
    assert float(means["loss"]) == pytest.approx(expected["mlm_loss"] + expected["nsp_loss"], abs=1e-5)
    sums = jax.device_get(jax.jit(partial(pretrain_eval_step, model=model))(params, batch))
    metrics = pretraining_metrics(
        [{name: x[:3] for name, x in sums.items()}, {name: x[3:] for name, x in sums.items()}]
    )
    assert metrics == pytest.approx(
        {
            "mlm_accuracy": expected["mlm_accuracy"],
            "mlm_perplexity": np.exp(expected["mlm_loss"]),
            "nsp_accuracy": expected["nsp_accuracy"],
        },
        rel=1e-5,
    )


def differs(tree, other):
    return any(not np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (tree, other)), strict=True))


def test_without_nsp_the_loss_is_that_of_masked_words_and_the_pooler_stays(model, params):
    pairs = make_batch()
    batch = {name: x for name, x in pairs.items() if name != "label"}
    model = without_dropout(model).clone(heads={})
    params = {top: x for top, x in params.items() if top != "head_nsp"}
    found, is_new = with_pretraining_heads(params, model, jax.random.key(0))
    assert not is_new
    chex.assert_trees_all_equal(found, params)
    rest = {top: x for top, x in params.items() if top != "mlm"}
    found, is_new = with_pretraining_heads(rest | {"head_nsp": {"bias": 0}}, model, jax.random.key(0))
    assert is_new
    assert found.keys() == params.keys()

    # Against the numbers of a model that has both heads.
    nsp = {"kernel": jnp.zeros((model.config.hidden_size, 2)), "bias": jnp.zeros(2)}
    expected = in_numpy(model, params | {"head_nsp": nsp}, pairs)
    tx = optimizer.adamw(optax.constant_schedule(0.1), 0.5)
    for tune in ("all", "head"):
        state = init_pretraining_state(jax.tree.map(jnp.copy, params), tx, model=model, tune=tune)
        state, means = jax.jit(partial(pretrain_step, model=model, tx=tx, tune=tune))(state, batch, jax.random.key(0))
        assert means.keys() == {"loss", "mlm_loss", "mlm_accuracy", "gradient_norm", "skipped"}
        assert float(means["loss"]) == float(means["mlm_loss"]) == pytest.approx(expected["mlm_loss"], abs=1e-5)
        assert float(means["mlm_accuracy"]) == pytest.approx(expected["mlm_accuracy"], abs=1e-5)
        moved = {top for top in params if differs(params[top], state.params[top])}
        assert moved == (params.keys() - {"pooler"} if tune == "all" else {"mlm"})
    sums = jax.device_get(jax.jit(partial(pretrain_eval_step, model=model))(params, batch))
    assert pretraining_metrics([sums]) == pytest.approx(
        {"mlm_accuracy": expected["mlm_accuracy"], "mlm_perplexity": np.exp(expected["mlm_loss"])}, rel=1e-5
    )


@pytest.mark.parametrize("tune", ["all", "head"])
def test_micro_batches_are_the_batch(model, params, tune):
    batch = make_batch()
    batch["valid"][-1] = False
    whole = run_step(model, params, batch, tune=tune)
    assert float(whole[1]["loss"]) > 0.1
    chex.assert_trees_all_close(run_step(model, params, batch, tune=tune, micro_batches=B), whole, atol=1e-6)


def test_a_step_follows_the_gradient_of_the_loss(model, params):
    model, batch = without_dropout(model), make_batch()
    state, _ = run_step(model, params, batch)
    assert int(state.step) == 1
    gradient = jax.tree.map(lambda old, new: (old - new) / 0.1, params, state.params)

    def loss_along(direction, size):
        moved = jax.tree.map(lambda p, d: p + size * d, params, direction)
        found = in_numpy(model, moved, batch)
        return found["mlm_loss"] + found["nsp_loss"]

    rng = np.random.default_rng(1)
    for _ in range(3):
        direction = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params)
        slope = (loss_along(direction, 1e-3) - loss_along(direction, -1e-3)) / 2e-3
        found = sum(float((g * d).sum()) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
        assert found == pytest.approx(slope, rel=0.02, abs=0.02)


def test_the_word_embeddings_learn_from_the_decoder_too(model, params):
    model, batch = without_dropout(model), make_batch()
    state, _ = run_step(model, params, batch)
    before, after = (p["embeddings"]["word"]["embedding"] for p in (params, state.params))
    absent = np.setdiff1d(np.arange(model.config.vocab_size), batch["input_ids"])
    assert (before[absent] != after[absent]).any(axis=1).all()


def test_frozen_stage_trains_the_heads_and_nothing_else(model, params):
    batch, tx = make_batch(), optimizer.adamw(optax.constant_schedule(0.1), 0.0)
    state, means = run_step(model, params, batch, tune="head", tx=tx)
    frozen = [top for top in params if top not in ("mlm", "head_nsp")]
    chex.assert_trees_all_equal(*({top: p[top] for top in frozen} for p in (params, state.params)))
    for old, new in zip(*(jax.tree.leaves([p["mlm"], p["head_nsp"]]) for p in (params, state.params)), strict=True):
        assert (old != new).any()
    sizes = [x.size for x in jax.tree.leaves(state.opt_state)]
    heads = sum(x.size for x in jax.tree.leaves([params["mlm"], params["head_nsp"]]))
    assert sum(sizes) == 2 * heads + 2  # two moments; Adam's count and the schedule's
    # Without dropout: the loss is the deterministic one, whatever the key.
    _, exact = run_step(without_dropout(model), params, batch, tune="head", tx=tx)
    _, other = run_step(model, params, batch, tune="head", tx=tx, key=5)
    chex.assert_trees_all_close(means, exact, atol=1e-6)
    chex.assert_trees_all_equal(means, other)


def test_the_full_stage_has_dropout_that_follows_the_example(model, params):
    batch, order = make_batch(), np.random.default_rng(1).permutation(B)
    _, means = run_step(model, params, batch)
    _, shuffled = run_step(model, params, {name: x[order] for name, x in batch.items()})
    chex.assert_trees_all_close(means, shuffled, atol=1e-5)
    _, other = run_step(model, params, batch, key=5)
    assert abs(float(means["loss"] - other["loss"])) > 1e-3


@pytest.mark.parametrize("tune", ["all", "head"])
def test_one_device_is_four(model, params, tune):
    parallel = DataParallel(jax.devices()[:4])
    step = parallel.map_train(partial(pretrain_step, model=model, tx=SGD, tune=tune))
    state = parallel.replicate(init_state(jax.tree.map(jnp.copy, params), SGD, tune=tune))
    alone = None
    for seed in range(2):
        batch = make_batch(seed)
        batch["valid"][-3:] = False  # a mean of the devices' means would differ
        batch["masked_valid"][0, 1:] = False
        state, means = step(state, parallel.shard(batch), jax.random.key(0))
        alone, expected = run_step(model, params, batch, tune=tune, state=alone)
    found = jax.device_get(parallel.unreplicate((state.params, means)))
    chex.assert_trees_all_close(found, jax.device_get((alone.params, expected)), atol=2e-5)
