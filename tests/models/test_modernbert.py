"""What ModernBERT alone has: windows, rotary positions, its dropouts, pooling over tokens, a fused kernel."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.models import encoder, modernbert
from bertjax.models.encoder import init_params
from bertjax.models.families import build_encoder
from bertjax.models.modernbert import rotary_table, rotate
from bertjax.models.modernbert_config import ModernBertConfig

SIZES = {
    "vocab_size": 40,
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,
    "pad_token_id": 0,
}


def make(dtype=jnp.float32, **changes):
    model = build_encoder(ModernBertConfig(**SIZES | changes), {"task": 3}, dtype=dtype)
    return model, init_params(jax.random.key(0), model)


def hidden(model, params, ids, mask, keys=None):
    return model.apply({"params": params}, method=lambda m: m.encode(m.embed(ids, ids * 0), mask, keys))


IDS = jnp.asarray(np.random.default_rng(0).integers(4, 40, size=(2, 24)))
MASK = jnp.ones_like(IDS, dtype=bool)


@pytest.mark.parametrize("layers", [1, 3])
def test_a_window_reaches_half_of_local_attention_to_each_side(layers):
    kinds = ("sliding_attention",) * layers
    model, params = make(num_hidden_layers=layers, layer_types=kinds, local_attention=5)
    changed = hidden(model, params, IDS.at[:, 12].set(3), MASK) != hidden(model, params, IDS, MASK)
    found = np.flatnonzero(np.any(changed, axis=(0, 2)))
    assert found.tolist() == list(range(12 - 2 * layers, 12 + 2 * layers + 1))


def test_a_text_just_longer_than_a_window():
    model, params = make(num_hidden_layers=1, layer_types=("sliding_attention",), local_attention=5)
    short, mask = IDS[:, :4], MASK[:, :4]
    changed = hidden(model, params, short.at[:, 3].set(3), mask) != hidden(model, params, short, mask)
    assert np.flatnonzero(np.any(changed, axis=(0, 2))).tolist() == [1, 2, 3]


def test_global_layers_see_everything():
    model, params = make(global_attn_every_n_layers=1, local_attention=5)
    changed = hidden(model, params, IDS.at[:, 12].set(3), MASK) != hidden(model, params, IDS, MASK)
    assert np.all(np.any(changed, axis=2))


def test_rotary_attention_depends_on_relative_positions():
    rng = np.random.default_rng(1)
    query, key = (jnp.asarray(rng.normal(size=(1, 1, 8)), jnp.float32) for _ in range(2))
    table = rotary_table(40, 8, 10_000.0)

    def score(i, j):
        return float(jnp.sum(rotate(query, table[:, i : i + 1]) * rotate(key, table[:, j : j + 1])))

    assert score(3, 7) == pytest.approx(score(30, 34), abs=1e-5)
    assert score(3, 7) != pytest.approx(score(7, 3), abs=1e-2)
    chex.assert_trees_all_close(rotate(query, table[:, :1]), query)


@pytest.mark.parametrize("size", [48, 64])
def test_rotary_tables_of_long_texts(size):
    """Against Transformers: a frequency that is off in its last bit turns position 8,000 by half a thousandth."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.ModernBertConfig(hidden_size=size, num_attention_heads=1, num_hidden_layers=2)
    rotary = transformers.models.modernbert.modeling_modernbert.ModernBertRotaryEmbedding(config)
    positions = torch.arange(8192)[None]
    for kind, theta in (("full_attention", 160_000.0), ("sliding_attention", 10_000.0)):
        cos, sin = (x[0, :, : size // 2].numpy() for x in rotary(torch.zeros(1), positions, kind))
        table = rotary_table(8192, size, theta)
        assert table.dtype == np.float32
        np.testing.assert_allclose(table, np.stack([cos, sin]), atol=2e-7)


@pytest.mark.parametrize(
    ("name", "changes_hidden"),
    [
        ("hidden_dropout_prob", True),
        ("attention_probs_dropout_prob", True),
        ("mlp_dropout", True),
        ("classifier_dropout", False),
    ],
)
def test_each_dropout(name, changes_hidden):
    model, params = make(**{name: 0.5})
    keys = jax.random.split(jax.random.key(3), 2)
    plain, dropped = (hidden(model, params, IDS, MASK, each) for each in (None, keys))
    assert bool(np.any(plain != dropped)) == changes_hidden
    run = lambda keys: model.apply(  # noqa: E731
        {"params": params}, method=lambda m: m.logits(m.embed(IDS, IDS * 0), MASK, "task", keys)
    )
    assert np.any(run(None) != run(keys))
    each = jax.vmap(lambda i, m, k: hidden(model, params, i, m, k))(IDS, MASK, keys)
    chex.assert_trees_all_close(each, dropped, atol=1e-5)


def test_every_place_of_dropout_has_its_own_number(monkeypatch):
    seen = []

    def spy(x, keys, site, rate):
        seen.append((site, x.shape, rate))
        return x

    rates = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.2, "mlp_dropout": 0.3}
    model, params = make(num_hidden_layers=2, classifier_dropout=0.4, **rates)
    for module in (modernbert, encoder):
        monkeypatch.setattr(module, "dropout", spy)
    run = lambda m: m.logits(m.embed(IDS[0], IDS[0]), MASK[0], "task", jax.random.key(0))  # noqa: E731
    jax.eval_shape(lambda p: model.apply({"params": p}, method=run), params)
    first = [(1, (2, 24, 24), 0.2), (2, (24, 12), 0.2), (3, (24, 20), 0.3)]
    of_cls = [(4, (2, 1, 24), 0.2), (5, (1, 12), 0.2), (6, (1, 20), 0.3)]
    assert seen == [(0, (24, 12), 0.1), *first, *of_cls, (7, (12,), 0.4)]


def test_the_embeddings_that_smart_perturbs_are_what_enters_the_first_layer():
    model, params = make(norm_bias=True)
    embeddings = model.apply({"params": params}, IDS, IDS * 0, method="embed")
    chex.assert_trees_all_close(jnp.mean(embeddings, -1), jnp.zeros(IDS.shape), atol=1e-6)
    assert "attention_norm" not in params["layer_0"]
    assert "attention_norm" in params["layer_1"]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_mean_over_many_tokens(dtype):
    """Counted in float32: bfloat16 has no 301."""
    model, params = make(dtype, classifier_pooling="mean", max_position_embeddings=512)
    states = jnp.broadcast_to(jnp.arange(12, dtype=jnp.float32), (1, 310, 12)).at[:, 301:].set(99).astype(dtype)
    mask = jnp.arange(310)[None] < 301
    pooled = model.apply({"params": params}, states, mask, method="pool")
    expected = model.apply({"params": params}, method=lambda m: m.pooler(states[:, 0]))
    chex.assert_trees_all_equal(pooled, expected)


def test_token_types_are_ignored():
    model, params = make()
    chex.assert_trees_all_equal(
        *(model.apply({"params": params}, IDS, MASK, types) for types in (IDS * 0, IDS * 0 + 1))
    )
