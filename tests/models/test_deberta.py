"""DeBERTa-v2's parts against Transformers and against their definitions."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_families import drawn

from bertjax import smart
from bertjax.errors import UserError
from bertjax.models.deberta import by_position, log_bucket, position_rows
from bertjax.models.deberta_config import DebertaV2Config
from bertjax.models.encoder import init_params
from bertjax.models.families import build_encoder, config_from_dict

SIZES = {
    "vocab_size": 40,
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "max_position_embeddings": 20,
    "initializer_range": 0.3,
    "relative_attention": True,
    "position_buckets": 6,
    "norm_rel_ebd": "layer_norm",
}


def config_of(**changes):
    return config_from_dict({"model_type": "deberta-v2", **SIZES, "pos_att_type": "c2p|p2c", **changes})


def test_the_drawn_configs_cover_every_switch():
    pytest.importorskip("transformers")
    configs = [config_from_dict(drawn("deberta-v2", seed).to_dict()) for seed in range(12)]
    relative = [config for config in configs if config.relative_attention]
    assert {frozenset(c.pos_att_type) for c in relative} == {
        frozenset(x) for x in ((), ("c2p",), ("p2c",), ("c2p", "p2c"))
    }
    for kind in ("c2p", "p2c"):
        assert {c.share_att_key for c in relative if kind in c.pos_att_type} == {False, True}
    assert {c.position_buckets > 0 for c in relative if c.pos_att_type} == {False, True}
    assert {c.max_relative_positions > 0 for c in relative if c.pos_att_type} == {False, True}
    for name in ("relative_attention", "position_biased_input", "norm_rel_ebd", "legacy", "cls_dropout"):
        assert len({getattr(c, name) for c in configs}) == 2, name
    assert {c.type_vocab_size for c in configs} == {0, 1, 2}
    assert {c.embedding_size == c.hidden_size for c in configs} == {False, True}
    convolved = [c for c in configs if c.conv_kernel_size]
    assert {c.conv_kernel_size for c in configs} == {0, 1, 3, 5}
    assert {c.conv_groups > 1 for c in convolved} == {False, True}
    assert {c.conv_act for c in convolved} == {"gelu", "tanh"}
    assert {c.num_hidden_layers > 1 for c in convolved} == {False, True}
    assert {c.pooler_hidden_act for c in configs} == {"gelu", "tanh", "relu"}


@pytest.mark.parametrize(("buckets", "positions"), [(256, 512), (4, 9), (7, 40), (2, 5), (-1, 512), (-1, 6)])
def test_rows_of_relative_positions(buckets, positions):
    torch = pytest.importorskip("torch")
    deberta = pytest.importorskip("transformers.models.deberta_v2.modeling_deberta_v2")
    length = 600
    states = torch.zeros(length, 1)
    expected = deberta.build_relative_position(states, states, buckets, positions)[0].numpy()
    span = buckets if buckets > 0 else positions
    config = config_of(
        position_buckets=buckets, max_relative_positions=positions, max_position_embeddings=length, pos_att_type="c2p"
    )
    rows = position_rows(config, length, length)
    distance = np.subtract.outer(np.arange(length), np.arange(length))
    np.testing.assert_array_equal(rows[distance + length - 1], np.clip(expected + span, 0, 2 * span - 1))


def test_buckets_by_hand():
    """Of width one up to 4; then 4 + ceil(3 log(d / 4) / log(31 / 4))."""
    assert log_bucket(np.array([0, 1, 4, 5, 7, 8, 15, 16, 31]), 8, 32).tolist() == [0, 1, 4, 5, 5, 6, 6, 7, 7]
    assert log_bucket(np.array([-3, -5, -31]), 8, 32).tolist() == [-3, -5, -7]


@pytest.mark.parametrize(("rows", "columns"), [(3, 5), (1, 4), (5, 1), (4, 4)])
def test_scores_by_position(rows, columns):
    scores = np.arange(2 * rows * (columns + rows - 1)).reshape(2, rows, -1)
    found = by_position(jnp.asarray(scores), columns)
    expected = [[scores[:, r, c - r + rows - 1] for c in range(columns)] for r in range(rows)]
    np.testing.assert_array_equal(found, np.transpose(expected, (2, 0, 1)))


@pytest.mark.parametrize("seed", [1, 3, 7])
def test_gradients_of_relative_positions_and_the_convolution(seed):
    """Beside three layers' own: the table of positions, the filter, and projections of positions."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tiny_families import batch, randomized

    from bertjax.pretrained.param_names import tensor_names

    theirs = drawn("deberta-v2", seed)
    values = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "conv_kernel_size": 3, "conv_groups": 1}
    for name, value in (values | {"share_att_key": seed == 3, "num_hidden_layers": 2}).items():
        setattr(theirs, name, value)
    model = randomized(transformers.DebertaV2Model(theirs), seed)
    config = config_from_dict(theirs.to_dict())
    names = tensor_names(config)
    tensors = dict(model.named_parameters())
    assert set(names.values()) == set(tensors)
    inputs = batch(config, seed)
    hidden = model(**{key: torch.from_numpy(x) for key, x in inputs.items()}).last_hidden_state
    real = inputs["attention_mask"] == 1
    weights = np.random.default_rng(seed).normal(size=hidden.shape).astype(np.float32) * real[..., None]
    (hidden * torch.from_numpy(weights)).sum().backward()
    flat = {path: tensors[name].detach().numpy() for path, name in names.items()}
    params = {}
    for path, array in flat.items():
        node = params
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = jnp.asarray(array.T if path[-1] == "kernel" else array)
    encoder = build_encoder(config)
    pooler = init_params(jax.random.key(0), encoder)["pooler"]

    def loss(tree):
        run = lambda m: m.encode(m.embed(inputs["input_ids"], inputs["token_type_ids"]), jnp.asarray(real))  # noqa: E731
        return jnp.sum(encoder.apply({"params": tree | {"pooler": pooler}}, method=run) * weights)

    grads = jax.jit(jax.grad(loss))(params)
    for path, name in names.items():
        found = grads
        for part in path:
            found = found[part]
        found, expected = np.array(found), tensors[name].grad.numpy()
        found = found.T if path[-1] == "kernel" else found
        if path[1] == "word":  # Transformers gives the row of padding no gradient
            found[config.pad_token_id] = expected[config.pad_token_id]
        # Softmax takes no notice of a bias of keys, so that its gradient is rounding alone.
        assert np.abs(found - expected).max() <= 1e-4 * max(np.abs(expected).max(), 1e-2), name


