"""Models with random weights, their training updates and timers, for the accelerator benchmark."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.common import NUM_STEPS, ROWS, TASK
from bertjax.models.config import BertConfig
from bertjax.models.families import build_encoder
from bertjax.parallel import CompiledByShape, DataParallel, peak_bytes
from bertjax.training import optimizer
from bertjax.training.finetuning_step import FinetuningSpec, train_step
from bertjax.training.state import init_state

CONFIGS = {
    "BERT-base": BertConfig(),
    "MiniLM-L6": BertConfig(hidden_size=384, intermediate_size=1536, num_hidden_layers=6),
    "tiny": BertConfig(
        vocab_size=2000, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    ),
}
IMPLEMENTATIONS = ("ours", "xla", "cudnn")
"""Attention implementations."""
HEADS = {TASK.name: TASK.num_outputs}
UPDATES = 10
"""Updates per round: the host runs ahead of the device, as in training."""
MEASURE_SECONDS = 6.0
"""On a slow device a measurement ends after about this time, but not before two updates."""


def random_params(config: BertConfig) -> Any:
    """Random parameters, spread like a trained model's; made by NumPy, as a GPU would compile a program for them."""
    ids, mask = jnp.zeros((1,), jnp.int32), jnp.ones((1,), bool)
    shapes = jax.eval_shape(build_encoder(config, HEADS).init, jax.random.key(0), ids, mask, ids)["params"]
    rng = np.random.default_rng(0)
    flat = {
        path: rng.standard_normal(leaf.shape, np.float32) * np.float32(0.04) + np.float32(path[-1] == "scale")
        for path, leaf in flax.traverse_util.flatten_dict(shapes).items()
    }
    return flax.traverse_util.unflatten_dict(flat)


def model_flops(config: BertConfig, batch: int, length: int) -> float:
    """Operations of a forward pass's matrix products, with the last layer in full, as is usual for utilisation."""
    width, inner = config.hidden_size, config.intermediate_size
    token = 2 * (4 * width**2 + 2 * width * inner) + 4 * length * width
    return float(batch * length * config.num_hidden_layers * token)


def median_seconds(run: Callable[[], Any], wait: Callable[[Any], Any], rounds: int) -> float:
    """Median seconds per update over `rounds` rounds; fewer if they would exceed `MEASURE_SECONDS`."""
    wait(run())
    start = time.perf_counter()
    wait(run())
    affordable = MEASURE_SECONDS / (time.perf_counter() - start)
    rounds = max(1, min(rounds, int(affordable)))
    updates = max(1, min(UPDATES, int(affordable / rounds)))
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(updates):
            last = run()
        wait(last)
        times.append((time.perf_counter() - start) / updates)
    return statistics.median(times)


def matmul_rate(size: int, rounds: int) -> float:
    """Operations per second of a dense bfloat16 product."""
    x = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    product = jax.jit(lambda a, b: a @ b)
    return 2 * size**3 / median_seconds(lambda: product(x, x), jax.block_until_ready, rounds)


class Update:
    """Training updates on one batch, compiled as in a run; each call makes one update.

    Attributes:
      step: the mapped step.
      state: the current state, donated to the next update.
    """

    def __init__(self, config: BertConfig, params: Any, batch: Any, name: str, form: str, dtype: Any = jnp.bfloat16):
        """Compiles the update of a row of `common.ROWS`, by "jit" or "pmap"."""
        self._parallel = DataParallel(jax.devices()[:1])
        self._parallel.is_single = form == "jit"  # a run never uses pmap on one device
        # No warm-up: the first updates must already change the parameters.
        tx = optimizer.adamw(optax.constant_schedule(1e-4), 0.01)
        model = build_encoder(config, HEADS, dtype=dtype)
        step = partial(
            train_step, FinetuningSpec(model=model, tasks=(TASK,), tx=tx, settings=ROWS[name], num_steps=NUM_STEPS)
        )
        self.step = CompiledByShape(self._parallel.map_train(step))
        # Copied because the state is donated.
        state = init_state(jax.tree.map(partial(jnp.array, copy=True), params), tx, ROWS[name])
        self.state = self._parallel.replicate(state)
        self._rest = {TASK.name: jax.tree.map(jnp.asarray, self._parallel.shard(batch))}, jax.random.key(1)
        self._compiled = self.step.compile(self.state, *self._rest)

    def __call__(self) -> Any:
        """Makes an update and returns its scalars."""
        self.state, means = self.step(self.state, *self._rest)
        return means

    @property
    def params(self) -> Any:
        """The parameters, on the host."""
        return jax.device_get(self._parallel.unreplicate(self.state.params))

    @property
    def peak_gib(self) -> float | None:
        """XLA's estimate; None on backends without one."""
        peak = peak_bytes(self._compiled)
        return None if peak is None else round(peak / 2**30, 2)


def attention(config: BertConfig, name: str, batch: int, length: int, rounds: int) -> dict[str, Any]:
    """Times one attention, forward and backward without dropout; reports if it has the jvp that a power step needs."""
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    query, key, value = jax.random.normal(jax.random.key(0), (3, batch, length, heads, size), jnp.bfloat16)

    def ours(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32) / size**0.5
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores).astype(query.dtype), value)

    attend = ours if name == "ours" else partial(jax.nn.dot_product_attention, implementation=name)
    backward = jax.jit(jax.grad(lambda *x: attend(*x).astype(jnp.float32).sum(), (0, 1, 2)))
    seconds = median_seconds(partial(backward, query, key, value), jax.block_until_ready, rounds)
    try:
        jax.eval_shape(lambda x: jax.jvp(lambda x: attend(x, key, value), (x,), (x,)), query)
        tangents = "yes"
    except Exception as error:  # reported, not raised
        tangents = f"no: {type(error).__name__}"
    return {"milliseconds": round(1000 * seconds, 3), "tangents": tangents}
