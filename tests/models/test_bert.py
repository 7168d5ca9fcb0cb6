"""The encoder against a float64 NumPy rendering of it and closed forms, and what SMART leans on: keyed dropout."""

import dataclasses
import math
import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from bertjax.models import bert as bert_module
from bertjax.models import encoder as encoder_module
from bertjax.models.bert import Bert, LayerNorm
from bertjax.models.config import ACTIVATIONS, BertConfig
from bertjax.models.encoder import init_params
from bertjax.models.inference import encode

HEADS = {"sentiment": 5, "similarity": 1}
CONFIG = BertConfig(
    vocab_size=23,
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=20,
    max_position_embeddings=9,
    hidden_dropout_prob=0.3,
    attention_probs_dropout_prob=0.2,
)
IDS = np.random.default_rng(0).integers(5, CONFIG.vocab_size, (3, 7)).astype(np.int32)
MASK = np.arange(7) < np.array([7, 4, 5])[:, None]
TYPES = (np.arange(7) >= np.array([3, 2, 4])[:, None]).astype(np.int32)


def random_params(model, seed=0):
    """A tree in which nothing is 0 or 1: fresh biases and scales would hide what they do."""
    rng = np.random.default_rng(seed)
    tree = jax.eval_shape(lambda: init_params(jax.random.key(0), model))
    return jax.tree.map(
        lambda x: jnp.asarray(rng.uniform(0.2, 1.0, x.shape) * rng.choice([-1, 1], x.shape), x.dtype), tree
    )


MODEL = Bert(CONFIG, HEADS)
PARAMS = random_params(MODEL)
INPUTS = tuple(jnp.asarray(x) for x in (IDS, MASK, TYPES))
KEYS = jax.random.split(jax.random.key(1), len(IDS))


def scores(params, ids, mask, types, keys=None, head="sentiment", model=MODEL):
    def run(bert):
        return bert.logits(bert.embed(ids, types), mask, head, keys)

    return model.apply({"params": params}, method=run)


jitted_scores = jax.jit(scores)


@jax.jit
def hidden_and_pooled(params, ids, mask, types):
    return MODEL.apply({"params": params}, ids, mask, types)


# Against NumPy


