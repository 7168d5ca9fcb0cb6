"""The plan of a study: the trials that its recipe asks for."""

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bertjax import smart
from bertjax.config import PretrainConfig, RunConfig, default_config, read_config
from bertjax.data.pipeline import OWN_TASK, declared_tasks
from bertjax.data.sources import SOURCES, CourseFiles
from bertjax.errors import UserError, did_you_mean, shown
from bertjax.smart.settings import Adversary
from bertjax.study import statistics
from bertjax.tasks import TASKS

FURTHER = "further"
"""`init_from` of a method that starts from the study's own further pre-training on the task's domain."""
_KEYS = ("data_dir", "base", "by_task", "methods", "domains", "pretraining", "blocks", "notes")
_BLOCK_KEYS = ("tasks", "methods", "shares", "seeds", "changes")
_TRIAL_SETTINGS = ("data_dir", "task", "tasks", "train_share", "seed")  # set by blocks and data_dir, not by methods
_FILE_SETTINGS = ("data_file", "dev_file", "columns")
_OF_BREGMAN = ("weight", "bregman_weight", "decay", "horizon", "matched_dropout", "share")  # what D alone reads
_LATER = {"share": 1.0, "relative": True}  # values of settings that results of earlier versions do not record


class TrialKey(NamedTuple):
    """Identifies a trial: its tasks' names joined by "+", its method, share and seed."""

    tasks: str
    method: str
    share: float
    seed: int


@dataclasses.dataclass(frozen=True)
class Further:
    """Further pre-training before a trial's run.

    Attributes:
      domain: the task to pre-train on; all its training texts are used.
      texts: a config that loads them.
      config: the pre-training's config, without its corpus.
    """

    domain: str
    texts: RunConfig
    config: PretrainConfig


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a study.

    Attributes:
      tasks: the tasks, trained on together.
      method: the method's name in the study.
      share: the share of each task's training examples.
      seed: the run's seed.
      config: the run's config; its `init_from` is FURTHER if `further` is given.
      further: the further pre-training that the run starts from, if any.
    """

    tasks: tuple[str, ...]
    method: str
    share: float
    seed: int
    config: RunConfig
    further: Further | None = None

    @property
    def key(self) -> TrialKey:
        """Unique within a study."""
        return TrialKey("+".join(self.tasks), self.method, self.share, self.seed)

    @property
    def name(self) -> str:
        """The key for messages: "sts smart 0.1 0"."""
        return " ".join(map(str, self.key))

    @property
    def folder(self) -> Path:
        """The run's folder, relative to the study's."""
        tasks, method, share, seed = self.key
        # The hash keeps runs apart that had the same settings in versions that gave them another meaning.
        meaning = hashlib.sha256(json.dumps(self.resolved, sort_keys=True).encode()).hexdigest()[:8]
        return Path("runs", tasks, method.replace(" ", "_"), f"{share:g}", f"{seed}-{meaning}")

    @property
    def settings(self) -> dict[str, Any]:
        """The run's settings that differ from the defaults, without those in the key."""
        changed = _non_defaults(self.config.to_dict(), default_config().to_dict())
        settings = {name: value for name, value in changed.items() if name not in _TRIAL_SETTINGS}
        if self.further is not None:
            defaults = default_config(PretrainConfig).to_dict()
            settings["further"] = {"domain": self.further.domain}
            settings["further"] |= _non_defaults(self.further.config.to_dict(), defaults)
        return dict(json.loads(json.dumps(settings)))  # as read back from a file

    @property
    def resolved(self) -> dict[str, Any]:
        """What its settings mean in this version: SMART's values, whatever the preset, and how scores are learnt."""
        settings = self.config.smart.settings()
        record = dataclasses.asdict(settings) if settings.has_smoothness or settings.has_bregman else {}
        if record:
            record |= _flat_adversary(settings.adversary)
        record = {name: value for name, value in record.items() if _LATER.get(name) != value}
        if not settings.has_bregman:
            record = {name: value for name, value in record.items() if name not in ("decay", "horizon")}
        if not settings.has_smoothness:
            record = {name: value for name, value in record.items() if name in _OF_BREGMAN}
        has_score = any(task.schema.is_score for task in declared_tasks(self.config))
        found = ({"smart": record} if record else {}) | ({"scores": "standardised"} if has_score else {})
        return dict(json.loads(json.dumps(found)))


