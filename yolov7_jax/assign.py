"""Label assignment: which predictions are to find which objects. SimOTA, and the one before it.

OTA (arXiv 2103.14259) sees it as optimal transport: objects supply labels, predictions demand
them, and a cost says how badly each prediction fits each object. YOLOX (arXiv 2107.08430) replaced
the solver by a simple rule, SimOTA, which YOLOv7 uses with candidates of its own. Its steps, for
each image, are those of `assign_ota`:

1. Candidates, `candidates.propose`: the cell of an object's centre and those neighbours to whose
   side the centre lies within `center_radius`, with anchors of like shape. They take the place of
   the papers' centre prior. A prediction that several objects propose is several candidates.
2. Cost matrix, `cost_matrix.scan_candidates`: of every object with every candidate, whichever
   object proposed it: class cost - 3 log IoU. It is scanned in chunks and never built whole, since
   a crowd has hundreds of objects and thousands of candidates.
3. Dynamic k, `dynamic_k`: an object gets as many candidates as its `top_k` largest IoUs, 10 or
   with auxiliary heads 20, add up to.
4. Matching, `claim_cheapest`: an object claims its k candidates of least cost.
5. Conflict resolution, `resolve_conflicts`: a candidate that several objects claim goes to the one
   that it costs least.

The papers' symbols: a ground truth gt_i is an object, row i of `m`; an anchor or prediction a_j is
a candidate, which has a slot among `n`. The cost is c_ij = L_cls + alpha L_reg in OTA and
L_cls + lambda L_reg in YOLOX: `cost`, with L_cls from `cost_matrix._class_cost` (the binary
cross-entropy with sqrt(class x objectness)), L_reg = -log IoU, and alpha or lambda `IOU_WEIGHT`. A
supply s_i is `k`, estimated from the q largest IoUs, `top_k`. Every demand d_j is 1: a candidate is
matched at most once, and the background supplies those that nobody claims (`matched` is False), for
which there is no cost. The radius r of the centre prior is `center_radius`, in cells.
"""

from typing import Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from yolov7_jax.candidates import Candidates, propose
from yolov7_jax.config import HeadConfig, LossConfig
from yolov7_jax.cost_matrix import LevelCandidates, RunningTopK, pack_level, scan_candidates
from yolov7_jax.sharding import automatic
from yolov7_jax.targets import with_a_row
from yolov7_jax.types import Assignment, Levels, Targets

CENTER_RADIUS = 0.5  # cells
TOP_K = 10


@runtime_checkable
class Assigner(Protocol):
    """What `detection_loss` wants of an assigner: `assign_ota`, `assign_anchor` or one's own."""

    def __call__(
        self,
        lead: Levels,
        targets: Targets,
        head: HeadConfig,
        config: LossConfig,
        *,
        center_radius: float,
        top_k: int,
    ) -> Assignment:
        """Matches predictions with objects.

        Args:
          lead: the lead head's logits, one array per level.
          targets: the objects, padded to at least one.
          head: strides and anchors.
          config: gains and thresholds.
          center_radius: 0.5 for the lead head, 1.0 for auxiliary heads.
          top_k: 10, or 20 where there are auxiliary heads.
        """
        ...


def assign_anchor(
    lead: Levels,
    targets: Targets,
    head: HeadConfig,
    config: LossConfig,
    *,
    center_radius: float = CENTER_RADIUS,
    top_k: int = TOP_K,
) -> Assignment:
    """Matches every candidate to the object that proposed it; predictions do not matter.

    The older and cheaper of the two assigners; validation losses use it. It takes what every
    `Assigner` does, and of that only the grids' shapes, the objects, the anchors,
    `anchor_threshold` and `center_radius` (see `candidates.propose`) matter.

    Returns:
      `Assignment` with n = levels * 5 * anchors * m.

    Source: YOLOv5's assigner as YOLOv7 (arXiv 2207.02696) keeps it.
    """
    del top_k
    candidates = _propose(lead, with_a_row(targets), head, config, center_radius)
    shape = candidates.valid.shape
    level, anchor, rows = (
        jnp.broadcast_to(field, shape)
        for field in (candidates.level, candidates.anchor, candidates.object)
    )
    return Assignment(candidates.valid, rows, level, anchor, candidates.row, candidates.column)