def reference(params, config, ids, mask, types, head):
    """Devlin et al.'s encoder of one example in float64: hidden states, pooled output, logits."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    size = config.hidden_size // config.num_attention_heads

    def norm(x, p):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + config.layer_norm_eps)
        return scaled * p["affine"]["scale"] + p["affine"]["bias"]

    def dense(x, p):
        return x @ p["kernel"] + p["bias"]

    def attend(x, p):
        q, k, v = (dense(x, p[part]) for part in ("query", "key", "value"))
        mixed = []
        for h in range(config.num_attention_heads):
            part = slice(h * size, (h + 1) * size)
            weights = np.exp(q[:, part] @ k[:, part].T / math.sqrt(size)) * mask
            mixed.append(weights / weights.sum(-1, keepdims=True) @ v[:, part])
        return dense(np.concatenate(mixed, -1), p["attention_output"])

    tables = params["embeddings"]
    x = tables["word"]["embedding"][ids] + tables["position"]["embedding"][: len(ids)]
    x = norm(x + tables["token_type"]["embedding"][types], tables["norm"])
    for i in range(config.num_hidden_layers):
        p = params[f"layer_{i}"]
        x = norm(x + attend(x, p), p["attention_norm"])
        y = np.vectorize(CLOSED_FORMS[config.hidden_act])(dense(x, p["intermediate"]))
        x = norm(x + dense(y, p["output"]), p["output_norm"])
    pooled = np.tanh(dense(x[0], params["pooler"]))
    return x, pooled, dense(pooled, params[f"head_{head}"])


def gelu_tanh(x):
    return x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


CLOSED_FORMS = {
    **dict.fromkeys(("gelu", "gelu_python"), lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2),
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate"), gelu_tanh),
    "quick_gelu": lambda x: x / (1 + math.exp(-1.702 * x)),
    "relu": lambda x: max(x, 0.0),
    **dict.fromkeys(("silu", "swish"), lambda x: x / (1 + math.exp(-x))),
    "tanh": math.tanh,
}


@pytest.mark.parametrize(("hidden_act", "eps"), [("gelu", 1e-12), ("gelu_new", 1e-12), ("relu", 1e-12), ("gelu", 0.1)])
def test_the_encoder_and_heads_against_numpy(hidden_act, eps):
    config = dataclasses.replace(CONFIG, hidden_act=hidden_act, layer_norm_eps=eps)
    model = Bert(config, HEADS)
    hidden, pooled = encode(PARAMS, config, *INPUTS)
    run = jax.jit(lambda *inputs: {head: scores(PARAMS, *inputs, head=head, model=model) for head in HEADS})
    for head, logits in run(*INPUTS).items():
        chex.assert_shape(logits, (3, HEADS[head]))
        for b, (ids, mask, types) in enumerate(zip(IDS, MASK, TYPES, strict=True)):
            expected = reference(PARAMS, config, ids, mask, types, head)
            found = hidden[b], pooled[b], logits[b]
            chex.assert_trees_all_close(found, jax.tree.map(np.float32, expected), atol=2e-5)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_by_closed_form(name):
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    expected = np.array([CLOSED_FORMS[name](float(v)) for v in x], np.float32)
    chex.assert_trees_all_close(ACTIVATIONS[name](jnp.asarray(x)), expected, atol=1e-6)


def test_layer_norm_by_hand():
    # Of (−1, 1) the mean is 0 and the variance 1: at eps 3 it is (−1, 1) / √4.
    params = {"affine": {"scale": jnp.array([1.0, 4.0]), "bias": jnp.array([0.0, 1.0])}}
    found = LayerNorm(3.0, jnp.float32, jnp.float32).apply({"params": params}, jnp.array([-1.0, 1.0]))
    chex.assert_trees_all_close(found, np.float32([-0.5, 3.0]), rtol=1e-6)


def test_layer_norm_does_not_cancel():
    # E[x²] − E[x]² would be lost in float32: E[x²] is 4e8, the variance 5 / 4.
    params = {"affine": {"scale": jnp.ones(4), "bias": jnp.zeros(4)}}
    x = jnp.arange(20000.0, 20004.0)
    found = LayerNorm(1e-12, jnp.float32, jnp.float32).apply({"params": params}, x)
    chex.assert_trees_all_close(found, np.float32(np.array([-1.5, -0.5, 0.5, 1.5]) / math.sqrt(1.25)), rtol=1e-6)


def test_a_single_token_type_serves_both_segments():
    config = dataclasses.replace(CONFIG, type_vocab_size=1)
    params = random_params(Bert(config, HEADS))
    hidden, pooled = encode(params, config, *INPUTS)
    for b in range(len(IDS)):
        expected = reference(params, config, IDS[b], MASK[b], np.zeros_like(TYPES[b]), "sentiment")[:2]
        chex.assert_trees_all_close((hidden[b], pooled[b]), jax.tree.map(np.float32, expected), atol=2e-5)


# Padding


def test_padding_is_not_seen():
    hidden, pooled = hidden_and_pooled(PARAMS, *INPUTS)
    other = np.where(MASK, IDS, 1), MASK, np.where(MASK, TYPES, 1 - TYPES)
    wider = tuple(np.pad(x, ((0, 0), (0, 2))) for x in other)
    for inputs in (other, wider):
        found, found_pooled = hidden_and_pooled(PARAMS, *map(jnp.asarray, inputs))
        chex.assert_trees_all_close(found[:, :7][MASK], hidden[MASK], atol=2e-6)
        chex.assert_trees_all_close(found_pooled, pooled, atol=2e-6)


@pytest.mark.parametrize("first", [1, 3])
def test_the_first_positions_are_those_of_all(first):
    def encode_first(first):
        def run(bert):
            return bert.encode(bert.embed(INPUTS[0], INPUTS[2]), INPUTS[1], num_positions=first)

        return jax.jit(lambda params: MODEL.apply({"params": params}, method=run))

    some, every = encode_first(first), encode_first(None)
    chex.assert_trees_all_close(some(PARAMS), every(PARAMS)[:, :first], atol=2e-6)
    flops = [step.lower(PARAMS).compile().cost_analysis()["flops"] for step in (some, every)]
    assert flops[0] < 0.9 * flops[1]


def test_a_row_without_a_real_token_is_finite():
    mask = MASK & np.array([True, False, True])[:, None]

    def total(params):
        logits = scores(params, INPUTS[0], jnp.asarray(mask), INPUTS[2], KEYS)
        return jnp.sum(logits**2), logits

    (_, logits), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(PARAMS)
    chex.assert_tree_all_finite((logits, gradient))
    expected = jitted_scores(PARAMS, *INPUTS, KEYS)
    chex.assert_trees_all_close(logits[np.array([0, 2])], expected[np.array([0, 2])], atol=2e-6)


# One example, a batch, and dropout


@pytest.mark.parametrize("keys", [None, KEYS], ids=["deterministic", "dropout"])
def test_a_batch_is_its_examples(keys):
    batched = jitted_scores(PARAMS, *INPUTS, keys)
    axes = (None, 0, 0, 0, None if keys is None else 0)
    mapped = jax.jit(jax.vmap(scores, axes))(PARAMS, *INPUTS, keys)
    alone = jnp.stack(
        [jitted_scores(PARAMS, *(x[b] for x in INPUTS), None if keys is None else keys[b]) for b in range(len(IDS))]
    )
    chex.assert_trees_all_close(mapped, batched, atol=1e-5)
    chex.assert_trees_all_close(alone, batched, atol=1e-5)


def test_masks_follow_the_example_and_not_its_place():
    order = np.array([2, 0, 1])
    logits = jitted_scores(PARAMS, *INPUTS, KEYS)
    permuted = jitted_scores(PARAMS, *(x[order] for x in INPUTS), KEYS[order])
    chex.assert_trees_all_close(permuted, logits[order], atol=2e-6)


def test_other_keys_give_other_outputs():
    inputs = tuple(jnp.stack([x[0]] * 3) for x in INPUTS)
    logits = np.asarray(jitted_scores(PARAMS, *inputs, KEYS))
    plain = np.asarray(jitted_scores(PARAMS, *inputs))
    assert np.ptp(plain, axis=0).max() < 1e-5
    for a, b in [(logits[0], logits[1]), (logits[0], logits[2]), (logits[0], plain[0])]:
        assert np.abs(a - b).max() > 0.01


def test_every_place_of_dropout_has_its_own_number(monkeypatch):
    seen = []

    def spy(x, keys, site, rate):
        seen.append((site, x.shape, rate))
        return x

    for module in (bert_module, encoder_module):
        monkeypatch.setattr(module, "dropout", spy)
    jax.eval_shape(lambda *inputs: scores(PARAMS, *inputs), *(x[0] for x in INPUTS), KEYS[0])
    hidden, whole = ((7, 12), 0.3), [((3, 7, 7), 0.2), *[((7, 12), 0.3)] * 2]
    of_cls = [((3, 1, 7), 0.2), *[((1, 12), 0.3)] * 2]  # the last layer's
    assert [site[1:] for site in seen] == [hidden, *whole, *of_cls, ((12,), 0.3)]
    assert [site for site, *_ in seen] == list(range(8))


# Dtypes


def flax_promotion():
    """Flax's LayerNorm leaves it to JAX to multiply its float32 by a bfloat16 scale."""
    return jax.numpy_dtype_promotion("standard")


