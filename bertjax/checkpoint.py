"""Checkpoints of a run by Orbax: the training state and the data iterator's, in one atomic step."""

import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp

from bertjax.errors import UserError
from bertjax.step import Params, TrainState


class Checkpoints:
    """The checkpoints in one folder, of which the last is kept, and the best by each of `metrics` on dev."""

    def __init__(self, folder: Path, metrics: Sequence[str] = ()):
        """Opens the folder: to write where metrics are given, else to read."""
        policies: list[Any] = [ocp.checkpoint_managers.LatestN(1)]
        for metric in metrics:
            best = ocp.checkpoint_managers.BestN(
                get_metric_fn=operator.itemgetter(metric), n=1, keep_checkpoints_without_metrics=False
            )
            policies.append(best)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(policies),
            create=bool(metrics),
            # A background write would read buffers that the next step is given to overwrite.
            enable_async_checkpointing=False,
        )
        self._folder = folder.absolute()
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manager.close()

    def last(self) -> int | None:
        """The step of the last checkpoint, or None."""
        return self._manager.latest_step()

    def save(
        self,
        state: TrainState,
        progress: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Saves a state.

        Args:
          state: on one device, or a single replica of it.
          progress: all else that a run needs to go on, as JSON.
          metrics: those on dev, by the names that the folder was opened with, if evaluated.
        """
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            rest=ocp.args.StandardSave(state.replace(params=None)),
            progress=ocp.args.JsonSave(dict(progress)),
        )
        self._manager.save(int(state.step), args=items, metrics=metrics and dict(metrics))

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state and progress saved at a step; `like` gives structure, shapes, dtypes and places."""
        params, rest = _target(like.params), _target(like.replace(params=None))
        restored = self._restore(
            step,
            params=ocp.args.StandardRestore(params),
            rest=ocp.args.StandardRestore(rest),
            progress=ocp.args.JsonRestore(),
        )
        return restored["rest"].replace(params=restored["params"]), restored["progress"]

    def restore_params(self, step: int, like: Params) -> Params:
        """The parameters alone."""
        return self._restore(step, params=ocp.args.StandardRestore(_target(like)))["params"]

    def _restore(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                f"{self._folder / str(step)}: this checkpoint cannot be read ({reason}); "
                "remove its folder to go on from an earlier one, or start in another --workdir"
            ) from error


def _target(tree: Any) -> Any:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
