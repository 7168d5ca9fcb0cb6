import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.parallel import CompiledByShape, DataParallel, peak_bytes


def test_conversions_for_one_device_are_the_identity():
    parallel, tree = DataParallel(jax.devices()[:1]), {"a": np.arange(4)}
    for convert in (parallel.replicate, parallel.unreplicate, parallel.shard):
        assert convert(tree) is tree
    np.testing.assert_array_equal(parallel.gather(jnp.arange(4)), np.arange(4))


def test_several_devices_split_a_batch_in_order():
    parallel = DataParallel(jax.devices()[:4])
    x = np.arange(24.0, dtype=np.float32).reshape(8, 3)
    doubled = parallel.map_eval(lambda scale, batch: scale * batch["x"])
    found = parallel.gather(doubled(parallel.replicate(jnp.float32(2)), parallel.shard({"x": x})))
    np.testing.assert_array_equal(found, 2 * x)


def test_replicate_puts_one_copy_on_each_device_and_unreplicate_returns_it():
    parallel, tree = DataParallel(jax.devices()[:4]), {"a": jnp.arange(3.0), "b": jnp.int32(7)}
    replicated = parallel.replicate(tree)
    assert {shard.device for shard in replicated["a"].addressable_shards} == set(parallel.devices)
    assert replicated["a"].addressable_shards[0].data.shape == (1, 3)
    chex.assert_trees_all_equal(parallel.unreplicate(replicated), tree)


def test_an_uneven_batch_is_refused():
    parallel = DataParallel(jax.devices()[:4])
    parallel.check_batch_size(8, 1)
    parallel.check_batch_size(8, 2)
    with pytest.raises(
        UserError, match="--config.batch_size: expected a multiple of 4 .devices: 4, micro_batches: 1., found 6"
    ):
        parallel.check_batch_size(6, 1)
    with pytest.raises(UserError, match="a multiple of 12 .devices: 4, micro_batches: 3., found 16"):
        parallel.check_batch_size(16, 3)


def test_a_step_is_compiled_once_for_each_shape():
    step = CompiledByShape(jax.jit(lambda w, batch: batch["input_ids"] @ w))
    for length in (2, 3, 2, 3, 3):
        found = step(np.ones((length, 1), np.float32), {"input_ids": np.ones((4, length), np.float32)})
        np.testing.assert_array_equal(found, np.full((4, 1), length))
    assert len(step.compiled) == 2


def test_flops_are_counted_by_xla():
    step = CompiledByShape(jax.jit(lambda w, batch: batch["input_ids"] @ w))
    w, batch = np.ones((64, 32), np.float32), {"input_ids": np.ones((16, 64), np.float32)}
    assert step.flops(w, batch) == pytest.approx(2 * 16 * 64 * 32, rel=0.01)


def test_peak_bytes_count_donated_buffers_once():
    step = CompiledByShape(jax.jit(lambda w, batch: w + batch, donate_argnums=0))
    found = peak_bytes(step.compile(np.ones(4000, np.float32), np.ones(4000, np.float32)))
    assert found == pytest.approx(2 * 4 * 4000, rel=0.01)  # the sum reuses the donated buffer


def test_batch_sizes_are_rounded_up_to_a_multiple():
    assert [DataParallel(jax.devices()[:4]).round_up_batch_size(size) for size in (1, 4, 6, 8)] == [4, 4, 8, 8]
    assert DataParallel(jax.devices()[:1]).round_up_batch_size(7) == 7


def test_a_step_has_compiled_only_the_structures_and_shapes_it_has_seen():
    step, w = CompiledByShape(jax.jit(lambda w, batches: w)), np.ones(2, np.float32)
    step.compile(w, {"a": {"x": np.ones((4, 3))}})
    assert step.has_compiled({"a": {"x": np.zeros((4, 3))}})
    assert not step.has_compiled({"b": {"x": np.zeros((4, 3))}})
    assert not step.has_compiled({"a": {"x": np.zeros((4, 2))}})