def assign_ota(
    lead: Levels,
    targets: Targets,
    head: HeadConfig,
    config: LossConfig,
    *,
    center_radius: float = CENTER_RADIUS,
    top_k: int = TOP_K,
) -> Assignment:
    """SimOTA: gives each object its cheapest candidates, as many as its best IoUs add up to.

    Per image: an object claims the k candidates of least cost (class cost minus 3 log IoU), k the
    truncated sum of its `top_k` largest IoUs and at least 1; a candidate that several objects
    claim goes to the object, of all, that it costs least. Ties go to the lower index.

    Args:
      lead: the lead head's logits, one array per level. No gradient flows through them.
      targets: the objects.
      head: strides and anchors.
      config: `anchor_threshold` and `restrict_to_own_candidates` are used.
      center_radius: see `candidates.propose`.
      top_k: how many IoUs are summed; also the most that one object can claim.

    Returns:
      `Assignment` with n = top_k * m, or less where there are fewer candidates than top_k: the
      claimed candidates only, in candidate order.

    Raises:
      ValueError: top_k is less than 1.

    Source: OTA (arXiv 2103.14259) as simplified by YOLOX (arXiv 2107.08430) and YOLOv7
    (arXiv 2207.02696).
    """
    if top_k < 1:
        raise ValueError(f"top_k (={top_k}) must be at least 1")
    lead = lax.stop_gradient(tuple(lead))

    def assign(lead, targets):
        candidates = _propose(lead, targets, head, config, center_radius)  # step 1
        levels = [pack_level(candidates, level, lead[level], head) for level in range(len(lead))]
        best = scan_candidates(lead, targets, levels, head, config, top_k)  # 2
        k = dynamic_k(best.largest_iou)  # 3
        slot, claimant = claim_cheapest(best, k)  # 4
        return resolve_conflicts(slot, claimant, best, levels)  # 5

    return automatic(assign, lead[0], by_batch=True)(lead, with_a_row(targets))


def _propose(
    lead: Levels, targets: Targets, head: HeadConfig, config: LossConfig, center_radius: float
) -> Candidates:
    return propose(
        targets,
        head,
        tuple(output.shape[1:3] for output in lead),
        anchor_threshold=config.anchor_threshold,
        center_radius=center_radius,
    )


def dynamic_k(largest_iou: Float[Array, "b m k"]) -> Float[Array, "b m"]:
    """Returns how many candidates each object claims: its largest IoUs, summed, and at least 1.

    Candidates that overlap an object well are many where it is large and clear, and few where it
    is small or still badly predicted.
    """
    return jnp.maximum(jnp.trunc(largest_iou.sum(axis=-1)), 1)


def claim_cheapest(
    best: RunningTopK, k: Float[Array, "b m"]
) -> tuple[Int[Array, "b c"], Int[Array, "b c"]]:
    """Lets each object claim its k candidates of least cost.

    Returns:
      The slots that are claimed, in rising order, and the object that claims each: the lower one
      first where several claim one. Unused claims stand last, with a slot beyond all.
    """
    batch, num_objects, kept = best.cheapest.shape
    num_slots = best.cheapest_object.shape[1]
    claimed = (jnp.arange(kept) < k[..., None]) & (best.least_cost < jnp.inf)
    slot = jnp.where(claimed, best.cheapest, num_slots).reshape(batch, -1)
    claimant = jnp.repeat(jnp.arange(num_objects, dtype=jnp.int32), kept)
    claimant = jnp.broadcast_to(claimant, slot.shape)
    slot, claimant = lax.sort((slot, claimant), dimension=1, num_keys=1)
    return slot, claimant


def resolve_conflicts(
    slot: Int[Array, "b c"],
    claimant: Int[Array, "b c"],
    best: RunningTopK,
    levels: list[LevelCandidates],
) -> Assignment:
    """Gives what several objects claim to its cheapest object: of all, not of these alone.

    Args:
      slot: of each claim; from `claim_cheapest`.
      claimant: likewise, the object.
      best: the cheapest object of each slot.
      levels: the candidates.

    Returns:
      `Assignment`, in candidate order: of the claims on one candidate the first stands.
    """
    num_objects, num_slots = best.cheapest.shape[1], best.cheapest_object.shape[1]
    before = jnp.pad(slot, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    after = jnp.pad(slot, ((0, 0), (0, 1)), constant_values=num_slots)[:, 1:]
    in_range = jnp.minimum(slot, num_slots - 1)  # of unused claims too

    def take(fields):
        return jnp.take_along_axis(fields, in_range, axis=1)

    def take_field(name):
        return take(jnp.concatenate([getattr(level, name) for level in levels], axis=1))

    sizes = [level.row.shape[1] for level in levels]
    level_of_slot = jnp.asarray(np.repeat(np.arange(len(levels), dtype=np.int32), sizes))
    cheapest = take(best.cheapest_object)
    # Claims on a slot lie side by side, and the first stands for all. It keeps the slot where
    # rounding has left that without a cheapest object.
    contested = (slot == after) & (cheapest < num_objects)
    return Assignment(
        matched=(slot < num_slots) & (slot != before),
        object=jnp.where(contested, cheapest, claimant),
        level=level_of_slot[in_range],
        anchor=take_field("anchor"),
        row=take_field("row"),
        column=take_field("column"),
    )
