"""Checkpoints of a run by Orbax: the training state and the data iterator's, in one atomic step."""

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
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from bertjax.errors import UserError, reason
from bertjax.models.forward import Params
from bertjax.parallel import is_first_host
from bertjax.training.state import TrainState


class Checkpoints:
    """The checkpoints in one folder, of which the last is kept, and the best by each of `metrics` on dev.

    One more may lie in `interrupted`, beside the folder: of a run that was asked to stop between two of its
    checkpoints. The folder itself then is as it would be had nobody asked.
    """

    def __init__(self, folder: Path, metrics: Sequence[str] = ()):
        """Opens the folder: to write where metrics are given, else to read."""
        self._folder, self._aside = folder.absolute(), folder.absolute().with_name("interrupted")
        self._unjudged = dict.fromkeys(metrics, -math.inf)
        if metrics and is_first_host():
            _drop_half_written(self._folder)
            _drop_half_written(self._aside)
            _check_metrics(self._folder)
        self._manager = _manager(self._folder, metrics, create=bool(metrics))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manager.close()

    def reached_preemption(self, step: int) -> bool:
        """Whether the scheduler of a job on several hosts is about to stop it; all of them hear it at one step."""
        return jax.process_count() > 1 and self._manager.reached_preemption(step)

    def save(
        self,
        step: int,
        state: TrainState,
        progress: Mapping[str, Any],
        metrics: dict[str, float] | None = None,
    ) -> None:
        """Saves a state; what was saved on interruption is then of no more use and goes.

        Args:
          step: names the checkpoint.
          state: on one device, or a single replica of it.
          progress: all else that a run needs to go on, as JSON.
          metrics: those on dev, by the names that the folder was opened with, if evaluated.

        Raises:
          UserError: it cannot be written; earlier checkpoints are as they were.
        """
        _save(self._manager, self._folder, step, state, progress, metrics or self._unjudged)
        if is_first_host():
            shutil.rmtree(self._aside, ignore_errors=True)

    def save_interrupted(self, step: int, state: TrainState, progress: Mapping[str, Any]) -> None:
        """Saves a state between two checkpoints; args and errors as of `save`."""
        with contextlib.closing(_manager(self._aside, (), create=True)) as manager:
            _save(manager, self._aside, step, state, progress, None)

    def restore_last(self, like: TrainState) -> tuple[int, TrainState, dict[str, Any]] | None:
        """The last state that can be read, its step and its progress; None where there is none.

        What cannot be read is put aside under another name, and a line on stderr says so, if there is another that can.

        Args:
          like: gives structure, shapes, dtypes and places.

        Raises:
          UserError: there are some, and none can be read; they stay as they are.
        """
        unreadable: dict[Path, Exception] = {}
        with contextlib.ExitStack() as stack:
            managers = {self._folder: self._manager}
            if self._aside.is_dir():
                aside = contextlib.closing(_manager(self._aside, (), create=False))
                managers[self._aside] = stack.enter_context(aside)
            steps = [
                (step, folder == self._folder, folder) for folder in managers for step in managers[folder].all_steps()
            ]
            for step, _, folder in sorted(steps, reverse=True):
                try:
                    found = step, *_restore_state(managers[folder], step, like)
                except _UNREADABLE as error:
                    if jax.process_count() > 1:  # the others may have read it
                        raise UserError(
                            f"{folder / str(step)}: this checkpoint cannot be read ({reason(error)}); remove it"
                        ) from error
                    unreadable[folder / str(step)] = error
                    continue
                for path, why in unreadable.items():
                    _put_aside(path, why)
                    managers[path.parent].reload()
                return found
        if unreadable:
            path, why = next(iter(unreadable.items()))
            raise _unreadable(path, why)
        return None

    def restore_params(self, step: int, like: Params) -> Params:
        """The parameters alone, on this host's first device; UserError where they cannot be read."""
        # Orbax would look for the device that wrote them, and another machine may have none of its kind.
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), like)
        items = ocp.args.Composite(params=ocp.args.StandardRestore(placed))
        try:
            return self._manager.restore(step, args=items)["params"]
        except _UNREADABLE as error:
            raise UserError(
                f"{self._folder / str(step)}: this checkpoint cannot be read ({reason(error)}); "
                "take the other --checkpoint, or train again in another --workdir"
            ) from error


