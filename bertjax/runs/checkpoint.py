"""A run's checkpoints, by Orbax: training state and progress in one atomic step.

A run keeps its last checkpoint and the best by each metric. Unreadable checkpoints are renamed, never deleted.
"""

import contextlib
import json
import math
import operator
import shutil
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from bertjax.errors import UserError, reason
from bertjax.parallel import is_first_host


class CheckpointedState(Protocol):
    """A training state, such as a `flax.struct.PyTreeNode`: a pytree with parameters apart from the rest."""

    @property
    def params(self) -> Any:
        """The model's parameters."""

    def replace(self: "StateT", **changes: Any) -> "StateT":
        """A copy with some attributes changed."""


StateT = TypeVar("StateT", bound=CheckpointedState)


class Checkpoints:
    """The checkpoints in a folder: the last one, and the best by each of `metrics` on dev.

    A run that is asked to stop between two checkpoints saves one more in `interrupted`, beside the folder. The folder
    itself then stays as in a run without interruption.
    """

    def __init__(self, folder: Path, metrics: Sequence[str] = ()):
        """Opens the folder for writing if there are metrics, else for reading."""
        self._folder = folder.absolute()
        self._interrupted_folder = self._folder.with_name("interrupted")
        self._no_metrics = dict.fromkeys(metrics, -math.inf)
        if metrics and is_first_host():
            _clean_up(self._folder)
            _clean_up(self._interrupted_folder)
            _check_metrics(self._folder)
        self._manager = _open_manager(self._folder, metrics, create=bool(metrics))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manager.close()

    def reached_preemption(self, step: int) -> bool:
        """Whether the scheduler is about to stop this job, on several hosts only; all get the same answer at a step."""
        return jax.process_count() > 1 and self._manager.reached_preemption(step)

    def save(
        self,
        step: int,
        state: CheckpointedState,
        progress: Mapping[str, Any],
        metrics: dict[str, float] | None = None,
    ) -> None:
        """Saves a checkpoint, and removes the one that `save_interrupted` wrote.

        Args:
          step: number of updates, the checkpoint's name.
          state: the training state, on one device or a single replica of it.
          progress: whatever else the run needs to resume, as JSON.
          metrics: values on dev of the metrics the folder was opened with; None if not evaluated.

        Raises:
          UserError: the checkpoint cannot be written; earlier ones are kept.
        """
        _save(self._manager, self._folder, step, state, progress, metrics or self._no_metrics)
        if is_first_host():
            shutil.rmtree(self._interrupted_folder, ignore_errors=True)

    def save_interrupted(self, step: int, state: CheckpointedState, progress: Mapping[str, Any]) -> None:
        """Saves a state between two checkpoints. For arguments and errors see `save`."""
        with contextlib.closing(_open_manager(self._interrupted_folder, (), create=True)) as manager:
            _save(manager, self._interrupted_folder, step, state, progress, None)

    def restore_last(self, like: StateT) -> tuple[int, StateT, dict[str, Any]] | None:
        """Restores the last readable checkpoint; None if there are no checkpoints.

        Later ones that cannot be read are renamed, with a warning on stderr.

        Args:
          like: a state with the structure, shapes, dtypes and devices to restore.

        Returns:
          The step, the state and the progress.

        Raises:
          UserError: there are checkpoints, but none can be read; they are kept as they are.
        """
        unreadable: dict[Path, Exception] = {}
        with contextlib.ExitStack() as stack:
            managers = {self._folder: self._manager}
            if self._interrupted_folder.is_dir():
                interrupted = contextlib.closing(_open_manager(self._interrupted_folder, (), create=False))
                managers[self._interrupted_folder] = stack.enter_context(interrupted)
            candidates = [
                (step, folder == self._folder, folder) for folder in managers for step in managers[folder].all_steps()
            ]
            for step, _, folder in sorted(candidates, reverse=True):
                try:
                    restored = step, *_restore_state(managers[folder], step, like)
                except _UNREADABLE as error:
                    if jax.process_count() > 1:  # other hosts may have read it
                        raise UserError(
                            f"{folder / str(step)}: this checkpoint cannot be read ({reason(error)}); remove it"
                        ) from error
                    unreadable[folder / str(step)] = error
                    continue
                for path, cause in unreadable.items():
                    _set_aside(path, cause)
                    managers[path.parent].reload()
                return restored
        if unreadable:
            raise _none_readable(*next(iter(unreadable.items())))
        return None

    def restore_params(self, step: int, like: Any) -> Any:
        """Restores parameters shaped as `like` to this host's first device; UserError if they cannot be read."""
        # Orbax would look for the device that wrote them, which may not exist on this machine.
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like)
        items = ocp.args.Composite(params=ocp.args.StandardRestore(target))
        try:
            return self._manager.restore(step, args=items)["params"]
        except _UNREADABLE as error:
            raise UserError(
                f"{self._folder / str(step)}: this checkpoint cannot be read ({reason(error)}); "
                "use the other --checkpoint, or train again in another --workdir"
            ) from error


