"""Checks that an accelerator computes what a CPU computes: logits, SMART's direction, jit and pmap, fifty updates."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator_updates import HEADS, Update
from benchmarks.common import TASK, make_batch
from bertjax import smart
from bertjax.models.config import BertConfig
from bertjax.models.families import build_encoder
from bertjax.models.forward import as_smart_model, forward

BATCH = 8
LOGIT_LIMITS = {"float32": 1e-4, "bfloat16": 0.1}
"""Rounding in bfloat16 changes BERT-base's logits by 0.03 of the largest, differently on each device."""
MIN_COSINE = 0.98
MAX_DIFFERENCE = 1e-5
UPDATES = 50

_compilations = 0


def _count(event: str, *_: Any, **__: Any) -> None:
    global _compilations
    _compilations += event.endswith("backend_compile_duration")


jax.monitoring.register_event_duration_secs_listener(_count)


def padded_batch(config: BertConfig, length: int) -> dict[str, np.ndarray]:
    """A small batch of examples of different lengths."""
    batch = make_batch(BATCH, length, config.vocab_size)
    ends = np.linspace(length // 2, length, BATCH, dtype=int)
    return batch | {"attention_mask": np.arange(length) < ends[:, None]}


def logits(config: BertConfig, params: Any, length: int, dtype: str) -> dict[str, Any]:
    """Compares the accelerator's logits with the CPU's, in the same dtype."""
    apply = jax.jit(partial(forward, build_encoder(config, HEADS, dtype=jnp.dtype(dtype)), TASK))
    results = []
    with jax.default_matmul_precision("highest"):
        for device in (jax.devices("cpu")[0], jax.devices()[0]):
            results.append(np.asarray(apply(*jax.device_put((params, padded_batch(config, length)), device))))
    cpu, accelerator = results
    difference = float(np.abs(accelerator - cpu).max() / np.abs(cpu).max())
    return _at_most("largest difference over largest logit", difference, LOGIT_LIMITS[dtype])


def direction(config: BertConfig, params: Any, length: int) -> dict[str, Any]:
    """Compares the power iteration's direction in bfloat16 with float32, for each example."""
    batch = padded_batch(config, length)
    key = jax.random.key(0)

    def perturbations(dtype: Any) -> np.ndarray:
        cut = as_smart_model(build_encoder(config, HEADS, dtype=dtype), TASK)

        @jax.jit
        def perturb(params: Any, batch: Any) -> jax.Array:
            return smart.perturbation(
                lambda x: cut.logits(params, x, batch, None),
                cut.embed(params, batch),
                key,
                divergence=TASK.divergence,
                radius=0.02,
                mask=batch["attention_mask"],
            )

        return np.asarray(perturb(params, batch), np.float64)

    half = perturbations(jnp.bfloat16)
    with jax.default_matmul_precision("highest"):
        full = perturbations(jnp.float32)
    norms = np.sqrt((half**2).sum((1, 2)) * (full**2).sum((1, 2)))
    cosines = np.abs((half * full).sum((1, 2))) / norms
    value = float(cosines.min())
    return {
        "passed": value > MIN_COSINE,
        "measure": "smallest absolute cosine",
        "value": round(value, 5),
        "limit": f"above {MIN_COSINE}",
        "median": round(float(np.median(cosines)), 5),
    }


def jit_against_pmap(config: BertConfig, params: Any, length: int) -> dict[str, Any]:
    """Compares the parameters after five updates with SMART and dropout, in float32."""
    batch, trained = padded_batch(config, length), {}
    with jax.default_matmul_precision("highest"):
        for form in ("jit", "pmap"):
            update = Update(config, params, batch, "smart cheap", form, jnp.float32)
            for _ in range(5):
                update()
            trained[form] = update.params

    def largest(a: Any, b: Any) -> float:
        return max(float(np.abs(x - y).max()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))

    change = largest(trained["jit"], params)
    check = _at_most("largest difference of parameters", largest(trained["jit"], trained["pmap"]), MAX_DIFFERENCE)
    # Parameters that have not changed would agree too.
    return check | {"passed": check["passed"] and change > 10 * MAX_DIFFERENCE, "moved": float(f"{change:.3g}")}


def stays_finite(update: Update) -> dict[str, Any]:
    """Checks that fifty updates of SMART are finite and compile once."""
    first = jax.device_get(update())
    compiled = _compilations
    means = jax.device_get([first, *(update() for _ in range(UPDATES - 1))])
    recompiled = _compilations - compiled + len(update.step.compiled) - 1
    finite = sum(bool(np.isfinite(list(x.values())).all()) and not x["skipped"].any() for x in means)
    return {
        # `compiled` is 0 if a version of JAX renames the event, and then nothing is counted.
        "passed": finite == UPDATES and recompiled == 0 and compiled > 0,
        "measure": "finite updates",
        "value": finite,
        "limit": f"all {UPDATES}, none recompiled",
        "recompiled": recompiled,
        "last_loss": round(float(means[-1]["loss"]), 4),
    }


def _at_most(measure: str, value: float, limit: float) -> dict[str, Any]:
    return {"passed": value <= limit, "measure": measure, "value": float(f"{value:.3g}"), "limit": f"at most {limit}"}
