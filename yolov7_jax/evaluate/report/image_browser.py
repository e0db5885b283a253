"""The data of a page's browser of images: which have which faults, and every box in them."""

from typing import Any

import numpy as np

from yolov7_jax.data.faults import plural
from yolov7_jax.evaluate.matching import DetectionKind
from yolov7_jax.evaluate.report.image_ranking import first_readable, rank_images
from yolov7_jax.evaluate.report.matched_split import MatchedSplit
from yolov7_jax.evaluate.report.page_images import page_image

MOST_IMAGES = 200
SIDE = 640  # pixels of the longer side
MOST_BYTES = 80_000  # of a JPEG
LEAST_SCORE = 0.05  # detections with less are left out: there are hundreds in an image


def browser_values(split: MatchedSplit) -> dict[str, Any]:
    """Returns what browser.html shows.

    The page has the images with the most faults, at most 200, so it stays below 25 MB whatever
    is in them. Images that cannot be read are left out and named.
    """
    ranking = rank_images(split)
    faults = ranking.objects - ranking.found + ranking.wrong
    least_score = min(LEAST_SCORE, split.curves.best_score)
    images, unreadable = first_readable(
        np.argsort(-faults, kind="stable").tolist(),
        lambda image: page_image(split, image, least_score, SIDE, MOST_BYTES),
        MOST_IMAGES,
    )
    total = len(split.dataset)
    which = f"{len(images)} of {total}"
    if len(images) == total:
        which = f"All {total} {plural('image', total)}"
    elif len(images) == MOST_IMAGES:
        which = f"The {MOST_IMAGES} images with the most faults, of {total}"
    return {
        "which_images": which,
        "unreadable": unreadable,
        "side": SIDE,
        "least_score": least_score,
        "browser": {
            "names": split.dataset.names,
            "kinds": [kind.name.lower() for kind in DetectionKind],
            "images": images,
        },
    }
