"""The adversary on a BERT with real weights and real sentences: the claims of docs/directions.md."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import directions
from bertjax import smart

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained():
    """Inputs, parameters after a few updates, and sixteen sentences."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        inputs, params = directions.load()
        return inputs, directions.trained(inputs, params, 20), directions.sentences(inputs, 16)


def test_bfloat16_finds_the_float32_direction_where_the_papers_gradient_does_not(trained):
    cosines = directions.cosines_in_bfloat16(*trained)
    assert np.abs(cosines["power step"]).min() > 0.98
    assert np.abs(cosines["noise gradient, σ = 1e-5"]).mean() < 0.9


def test_power_steps_approach_the_best_there_is(trained):
    found = {
        "noise": directions.directions(*trained, "noise", 0),
        "step": directions.directions(*trained, "noise", 1),
        "output": directions.directions(*trained, "output", 0, kernel=True),
        "many": directions.directions(*trained, "noise", 30),
    }
    shares = directions.shares(*trained, found)
    assert shares["noise"].max() < 0.05
    assert shares["step"].mean() > 0.7
    assert shares["output"].mean() > 0.6
    assert (shares["many"] >= shares["step"] - 1e-4).all()
    assert shares["many"].min() > 0.97  # two eigenvalues may lie close together
    assert shares["many"].max() < 1.0001


def test_the_divergence_beats_that_of_noise(trained):
    inputs, params, batch = trained
    embeddings, logits_of = directions.embeddings_and_logits(inputs, params, batch)

    def growths(x, example, key):
        logits_fn = lambda x: logits_of(x, example)  # noqa: E731
        noise = jax.random.normal(key, x.shape)
        common = {"divergence": smart.symmetric_kl, "radius": 0.1, "mask": example["attention_mask"]}
        deltas = [
            smart.power_iteration(logits_fn, x, key, num_steps=0, start=noise, **common),
            smart.power_iteration(logits_fn, x, key, **common),
        ]
        return jnp.stack([smart.symmetric_kl(logits_fn(x + d)[None], logits_fn(x)[None])[0] for d in deltas])

    batch = jax.tree.map(jnp.asarray, batch)
    noise, power = jax.jit(jax.vmap(growths))(embeddings, batch, jax.random.split(jax.random.key(1), 16)).T
    assert (power >= noise).mean() >= 0.95
    assert float(noise.min()) >= 0