_UNREADABLE = OSError, ValueError, KeyError


def _open_manager(folder: Path, metrics: Sequence[str], *, create: bool) -> ocp.CheckpointManager:
    policies: list[Any] = [ocp.checkpoint_managers.LatestN(1)]
    policies += [ocp.checkpoint_managers.BestN(get_metric_fn=operator.itemgetter(metric), n=1) for metric in metrics]
    options = ocp.CheckpointManagerOptions(
        preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(policies),
        # The policies decide what is kept. Without `best_fn`, Orbax would store no metrics for a later call to read.
        best_fn=operator.itemgetter(metrics[0]) if metrics else None,
        create=create,
        # A background write would read buffers that are donated to the next step.
        enable_async_checkpointing=False,
    )
    return ocp.CheckpointManager(folder, options=options)


def _save(
    manager: ocp.CheckpointManager,
    folder: Path,
    step: int,
    state: CheckpointedState,
    progress: Mapping[str, Any],
    metrics: dict[str, float] | None,
) -> None:
    state = _to_host(state)
    items = ocp.args.Composite(
        params=ocp.args.StandardSave(state.params),
        rest=ocp.args.StandardSave(state.replace(params=None)),
        progress=ocp.args.JsonSave(dict(progress)),
    )
    try:
        manager.save(step, args=items, metrics=metrics)
    except (OSError, ValueError, RuntimeError) as error:  # the last two come from TensorStore
        _remove_half_written(folder)  # it may fill the disk
        raise UserError(
            f"{folder}: the checkpoint of update {step} cannot be written ({reason(error)}); free space, then run the "
            "same command again to resume from the previous checkpoint"
        ) from error


def _restore_state(manager: ocp.CheckpointManager, step: int, like: StateT) -> tuple[StateT, dict[str, Any]]:
    like = _to_host(like)
    items = ocp.args.Composite(
        params=ocp.args.StandardRestore(_restore_target(like.params)),
        rest=ocp.args.StandardRestore(_restore_target(like.replace(params=None))),
        progress=ocp.args.JsonRestore(),
    )
    restored = manager.restore(step, args=items)
    return restored["rest"].replace(params=restored["params"]), restored["progress"]


def _to_host(state: StateT) -> StateT:
    # On several hosts Orbax cannot save arrays of one host's device. It can save NumPy arrays: the first host writes.
    return state if jax.process_count() == 1 else jax.device_get(state)


def _restore_target(tree: Any) -> Any:
    return jax.tree.map(lambda x: x if isinstance(x, np.ndarray) else ocp.utils.to_shape_dtype_struct(x), tree)


def _check_metrics(folder: Path) -> None:
    """Sets checkpoints with broken metrics aside: Orbax reads all metrics when it opens a folder, and would fail."""
    broken: dict[Path, Exception] = {}
    for path in folder.glob("[0-9]*/metrics/metrics"):
        try:
            json.loads(path.read_bytes())
        except ValueError as error:
            broken[path.parents[1]] = error
    if broken and broken.keys() == set(folder.glob("[0-9]*")):
        raise _none_readable(*broken.popitem())
    for path, cause in broken.items():
        _set_aside(path, cause)


def _none_readable(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: this checkpoint cannot be read, nor any other of the run ({reason(error)}); use the versions of "
        f"bertjax and its packages that wrote it, or remove {path.parents[1]} to start over"
    )


def _set_aside(path: Path, error: Exception) -> None:
    renamed = path.with_name(f"unreadable-{path.name}-{uuid.uuid4().hex[:8]}")
    path.rename(renamed)
    print(
        f"warning: {path}: this checkpoint cannot be read ({reason(error)}); renamed to {renamed.name}, and an earlier "
        "one is used if there is one",
        file=sys.stderr,
    )


def _clean_up(folder: Path) -> None:
    for name in _remove_half_written(folder):
        print(f"{folder / name}: a checkpoint cut off while it was written; removed", file=sys.stderr)


def _remove_half_written(folder: Path) -> list[str]:
    # Orbax writes a checkpoint under a temporary name and renames it when it is complete.
    paths = sorted(folder.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"))
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)
    return [path.name for path in paths]
