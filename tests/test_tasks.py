"""The table of tasks: each is complete, and GLUE's match TFDS."""

import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds

from bertjax.data.glue import GLUE
from bertjax.data.sources import SOURCES
from bertjax.errors import UserError
from bertjax.tasks import TASKS, get_task


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_a_task_is_complete(task):
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(7, task.num_outputs)).astype(np.float32)
    labels = rng.uniform(0, 4, 7).astype(np.float32) if task.schema.is_score else rng.integers(0, task.num_outputs, 7)
    losses = task.loss(jnp.asarray(outputs), jnp.asarray(labels))
    if task.schema.is_score:
        expected = (outputs[:, 0] - labels) ** 2
    else:
        probabilities = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
        expected = -np.log(probabilities[np.arange(7), labels])
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    values = task.metrics(outputs, labels)
    assert values["loss"] == pytest.approx(expected.mean(), rel=1e-5)
    assert task.main_metric in values
    assert task.divergence(jnp.asarray(outputs), jnp.asarray(outputs[::-1])).shape == (7,)
    assert (task.name in SOURCES) != (task.name in GLUE)


@pytest.mark.parametrize("name", GLUE)
def test_glue_matches_tfds(name):
    declared = tfds.text.Glue.builder_configs[name]
    schema = get_task(name).schema
    assert schema.texts == tuple(declared.text_features)
    assert len(schema.label_names) == len(declared.label_classes or ())
    if name not in ("cola", "mrpc", "qqp"):  # TFDS does not name their classes, or names them differently
        assert schema.label_names == tuple(declared.label_classes or ())


def test_an_unknown_task_gets_a_suggestion():
    with pytest.raises(UserError, match="--config.task: expected one of .*, found 'sst'; did you mean 'sst5'"):
        get_task("sst")
