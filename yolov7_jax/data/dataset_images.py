"""Images of a data set that its scan found sound."""

import numpy as np
from jaxtyping import UInt8

from yolov7_jax.data.dataset import Dataset
from yolov7_jax.data.images import (
    UnreadableImageError,
    is_damage,
    read_image,
    read_strictly,
    resize,
)
from yolov7_jax.data.letterbox import fitted_size


class ChangedImageError(UnreadableImageError):
    """An image is not what it was when its data set was scanned."""

    advice = ""


def fitted_image(
    dataset: Dataset, image_size: int, row: int, *, strict: bool = False
) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an image of a data set, and shrinks it if its longer side is over `image_size`.

    Raises:
      UnreadableImageError: it cannot be read, is not as large as it was, or is damaged and
        `strict` was asked for; the message names it.
    """
    width, height = dataset.sizes[row].tolist()
    # The scale is that of the square whatever the shape of the batch, so the pixels are the same.
    fitted = fitted_size((width, height), (image_size, image_size), enlarge=False)
    image = read_whole(dataset.paths[row], (width, height), strict=strict)
    return resize(image, *fitted)


def read_whole(
    path: str, size: tuple[int, int], *, strict: bool = False
) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image that the scan of its data set found sound.

    Args:
      path: the file.
      size: its width and height in pixels when it was scanned, upright.
      strict: refuses an image that is decoded to the end, but damaged.

    Raises:
      UnreadableImageError: the file cannot be decoded; the message names it.
      ChangedImageError: it has another size.
    """
    image, complaint = read_strictly(path) if strict else (read_image(path), "")
    if is_damage(complaint):
        raise UnreadableImageError(f"{path}: is truncated or damaged ({complaint})")
    height, width = image.shape[:2]
    if (width, height) != size:
        raise ChangedImageError(
            f"{path}: has {width} x {height} pixels, not {size[0]} x {size[1]} as when the data "
            "set was scanned"
        )
    return image