@pytest.mark.parametrize("layers", [1, 3])
def test_the_last_layer_alone_with_a_convolution_and_remat(layers):
    config = config_of(conv_kernel_size=3, conv_groups=2, num_hidden_layers=layers)
    model = build_encoder(config)
    params = init_params(jax.random.key(0), model)
    x = jax.random.normal(jax.random.key(1), (2, 9, 12))
    mask = jnp.asarray(np.arange(9) < np.array([[9], [4]]))
    run = lambda m, *args: m.apply({"params": params}, x, mask, *args, method="encode")  # noqa: E731
    whole = run(model)
    for n in (1, 4):
        chex.assert_trees_all_close(run(model, None, n), whole[:, :n], atol=1e-5)
    keys = jax.random.split(jax.random.key(2), 2)
    remat = build_encoder(config, remat=True)
    chex.assert_trees_all_close(run(remat, keys), run(model, keys), atol=1e-5)


def test_padding_changes_nothing():
    """A convolution at the last token reaches the padding behind it."""
    config = config_of(conv_kernel_size=5)
    model = build_encoder(config)
    params = init_params(jax.random.key(0), model)
    x = jax.random.normal(jax.random.key(1), (9, 12))
    run = lambda x, n: model.apply({"params": params}, x, jnp.arange(len(x)) < n, method="encode")  # noqa: E731
    chex.assert_trees_all_close(run(x, 6)[:6], run(x[:6], 6), atol=1e-5)