@pytest.mark.parametrize("param_dtype", [jnp.float32, jnp.bfloat16])
def test_dtypes(param_dtype):
    model = Bert(CONFIG, HEADS, dtype=jnp.bfloat16, param_dtype=param_dtype)
    with flax_promotion():
        params = jax.eval_shape(lambda: init_params(jax.random.key(0), model))
        hidden, pooled = jax.eval_shape(lambda p: model.apply({"params": p}, *INPUTS), params)
        logits = jax.eval_shape(lambda p: scores(p, *INPUTS, KEYS, model=model), params)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype(param_dtype)}
    assert (hidden.dtype, pooled.dtype, logits.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)


def test_bfloat16_is_near_float32():
    model = Bert(CONFIG, HEADS, dtype=jnp.bfloat16)
    params = jax.tree.map(lambda x: 0.3 * x, PARAMS)
    expected = jitted_scores(params, *INPUTS)
    chex.assert_trees_all_close(jax.jit(partial(scores, model=model))(params, *INPUTS), expected, atol=0.05)


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def test_softmax_and_layer_norm_compute_in_float32():
    model = Bert(CONFIG, HEADS, dtype=jnp.bfloat16)
    run = jax.make_jaxpr(lambda params: scores(params, *INPUTS, KEYS, model=model))
    by_name = {}
    for eqn in equations(run(PARAMS).jaxpr):
        dtypes = {str(x.aval.dtype) for x in eqn.invars}, str(eqn.outvars[0].aval.dtype)
        by_name.setdefault(eqn.primitive.name, []).append(dtypes)
    f32 = {"float32"}, "float32"
    assert by_name["exp"] == [f32] * 2  # a softmax a layer
    assert by_name["rsqrt"] == [f32] * 5  # the embeddings' LayerNorm and two a layer
    assert all(dtypes == f32 for name in ("reduce_sum", "reduce_max") for dtypes in by_name[name])
    # In a layer six dense ones and the mix take bfloat16, and the scores come out wide; then pooler and head.
    bf16, scores_ = ({"bfloat16"}, "bfloat16"), ({"bfloat16"}, "float32")
    found = by_name["dot_general"]
    assert [found.count(kind) for kind in (bf16, scores_, f32)] == [2 * 7 + 1, 2, 1]
    assert len(found) == 18


