"""Which anchors a run uses, and `yolov7-jax anchors`, which tells without training."""

import dataclasses
from typing import NamedTuple

import yaml

from yolov7_jax.config import HeadConfig
from yolov7_jax.data.dataset import Dataset
from yolov7_jax.errors import UserError
from yolov7_jax.training.anchor_fit import (
    GOOD_RECALL,
    AnchorFit,
    better_anchors,
    fit_of,
    object_sizes,
)
from yolov7_jax.training.train_config import Anchors, TrainConfig


class AnchorChoice(NamedTuple):
    """The anchors of a run.

    Attributes:
      chosen: what the head is to have.
      given: how well those suit that were there before; None without objects.
      found: how well `chosen` suits, if it is another.
    """

    chosen: Anchors
    given: AnchorFit | None
    found: AnchorFit | None

    def line(self) -> str:
        """Returns one line about the choice."""
        if self.given is None:
            return "anchors: no objects to judge them by; those of the network stay"
        text = f"anchors: {_percent(self.given.recall)} of the objects in reach"
        if self.found is not None:
            text += f", {_percent(self.found.recall)} with new ones, which are used"
        elif self.given.recall < GOOD_RECALL:
            text += "; no better ones were found"
        return text


def choose_anchors(config: TrainConfig, dataset: Dataset, head: HeadConfig) -> AnchorChoice:
    """Returns the anchors to train with.

    Args:
      config: its anchors, if it has some, are taken as they are.
      dataset: the training split.
      head: with the network's own anchors.

    Raises:
      UserError: the config's anchors do not fit the network.
    """
    sizes = object_sizes(dataset, config.image_size)
    threshold = config.loss.anchor_threshold
    given = head.anchors if config.anchors is None else config.anchors
    given = head_with_anchors(head, given).anchors
    fit = fit_of(given, sizes, threshold)
    settled = config.anchors is not None or not config.autoanchor
    if settled or fit is None or fit.recall >= GOOD_RECALL:
        return AnchorChoice(given, fit, None)
    chosen = better_anchors(given, sizes, threshold, config.seed)
    return AnchorChoice(chosen, fit, None if chosen == given else fit_of(chosen, sizes, threshold))


def head_with_anchors(head: HeadConfig, anchors: Anchors) -> HeadConfig:
    """Returns a head with other anchors.

    Raises:
      UserError: they are not as many levels and anchors as the head has.
    """
    got, wanted = [len(level) for level in anchors], [head.num_anchors] * head.num_levels
    if got != wanted:
        raise UserError(f"anchors has {got} anchors by level, but the network has {wanted}")
    try:
        return dataclasses.replace(head, anchors=anchors)
    except ValueError as error:
        raise UserError(str(error)) from error


def describe_anchors(config: TrainConfig, dataset: Dataset, head: HeadConfig) -> str:
    """Returns what `yolov7-jax anchors` prints."""
    sizes = object_sizes(dataset, config.image_size)
    threshold = config.loss.anchor_threshold
    if config.anchors is not None:
        head = head_with_anchors(head, config.anchors)
    given = f"those of {'the recipe' if config.anchors is not None else config.model}"
    fit = fit_of(head.anchors, sizes, threshold)
    if fit is None:
        raise UserError(f"{config.data}: the training split has no objects to fit anchors to")
    lines = [
        f"{len(sizes)} objects of {len(dataset)} images scaled to {config.image_size} pixels; "
        f"an anchor reaches an object if neither side differs {threshold:g} times",
        "",
        "                          recall  anchors per object  fitness",
        _row(given, fit),
    ]
    better = better_anchors(head.anchors, sizes, threshold, config.seed)
    found = fit_of(better, sizes, threshold)
    if better == head.anchors or found is None:
        return "\n".join([*lines, "", "no better ones were found"])
    if config.anchors is not None:
        training = f"keeps {given}"
    elif not config.autoanchor:
        training = f"keeps {given}: --no-autoanchor"
    elif fit.recall >= GOOD_RECALL:
        training = f"keeps {given}: recall is at least {GOOD_RECALL:.0%}"
    else:
        training = f"uses the fitted ones: recall is under {GOOD_RECALL:.0%}"
    as_lists = [[list(anchor) for anchor in level] for level in better]
    text = yaml.safe_dump({"anchors": as_lists}, default_flow_style=None, width=100)
    lines += [_row("fitted to the data", found), "", f"training {training}"]
    return "\n".join([*lines, "the fitted ones, as a recipe has them:", "", text.rstrip()])


def _row(name: str, fit: AnchorFit) -> str:
    return f"{name:<24}  {fit.recall:6.4f}  {fit.per_object:18.2f}  {fit.fitness:7.4f}"


def _percent(fraction: float) -> str:
    # Rounded down: what is not all must not read as 100 %.
    return f"{int(1000 * fraction) / 10:g} %"
