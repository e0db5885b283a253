"""How often each image is shown, where it is not once an epoch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from yolov7_jax.data.dataset import Dataset

EVEN_SHARE = 0.1  # of the probabilities is shared by all images, those without objects too


def image_probabilities(
    dataset: Dataset, records: Sequence[Mapping[str, Any]]
) -> Float64[np.ndarray, " n"]:
    """Returns the chance of each image to be the next one.

    An object counts for (1 - AP)^2 of its class, divided by the number of objects of the class, so
    that rare classes and those that are detected badly are seen more often.

    Args:
      dataset: the training split.
      records: the epochs so far; the accuracy is that of the last one evaluated, or 0.
    """
    known = [record["class_ap"] for record in records if "class_ap" in record]
    class_ap = known[-1] if known else {}
    accuracy = np.asarray([class_ap.get(name) or 0.0 for name in dataset.names])
    counts = np.bincount(dataset.labels[~dataset.crowd], minlength=len(dataset.names))
    of_class = (1 - accuracy) ** 2 / np.maximum(counts, 1)
    of_object = np.where(dataset.crowd, 0, of_class[dataset.labels])
    of_image = np.concatenate([[0], np.cumsum(of_object)])[dataset.offsets]
    probabilities = np.diff(of_image)
    even = np.full(len(dataset), 1 / len(dataset))
    if not probabilities.sum() > 0:
        return even
    return (1 - EVEN_SHARE) * probabilities / probabilities.sum() + EVEN_SHARE * even
