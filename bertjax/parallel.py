"""Data parallelism: `jax.jit` on one device, `jax.pmap` on several, on one host or many."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from bertjax.errors import UserError

AXIS = "data"


def is_first_host() -> bool:
    """Whether this process is the one that writes files: the first of several hosts, or the only one."""
    return jax.process_index() == 0


class DataParallel:
    """Maps per-replica steps over devices, and converts state and batches for them.

    On one device steps are jitted and every conversion is the identity: pmap would add a device axis and copy the
    state. With several hosts, every host holds all batches and takes the shares of its own devices.
    """

    def __init__(self, devices: Sequence[jax.Device]):
        if jax.process_count() > 1 and jax.__version_info__ < (0, 8):  # its pmap accepts only one host's shares
            raise UserError(f"several hosts: expected JAX 0.8 or newer, found {jax.__version__}; upgrade it")
        self.devices = tuple(devices)
        self.is_single = len(self.devices) == 1
        mesh = jax.sharding.Mesh(np.asarray(self.devices), (AXIS,))
        self._sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))

    def round_up_batch_size(self, batch_size: int) -> int:
        """The next batch size that is a multiple of the number of devices."""
        return -(-batch_size // len(self.devices)) * len(self.devices)

    def check_batch_size(self, batch_size: int, micro_batches: int) -> None:
        """Raises a UserError unless a batch divides evenly over the devices and then over the micro-batches."""
        parts = len(self.devices) * micro_batches
        if batch_size % parts:
            raise UserError(
                f"--config.batch_size: expected a multiple of {parts} (devices: {len(self.devices)}, micro_batches: "
                f"{micro_batches}), found {batch_size}"
            )

    def map_train(self, step: Callable[..., Any]) -> Any:
        """Maps `step(state, batch, key, *, axis)` and donates the state; the step sums over the axis itself."""
        if self.is_single:
            return jax.jit(step, donate_argnums=0)
        return jax.pmap(
            partial(step, axis=AXIS),
            axis_name=AXIS,
            in_axes=(0, 0, None),
            donate_argnums=0,
            devices=self.devices,
        )

    def map_eval(self, step: Callable[..., Any]) -> Any:
        """Maps `step(params, batch)`, without communication between replicas."""
        return jax.jit(step) if self.is_single else jax.pmap(step, devices=self.devices)

    def replicate(self, tree: Any) -> Any:
        """Copies the tree to each device, and holds no device with two copies."""
        if self.is_single:
            return tree
        return jax.tree.map(lambda x: self._place(np.broadcast_to(x, (len(self.devices), *np.shape(x)))), tree)

    def unreplicate(self, tree: Any) -> Any:
        """The copy of this host's first device; involves no other device."""
        if self.is_single:
            return tree
        return jax.tree.map(lambda x: x.addressable_shards[0].data.reshape(x.shape[1:]), tree)

    def shard(self, batch: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        """Splits [B, ...] into [devices, B / devices, ...]."""
        if self.is_single:
            return batch
        shares = {name: x.reshape(len(self.devices), -1, *x.shape[1:]) for name, x in batch.items()}
        return shares if jax.process_count() == 1 else {name: self._place(x) for name, x in shares.items()}

    def gather(self, x: jax.Array) -> np.ndarray:
        """Joins the outputs of a `map_eval` step into [B, ...], on every host."""
        if self.is_single:
            return np.asarray(x)
        host = multihost_utils.process_allgather(x, tiled=True) if jax.process_count() > 1 else np.asarray(x)
        return host.reshape(-1, *host.shape[2:])

    def _place(self, x: np.ndarray) -> jax.Array:
        """Places row i of [devices, ...] on device i, for the devices of this host."""
        if jax.process_count() == 1:
            return jax.device_put(x, self._sharding)
        return jax.make_array_from_callback(x.shape, self._sharding, lambda index: x[index])


class CompiledByShape:
    """A mapped step, compiled ahead of time for each new structure or shape of batches.

    Attributes:
      compiled: executables by structure and shapes of the batches.
      seconds: total compile time.
    """

    def __init__(self, mapped: Any):
        self._mapped = mapped
        self.compiled: dict[Any, Any] = {}
        self.seconds = 0.0

    def compile(self, tree: Any, batch: Any, *rest: Any) -> Any:
        """The executable for these batches, compiled on first use."""
        shape = _shape(batch)
        if shape not in self.compiled:
            start = time.perf_counter()
            self.compiled[shape] = self._mapped.lower(tree, batch, *rest).compile()
            self.seconds += time.perf_counter() - start
        return self.compiled[shape]

    def has_compiled(self, batch: Any) -> bool:
        """Whether the executable for these batches exists."""
        return _shape(batch) in self.compiled

    def __call__(self, tree: Any, batch: Any, *rest: Any) -> Any:
        """Runs the step; compiles it first if needed."""
        return self.compile(tree, batch, *rest)(tree, batch, *rest)

    def flops(self, tree: Any, batch: Any, *rest: Any) -> float:
        """XLA's count of floating-point operations of one step on one device; NaN if the backend has none."""
        costs = self.compile(tree, batch, *rest).cost_analysis() or {}
        count: float = costs.get("flops", 0)
        return count if count > 0 else math.nan


def peak_bytes(executable: Any) -> int | None:
    """The memory XLA reserves on one device for a step: state, batch and temporaries; donated buffers count once.

    None on backends that do not report it.
    """
    memory = executable.memory_analysis()
    if memory is None:
        return None
    new_outputs: int = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + new_outputs + memory.temp_size_in_bytes


def _shape(batch: Any) -> tuple[Any, ...]:
    leaves, structure = jax.tree.flatten(batch)
    return structure, *(leaf.shape for leaf in leaves)


def psum(tree: Any, axis: str | None) -> Any:
    """`jax.lax.psum`, or the identity if `axis` is None."""
    return jax.lax.psum(tree, axis) if axis else tree
