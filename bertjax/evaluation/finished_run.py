"""A finished fine-tuning run, read back from its folder."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax

from bertjax.config import PretrainConfig, RunConfig
from bertjax.data.pipeline import declared_tasks
from bertjax.errors import UserError
from bertjax.label_scale import fold_heads
from bertjax.models.encoder import Encoder, init_params
from bertjax.models.forward import Params
from bertjax.runs.checkpoint import Checkpoints
from bertjax.runs.run_result import RESULT_FILE, label_scales, read_result
from bertjax.runs.workdir import read_run_config
from bertjax.tasks import Task, with_scale


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run that has finished training.

    Attributes:
      workdir: the run's folder.
      config: the run's config.
      result: the content of result.json.
    """

    workdir: Path
    config: RunConfig
    result: dict[str, Any]

    @property
    def tasks(self) -> list[Task]:
        """The run's tasks; score tasks have the label scale of the run's training data."""
        scales = label_scales(self.result)
        return [
            with_scale(task, scales[task.name]) if task.name in scales else task for task in declared_tasks(self.config)
        ]

    @property
    def encoder(self) -> Path:
        """The folder with the architecture and the vocabulary."""
        return self.workdir / "encoder"

    def step(self, task: str, checkpoint: str) -> int:
        """The step of the "final" checkpoint, or of the "best" one by the task's main metric on dev."""
        return self.result["steps"] if checkpoint == "final" else self.result["dev"][task]["best"]["step"]

    def restore(self, step: int, model: Encoder) -> Params:
        """Reads the parameters of a step; their heads predict scores in the labels' units.

        Raises:
          UserError: the checkpoint cannot be read.
        """
        like = jax.eval_shape(partial(init_params, model=model), jax.random.key(0))
        with Checkpoints(self.workdir / "checkpoints") as checkpoints:
            return fold_heads(checkpoints.restore_params(step, like), label_scales(self.result))


def load_run(workdir: Path) -> FinishedRun:
    """Opens a run's folder; UserError if it holds no run, a pre-training run, or an unfinished one."""
    config = read_run_config(workdir)
    if isinstance(config, PretrainConfig):
        raise UserError(
            f"--workdir: {workdir} holds a pre-training run, but eval.py needs a fine-tuned one; "
            f"fine-tune it first: train.py --config=configs/sst.py --config.init_from={workdir}"
        )
    run = FinishedRun(workdir, config, read_result(workdir))
    for task in declared_tasks(run.config):
        if task.name not in run.result["datasets"] or task.name not in run.result["dev"]:
            raise UserError(
                f"{workdir / RESULT_FILE}: expected {task.name} in datasets and dev, found none; train again"
            )
    if not run.encoder.is_dir():
        raise UserError(
            f"{run.encoder}: expected the run's architecture and vocabulary, found no such folder; train again"
        )
    return run
