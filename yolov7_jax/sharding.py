"""What functions need so that they run on any mesh: explicit axes, and device-varying values."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

Tree = TypeVar("Tree")


def varying_like(value: Tree, like: jax.Array) -> Tree:
    """Returns arrays unchanged, but typed as varying over the mesh axes that `like` varies over.

    `jax.shard_map` with its checks on (`check_vma`) asks for it in two places. A loop has to start
    from values that vary as its results do. And a replicated parameter has to count as varying
    before a `custom_vjp` sees it, so that its gradient is summed over the devices. Compiled, and
    under `jit` and `pmap`, nothing is left of it.

    Args:
      value: a tree of arrays.
      like: an array of any shape.
    """
    # A select between a thing and itself: public API of every JAX version, and free once compiled.
    condition = jnp.zeros_like(like, bool, shape=())
    return jax.tree.map(lambda leaf: jnp.where(condition, leaf, leaf), value)


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
