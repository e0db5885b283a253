"""The images of a data set as augmentation asks for them: no larger than needed."""

import math

import cv2
import numpy as np
from jaxtyping import UInt8

from yolov7_jax.data.dataset import Dataset, Objects
from yolov7_jax.data.images import read_whole, resize
from yolov7_jax.training.pipeline.plan import Pixels

_JPEG_START = b"\xff\xd8"
_REDUCED = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,  # together with IMREAD_COLOR_RGB these give RGB
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


class FileImages:
    """Images decoded from their files each time they are asked for."""

    def __init__(self, dataset: Dataset):
        self._dataset = dataset

    def __len__(self) -> int:
        """Number of images."""
        return len(self._dataset)

    def size(self, index: int) -> tuple[int, int]:
        """Returns an image's width and height in pixels."""
        width, height = self._dataset.sizes[index].tolist()
        return width, height

    def objects(self, index: int) -> Objects:
        """Returns the objects of an image that are to be learnt, so without crowd regions."""
        objects = self._dataset.objects_of(index)
        if not objects.crowd.any():
            return objects
        keep = ~objects.crowd
        return Objects(
            objects.labels[keep],
            objects.boxes_cxcywh[keep],
            objects.crowd[keep],
            objects.polygons.take(keep),
        )

    def pixels(self, index: int, longest: int, halvings: int) -> Pixels:
        """Returns an image's pixels; `Images.pixels` says more."""
        return read_pixels(self._dataset.paths[index], self.size(index), longest, halvings)


def read_pixels(path: str, size: tuple[int, int], longest: int, halvings: int) -> Pixels:
    """Decodes an image at the size wanted; `Images.pixels` says more.

    JPEG files are decoded to a half, a quarter or an eighth of their size where that is enough,
    which costs less and is a better mean of the pixels than any resizing afterwards.

    Args:
      path: the file.
      size: the image's width and height in pixels, upright.
      longest: the longer side before halving, at most.
      halvings: how often the sides are halved, rounding up.

    Raises:
      UnreadableImageError: the file cannot be decoded, or has another size; the message names it.
    """
    width, height = size
    shrink = min(1.0, longest / max(width, height))
    divisor = 2**halvings
    out_width, out_height = (math.ceil(max(1, round(side * shrink)) / divisor) for side in size)
    reduction = 1
    while reduction < 8 and math.ceil(max(size) / (2 * reduction)) >= max(out_width, out_height):
        reduction *= 2
    image, covers = _read_reduced(path, reduction), reduction
    wanted = tuple(math.ceil(side / reduction) for side in (height, width))
    if image is None or image.shape[:2] != wanted:
        image, covers = read_whole(path, size), 1
    scale_x = out_width / (image.shape[1] * covers)
    scale_y = out_height / (image.shape[0] * covers)
    return Pixels(resize(image, out_width, out_height), (scale_x, scale_y))


def _read_reduced(path: str, reduction: int) -> UInt8[np.ndarray, "h w 3"] | None:
    """Returns a JPEG image at a fraction of its size, or None where the file is none."""
    try:
        with open(path, "rb") as file:  # a third of np.fromfile's time
            encoded = file.read()
        if not encoded.startswith(_JPEG_START):
            return None
        flags = cv2.IMREAD_COLOR_RGB | _REDUCED[reduction]
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    except (OSError, cv2.error):
        return None  # reading it whole says what is wrong
    return None if image is None else np.asarray(image, np.uint8)
