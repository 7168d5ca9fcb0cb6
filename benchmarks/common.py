"""Settings, batches and machine facts shared by benchmarks; imports only JAX, Flax, optax and bertjax."""

import dataclasses
import importlib.metadata
import os
import platform
from pathlib import Path

import jax
import numpy as np

from bertjax import smart
from bertjax.tasks import get_task

TASK = get_task("sst5")
NUM_STEPS = 1000
EXACT, CHEAP = smart.preset("bertjax_exact"), smart.preset("bertjax")
ROWS = {
    "plain": smart.preset("none"),
    "R_s": dataclasses.replace(EXACT, bregman_weight=0.0),
    "D": dataclasses.replace(EXACT, weight=0.0),
    "smart exact": EXACT,
    "smart output": smart.preset("bertjax_exact", start="output", num_steps=0),
    "smart cheap": CHEAP,
    "smart cheap every=2": dataclasses.replace(CHEAP, every=2),
    "paper": smart.preset("paper"),
}


def make_batch(batch_size: int, length: int, vocab_size: int) -> dict[str, np.ndarray]:
    """Random word pieces without padding."""
    rng = np.random.default_rng(0)
    return {
        "input_ids": rng.integers(1000, vocab_size, (batch_size, length)).astype(np.int32),
        "token_type_ids": np.zeros((batch_size, length), np.int32),
        "attention_mask": np.ones((batch_size, length), bool),
        "label": rng.integers(0, TASK.num_outputs, batch_size).astype(np.int32),
        "index": np.arange(batch_size, dtype=np.int32),
        "valid": np.ones(batch_size, bool),
    }


def circumstances() -> dict:
    """The machine and the package versions, for results files."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")}
    machine = {
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
    }
    return {"machine": machine, "versions": versions}


def _processor() -> str:
    """The processor's name from Linux, or else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
