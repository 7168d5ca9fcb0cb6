"""The result of any run: computed once, printed, and with a record of how it was made."""

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax

from bertjax.config import PretrainConfig, RunConfig
from bertjax.evaluation.tables import result_table
from bertjax.parallel import DataParallel, is_first_host
from bertjax.runs.workdir import check_workdir
from bertjax.training.throughput import Meter
from bertjax.training.train_loop import Outcome

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")
RunKind = TypeVar("RunKind", RunConfig, PretrainConfig)


def run_once(config: RunKind, workdir: Path, run: Callable[[RunKind, Path], dict[str, Any]]) -> dict[str, Any]:
    """Returns and prints the result of a run; calls `run` only if the folder has none.

    Raises:
      UserError: The folder holds another run or other files, or from `run`.
    """
    finished = check_workdir(workdir, config)
    result = run(config, workdir) if finished is None else finished
    if is_first_host():
        if finished is not None:
            print(f"{workdir}: this run is finished; nothing to do")
        print(result_table(result))
        print(f"result in {workdir / 'result.json'}, curves in {workdir / 'curves.png'}")
    return result


def skip_warnings(outcome: Outcome) -> list[str]:
    """A line if updates of the run were skipped."""
    if not outcome.skipped:
        return []
    return [f"{outcome.skipped} updates were skipped, as their loss or gradient was not finite"]


def run_metadata(
    config: RunConfig | PretrainConfig, num_steps: int, meter: Meter, parallel: DataParallel
) -> dict[str, Any]:
    """How a result was made: config, updates, timing, package versions and devices."""
    return {
        "config_digest": config.digest(),
        "seed": config.seed,
        "steps": num_steps,
        "timing": meter.summary(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "devices": {"platform": jax.default_backend(), "count": len(parallel.devices)},
    }
