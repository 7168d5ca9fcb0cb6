"""What every kind of run has in common round its work: it is done once, and it tells how in `result.json`."""

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
Kind = TypeVar("Kind", RunConfig, PretrainConfig)


def run_once(config: Kind, workdir: Path, run: Callable[[Kind, Path], dict[str, Any]]) -> dict[str, Any]:
    """The result of a run, which is made unless its folder has it, and printed.

    Raises:
      UserError: the folder holds another run, or something else; or whatever `run` raises.
    """
    finished = check_workdir(workdir, config)
    result = run(config, workdir) if finished is None else finished
    if is_first_host():
        if finished is not None:
            print(f"{workdir} holds this run, finished; nothing to do")
        print(result_table(result))
        print(f"result in {workdir / 'result.json'}, curves in {workdir / 'curves.png'}")
    return result


def skip_warnings(outcome: Outcome) -> list[str]:
    """A line where updates of the run were left out."""
    if not outcome.skipped:
        return []
    return [f"{outcome.skipped} updates were left out, as their loss or gradient was not finite"]


def run_metadata(
    config: RunConfig | PretrainConfig, num_steps: int, meter: Meter, parallel: DataParallel
) -> dict[str, Any]:
    """The part of a result that tells how it was made: config, updates, clock, packages and devices."""
    return {
        "config_digest": config.digest(),
        "seed": config.seed,
        "steps": num_steps,
        "timing": meter.summary(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "devices": {"platform": jax.default_backend(), "count": len(parallel.devices)},
    }
