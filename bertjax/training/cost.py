"""The cost of an update in floating-point operations, relative to plain fine-tuning."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax

from bertjax import smart
from bertjax.parallel import CompiledByShape, DataParallel
from bertjax.training.finetuning_step import FinetuningSpec, train_step
from bertjax.training.state import TrainState


def flops_ratio(
    spec: FinetuningSpec,
    run_step: CompiledByShape,
    state: TrainState,
    steps: Sequence[Mapping[str, Any]],
    key: jax.Array,
    parallel: DataParallel,
) -> float | None:
    """The operations of an update divided by plain fine-tuning's, as XLA counts them; None if it does not.

    Args:
      spec: The run's step.
      run_step: The same, compiled.
      state: A state of the run, replicated.
      steps: The sharded batches of one or more updates; the ratio hardly depends on their sequence length.
      key: The run's key.
      parallel: The devices.
    """
    settings = spec.settings
    if not (settings.has_smoothness or settings.has_bregman):
        return 1.0

    def flops(settings: smart.SmartSettings, state: TrainState) -> float:
        step = partial(train_step, dataclasses.replace(spec, settings=settings))
        compiled = CompiledByShape(parallel.map_train(step))
        return sum(compiled.flops(state, batches, key) for batches in steps)

    ours = sum(run_step.flops(state, batches, key) for batches in steps)
    if settings.has_smoothness and settings.every > 1:
        # XLA counts the more expensive branch of a condition, but R_s enters only every k-th update.
        without = flops(dataclasses.replace(settings, weight=0.0), state)
        ours = without + (ours - without) / settings.every
    ratio = ours / flops(smart.PRESETS["none"], state.replace(anchor=None))
    return ratio if math.isfinite(ratio) else None
