"""The plan of a study: which cells its recipe asks for."""

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bertjax.config import PretrainConfig, RunConfig, default_config, read_config
from bertjax.data.pipeline import OWN, declared_tasks
from bertjax.data.sources import SOURCES, CourseFiles
from bertjax.errors import UserError, did_you_mean, shown
from bertjax.study import statistics
from bertjax.tasks import TASKS

FURTHER = "further"
"""As `init_from` of a method: the study's own further pre-training on the task's domain."""


_KEYS = ("data_dir", "base", "by_task", "methods", "domains", "pretraining", "blocks", "notes")


_BLOCK_KEYS = ("tasks", "methods", "shares", "seeds", "changes")


_OF_THE_KEY = ("data_dir", "task", "tasks", "train_share", "seed")  # no method can change them


_OF_A_FILE = ("data_file", "dev_file", "columns")


_OF_BREGMAN = ("weight", "bregman_weight", "decay", "horizon", "matched_dropout")  # what is read without R_s


class TrialKey(NamedTuple):
    """What tells a cell from all others: its tasks' names joined by "+", its method, share and seed."""

    tasks: str
    method: str
    share: float
    seed: int


@dataclasses.dataclass(frozen=True)
class Further:
    """Further pre-training, before the run of a cell.

    Attributes:
      domain: the task whose training texts it is on.
      texts: a config that names them, all of them.
      config: of the run, but for its corpus.
    """

    domain: str
    texts: RunConfig
    config: PretrainConfig


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a study.

    Attributes:
      tasks: trained on together.
      method: its name in the study.
      share: of each task's training examples.
      seed: of the run.
      config: of the run; its `init_from` is FURTHER where `further` is given.
      further: what it starts from, if not from the config's checkpoint.
    """

    tasks: tuple[str, ...]
    method: str
    share: float
    seed: int
    config: RunConfig
    further: Further | None = None

    @property
    def key(self) -> TrialKey:
        """What tells it from all others."""
        return TrialKey("+".join(self.tasks), self.method, self.share, self.seed)

    @property
    def folder(self) -> Path:
        """Of its run, within the study's."""
        tasks, method, share, seed = self.key
        # A run that was made when the settings meant something else must not be taken for this one's.
        meaning = hashlib.sha256(json.dumps(self.resolved, sort_keys=True).encode()).hexdigest()[:8]
        return Path("runs", tasks, method.replace(" ", "_"), f"{share:g}", f"{seed}-{meaning}")

    @property
    def settings(self) -> dict[str, Any]:
        """All that it changes of the defaults, beyond its key: what its results were got with."""
        changed = _differing(self.config.to_dict(), default_config().to_dict())
        settings = {name: value for name, value in changed.items() if name not in _OF_THE_KEY}
        if self.further is not None:
            defaults = default_config(PretrainConfig).to_dict()
            settings["further"] = {"domain": self.further.domain}
            settings["further"] |= _differing(self.further.config.to_dict(), defaults)
        found: dict[str, Any] = json.loads(json.dumps(settings))  # as read back from a file
        return found

    @property
    def resolved(self) -> dict[str, Any]:
        """What its settings mean in this version: SMART's values, whatever the preset, and how scores are learnt."""
        settings = self.config.smart.settings()
        smart = dataclasses.asdict(settings) if settings.has_smoothness or settings.has_bregman else {}
        if not settings.has_bregman:
            smart = {name: value for name, value in smart.items() if name not in ("decay", "horizon")}
        if not settings.has_smoothness:
            smart = {name: value for name, value in smart.items() if name in _OF_BREGMAN}
        has_score = any(task.schema.is_score for task in declared_tasks(self.config))
        found = ({"smart": smart} if smart else {}) | ({"scores": "standardised"} if has_score else {})
        return dict(json.loads(json.dumps(found)))


def plan_trials(study: Mapping[str, Any]) -> list[Trial]:
    """All cells of a study, in the order in which they are run: blocks by name, seed after seed.

    Args:
      study: of a recipe: `data_dir`; `base`, changes to a run's config for all cells; `by_task`, further ones by the
        name of a task or of several joined by "+"; `methods`, the last ones, by the method's name; `domains`, by task
        the one whose texts further pre-training is on, and `pretraining`, changes to its config; `blocks` by name, each
        with `tasks` (of bertjax.tasks, or "data_file" for that of `base`), `methods`, `shares`, the number of `seeds`
        and, if it likes, `changes` that go before the method's; `notes`, paragraphs for the report.

    Raises:
      UserError: a key, task or method that there is not, one that is wanting, a value that a config does not take, or
        two blocks that run a cell with different settings.
    """
    _check_keys("--config", study, _KEYS, ("methods", "blocks"))
    for name in ("base", "pretraining", "by_task", "domains", "methods", "blocks"):
        _check_keys(f"--config.{name}", study.get(name, {}))
    notes = study.get("notes", ())
    if not isinstance(notes, list | tuple) or not all(isinstance(note, str) for note in notes):
        raise UserError(f"--config.notes: expected several texts, as ('a', 'b'), found {shown(notes)}")
    for name in ("by_task", "domains"):
        for joined in study.get(name, {}):
            _check_tasks(f"--config.{name}", joined)
    for name in ("by_task", "methods"):
        for key, changes in study.get(name, {}).items():
            _check_changes(f"--config.{name}.{key}", changes)
    _check_changes("--config.base", study.get("base", {}))
    cells: dict[Any, Trial] = {}
    for name, block in sorted(study["blocks"].items()):
        where = f"--config.blocks.{name}"
        _check_block(where, block)
        # Tasks last: neighbours are run at once, and those of one task would wait for the same further pre-training.
        axes = range(block["seeds"]), block["shares"], block["methods"], block["tasks"]
        for seed, share, method, joined in itertools.product(*axes):
            if method not in study["methods"]:
                raise UserError(f"{where}: no method {method!r}{did_you_mean(method, study['methods'])}")
            _check_tasks(where, joined)
            cell = _trial(where, study, block.get("changes", {}), joined, method, share, seed)
            if cells.setdefault(cell.key, cell) != cell:
                raise UserError(
                    f"{where}: {trial_name(cell)} has other settings in an earlier block; give the method another name"
                )
    folders: dict[Path, Trial] = {}
    for cell in cells.values():
        if (other := folders.setdefault(cell.folder, cell)) is not cell:
            raise UserError(
                f"--config.methods: {cell.method!r} and {other.method!r} have one folder, {cell.folder}; rename one"
            )
    return list(cells.values())


