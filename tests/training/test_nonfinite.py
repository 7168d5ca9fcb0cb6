import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.training.nonfinite import SkippedSteps, update_if_finite

OLD = {"w": jnp.zeros(3), "count": jnp.zeros((), jnp.int32), "key": jax.random.key(0), "none": None}
NEW = {"w": jnp.ones(3), "count": jnp.ones((), jnp.int32), "key": jax.random.key(1), "none": None}


@jax.jit
def apply(old, new, means):
    return update_if_finite(old, lambda: new, means)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("name", ["loss", "gradient_norm"])
def test_all_of_an_update_or_none(name, bad):
    good = {"loss": jnp.float32(1), "gradient_norm": jnp.float32(2)}
    state, means = apply(OLD, NEW, good)
    chex.assert_trees_all_equal(jax.random.key_data(state["key"]), jax.random.key_data(NEW["key"]))
    assert (float(state["w"][0]), int(state["count"]), float(means["skipped"])) == (1, 1, 0)
    state, means = apply(OLD, NEW, {**good, name: jnp.float32(bad)})
    chex.assert_trees_all_equal(jax.random.key_data(state["key"]), jax.random.key_data(OLD["key"]))
    assert (float(state["w"][0]), int(state["count"]), float(means["skipped"])) == (0, 0, 1)


def batch(*index):
    return {"index": np.array(index), "valid": np.array([i >= 0 for i in index])}


def means(skipped):
    return {
        "loss": np.float32(np.nan if skipped else 1),
        "gradient_norm": np.float32(1),
        "skipped": np.float32(skipped),
    }


def test_only_those_in_a_row_end_a_run():
    skips = SkippedSteps(1, {"a": ["x", "y", "z"]})
    for step, skipped in enumerate((1, 0, 1, 0), 1):
        skips.count(step, {"a": batch(0)}, means(skipped))
    assert skips.report() == ["warning: update 1 is skipped: loss nan", "warning: update 3 is skipped: loss nan"]
    assert skips.counts() == {"total": 2, "in_row": 0}
    skips.count(5, {"a": batch(0)}, means(1))
    assert len(skips.report()) == 1
    other = SkippedSteps(1, {"a": ["x", "y", "z"]})
    other.resume(skips.counts())
    other.count(6, {"a": batch(2, 1, -1), "b": batch(7)}, means(1))
    with pytest.raises(UserError, match=r"2 updates in a row, up to 6, .* rows of a z, y; of b 7; inspect"):
        other.report()


def test_none_may_be_let_pass():
    skips = SkippedSteps(0, {})
    skips.count(1, {"a": batch(4)}, means(1))
    with pytest.raises(UserError, match="1 updates in a row, up to 1, .* training rows 4;"):
        skips.report()
