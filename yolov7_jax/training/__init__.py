"""Training: the step that anyone's loop can call, and the loop of `yolov7-jax train` around it.

What is named here is public, and loaded when it is first asked for: settings alone need no JAX.
"""

from typing import TYPE_CHECKING

from yolov7_jax.lazy import attach

if TYPE_CHECKING:
    from yolov7_jax.training.batch import Batch
    from yolov7_jax.training.mesh import make_mesh, place, replicated, shard_batch
    from yolov7_jax.training.schedule import OptimConfig, Rates, Schedule, make_schedule
    from yolov7_jax.training.state import TrainState, create_state
    from yolov7_jax.training.step import Metrics, make_eval_step, make_train_step

__all__ = [
    "Batch",
    "Metrics",
    "OptimConfig",
    "Rates",
    "Schedule",
    "TrainState",
    "create_state",
    "make_eval_step",
    "make_mesh",
    "make_schedule",
    "make_train_step",
    "place",
    "replicated",
    "shard_batch",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "batch": ("Batch",),
        "mesh": ("make_mesh", "place", "replicated", "shard_batch"),
        "schedule": ("OptimConfig", "Rates", "Schedule", "make_schedule"),
        "state": ("TrainState", "create_state"),
        "step": ("Metrics", "make_eval_step", "make_train_step"),
    },
)
