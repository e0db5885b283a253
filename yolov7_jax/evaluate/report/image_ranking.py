"""Images by how well their objects were found."""

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, Int

from yolov7_jax.data.images import UnreadableImageError
from yolov7_jax.evaluate.report.matched_split import MatchedSplit

Made = TypeVar("Made")


class Ranking(NamedTuple):
    """Images by how well their objects were found, from the best score on.

    Attributes:
      objects: per image, those to find.
      found: of these.
      wrong: detections that found none.
      f1: of both; 0 where there is neither object nor detection.
      worst: images with faults, the lowest F1 first; of equals, more faults are worse.
      best: images with found objects, the highest F1 first; of equals, more of them are better.
    """

    objects: Int[np.ndarray, " n"]
    found: Int[np.ndarray, " n"]
    wrong: Int[np.ndarray, " n"]
    f1: Float[np.ndarray, " n"]
    worst: list[int]
    best: list[int]

    def caption(self, image: int) -> str:
        """Returns the numbers of an image in words."""
        return (
            f"F1 {self.f1[image]:.2f}: {self.found[image]} of {self.objects[image]} objects found, "
            f"{self.wrong[image]} wrong"
        )


def rank_images(split: MatchedSplit) -> Ranking:
    """Counts what was found in each image."""

    def count(images: Int[np.ndarray, " _"]) -> Int[np.ndarray, " n"]:
        return np.bincount(images, minlength=len(split.dataset))

    objects = count(split.truth.image[split.truth.to_find])
    found = count(split.truth.image[split.found])
    wrong = count(split.detections.image[split.shown]) - found
    faults = objects - found + wrong
    f1 = 2 * found / np.maximum(objects + found + wrong, 1)
    return Ranking(
        objects,
        found,
        wrong,
        f1,
        worst=[int(image) for image in np.lexsort((-faults, f1)) if faults[image]],
        best=[int(image) for image in np.lexsort((-found, -f1)) if found[image]],
    )


def first_readable(
    images: Iterable[int],
    make: Callable[[int], Made],
    most: int,
    most_unreadable: int | None = None,
) -> tuple[list[Made], list[str]]:
    """Makes something of the first images that can be read.

    Args:
      images: rows in the data set.
      make: raises `UnreadableImageError` for an image that cannot be read.
      most: how many to make.
      most_unreadable: images tried in vain before giving up; all are tried if not given.

    Returns:
      What was made, and what is wrong with the images that were left out.
    """
    made, unreadable = [], []
    for image in images:
        if len(made) == most or len(unreadable) == most_unreadable:
            break
        try:
            made.append(make(image))
        except UnreadableImageError as error:
            unreadable.append(str(error))
    return made, unreadable
