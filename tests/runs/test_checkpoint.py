import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from bertjax import smart
from bertjax.errors import UserError
from bertjax.runs.checkpoint import Checkpoints
from bertjax.training.state import init_state

PARAMS = {"layer": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}}


def make_state(step, preset="bertjax"):
    state = init_state(PARAMS, optax.adam(0.1), smart.preset(preset))
    return jax.tree.map(lambda x: x + jnp.asarray(step, x.dtype), state)


@pytest.mark.parametrize("preset", ["none", "bertjax"])
def test_a_state_is_restored_whole(tmp_path, preset):
    progress = {"iterator": {"next_index": 3}, "seconds": 1.5, "scores": {}}
    with Checkpoints(tmp_path / "c", ["accuracy"]) as checkpoints:
        checkpoints.save(3, make_state(3, preset), progress, {"accuracy": 0.5})
    with Checkpoints(tmp_path / "c", ["accuracy"]) as checkpoints:
        step, state, found = checkpoints.restore_last(make_state(0, preset))
        assert step == 3
    chex.assert_trees_all_equal(state, make_state(3, preset))
    assert found == progress
    with Checkpoints(tmp_path / "c") as checkpoints:
        like = jax.eval_shape(lambda: PARAMS)
        chex.assert_trees_all_equal(checkpoints.restore_params(3, like), make_state(3).params)


def test_parameters_of_another_kind_of_device_can_be_read(tmp_path):
    device = jax.devices()[3]
    state = jax.device_put(make_state(3), device)
    with Checkpoints(tmp_path, ["accuracy"]) as checkpoints:
        checkpoints.save(3, state, {}, {"accuracy": 0.5})
    (sharding,) = tmp_path.glob("3/params/_sharding")
    written = sharding.read_text()
    assert written.count(str(device)) == 2
    sharding.write_text(written.replace(str(device), "cuda:0"))
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.restore_params(3, jax.eval_shape(lambda: PARAMS))
    chex.assert_trees_all_equal(found, make_state(3).params)
    assert {device for x in jax.tree.leaves(found) for device in x.devices()} == {jax.devices()[0]}


def test_the_last_and_the_best_are_kept(tmp_path):
    with Checkpoints(tmp_path, ["accuracy"]) as checkpoints:
        for step, accuracy in ((1, 0.4), (2, 0.6), (3, None), (4, 0.5), (5, None)):
            checkpoints.save(
                step, make_state(step), {}, None if accuracy is None else {"accuracy": accuracy, "loss": 1.0}
            )
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit()) == ["2", "5"]


def test_the_later_of_two_equals_is_best(tmp_path):
    with Checkpoints(tmp_path, ["accuracy"]) as checkpoints:
        for step, accuracy in ((1, 0.6), (2, 0.6), (3, 0.5)):
            checkpoints.save(step, make_state(step), {}, {"accuracy": accuracy})
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit()) == ["2", "3"]


def test_a_broken_checkpoint_is_one_line(tmp_path):
    with Checkpoints(tmp_path, ["accuracy"]) as checkpoints:
        checkpoints.save(1, make_state(1), {}, {"accuracy": 0.5})
    for path in (tmp_path / "1" / "params").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(UserError, match="this checkpoint cannot be read .*--checkpoint") as raised,
    ):
        checkpoints.restore_params(1, PARAMS)
    assert "\n" not in str(raised.value)


def test_the_best_is_kept_across_calls(tmp_path):
    for step, accuracy in ((1, 0.4), (2, 0.6), (3, None), (4, 0.5), (5, None)):
        with Checkpoints(tmp_path, ["accuracy"]) as checkpoints:
            checkpoints.save(step, make_state(step), {}, None if accuracy is None else {"accuracy": accuracy})
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit()) == ["2", "5"]


def test_a_checkpoint_with_broken_metrics_is_set_aside(tmp_path, capsys):
    with Checkpoints(tmp_path, ["accuracy"]) as checkpoints:
        checkpoints.save(1, make_state(1), {}, {"accuracy": 0.5})
        checkpoints.save(2, make_state(2), {}, {"accuracy": 0.4})
    (tmp_path / "1" / "metrics" / "metrics").write_text('{"accu')
    with Checkpoints(tmp_path, ["accuracy"]) as checkpoints:
        assert checkpoints.restore_last(make_state(0))[0] == 2
    assert f"{tmp_path / '1'}: this checkpoint cannot be read" in capsys.readouterr().err
