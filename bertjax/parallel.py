"""Maps per-replica steps over devices: `jax.jit` on one, `jax.pmap` on several, of one host or of many."""

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
    """Whether this process writes what all have: the first of several hosts, or the only one."""
    return jax.process_index() == 0


class DataParallel:
    """Data parallelism over some devices; on one device every conversion is the identity.

    pmap wants a leading device axis on state and batch, and copies the state of a single device for it,
    which is why that case is plain jit. On several hosts, each has all batches and takes its own devices' shares.
    """

    def __init__(self, devices: Sequence[jax.Device]):
        if jax.process_count() > 1 and jax.__version_info__ < (0, 8):  # whose pmap takes one host's shares alone
            raise UserError(f"several hosts: expected JAX 0.8 or newer, found {jax.__version__}; upgrade it")
        self.devices = tuple(devices)
        self.is_single = len(self.devices) == 1
        mesh = jax.sharding.Mesh(np.asarray(self.devices), (AXIS,))
        self._sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))

    def up_to_even(self, batch_size: int) -> int:
        """The least batch size, no less than this one, that can be shared out evenly."""
        return -(-batch_size // len(self.devices)) * len(self.devices)

    def check_batch_size(self, batch_size: int, micro_batches: int) -> None:
        """UserError where a batch cannot be shared out evenly, over the devices and then over micro-batches."""
        parts = len(self.devices) * micro_batches
        if batch_size % parts:
            raise UserError(
                f"--config.batch_size: expected a multiple of {parts} (devices: {len(self.devices)}, micro_batches: "
                f"{micro_batches}), found {batch_size}"
            )

    def map_train(self, step: Callable[..., Any]) -> Any:
        """Maps `step(state, batch, key, *, axis)`, which sums over the axis itself; the state is donated."""
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
        """Maps `step(params, batch)`, in which replicas do not speak to one another."""
        return jax.jit(step) if self.is_single else jax.pmap(step, devices=self.devices)

    def replicate(self, tree: Any) -> Any:
        """One copy a device, without a second one on any."""
        if self.is_single:
            return tree
        return jax.tree.map(lambda x: self._place(np.broadcast_to(x, (len(self.devices), *np.shape(x)))), tree)

    def unreplicate(self, tree: Any) -> Any:
        """The host's first device's copy, by work for that device alone."""
        if self.is_single:
            return tree
        return jax.tree.map(lambda x: x.addressable_shards[0].data.reshape(x.shape[1:]), tree)

    def shard(self, batch: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        """Shares [B, ...] out as [devices, B / devices, ...]."""
        if self.is_single:
            return batch
        shares = {name: x.reshape(len(self.devices), -1, *x.shape[1:]) for name, x in batch.items()}
        return shares if jax.process_count() == 1 else {name: self._place(x) for name, x in shares.items()}

    def gather(self, x: jax.Array) -> np.ndarray:
        """The [B, ...] of all devices, on every host, from what `map_eval` gave."""
        if self.is_single:
            return np.asarray(x)
        host = multihost_utils.process_allgather(x, tiled=True) if jax.process_count() > 1 else np.asarray(x)
        return host.reshape(-1, *host.shape[2:])

    def _place(self, x: np.ndarray) -> jax.Array:
        """[devices, ...] with each of this host's devices holding its own row."""
        if jax.process_count() == 1:
            return jax.device_put(x, self._sharding)
        return jax.make_array_from_callback(x.shape, self._sharding, lambda index: x[index])


class CompiledByShape:
    """A mapped step, compiled ahead of time when batches of a new structure or shape first come by.

    Attributes:
      compiled: executables by the structure and shapes of their batches.
      seconds: spent on compiling them.
    """

    def __init__(self, mapped: Any):
        self._mapped = mapped
        self.compiled: dict[Any, Any] = {}
        self.seconds = 0.0

    def compile(self, tree: Any, batch: Any, *rest: Any) -> Any:
        """The executable for these batches."""
        shape = _shape(batch)
        if shape not in self.compiled:
            start = time.perf_counter()
            self.compiled[shape] = self._mapped.lower(tree, batch, *rest).compile()
            self.seconds += time.perf_counter() - start
        return self.compiled[shape]

    def knows(self, batch: Any) -> bool:
        """Whether it is compiled for these batches."""
        return _shape(batch) in self.compiled

    def __call__(self, tree: Any, batch: Any, *rest: Any) -> Any:
        """Runs the step, compiling first where that is needed."""
        return self.compile(tree, batch, *rest)(tree, batch, *rest)

    def flops(self, tree: Any, batch: Any, *rest: Any) -> float:
        """XLA's own count of floating-point operations of one step, on one device; NaN where it has none."""
        found = self.compile(tree, batch, *rest).cost_analysis() or {}
        count: float = found.get("flops", 0)
        return count if count > 0 else math.nan


def peak_bytes(executable: Any) -> int | None:
    """What XLA sets aside for a step on one device: state, batch and temporaries; what is overwritten counts once.

    None on backends that do not tell.
    """
    found = executable.memory_analysis()
    if found is None:
        return None
    own: int = found.output_size_in_bytes - found.alias_size_in_bytes
    return found.argument_size_in_bytes + own + found.temp_size_in_bytes


def _shape(batch: Any) -> tuple[Any, ...]:
    leaves, structure = jax.tree.flatten(batch)
    return structure, *(leaf.shape for leaf in leaves)


def psum(tree: Any, axis: str | None) -> Any:
    """Sums over the mapped axis, if there is one."""
    return jax.lax.psum(tree, axis) if axis else tree