def trial_name(cell: Trial) -> str:
    """ "sts smart 0.1 0"."""
    return " ".join(map(str, cell.key))


def _check_keys(where: str, values: Any, known: Collection[str] | None = None, needed: Collection[str] = ()) -> None:
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: expected keys and values, found {shown(values)}")
    missing = [name for name in needed if name not in values]
    if missing:
        raise UserError(f"{where}: expected a study's, as in configs/study.py, with {', '.join(missing)}; found none")
    for name in values:
        if known is not None and name not in known:
            raise UserError(f"{where}.{name}: no such key{did_you_mean(name, known)}")


def _check_changes(where: str, changes: Any) -> None:
    _check_keys(where, changes)
    for name in _OF_THE_KEY:
        if name in changes:
            raise UserError(f"{where}.{name}: expected blocks to say what varies, or --config.data_dir; leave it out")


def _check_block(where: str, block: Any) -> None:
    _check_keys(where, block, _BLOCK_KEYS, ("tasks", "methods", "shares", "seeds"))
    _check_changes(f"{where}.changes", block.get("changes", {}))
    for name, kind in (("tasks", str), ("methods", str), ("shares", int | float)):
        values = block[name]
        if not isinstance(values, list | tuple) or not all(isinstance(value, kind) for value in values):
            raise UserError(f"{where}.{name}: expected several, as ('a', 'b') or ('a',), found {shown(values)}")
    if type(block["seeds"]) is not int or block["seeds"] < 1:
        raise UserError(f"{where}.seeds: expected how many, from 1, found {shown(block['seeds'])}")
    for method in block["methods"]:
        if not re.fullmatch(r"\w[\w .+-]*", method):
            raise UserError(f"{where}.methods: expected letters, digits, spaces and any of _.+-, found {method!r}")


def _check_tasks(where: str, joined: str) -> None:
    for task in joined.split("+"):
        if task not in TASKS and joined != OWN:
            raise UserError(f"{where}: no task {task!r}{did_you_mean(task, TASKS)}")
        if task in TASKS and (metric := TASKS[task].main_metric) not in statistics.SCORES:
            raise UserError(
                f"{where}: {task} is judged by {metric}; expected a task whose main metric is one of "
                f"{', '.join(statistics.SCORES)}, as only by these can a study compare"
            )


def _trial(
    where: str, study: Mapping[str, Any], block: Mapping[str, Any], joined: str, method: str, share: float, seed: int
) -> Trial:
    tasks = tuple(joined.split("+"))
    values = default_config().to_dict()
    for changes in (study.get("base", {}), study.get("by_task", {}).get(joined, {}), block, study["methods"][method]):
        values = _changed(values, changes)
    config = read_config(values | {"seed": seed, "train_share": share} | _data(where, values, tasks, study))
    if config.init_from != FURTHER:
        return Trial(tasks, method, share, seed, config)
    domain = study.get("domains", {}).get(joined)
    if domain not in (*TASKS, OWN):
        raise UserError(
            f"{where}: {method!r} starts from further pre-training; expected config.domains to name a task with texts "
            f"for {joined}, found {shown(domain)}"
        )
    texts = read_config(values | _data(where, values, (domain,), study))
    pretraining = read_config(
        _changed(default_config(PretrainConfig).to_dict(), study.get("pretraining", {})), PretrainConfig
    )
    return Trial(tasks, method, share, seed, config, Further(domain, texts, pretraining))


def _data(where: str, values: Mapping[str, Any], tasks: Sequence[str], study: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a config that say which tasks it is of, and where their data are."""
    if OWN in tasks:
        if values["data_file"] is None:
            raise UserError(f"{where}: {OWN!r} is a file of your own; expected config.base to name one, found none")
        return {}
    defaults = default_config().to_dict()
    found = {name: defaults[name] for name in _OF_A_FILE}
    found |= {"task": tasks[0]} if len(tasks) == 1 else {"tasks": tuple(tasks)}
    # Only files of the course's lie there, and others refuse it.
    return found | {"data_dir": study.get("data_dir") if any(map(_is_in_files, tasks)) else None}


def _is_in_files(task: str) -> bool:
    return isinstance(SOURCES.get(task), CourseFiles)


def _changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    nested = {key: _changed(values.get(key) or {}, x) for key, x in changes.items() if isinstance(x, Mapping)}
    return {**values, **changes, **nested}


def _differing(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _differing(value, defaults[name]) if isinstance(value, Mapping) else value
        for name, value in values.items()
        if value != defaults[name]
    }
