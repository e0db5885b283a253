"""Devices: how arrays lie on them.

One axis, "data": every device holds the whole state and a share of each batch. Under `jax.jit`
sums over a batch are sums over the global batch, so results do not depend on the devices' number.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from train.errors import UserError


def make_mesh(batch_size: int, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns a mesh over devices.

    Args:
      batch_size: images per step, over all devices.
      devices: by default all local ones.

    Raises:
      UserError: the batch cannot be shared evenly.
    """
    devices = jax.local_devices() if devices is None else devices
    if batch_size % len(devices):
        raise UserError(
            f"--batch-size (={batch_size}) must be a multiple of {len(devices)}, "
            "the number of devices that share a batch"
        )
    return Mesh(np.asarray(devices), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, PartitionSpec("data"))


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """Moves host arrays with a leading batch axis to the devices, a share to each."""
    return jax.device_put(batch, batch_sharding(mesh))
