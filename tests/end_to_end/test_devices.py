"""One device, two, four or eight: the same training, dropout and SMART on, by the optimizer that runs use."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).parents[1]
PROGRAM = """
import jax

jax.config.update("jax_platforms", "cpu")
assert jax.device_count() == 8  # starts the devices, before conftest asks for four
import json
import sys

import conftest, helpers
import jax.numpy as jnp
import numpy as np
import toy_step as toy

from bertjax.training import optimizer as optim
from bertjax.models.bert import Bert
from bertjax.models.encoder import init_params
from bertjax.parallel import DataParallel

model = Bert(helpers.TINY, {toy.TASK.name: toy.TASK.num_outputs})
params = init_params(jax.random.key(0), model)
tx = optim.adamw(optim.linear_schedule(1e-4, 20, 0.1), 0.01)
for count in (1, 2, 4, 8):
    parallel = DataParallel(jax.devices()[:count])
    step = parallel.map_train(toy.make_step(model, toy.SETTINGS["smart"], tx))
    state = parallel.replicate(toy.init_state(jax.tree.map(jnp.copy, params), tx, toy.SETTINGS["smart"]))
    log = []
    for seed in range(20):
        batch = toy.make_batch(rows=16, seed=seed)
        batch["valid"][-3:] = False  # a last batch that does not divide: all of a device's rows only fill up
        state, means = step(state, parallel.shard(batch), jax.random.key(0))
        log.append({name: float(value) for name, value in parallel.unreplicate(means).items()})
    leaves = jax.tree.leaves(jax.device_get(parallel.unreplicate((state.params, state.anchor))))
    np.savez(f"{sys.argv[1]}/{count}.npz", *leaves)
    with open(f"{sys.argv[1]}/{count}.json", "w") as file:
        json.dump(log, file)
np.savez(f"{sys.argv[1]}/before.npz", *jax.tree.leaves((params, params)))
"""


@pytest.mark.slow
def test_any_number_of_devices_comes_to_the_same(tmp_path):
    environment = os.environ | {
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=4", "device_count=8"),
        "PYTHONPATH": str(TESTS),
    }
    subprocess.run([sys.executable, "-c", PROGRAM, tmp_path], cwd=TESTS.parent, env=environment, check=True)

    def read(name):
        return list(np.load(tmp_path / f"{name}.npz").values())

    one, log = read(1), json.loads((tmp_path / "1.json").read_text())
    assert max(np.abs(a - b).max() for a, b in zip(one, read("before"), strict=True)) > 5e-4
    assert len(log) == 20
    assert {"loss", "accuracy", "smoothness", "bregman", "gradient_norm"} < log[0].keys()
    for count in (2, 4, 8):
        for ours, theirs in zip(read(count), one, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
        for ours, theirs in zip(json.loads((tmp_path / f"{count}.json").read_text()), log, strict=True):
            assert ours.keys() == theirs.keys()
            np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-4, atol=1e-5)