def test_dropout_of_positions():
    """It is there, has the rate of hidden states, and differs between examples but not between batches."""
    config = config_of(attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.5, num_hidden_layers=1)
    model = build_encoder(config)
    layer = model.make_layer(1, parent=None)
    params = init_params(jax.random.key(0), model)["layer_0"]
    x = jnp.broadcast_to(jax.random.normal(jax.random.key(1), (9, 12)), (2, 9, 12))
    positions = jax.random.normal(jax.random.key(3), (17, 12))
    keys = jax.random.split(jax.random.key(2), 2)
    mask = jnp.ones((2, 9), bool)
    attend = lambda x, mask, keys: layer.apply({"params": params}, x, x, mask, keys, positions, method="attend")  # noqa: E731
    found, plain = attend(x, mask, keys), attend(x, mask, None)
    assert np.abs(found[0] - found[1]).max() > 1e-3
    assert np.abs(found - plain).max() > 1e-3
    chex.assert_trees_all_close(attend(x[1], mask[1], keys[1]), found[1], atol=1e-5)


def test_dropout_after_the_convolution():
    config = config_of(conv_kernel_size=1, hidden_dropout_prob=0.0)
    assert build_encoder(config).dropouts == 4
    model = build_encoder(DebertaV2Config(**vars(config) | {"hidden_dropout_prob": 0.5, "num_hidden_layers": 1}))
    params = init_params(jax.random.key(0), model)
    x, output = jax.random.normal(jax.random.key(1), (2, 1, 7, 12))
    run = lambda m, keys: m.convolution(x, output, keys)  # noqa: E731
    keys = jax.random.split(jax.random.key(2), 1)
    plain, dropped = (model.apply({"params": params}, k, method=run) for k in (None, keys))
    assert np.abs(plain - dropped).max() > 1e-3


