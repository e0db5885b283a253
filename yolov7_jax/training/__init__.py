"""Training: the step that anyone's loop can call, and the loop of `yolov7-jax train` around it.

What is named here is public, and loaded when it is first asked for: settings alone need no JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yolov7_jax.training.batch import Batch
    from yolov7_jax.training.mesh import make_mesh, place, replicated, shard_batch
    from yolov7_jax.training.schedule import OptimConfig, Rates, Schedule, make_schedule
    from yolov7_jax.training.state import TrainState, create_state
    from yolov7_jax.training.step import Metrics, make_eval_step, make_train_step

_MODULES = {
    "batch": ("Batch",),
    "mesh": ("make_mesh", "place", "replicated", "shard_batch"),
    "schedule": ("OptimConfig", "Rates", "Schedule", "make_schedule"),
    "state": ("TrainState", "create_state"),
    "step": ("Metrics", "make_eval_step", "make_train_step"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

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


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
