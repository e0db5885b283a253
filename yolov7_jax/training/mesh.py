"""Devices: how arrays lie on them.

One axis, "data", over all devices of all processes: every device has a share of each batch, and
the whole state unless that is sharded too. Under `jax.jit` sums over a batch are sums over the
global batch, so results do not depend on the devices' number.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from yolov7_jax.errors import UserError

DATA_AXIS = "data"
LEAST_SHARDED = 2**12  # numbers; smaller arrays cost more to gather than to keep


def make_mesh(batch_size: int, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns a mesh over devices.

    Args:
      batch_size: images per step, over all devices.
      devices: by default all, of all processes.

    Raises:
      UserError: the batch cannot be shared evenly.
    """
    if devices is None:
        # A process's rows of a batch lie together; on TPU pods devices may be numbered otherwise.
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if batch_size % len(devices):
        raise UserError(
            f"--batch-size (={batch_size}) must be a multiple of {len(devices)}, "
            "the number of devices that share a batch"
        )
    return Mesh(np.asarray(devices), (DATA_AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def state_shardings(state: Any, mesh: Mesh, *, shard: bool) -> Any:
    """Returns how each array of a training state lies on the devices.

    Args:
      state: a tree of arrays, which may be abstract.
      mesh: the devices.
      shard: give each device a part of every large array, along the longest axis that the devices
        divide evenly, instead of a copy of all.

    Returns:
      A tree of shardings like `state`.
    """

    def sharding(leaf: Any) -> NamedSharding:
        fitting = [axis for axis, side in enumerate(leaf.shape) if side % mesh.size == 0]
        if not shard or not fitting or np.prod(leaf.shape) < LEAST_SHARDED:
            return replicated(mesh)
        longest = max(fitting, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, DATA_AXIS))

    return jax.tree.map(sharding, state)


def place(tree: Any, shardings: Any) -> Any:
    """Moves arrays that every process has whole to the devices.

    Args:
      tree: arrays, the same in every process.
      shardings: a tree of shardings like `tree`, or one for all.
    """

    def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    if isinstance(shardings, NamedSharding):
        return jax.tree.map(lambda leaf: put(leaf, shardings), tree)
    return jax.tree.map(put, tree, shardings)


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """Moves host arrays with a leading batch axis to the devices, a share to each.

    Args:
      batch: a tree of arrays: this process's slice of the batch.
      mesh: the devices.
    """
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), batch
    )


def own_rows(array: jax.Array) -> np.ndarray:
    """Returns the part of an array sharded by its first axis that this process's devices hold.

    The inverse of `shard_batch`.
    """
    parts = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])