_UNREADABLE = OSError, ValueError, KeyError


def _manager(folder: Path, metrics: Sequence[str], *, create: bool) -> ocp.CheckpointManager:
    kept: list[Any] = [ocp.checkpoint_managers.LatestN(1)]
    kept += [ocp.checkpoint_managers.BestN(get_metric_fn=operator.itemgetter(metric), n=1) for metric in metrics]
    options = ocp.CheckpointManagerOptions(
        preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(kept),
        # The policy decides what is kept; without a function here, Orbax writes no metrics for a later call to read.
        best_fn=operator.itemgetter(metrics[0]) if metrics else None,
        create=create,
        # A background write would read buffers that the next step is given to overwrite.
        enable_async_checkpointing=False,
    )
    return ocp.CheckpointManager(folder, options=options)


def _save(
    manager: ocp.CheckpointManager,
    folder: Path,
    step: int,
    state: TrainState,
    progress: Mapping[str, Any],
    metrics: dict[str, float] | None,
) -> None:
    state = _portable(state)
    items = ocp.args.Composite(
        params=ocp.args.StandardSave(state.params),
        rest=ocp.args.StandardSave(state.replace(params=None)),
        progress=ocp.args.JsonSave(dict(progress)),
    )
    try:
        manager.save(step, args=items, metrics=metrics)
    except (OSError, ValueError, RuntimeError) as error:  # tensorstore's own are the last two
        _remove_half_written(folder)  # what is written fills the disk
        raise UserError(
            f"{folder}: the checkpoint of update {step} cannot be written ({reason(error)}); free space there; the "
            "same command then goes on from the one before, if there is one"
        ) from error


def _restore_state(manager: ocp.CheckpointManager, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    like = _portable(like)
    items = ocp.args.Composite(
        params=ocp.args.StandardRestore(_target(like.params)),
        rest=ocp.args.StandardRestore(_target(like.replace(params=None))),
        progress=ocp.args.JsonRestore(),
    )
    restored = manager.restore(step, args=items)
    return restored["rest"].replace(params=restored["params"]), restored["progress"]


def _check_metrics(folder: Path) -> None:
    # Orbax reads those of all checkpoints when it opens a folder, and would stop at broken ones.
    broken: dict[Path, Exception] = {}
    for path in folder.glob("[0-9]*/metrics/metrics"):
        try:
            json.loads(path.read_bytes())
        except ValueError as error:
            broken[path.parents[1]] = error
    if broken and broken.keys() == set(folder.glob("[0-9]*")):
        raise _unreadable(*broken.popitem())
    for path, why in broken.items():
        _put_aside(path, why)


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: this checkpoint cannot be read, nor any other of the run ({reason(error)}); go on with the versions "
        f"of bertjax and its packages that wrote it, or remove {path.parents[1]} to start anew"
    )


def _put_aside(path: Path, error: Exception) -> None:
    kept = path.with_name(f"unreadable-{path.name}-{uuid.uuid4().hex[:8]}")
    path.rename(kept)
    print(
        f"warning: {path}: this checkpoint cannot be read ({reason(error)}); it is now {kept.name}, and an earlier "
        "one is taken, if there is one",
        file=sys.stderr,
    )


def _drop_half_written(folder: Path) -> None:
    for name in _remove_half_written(folder):
        print(f"{folder / name}: a checkpoint cut off while it was written; passed over", file=sys.stderr)


def _remove_half_written(folder: Path) -> list[str]:
    # Orbax writes a checkpoint under such a name and, once it is whole, gives it its own.
    found = sorted(folder.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"))
    for path in found:
        shutil.rmtree(path, ignore_errors=True)
    return [path.name for path in found]


def _portable(state: TrainState) -> TrainState:
    # An array on one host's device is none of the others'; arrays in memory are written by the first of them.
    return state if jax.process_count() == 1 else jax.device_get(state)


def _target(tree: Any) -> Any:
    return jax.tree.map(lambda x: x if isinstance(x, np.ndarray) else ocp.utils.to_shape_dtype_struct(x), tree)
