"""Settings of fine-tuning."""

import dataclasses
import math

from bertjax.config.smart import SmartConfig
from bertjax.config.trainer import TrainerConfig
from bertjax.errors import UserError

SAMPLINGS = ("round_robin", "proportional", "square_root", "annealed")


@dataclasses.dataclass(frozen=True)
class ColumnsConfig:
    """`columns.*`: the columns of `data_file`.

    Attributes:
      text: Column of the text.
      text_pair: Column of the second text of a pair, or None.
      label: Column of the label.
      id: Column of the rows' ids; None to number the rows.
      classes: Names of the classes; a label is a name, or its number from 0. None for a score.
      range: Minimum and maximum of a score.
    """

    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    id: str | None = None
    classes: tuple[str, ...] | None = None
    range: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.classes is not None and len(set(self.classes)) < max(2, len(self.classes)):
            raise UserError(f"--config.columns.classes: expected at least two different names, found {self.classes}")
        if self.range is not None and not (len(self.range) == 2 and self.range[0] < self.range[1]):
            raise UserError(f"--config.columns.range: expected a score's minimum and maximum, found {self.range}")


@dataclasses.dataclass(frozen=True)
class RunConfig(TrainerConfig):
    """Settings of a fine-tuning run, in addition to those of `TrainerConfig`.

    Attributes:
      task: A key of `tasks.TASKS`.
      tasks: Several keys of `tasks.TASKS`, to train on together; leave out `task` then.
      task_weights: Weights of the tasks' objectives, in the order of `tasks`; None for 1 each.
      sampling: How the task of each update is chosen: round_robin; proportional to its number of examples n;
        square_root: to n^0.5; annealed: to a power of n that falls from 1 to 0.2 (Stickland and Murray, ICML 2019).
      pcgrad: Whether every update takes a batch of each task and projects conflicting gradients
        (`gradient_surgery.pcgrad`). `sampling` is then ignored, and an epoch has as many batches as without.
      data_dir: Folder of the CS224N files, for tasks with gold labels.
      data_file: A tab-separated file of your own with the columns that `columns` declares, in place of a task.
      dev_file: A second file for dev; None to hold out a tenth of the rows for dev and a tenth for test.
      columns: Columns of `data_file`.
      train_share: Share of each task's training examples to train on, drawn with the seed.
      tune: all; or head, which freezes the encoder, without dropout, and trains the last linear layer alone.
      on_bad_row: error; or skip, which drops bad rows of the data and reports them.
      smart: SMART's settings.

    Raises:
      UserError: A value is out of range, or two settings exclude each other.
    """

    task: str = "rated_sst"
    tasks: tuple[str, ...] | None = None
    task_weights: tuple[float, ...] | None = None
    sampling: str = "round_robin"
    pcgrad: bool = False
    data_dir: str | None = None
    data_file: str | None = None
    dev_file: str | None = None
    columns: ColumnsConfig = ColumnsConfig()
    train_share: float = 1.0
    tune: str = "all"
    on_bad_row: str = "error"
    smart: SmartConfig = SmartConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_max_length(3)
        self.check_choice("on_bad_row", ("error", "skip"))
        self.check_choice("tune", ("all", "head"))
        self.check_choice("sampling", SAMPLINGS)
        if not 0 < self.train_share <= 1:
            raise UserError(
                f"--config.train_share: expected a share of the training examples in (0, 1], found {self.train_share}"
            )
        self._check_tasks()
        settings = self.smart.settings()
        if self.tune == "head" and (settings.has_smoothness or settings.has_bregman):
            raise UserError(
                "--config.tune: head freezes the encoder, which SMART's perturbation must pass through; "
                "expected --config.smart.preset=none with it"
            )

    def _check_tasks(self) -> None:
        names = self.tasks
        if self.task != type(self).task and (names is not None or self.data_file is not None):
            key = "data_file" if names is None else "tasks"
            raise UserError(
                f"--config.task: no effect beside --config.{key}, which this recipe sets; leave it out, or "
                "use a recipe for one task"
            )
        if names is not None and (not names or len(set(names)) < len(names)):
            raise UserError(f"--config.tasks: expected names of tasks, each once, found {names}")
        if self.pcgrad and (names is None or len(names) < 2):
            raise UserError("--config.pcgrad: expected at least two --config.tasks, whose gradients may conflict")
        weights = self.task_weights
        if weights is not None:
            if names is None or len(weights) != len(names):
                raise UserError(f"--config.task_weights: expected a weight for each of --config.tasks, found {weights}")
            if not all(math.isfinite(weight) and weight > 0 for weight in weights):
                raise UserError(f"--config.task_weights: expected finite numbers above 0, found {weights}")
        if self.data_file is not None:
            if names is not None:
                raise UserError("--config.data_file: expected no --config.tasks beside it")
            if (self.columns.classes is None) == (self.columns.range is None):
                raise UserError(
                    "--config.data_file: expected either --config.columns.classes=\"('bad','good')\", the names of its "
                    'classes, or --config.columns.range="(0.,5.)", the bounds of a score'
                )
        elif self.dev_file is not None:
            raise UserError("--config.dev_file: expected --config.data_file beside it")