def _flat_adversary(adversary: Adversary | None) -> dict[str, Any]:
    """An adversary as results have recorded it since their first version: a name, and a value for every field."""
    names = {
        smart.PowerIteration: "power_iteration",
        smart.ProjectedGradientAscent: "projected_gradient_ascent",
        smart.RandomPerturbation: "random_perturbation",
    }
    defaults: dict[str, Any] = {
        "radius": 0.02,
        "norm": "l2",
        "start": "noise",
        "num_steps": 1,
        "step_size": 0.0,
        "noise": 0.0,
    }
    defaults |= {"per": "example", "projection": "ball", "normalize_gradient": True}
    fields = {} if adversary is None else {name: x for name, x in vars(adversary).items() if x is not None}
    return {**defaults, **fields, "adversary": "none" if adversary is None else names[type(adversary)]}


def plan_trials(study: Mapping[str, Any]) -> list[Trial]:
    """Returns all trials of a study in the order they run: blocks by name, then seed by seed.

    Args:
      study: the recipe as nested dictionaries. A trial's config is the defaults changed by `base`, `by_task`, the
        block's `changes` and the method, in this order. Keys:

        - `data_dir`: folder of CS224N files.
        - `base`: changes for all trials.
        - `by_task`: changes by the name of a task, or of several joined by "+".
        - `methods`: changes by the method's name.
        - `domains`: by task, the task whose texts further pre-training uses.
        - `pretraining`: changes to the further pre-training's config.
        - `blocks`: by name, each with `tasks` (of bertjax.tasks, or "data_file" for the file in `base`), `methods`,
          `shares`, the number of `seeds` and optionally `changes`.
        - `notes`: paragraphs for the report.

    Raises:
      UserError: a key, task, method or value is unknown or missing, or two blocks give one trial different settings.
    """
    _check_keys("--config", study, _KEYS, ("methods", "blocks"))
    for name in ("base", "pretraining", "by_task", "domains", "methods", "blocks"):
        _check_keys(f"--config.{name}", study.get(name, {}))
    notes = study.get("notes", ())
    if not isinstance(notes, list | tuple) or not all(isinstance(note, str) for note in notes):
        raise UserError(f"--config.notes: expected a tuple of texts, like ('a', 'b'), found {shown(notes)}")
    for name in ("by_task", "domains"):
        for joined in study.get(name, {}):
            _check_tasks(f"--config.{name}", joined)
    for name in ("by_task", "methods"):
        for key, changes in study.get(name, {}).items():
            _check_changes(f"--config.{name}.{key}", changes)
    _check_changes("--config.base", study.get("base", {}))
    trials: dict[TrialKey, Trial] = {}
    for name, block in sorted(study["blocks"].items()):
        where = f"--config.blocks.{name}"
        _check_block(where, block)
        # Tasks vary fastest: neighbours run at once, and two of one task would wait for the same further pre-training.
        axes = range(block["seeds"]), block["shares"], block["methods"], block["tasks"]
        for seed, share, method, joined in itertools.product(*axes):
            if method not in study["methods"]:
                raise UserError(f"{where}: no method {method!r}{did_you_mean(method, study['methods'])}")
            _check_tasks(where, joined)
            trial = _plan_trial(where, study, block.get("changes", {}), joined, method, share, seed)
            if trials.setdefault(trial.key, trial) != trial:
                raise UserError(
                    f"{where}: {trial.name} has different settings in an earlier block; give the method another name"
                )
    folders: dict[Path, Trial] = {}
    for trial in trials.values():
        if (other := folders.setdefault(trial.folder, trial)) is not trial:
            raise UserError(
                f"--config.methods: {trial.method!r} and {other.method!r} share the folder {trial.folder}; rename one"
            )
    return list(trials.values())