# Parameters


def test_init_makes_every_parameter():
    params = flatten_dict(init_params(jax.random.key(0), MODEL), sep="/")
    dense = {"query": (12, 12), "key": (12, 12), "value": (12, 12), "attention_output": (12, 12)}
    dense |= {"intermediate": (12, 20), "output": (20, 12)}
    expected = {
        "embeddings/word/embedding": (23, 12),
        "embeddings/position/embedding": (9, 12),
        "embeddings/token_type/embedding": (2, 12),
    }
    kernels = {f"layer_{i}/{name}": shape for i in range(2) for name, shape in dense.items()}
    kernels |= {"pooler": (12, 12), "head_sentiment": (12, 5), "head_similarity": (12, 1)}
    for name, shape in kernels.items():
        expected |= {f"{name}/kernel": shape, f"{name}/bias": shape[1:]}
    for name in ["embeddings/norm"] + [f"layer_{i}/{n}_norm" for i in range(2) for n in ("attention", "output")]:
        expected |= {f"{name}/affine/scale": (12,), f"{name}/affine/bias": (12,)}
    assert {name: x.shape for name, x in params.items()} == expected


def test_init_draws_at_initializer_range():
    wide = dataclasses.replace(CONFIG, hidden_size=96, intermediate_size=128, vocab_size=200, initializer_range=0.3)
    params = flatten_dict(init_params(jax.random.key(0), Bert(wide, {"task": 50})), sep="/")
    for name, x in params.items():
        if name.endswith(("kernel", "embedding")):
            error = 0.3 / math.sqrt(2 * x.size)  # the standard error of a sample's standard deviation
            assert abs(float(jnp.std(x)) - 0.3) < 5 * error, name
            assert abs(float(jnp.mean(x))) < 5 * 0.3 / math.sqrt(x.size), name
        else:
            assert np.unique(x).tolist() == [float(name.endswith("scale"))], name


def test_every_tensor_but_key_biases_gets_a_gradient():
    def loss(params):
        sentiment = jax.nn.log_softmax(scores(params, *INPUTS, KEYS))[jnp.arange(3), jnp.array([0, 3, 4])]
        similarity = scores(params, *INPUTS, KEYS, head="similarity")[:, 0]
        return jnp.mean((similarity - jnp.array([0.0, 2.5, 5.0])) ** 2) - jnp.mean(sentiment)

    gradients = flatten_dict(jax.jit(jax.grad(loss))(jax.tree.map(lambda x: 0.5 * x, PARAMS)), sep="/")
    size = {name: float(jnp.max(jnp.abs(g))) for name, g in gradients.items()}
    # A key's bias adds the same to every score of a query, and softmax does not see it.
    silent = {name for name, value in size.items() if value < 1e-5}
    assert silent == {"layer_0/key/bias", "layer_1/key/bias"}


# `encode`


def test_encode_defaults_to_no_padding_and_one_segment():
    ids = IDS.tolist()
    ones, zeros = np.ones_like(IDS), np.zeros_like(IDS)
    hidden, pooled = encode(PARAMS, CONFIG, ids)
    chex.assert_shape(hidden, (3, 7, 12))
    chex.assert_shape(pooled, (3, 12))
    chex.assert_type([hidden, pooled], jnp.float32)
    chex.assert_trees_all_equal((hidden, pooled), encode(PARAMS, CONFIG, ids, ones, zeros))
    for mask, types in [(MASK, None), (None, TYPES)]:
        other, _ = encode(PARAMS, CONFIG, IDS, mask, types)
        assert np.abs(other - hidden).max() > 0.01


def test_encode_takes_integer_masks_and_one_example():
    hidden, pooled = encode(PARAMS, CONFIG, IDS, MASK.astype(np.int64), TYPES)
    chex.assert_trees_all_equal((hidden, pooled), encode(PARAMS, CONFIG, IDS, MASK, TYPES))
    alone = encode(PARAMS, CONFIG, IDS[1], MASK[1], TYPES[1])
    chex.assert_trees_all_close(alone, (hidden[1], pooled[1]), atol=2e-6)


def test_encode_computes_in_float32_whatever_the_parameters():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    with flax_promotion():
        outputs = encode(params, CONFIG, IDS, MASK, TYPES)
    chex.assert_type(outputs, jnp.float32)
    widened = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    chex.assert_trees_all_close(outputs, encode(widened, CONFIG, IDS, MASK, TYPES), atol=2e-6)


