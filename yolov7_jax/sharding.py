"""Explicit meshes: lets the compiler shard what is inside, and says what comes out."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec


def automatic(function: Callable[..., Any], like: jax.Array, *, by_batch: Any) -> Any:
    """Returns the function for arrays whose mesh has explicit axes, as `jax.make_mesh` gives them.

    Inside, gathers, scatters and loops over many shapes are sharded by the compiler, as they are on
    other meshes. Where `like` has no explicit axes, the function itself is returned.

    Args:
      function: takes and returns pytrees of arrays.
      like: an array whose first axis is the batch.
      by_batch: whether results have the batch as first axis too, else they are replicated: one
        bool, or a tree of them that is a prefix of the results.
    """
    sharding = jax.typeof(like).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return function
    spec = jax.tree.map(
        lambda sharded: PartitionSpec(sharding.spec[0]) if sharded else PartitionSpec(), by_batch
    )

    def run(*arrays):
        # The mesh may be known from the arrays alone.
        with jax.sharding.use_abstract_mesh(sharding.mesh):
            return jax.sharding.auto_axes(function, out_sharding=spec)(*arrays)

    return run