def test_rates_of_dropout_in_the_head():
    config = config_of(hidden_dropout_prob=0.4, cls_dropout=0.3, pooler_dropout=0.2)
    assert (config.classifier_dropout_prob, config.pooler_dropout_prob) == (0.3, 0.2)
    assert config_of(hidden_dropout_prob=0.4).classifier_dropout_prob == 0.4


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"pos_att_type": "c2p|p2p"}, "pos_att_type must be of c2p and p2c, found"),
        ({"pos_att_type": 3}, "pos_att_type must be a list, or a string such as"),
        ({"norm_rel_ebd": "rms_norm"}, "norm_rel_ebd must be one of none, layer_norm, found 'rms_norm'"),
        ({"position_buckets": 1}, "position_buckets must be from 2 to 37 for 20 positions, found 1"),
        ({"position_buckets": 38}, "position_buckets must be from 2 to 37 for 20 positions, found 38"),
        ({"conv_kernel_size": 2}, "conv_kernel_size must be odd, or 0 for no convolution, found 2"),
        ({"conv_kernel_size": 3, "conv_groups": 5}, "conv_groups must divide hidden_size 12, found 5"),
        ({"conv_kernel_size": 3, "conv_act": "mish"}, "conv_act must be one of"),
        ({"pooler_hidden_act": "mish"}, "pooler_hidden_act must be one of"),
        ({"pooler_hidden_size": 24}, "pooler_hidden_size must be 12"),
        ({"attention_head_size": 8}, "attention_head_size must be 6"),
        ({"embedding_size": 0}, "embedding_size must be from 1 to"),
        ({"cls_dropout": 1.0}, r"cls_dropout must be in \[0, 1\)"),
        ({"type_vocab_size": -1}, "type_vocab_size must be from 0 to"),
        ({"model_type": "deberta"}, "model_type must be one of .*deberta-v2.*, found 'deberta'"),
        ({"architectures": ["DebertaModel"]}, "of the family deberta;"),
    ],
)
def test_refusals(changes, expected):
    with pytest.raises(UserError, match=expected) as error:
        config_of(**changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seed", range(12))
def test_config_there_and_back(seed):
    pytest.importorskip("transformers")
    theirs = drawn("deberta-v2", seed)
    config = config_from_dict(theirs.to_dict())
    assert config_from_dict(config.to_dict()) == config
    again = type(theirs)(**config.to_dict()).to_dict()
    expected = theirs.to_dict()
    assert {name: again[name] for name in config.to_dict() if name not in ("pos_att_type", "embedding_size")} == {
        name: expected.get(name, getattr(config, name))
        for name in config.to_dict()
        if name not in ("pos_att_type", "embedding_size")
    }
    assert again["pos_att_type"] == (expected["pos_att_type"] or [])
    assert again["pooler_hidden_size"] == config.hidden_size


def test_an_older_config():
    """As of microsoft/deberta-v3-base: no architectures, and a string of kinds."""
    values = {"pos_att_type": "p2c|c2p", "max_relative_positions": -1, "position_biased_input": False}
    config = config_of(**values, position_buckets=8, pooler_hidden_size=12, pooler_dropout=0, cls_dropout=None)
    assert config.pos_att_type == ("p2c", "c2p")
    assert (config.position_span, config.max_distance, config.embedding_size, config.legacy) == (8, 20, 12, True)
    assert config_of(pos_att_type=None).pos_att_type == config_of(pos_att_type="").pos_att_type == ()


def test_bfloat16_finds_the_direction_of_float32():
    config = config_of(conv_kernel_size=3, num_hidden_layers=2)
    model = build_encoder(config, {"task": 3})
    params = init_params(jax.random.key(0), model)
    ids = jnp.asarray(np.random.default_rng(0).integers(4, 40, size=9))
    mask = jnp.ones(9, bool)

    def direction(dtype):
        model = build_encoder(config, {"task": 3}, dtype=dtype)
        x = model.apply({"params": params}, ids, 0 * ids, method="embed")
        hidden = model.apply({"params": params}, x, mask, method="encode")
        assert x.dtype == hidden.dtype == dtype
        logits_fn = lambda x: model.apply({"params": params}, x, mask, "task", method="logits")  # noqa: E731
        assert logits_fn(x).dtype == jnp.float32
        delta = smart.power_iteration(logits_fn, x, jax.random.key(2), divergence=smart.symmetric_kl, radius=0.05)
        return np.asarray(delta, np.float32).ravel()

    a, b = direction(jnp.float32), direction(jnp.bfloat16)
    assert abs(a @ b) >= 0.98 * np.linalg.norm(a) * np.linalg.norm(b)


def test_scores_are_float32_in_bfloat16():
    """Every product of attention, with positions too, comes out wide."""
    config = config_of(num_hidden_layers=1)
    layer = build_encoder(config, dtype=jnp.bfloat16).make_layer(1, parent=None)
    x, positions = jnp.ones((9, 12), jnp.bfloat16), jnp.ones((17, 12), jnp.bfloat16)
    args = x, x, jnp.ones(9, bool), None, positions
    params = jax.eval_shape(lambda: layer.init(jax.random.key(0), x, *args[2:]))
    run = lambda p: layer.apply(p, *args, method="attend")  # noqa: E731
    products = [e for e in jax.make_jaxpr(run)(params).eqns if e.primitive.name == "dot_general"]
    scores = [e for e in products if sorted(e.outvars[0].aval.shape) in ([2, 9, 9], [2, 9, 17])]
    assert len(scores) == 3
    assert {str(e.outvars[0].aval.dtype) for e in scores} == {"float32"}
