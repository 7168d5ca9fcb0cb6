import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from bertjax.models.bert import Bert
from bertjax.models.encoder import init_params
from bertjax.training import optimizer


def test_the_schedule_by_hand():
    schedule = optimizer.linear_schedule(1.0, 20, warmup=0.1)
    np.testing.assert_allclose([schedule(t) for t in (0, 1, 2, 11, 20)], [0, 0.5, 1, 0.5, 0], atol=1e-7)


def test_without_warmup_the_schedule_starts_at_its_peak():
    schedule = optimizer.linear_schedule(2.0, 10, warmup=0.0)
    np.testing.assert_allclose([schedule(t) for t in (0, 5, 10)], [2, 1, 0], atol=1e-7)


def test_decay_leaves_out_biases_and_layer_norm(tiny_config):
    params = init_params(jax.random.key(0), Bert(tiny_config, {"sst5": 5}))
    mask = jax.tree_util.tree_leaves_with_path(optimizer.decay_mask(params))
    decays = {jax.tree_util.keystr(path, simple=True, separator="/") for path, decays in mask if decays}
    dense = ("query", "key", "value", "attention_output", "intermediate", "output")
    assert decays == {
        *(f"embeddings/{table}/embedding" for table in ("word", "position", "token_type")),
        *(f"layer_0/{name}/kernel" for name in dense),
        "pooler/kernel",
        "head_sst5/kernel",
    }


def test_an_update_by_hand():
    # Clipped to norm 1 and bias-corrected, Adam's first update is the gradient's sign, by |g| / (|g| + eps).
    params = {"kernel": jnp.array([2.0, 2.0]), "bias": jnp.array([2.0])}
    gradient = {"kernel": jnp.array([3.0, 0.0]), "bias": jnp.array([-4.0])}
    tx = optimizer.adamw(optax.constant_schedule(0.1), weight_decay=0.5)
    updates, _ = tx.update(gradient, tx.init(params), params)
    expected = {"kernel": np.float32([-0.1 * (1 + 1), -0.1 * (0 + 1)]), "bias": np.float32([0.1])}
    chex.assert_trees_all_close(updates, expected, rtol=1e-4)


def test_the_norm_is_clipped_at_one():
    # Gradients 100, clipped to 1, then 0.5; moments (0.09 + 0.05) / 0.19 and (0.000999 + 0.00025) / 0.001999.
    tx, params = optimizer.adamw(optax.constant_schedule(1.0), weight_decay=0.0), {"bias": jnp.zeros(1)}
    state = tx.init(params)
    for gradient in (100.0, 0.5):
        updates, state = tx.update({"bias": jnp.array([gradient])}, state, params)
    expected = -(0.14 / 0.19) / np.sqrt(0.001249 / 0.001999)
    np.testing.assert_allclose(updates["bias"], [expected], rtol=1e-4)


def test_gradients_of_rounding_size_stay_small():
    # A key bias has no gradient but rounding; it must not become a full step.
    tx = optimizer.adamw(optax.constant_schedule(1.0), weight_decay=0.0)
    params = {"bias": jnp.zeros(1), "kernel": jnp.zeros(1)}
    gradient = {"bias": jnp.array([1e-9]), "kernel": jnp.array([1.0])}
    updates, _ = tx.update(gradient, tx.init(params), params)
    assert abs(float(updates["bias"][0])) < 2e-3