def test_encode_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="^input_ids have 10 positions, the model 9$"):
        encode(PARAMS, CONFIG, np.ones((2, 10), np.int32))
    for name, shape in [("attention_mask", (1, 7)), ("token_type_ids", (3, 6))]:
        with pytest.raises(ValueError, match=rf"input_ids \(3, 7\).*{name} \({shape[0]}, {shape[1]}\).*differ"):
            encode(PARAMS, CONFIG, IDS, **{name: np.ones(shape, np.int32)})


def changed(array, place, value):
    array = np.array(array)
    array[place] = value
    return array


WRONG_INPUTS = {
    "an id beyond the vocabulary": ((changed(IDS, (1, 3), 23),), "input_ids[1, 3] must be from 0 to 22, .*, found 23"),
    "a negative id": ((changed(IDS, (2, 0), -1),), "input_ids[2, 0] must be from 0 to 22, .*, found -1"),
    "an id beyond int32": (
        (changed(IDS.astype(np.int64), (0, 6), 2**32 + 5),),
        "input_ids[0, 6] must be from 0 to 22, .*, found 4294967301",
    ),
    "an id beyond int64": (([[2**70]],), "input_ids must be integers, found object"),
    "a device array": ((jnp.full((1, 2), 99),), "input_ids[0, 0] must be from 0 to 22, .*, found 99"),
    "one text": (([5, 99],), "input_ids[1] must be from 0 to 22, .*, found 99"),
    "fractional ids": ((IDS + 0.5,), "input_ids must be integers, found float64"),
    "whole floats": ((IDS.astype(np.float32),), "input_ids must be integers, found float32"),
    "bools as ids": ((MASK,), "input_ids must be integers, found bool"),
    "texts": ((["superb"],), "input_ids must be integers, found <U6"),
    "no position": ((np.zeros((2, 0), np.int32),), "input_ids must have a position at least, found shape (2, 0)"),
    "nothing": (([],), "input_ids must have a position at least, found shape (0,)"),
    "a single id": ((5,), "input_ids must have a position at least, found shape ()"),
    "an additive mask": (
        (IDS, np.where(MASK, 0.0, -10000.0)),
        "attention_mask[1, 4] must be 0 or 1, found -10000.0",
    ),
    "a mask of two": ((IDS, MASK * 2), "attention_mask[0, 0] must be 0 or 1, found 2"),
    "a mask of NaN": ((IDS, np.full(IDS.shape, np.nan)), "attention_mask[0, 0] must be 0 or 1, found nan"),
    "a type beyond its table": ((IDS, MASK, TYPES * 2), "token_type_ids[0, 3] must be from 0 to 1, .*, found 2"),
    "a negative type": ((IDS, MASK, TYPES - 1), "token_type_ids[0, 0] must be from 0 to 1, .*, found -1"),
}


@pytest.mark.parametrize("name", WRONG_INPUTS)
def test_encode_names_the_value_that_is_out_of_range(name):
    inputs, message = WRONG_INPUTS[name]
    with pytest.raises(ValueError, match="^" + re.escape(message).replace(r"\.\*", ".*") + "$"):
        encode(PARAMS, CONFIG, *inputs)


def test_encode_takes_masks_of_any_number_type():
    expected = encode(PARAMS, CONFIG, *INPUTS)
    for mask in (MASK, MASK.astype(np.int64), MASK.astype(np.float32), MASK.tolist(), jnp.asarray(MASK, jnp.int32)):
        chex.assert_trees_all_equal(encode(PARAMS, CONFIG, IDS.astype(np.int64), mask, TYPES.tolist()), expected)


def test_a_model_with_one_token_type_takes_two():
    config = dataclasses.replace(CONFIG, type_vocab_size=1)
    params = random_params(Bert(config))
    hidden = encode(params, config, IDS, MASK, TYPES)[0]
    chex.assert_trees_all_equal(hidden, encode(params, config, IDS, MASK)[0])
    with pytest.raises(ValueError, match=r"token_type_ids\[0, 3\] must be from 0 to 1"):
        encode(params, config, IDS, MASK, TYPES * 2)


def test_encode_under_jit_checks_types_alone():
    run = jax.jit(lambda ids, mask: encode(PARAMS, CONFIG, ids, mask))
    chex.assert_trees_all_close(run(IDS, MASK), encode(PARAMS, CONFIG, IDS, MASK), atol=1e-5)
    run(jnp.asarray(IDS) + 100, MASK)
    with pytest.raises(ValueError, match="input_ids must be integers, found float32"):
        run(IDS.astype(np.float32), MASK)
    with pytest.raises(ValueError, match="attention_mask must be bools or integers, found float32"):
        run(IDS, np.where(MASK, np.float32(0), np.float32(-10000)))