def _check_keys(where: str, values: Any, known: Collection[str] | None = None, required: Collection[str] = ()) -> None:
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: expected keys and values, found {shown(values)}")
    if missing := [name for name in required if name not in values]:
        raise UserError(f"{where}: expected the key {', '.join(missing)}, see configs/study.py; found none")
    for name in values:
        if known is not None and name not in known:
            raise UserError(f"{where}.{name}: no such key{did_you_mean(name, known)}")


def _check_changes(where: str, changes: Any) -> None:
    _check_keys(where, changes)
    for name in _TRIAL_SETTINGS:
        if name in changes:
            raise UserError(f"{where}.{name}: only blocks and --config.data_dir can set it; leave it out")


def _check_block(where: str, block: Any) -> None:
    _check_keys(where, block, _BLOCK_KEYS, ("tasks", "methods", "shares", "seeds"))
    _check_changes(f"{where}.changes", block.get("changes", {}))
    for name, kind in (("tasks", str), ("methods", str), ("shares", int | float)):
        values = block[name]
        if not isinstance(values, list | tuple) or not all(isinstance(value, kind) for value in values):
            raise UserError(f"{where}.{name}: expected a tuple, like ('a', 'b') or ('a',), found {shown(values)}")
    if type(block["seeds"]) is not int or block["seeds"] < 1:
        raise UserError(f"{where}.seeds: expected a number of seeds, 1 or more, found {shown(block['seeds'])}")
    for method in block["methods"]:
        if not re.fullmatch(r"\w[\w .+-]*", method):
            raise UserError(f"{where}.methods: expected letters, digits, spaces and any of _.+-, found {method!r}")


def _check_tasks(where: str, joined: str) -> None:
    for task in joined.split("+"):
        if task not in TASKS and joined != OWN_TASK:
            raise UserError(f"{where}: no task {task!r}{did_you_mean(task, TASKS)}")
        if task in TASKS and (metric := TASKS[task].main_metric) not in statistics.SCORES:
            raise UserError(
                f"{where}: a study cannot compare {task} by its main metric {metric}; expected one of "
                f"{', '.join(statistics.SCORES)}"
            )


def _plan_trial(
    where: str, study: Mapping[str, Any], block: Mapping[str, Any], joined: str, method: str, share: float, seed: int
) -> Trial:
    tasks = tuple(joined.split("+"))
    values = default_config().to_dict()
    for changes in (study.get("base", {}), study.get("by_task", {}).get(joined, {}), block, study["methods"][method]):
        values = _override(values, changes)
    config = read_config(values | {"seed": seed, "train_share": share} | _data_settings(where, values, tasks, study))
    if config.init_from != FURTHER:
        return Trial(tasks, method, share, seed, config)
    domain = study.get("domains", {}).get(joined)
    if domain not in (*TASKS, OWN_TASK):
        raise UserError(
            f"{where}: {method!r} starts from further pre-training; expected --config.domains to name a task with "
            f"texts for {joined}, found {shown(domain)}"
        )
    texts = read_config(values | _data_settings(where, values, (domain,), study))
    pretraining = read_config(
        _override(default_config(PretrainConfig).to_dict(), study.get("pretraining", {})), PretrainConfig
    )
    return Trial(tasks, method, share, seed, config, Further(domain, texts, pretraining))


def _data_settings(
    where: str, values: Mapping[str, Any], tasks: Sequence[str], study: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings that name the tasks and the location of their data."""
    if OWN_TASK in tasks:
        if values["data_file"] is None:
            raise UserError(
                f"{where}: {OWN_TASK!r} is your own file; expected its path as --config.base.data_file, found none"
            )
        return {}
    defaults = default_config().to_dict()
    settings = {name: defaults[name] for name in _FILE_SETTINGS}
    settings |= {"task": tasks[0]} if len(tasks) == 1 else {"tasks": tuple(tasks)}
    is_course = any(isinstance(SOURCES.get(task), CourseFiles) for task in tasks)  # others reject data_dir
    return settings | {"data_dir": study.get("data_dir") if is_course else None}


def _override(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    nested = {key: _override(values.get(key) or {}, x) for key, x in changes.items() if isinstance(x, Mapping)}
    return {**values, **changes, **nested}


def _non_defaults(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _non_defaults(value, defaults[name]) if isinstance(value, Mapping) else value
        for name, value in values.items()
        if value != defaults[name]
    }
