"""A run's settings: the keys that every recipe shares, their defaults, and their validation."""

import dataclasses
import hashlib
import json
import math
import types
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args, get_origin, get_type_hints, overload

import ml_collections
from ml_collections import config_dict

from bertjax.errors import UserError, did_you_mean, shown
from bertjax.smart_config import SmartConfig


@dataclasses.dataclass(frozen=True)
class ColumnsConfig:
    """`columns.*`: what `data_file` holds.

    Attributes:
      text: column of the text.
      text_pair: column of the second text of a pair; None without one.
      label: column of the label.
      id: column that names rows; None to number them.
      classes: names of the classes, written in the file as these or as their numbers from 0; None for a score.
      range: a score's least and greatest value.
    """

    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    id: str | None = None
    classes: tuple[str, ...] | None = None
    range: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.classes is not None and len(set(self.classes)) < max(2, len(self.classes)):
            raise UserError(
                f"--config.columns.classes: expected at least two names, no two alike, found {self.classes}"
            )
        if self.range is not None and not (len(self.range) == 2 and self.range[0] < self.range[1]):
            raise UserError(f"--config.columns.range: expected a score's least and greatest value, found {self.range}")


SAMPLINGS = ("round_robin", "proportional", "square_root", "annealed")


class Config:
    """What the settings of every kind of run share; the subclasses are frozen dataclasses."""

    def to_dict(self) -> dict[str, Any]:
        """The settings as nested plain values, as config.json holds them."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    def digest(self) -> str:
        """Sixteen hexadecimal digits that tell one configuration from another."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def check(
        self, *, counts: Sequence[str], amounts: Sequence[str], choices: Mapping[str, Sequence[str]], shortest: int
    ) -> None:
        """UserError for a value out of range.

        Args:
          counts: keys that are at least 1, or None.
          amounts: keys that are finite and not negative.
          choices: what the keys with a choice may be.
          shortest: the least max_length.
        """
        values = vars(self)
        for name in counts:
            value = values[name]
            if value is not None and value < 1:
                raise UserError(f"--config.{name}: expected at least 1, found {shown(value)}")
            if value is not None and value >= 2**31:
                raise UserError(f"--config.{name}: expected less than 2**31, found {shown(value)}")
        for name in amounts:
            if not (math.isfinite(values[name]) and values[name] >= 0):
                raise UserError(f"--config.{name}: expected a finite number of at least 0, found {values[name]}")
        if not 0 <= values["warmup"] <= 1:
            raise UserError(f"--config.warmup: expected a share of the updates in [0, 1], found {values['warmup']}")
        if not 0 <= values["seed"] < 2**32:
            raise UserError(f"--config.seed: expected an integer in [0, 2**32), found {shown(values['seed'])}")
        if (length := values["max_length"]) < shortest:
            raise UserError(f"--config.max_length: expected at least {shortest} tokens, found {shown(length)}")
        for name, known in choices.items():
            if values[name] not in known:
                raise UserError(f"--config.{name}: expected {_alternatives(known)}, found {shown(values[name])}")


DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class RunConfig(Config):
    """Everything that decides a fine-tuning run.

    Attributes:
      task: one of `tasks.TASKS`.
      tasks: several of them, to train on all; `task` must then be left out.
      task_weights: of the tasks' objectives, in the order of `tasks`; None for 1 each.
      sampling: of tasks, one an update: round_robin; proportional to their examples n; square_root, to n^0.5;
        annealed, to a power of n that falls from 1 to 0.2 over the run (Stickland and Murray, ICML 2019).
      pcgrad: whether every update takes a batch of each task and projects conflicting gradients (`surgery.pcgrad`);
        `sampling` is then not looked at, and an epoch has as many batches as without.
      data_dir: folder of the CS224N files, for tasks with gold labels.
      data_file: a tab-separated file of your own with the columns that `columns` declares, in place of a task.
      dev_file: a second one for dev; None to take a tenth of the rows for dev and one for test.
      columns: of `data_file`.
      train_share: share of each task's training examples to train on, drawn by the seed.
      tune: all, or head, which freezes the encoder, without dropout, and trains the last linear layer alone.
      init_from: `minilm-l6`, a folder of Hugging Face's, of Google's, of `convert` or of a finished run, or a hub name,
        with `@revision` if wanted.
      seed: of new heads, data order, dropout and noise.
      epochs: passes over the training set.
      max_steps: ends the run, and its schedule, after so many updates; None for all the epochs.
      batch_size: examples an update, over all devices.
      micro_batches: parts in which a device computes its share of a batch, one after another, where memory cannot hold
        it at once; the update is the same.
      remat: whether the backward pass computes the encoder's layers again in place of keeping what they computed: less
        memory, and a longer update, which is the same.
      learning_rate: at the end of the warm-up.
      weight_decay: AdamW's, on kernels and embedding tables.
      warmup: share of the updates.
      max_length: tokens of an example, [CLS] and [SEP] included; longer ones are cut.
      dtype: of computation: float32 or bfloat16; parameters are float32.
      eval_every: updates between evaluations on dev, each followed by a checkpoint; None for every epoch.
      checkpoint_every: updates between further checkpoints; None for none.
      max_skipped: updates in a row that may be left out because their loss or gradient is not finite; one more ends
        the run.
      on_bad_row: error, or skip, which goes on without bad rows of the data and reports them.
      smart: SMART's settings.
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
    init_from: str = "minilm-l6"
    seed: int = 0
    epochs: int = 3
    max_steps: int | None = None
    batch_size: int = 32
    micro_batches: int = 1
    remat: bool = False
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    warmup: float = 0.1
    max_length: int = 128
    dtype: str = "float32"
    eval_every: int | None = None
    checkpoint_every: int | None = None
    max_skipped: int = 10
    on_bad_row: str = "error"
    smart: SmartConfig = SmartConfig()

    def __post_init__(self) -> None:
        self.check(
            counts=("epochs", "max_steps", "batch_size", "micro_batches", "eval_every", "checkpoint_every"),
            amounts=("learning_rate", "weight_decay", "max_skipped"),
            choices={
                "dtype": DTYPES,
                "on_bad_row": ("error", "skip"),
                "tune": ("all", "head"),
                "sampling": SAMPLINGS,
            },
            shortest=3,
        )
        if not 0 < self.train_share <= 1:
            raise UserError(
                f"--config.train_share: expected a share of the training examples in (0, 1], found {self.train_share}"
            )
        self._check_tasks()
        settings = self.smart.settings()
        if self.tune == "head" and (settings.has_smoothness or settings.has_bregman):
            raise UserError(
                "--config.tune: head freezes the encoder, which SMART's perturbation has to go through; "
                "expected --config.smart.preset=none with it"
            )

    def _check_tasks(self) -> None:
        names = self.tasks
        if self.task != type(self).task and (names is not None or self.data_file is not None):
            key = "data_file" if names is None else "tasks"
            raise UserError(
                f"--config.task: without effect beside --config.{key}, which this recipe sets; leave it out, or take a "
                "recipe of one task"
            )
        if names is not None and (not names or len(set(names)) < len(names)):
            raise UserError(f"--config.tasks: expected names of tasks, each once, found {names}")
        if self.pcgrad and (names is None or len(names) < 2):
            raise UserError("--config.pcgrad: expected at least two --config.tasks, whose gradients may conflict")
        weights = self.task_weights
        if weights is not None:
            if names is None or len(weights) != len(names):
                raise UserError(f"--config.task_weights: expected one for each of --config.tasks, found {weights}")
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


@dataclasses.dataclass(frozen=True)
class PretrainConfig(Config):
    """Everything that decides a run of further pre-training.

    Attributes:
      corpus: `editorials`, a folder of .txt files, or a .csv file, as `data.documents.load_corpus` reads them.
      init_from: `minilm-l6`, a folder of Hugging Face's, of Google's, of `convert` or of a finished run, or a hub name,
        with `@revision` if wanted.
      seed: of new heads, pairs, masks, their order and dropout.
      epochs: passes over the training documents, each with new pairs and masks.
      max_steps: ends each stage, and its schedule, after so many updates; None for all the epochs.
      batch_size: pairs an update, over all devices.
      micro_batches: parts in which a device computes its share of a batch, one after another, where memory cannot hold
        it at once; the update is the same.
      remat: whether the backward pass computes the encoder's layers again in place of keeping what they computed: less
        memory, and a longer update, which is the same.
      learning_rate: at the end of the warm-up.
      head_epochs: of a first stage that trains the heads alone, where the checkpoint lacks one.
      head_learning_rate: of that stage.
      weight_decay: AdamW's, on kernels and embedding tables.
      warmup: share of a stage's updates.
      max_length: tokens of a pair, [CLS] and [SEP] included.
      dtype: of computation: float32 or bfloat16; parameters are float32.
      whole_word: whether all pieces of a word are masked or none.
      eval_every: updates between evaluations on dev, each followed by a checkpoint; None for every epoch.
      checkpoint_every: updates between further checkpoints; None for none.
      max_skipped: updates in a row that may be left out because their loss or gradient is not finite; one more ends
        the run.
    """

    corpus: str = "editorials"
    init_from: str = "minilm-l6"
    seed: int = 0
    epochs: int = 10
    max_steps: int | None = None
    batch_size: int = 32
    micro_batches: int = 1
    remat: bool = False
    learning_rate: float = 1e-4
    head_epochs: int = 5
    head_learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.1
    max_length: int = 128
    dtype: str = "float32"
    whole_word: bool = False
    eval_every: int | None = None
    checkpoint_every: int | None = None
    max_skipped: int = 10

    def __post_init__(self) -> None:
        self.check(
            counts=(
                "epochs",
                "max_steps",
                "batch_size",
                "micro_batches",
                "head_epochs",
                "eval_every",
                "checkpoint_every",
            ),
            amounts=("learning_rate", "head_learning_rate", "weight_decay", "max_skipped"),
            choices={"dtype": DTYPES},
            shortest=8,  # room for a pair of texts
        )


Kind = TypeVar("Kind", bound=Config)


def is_pretraining(values: Mapping[str, Any]) -> bool:
    """Whether a recipe's keys, or those of a config.json, are of further pre-training."""
    return "corpus" in values


