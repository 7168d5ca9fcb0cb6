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
from bertjax.models.bert import Bert, init_params
from bertjax.models.forward import Params
from bertjax.runs.checkpoint import Checkpoints
from bertjax.runs.run_result import RESULT_FILE, label_scales, read_result
from bertjax.runs.workdir import read_run_config
from bertjax.tasks import Task, with_scale


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """What evaluation needs of a run.

    Attributes:
      workdir: its folder.
      config: its settings.
      result: what result.json holds.
    """

    workdir: Path
    config: RunConfig
    result: dict[str, Any]

    @property
    def tasks(self) -> list[Task]:
        """The run's tasks; scores with the scale that they were learnt by."""
        scales = label_scales(self.result)
        return [
            with_scale(task, scales[task.name]) if task.name in scales else task for task in declared_tasks(self.config)
        ]

    @property
    def encoder(self) -> Path:
        """The folder of its architecture and vocabulary."""
        return self.workdir / "encoder"

    def step(self, task: str, checkpoint: str) -> int:
        """Updates behind the "final" checkpoint, or the "best" one by the task's main metric on dev."""
        return self.result["steps"] if checkpoint == "final" else self.result["dev"][task]["best"]["step"]

    def restore(self, step: int, model: Bert) -> Params:
        """The parameters after a step, whose scores are in the labels' units.

        Raises:
          UserError: that checkpoint cannot be read.
        """
        like = jax.eval_shape(partial(init_params, model=model), jax.random.key(0))
        with Checkpoints(self.workdir / "checkpoints") as checkpoints:
            return fold_heads(checkpoints.restore_params(step, like), label_scales(self.result))


def load_run(workdir: Path) -> FinishedRun:
    """Opens a run's folder; UserError where it holds none, one of pre-training, or one that is not finished."""
    config = read_run_config(workdir)
    if isinstance(config, PretrainConfig):
        raise UserError(
            f"--workdir: {workdir} holds a pre-training run, and eval.py is for fine-tuned ones; "
            f"fine-tune it first: train.py --config=configs/sst.py --config.init_from={workdir}"
        )
    run = FinishedRun(workdir, config, read_result(workdir))
    for task in declared_tasks(run.config):
        if task.name not in run.result["datasets"] or task.name not in run.result["dev"]:
            raise UserError(
                f"{workdir / RESULT_FILE}: expected {task.name} in datasets and dev, found none; make the run anew"
            )
    if not run.encoder.is_dir():
        raise UserError(f"{run.encoder}: expected the run's architecture and vocabulary, found no such folder")
    return run
