"""A training loop on a toy: three numbers that follow a stream of batches."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bertjax import smart
from bertjax.parallel import CompiledByShape, DataParallel, psum
from bertjax.training import train_loop
from bertjax.training.nonfinite import update_if_finite
from bertjax.training.state import TrainState, init_state
from bertjax.training.throughput import Meter
from bertjax.training.train_loop import Plan

PLAN = Plan(
    name="toy",
    num_steps=23,
    epoch_steps=23,
    eval_every=8,
    checkpoint_every=3,
    main_metrics={"toy": "score"},
    fingerprints={"toy": "0"},
    max_skipped=2,
    ids={"toy": [f"row{i}" for i in range(100)]},
)
TX = optax.sgd(0.1, momentum=0.9)


class Kill(BaseException):
    """Stands in for SIGKILL: nothing on the way catches it."""


class Batches:
    """Numbered batches of four rows; `bad` ones hold no number. Calls `at[i]` when batch i is drawn."""

    def __init__(self, bad=(), at=None):
        self.step, self.bad, self.at = 0, bad, at or {}

    def __next__(self):
        self.at.get(self.step, lambda: None)()
        x = np.full((4, 3), np.nan if self.step in self.bad else np.sin(self.step), np.float32)
        index = np.arange(4 * self.step, 4 * self.step + 4, dtype=np.int32)
        self.step += 1
        return {"toy": {"x": x, "index": index, "valid": np.array([True, self.step % 2 == 0, False, False])}}

    def get_state(self):
        return {"step": self.step}

    def set_state(self, state):
        self.step = state["step"]


def step(state, batches, key, *, axis=None):
    x = batches["toy"]["x"]
    loss, gradient = jax.value_and_grad(lambda w: jnp.sum((w[None] - x) ** 2) / 4)(state.params["w"])
    loss, gradient = psum((loss, gradient), axis)

    def update():
        updates, opt_state = TX.update({"w": gradient}, state.opt_state, state.params)
        anchor = jax.tree.map(lambda a, w: a + 0.1 * (w - a), state.anchor, state.params)
        return TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state, anchor)

    return update_if_finite(state, update, {"loss": loss, "gradient_norm": optax.tree.norm(gradient)})


def run(workdir, batches=None, plan=PLAN, evaluate=None, devices=1):
    workdir.mkdir(exist_ok=True)
    parallel = DataParallel(jax.devices()[:devices])

    def score(params):
        value = float(parallel.unreplicate(params)["w"].sum())
        return {"toy": {"score": abs(value), "sum": value}}

    return train_loop.train_loop(
        workdir,
        plan,
        [init_state({"w": jnp.arange(3.0)}, TX, smart.preset("bertjax"))],
        CompiledByShape(parallel.map_train(step)),
        batches or Batches(),
        jax.random.key(0),
        evaluate or score,
        parallel=parallel,
        meter=Meter(),
    )


def lines(workdir):
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "timing"} for line in found]


def steps(workdir):
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())
