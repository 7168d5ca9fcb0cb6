import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.errors import UserError
from bertjax.tasks import TASKS, get_task


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_loss_is_cross_entropy_a_row(task):
    logits = jnp.log(jnp.array([[0.5, 0.2, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1, 0.6]]))
    np.testing.assert_allclose(task.loss(logits, jnp.array([0, 2])), -np.log([0.5, 0.1]), rtol=1e-6)
    assert task.outputs == 5
    assert task.main_metric in task.metrics(np.asarray(logits), np.array([0, 2]))


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(UserError, match="--config.task: expected one of .*, found 'sst'; did you mean 'sst5'"):
        get_task("sst")