def default_config(kind: type[Config] = RunConfig) -> ml_collections.ConfigDict:
    """All keys of a kind of run with their defaults, for a recipe to change; no key can be added."""

    def build(kind: Any) -> ml_collections.ConfigDict:
        config, hints = ml_collections.ConfigDict(), get_type_hints(kind)
        for field in dataclasses.fields(kind):
            if dataclasses.is_dataclass(field.default):
                config[field.name] = build(type(field.default))
            elif field.default is None:
                plain = _plain_type(hints[field.name])
                config[field.name] = config_dict.placeholder(get_origin(plain) or plain)
            else:
                config[field.name] = field.default
        return config.lock()

    return build(kind)


@overload
def read_config(values: Any) -> RunConfig: ...


@overload
def read_config(values: Any, kind: type[Kind]) -> Kind: ...


def read_config(values: Any, kind: type[Config] = RunConfig) -> Config:
    """Validates a recipe's ConfigDict, or the mapping of a config.json.

    Raises:
      UserError: an unknown key (the message names the nearest one), a value of the wrong type or out of range.
    """
    if isinstance(values, ml_collections.ConfigDict):
        values = values.to_dict()
    config: Config = _build(kind, values, "--config")
    return config


def _build(kind: Any, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected keys and values, found {shown(values)}")
    hints = get_type_hints(kind)
    arguments = {}
    for name, value in values.items():
        if name not in hints:
            raise UserError(f"{where}.{name}: no such key{did_you_mean(name, hints)}")
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            arguments[name] = _build(hint, value, f"{where}.{name}")
        else:
            arguments[name] = _convert(value, hint, f"{where}.{name}")
    return kind(**arguments)


def _convert(value: Any, hint: Any, where: str) -> Any:
    if value is None and type(None) in get_args(hint):
        return None
    kind = _plain_type(hint)
    if kind is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise UserError(f"{where}: expected a number, found one too large") from None
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(_convert(item, get_args(kind)[0], where) for item in value)
    if get_origin(kind) is tuple:
        raise UserError(f"{where}: expected several values, as \"('a','b')\", found {shown(value)}")
    if type(value) is not kind:
        raise UserError(f"{where}: expected {kind.__name__}, found {shown(value)}")
    return value


def _alternatives(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _plain_type(hint: Any) -> Any:
    """`int` of `int | None`, and of `int`."""
    if isinstance(hint, types.UnionType):
        return next(kind for kind in get_args(hint) if kind is not type(None))
    return hint
