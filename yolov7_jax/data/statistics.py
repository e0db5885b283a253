"""What a split of a data set holds, in figures."""

import collections
from typing import Any

import numpy as np

from yolov7_jax.data.dataset import Dataset

SMALL, LARGE = 32**2, 96**2  # pixels; the borders of COCO's small, medium and large
QUANTILES = (0, 1, 5, 25, 50, 75, 95, 99, 100)


def statistics(dataset: Dataset) -> dict[str, Any]:
    """Returns the figures of a split, as the report has them."""
    counts = np.diff(dataset.offsets)
    label_counts = np.bincount(dataset.labels, minlength=len(dataset.names))
    sizes = collections.Counter(map(tuple, dataset.sizes.tolist()))
    side = np.sqrt(dataset.areas)  # of a square as large
    bounds = [
        int(np.count_nonzero(dataset.areas < SMALL)),
        int(np.count_nonzero((dataset.areas >= SMALL) & (dataset.areas <= LARGE))),
        int(np.count_nonzero(dataset.areas > LARGE)),
    ]
    return {
        "images": len(dataset),
        "images_without_objects": int(np.count_nonzero(counts == 0)),
        "objects": len(dataset.labels),
        "crowd_regions": int(dataset.crowd.sum()),
        "objects_with_outline": int(np.count_nonzero(np.diff(dataset.polygons.part_offsets))),
        "classes": dict(zip(dataset.names, label_counts.tolist(), strict=True)),
        "box_sizes": dict(zip(("small", "medium", "large"), bounds, strict=True)),
        "box_side_quantiles": _quantiles(side),
        "objects_per_image_quantiles": _quantiles(counts),
        "image_sizes": [[*size, count] for size, count in sizes.most_common()],
    }


def _quantiles(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    found = np.percentile(values, QUANTILES).round(1).tolist()
    return {f"{share} %": value for share, value in zip(QUANTILES, found, strict=True)}
