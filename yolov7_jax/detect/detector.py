"""Images of any sizes to the objects in them."""

import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from jaxtyping import UInt8

from yolov7_jax.config import LONGEST_SIDE, MAX_CANDIDATES, HeadConfig
from yolov7_jax.data.images import read_image, read_size
from yolov7_jax.data.letterbox import LetterboxInfo, letterbox, unletterbox
from yolov7_jax.deploy import deploy
from yolov7_jax.detect.forward import forward
from yolov7_jax.errors import UserError
from yolov7_jax.model import ARCHITECTURES, Yolov7, split
from yolov7_jax.nms import nms
from yolov7_jax.types import Detections
from yolov7_jax.weights.load import open_model

Image = UInt8[np.ndarray, "h w 3"]

# The shorter side of what the network sees, by the longer: each is a compilation for landscapes,
# and one for portraits.
SHARES = (1, 3 / 4, 9 / 16, 1 / 4)
ROUNDING = 1e-6  # pixels
COUNT = "an integer of at least 1"
BATCHES_AHEAD = 2  # in which images of one shape are looked for, to be looked at together


def _is_count(value: object, most: float = math.inf) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        return False
    return bool(1 <= value <= most)


def _is_share(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and bool(0 <= value <= 1)


@dataclasses.dataclass(frozen=True)
class DetectorConfig:
    """How a detector looks, and what it tells.

    Attributes:
      image_size: the longer side of what the network sees, in pixels, to which images are scaled;
        a multiple of the largest stride. None: what the weights were trained at, where they tell,
        or what the model was published with.
      batch_size: images that are looked at together, at most.
      score_threshold: detections have more than this score.
      iou_threshold: a detection is dropped where its IoU with a better one is more than this.
      classes: indices of the classes to tell, kept as a tuple; None tells all.
      class_agnostic: detections suppress those of other classes too.
      max_detections: in one image.

    Raises:
      UserError: names every value that is out of its range or of another type.
    """

    image_size: int | None = None
    batch_size: int = 8
    score_threshold: float = 0.25
    iou_threshold: float = 0.45
    classes: tuple[int, ...] | None = None
    class_agnostic: bool = False
    max_detections: int = 300

    def __post_init__(self):
        size, classes = self.image_size, self.classes
        if isinstance(classes, Iterable):
            classes = tuple(classes)
            object.__setattr__(self, "classes", classes)
        labels = isinstance(classes, tuple) and all(
            isinstance(n, int | np.integer) for n in classes
        )
        most = f"an integer from 1 to {LONGEST_SIDE}"
        rows = f"an integer from 1 to {MAX_CANDIDATES}, the candidates that are looked at"
        checks = [
            ("image_size", size is None or _is_count(size, LONGEST_SIDE), most),
            ("batch_size", _is_count(self.batch_size), COUNT),
            ("score_threshold", _is_share(self.score_threshold), "a number from 0 to 1"),
            ("iou_threshold", _is_share(self.iou_threshold), "a number from 0 to 1"),
            ("classes", classes is None or labels, "indices of classes"),
            ("class_agnostic", isinstance(self.class_agnostic, bool), "True or False"),
            ("max_detections", _is_count(self.max_detections, MAX_CANDIDATES), rows),
        ]
        faults = [
            f"{name} (={getattr(self, name)!r}) must be {wanted}"
            for name, fine, wanted in checks
            if not fine
        ]
        if faults:
            raise UserError("; ".join(faults))


class Letterboxed(NamedTuple):
    """An image as the network sees it.

    Attributes:
      image: of one of the detector's shapes.
      info: what maps boxes back.
    """

    image: Image
    info: LetterboxInfo


class Detector:
    """Finds objects in images: `Detector.from_weights("yolov7.pt")(["street.jpg"])`.

    A detector never changes, and may be called from several threads. What it compiles is lost with
    the process, unless JAX keeps it: the environment variable `JAX_COMPILATION_CACHE_DIR` names the
    folder, and `JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0` adds what compiles within a second.

    Attributes:
      names: of the classes.
      config: with the image size that is used.
      shapes: height and width of what the network sees: an image is scaled to the image size
        and padded to the smallest of these that holds it, whatever other images come with it.
    """

    def __init__(
        self,
        model: Yolov7,
        names: Sequence[str] | None = None,
        config: DetectorConfig = DetectorConfig(),
    ):
        """Makes a detector of a model.

        Args:
          model: in any form; it is not changed.
          names: of its classes; their numbers if not given.
          config: how to look, and what to tell.

        Raises:
          UserError: names every setting that does not fit the model.
        """
        _check_type(config)
        head = model.head
        size = config.image_size
        if size is None:
            size = ARCHITECTURES[model.name].image_size
        self.names = tuple(map(str, range(head.num_classes)) if names is None else names)
        self.config = dataclasses.replace(config, image_size=size)
        _check(self.config, self.names, head)
        self.shapes = _shapes(size, max(head.strides))
        self._head = head
        self._graphdef, *self._numbers = split(deploy(model))

    @classmethod
    def from_weights(
        cls,
        path: str | os.PathLike[str],
        config: DetectorConfig = DetectorConfig(),
    ) -> Self:
        """Makes a detector of a file of weights, or of the folder of a training run.

        Args:
          path: as for `weights.read_checkpoint`.
          config: how to look, and what to tell.

        Raises:
          CheckpointError: the file cannot be read, is of none of the models, or holds numbers that
            are not finite.
          ImportError: the format needs an extra that is not installed.
          UserError: names every setting that does not fit the model.
        """
        _check_type(config)
        model, checkpoint = open_model(path)
        if config.image_size is None:
            config = dataclasses.replace(config, image_size=checkpoint.image_size)
        return cls(model, checkpoint.names, config)

    def warm_up(self, sizes: Iterable[tuple[int, int]], batch_size: int = 1) -> None:
        """Compiles what images of some sizes need, so that the first of them do not wait.

        Batches are padded to a power of two, and each of these is a program of its own: this
        compiles the one of `batch_size`; call it again for others.

        Args:
          sizes: pairs of a width and a height, in pixels.
          batch_size: images of a size that will come together.

        Raises:
          UserError: names what is not so.
        """
        sizes = list(sizes)
        if not all(map(_is_size, sizes)):
            raise UserError(f"sizes (={sizes!r}) must be pairs of width and height, each {COUNT}")
        if not _is_count(batch_size):
            raise UserError(f"batch_size (={batch_size!r}) must be {COUNT}")
        for shape in {self._shape_of(*size) for size in sizes}:
            images = np.zeros((self._padded(int(batch_size)), *shape, 3), np.uint8)
            jax.block_until_ready(self._detect(images))

    def __call__(self, images: Sequence[Image | str | os.PathLike[str]]) -> Detections:
        """Finds the objects in images.

        Args:
          images: RGB images of any sizes, or files of images.

        Returns:
          `[b, max_detections]`, numpy, in the order of the images; boxes in pixels of each
          image as it was given, upright as its EXIF orientation says.

        Raises:
          UnreadableImageError: a file cannot be read; the message names it.
          UserError: an array is no image.
        """
        if isinstance(images, str | os.PathLike | np.ndarray):
            raise UserError("images must be a list of images; put a single one into brackets")
        opened = (_opened(image, place) for place, image in enumerate(images))
        found = list(self.stream(map(self.letterbox, opened)))
        if found:
            return Detections(*(np.stack(field) for field in zip(*found, strict=True)))
        rows = (0, self.config.max_detections)
        boxes, scores = np.zeros((*rows, 4), np.float32), np.zeros(rows, np.float32)
        return Detections(boxes, scores, np.zeros(rows, np.int32), np.zeros(rows, bool))

    def letterbox(self, image: Image) -> Letterboxed:
        """Prepares an image for `stream`; safe to run in threads."""
        height, width = image.shape[:2]
        return Letterboxed(*letterbox(image, self._shape_of(width, height)))

    def stream(
        self, letterboxed: Iterable[Letterboxed], batch_size: int | None = None
    ) -> Iterator[Detections]:
        """Yields what is in each image, in order, while others are still being prepared.

        Args:
          letterboxed: from `letterbox`; read at most two batches ahead, and not ahead at all with a
            batch size of 1.
          batch_size: if not that of the detector, which is the most.

        Yields:
          For each image what the call returns, without the axis of the batch.

        Raises:
          UserError: the batch size is not from 1 to that of the detector.
        """
        most = self.config.batch_size if batch_size is None else batch_size
        if not _is_count(most, self.config.batch_size):
            wanted = f"an integer from 1 to {self.config.batch_size}, as of the detector"
            raise UserError(f"batch_size (={most!r}) must be {wanted}")
        letterboxed = iter(letterboxed)
        while window := list(
            itertools.islice(letterboxed, most if most == 1 else BATCHES_AHEAD * most)
        ):
            found: dict[int, Detections] = {}
            for shape in dict.fromkeys(item.image.shape for item in window):
                of_shape = [n for n, item in enumerate(window) if item.image.shape == shape]
                for start in range(0, len(of_shape), most):
                    places = of_shape[start : start + most]
                    batch = self._detect_batch([window[place] for place in places])
                    found |= zip(places, batch, strict=True)
            yield from (found[place] for place in range(len(window)))

    def _detect(self, images: UInt8[np.ndarray, "b h w 3"]) -> Detections:
        config = self.config
        return _detect(
            *self._numbers,
            images,
            config.score_threshold,
            config.iou_threshold,
            graphdef=self._graphdef,
            head=self._head,
            classes=config.classes,
            class_agnostic=config.class_agnostic,
            max_detections=config.max_detections,
        )

    def _detect_batch(self, letterboxed: Sequence[Letterboxed]) -> list[Detections]:
        """Finds the objects in images of one shape."""
        images = np.zeros((self._padded(len(letterboxed)), *letterboxed[0].image.shape), np.uint8)
        images[: len(letterboxed)] = [item.image for item in letterboxed]
        found = jax.device_get(self._detect(images))
        return [
            Detections(
                np.where(valid[:, None], unletterbox(boxes_xyxy, item.info), 0),
                scores,
                labels,
                valid,
            )
            for item, boxes_xyxy, scores, labels, valid in zip(letterboxed, *found, strict=False)
        ]

    def _shape_of(self, width: int, height: int) -> tuple[int, int]:
        """Returns the smallest shape that holds an image scaled to the image size."""
        scale = max(self.shapes[0]) / max(width, height)
        fitting = [
            shape
            for shape in self.shapes
            if height * scale <= shape[0] + ROUNDING and width * scale <= shape[1] + ROUNDING
        ]
        return min(fitting, key=math.prod)

    def _padded(self, count: int) -> int:
        """Returns how many images a batch has room for: few numbers, so few compilations."""
        return min(1 << (count - 1).bit_length(), self.config.batch_size)


# Of the module, so that equal detectors share what is compiled.
@functools.partial(
    jax.jit,
    static_argnames=("graphdef", "head", "classes", "class_agnostic", "max_detections"),
)
def _detect(
    params: Any,
    batch_stats: Any,
    images: Any,
    score_threshold: Any,
    iou_threshold: Any,
    *,
    graphdef: Any,
    head: HeadConfig,
    classes: tuple[int, ...] | None,
    class_agnostic: bool,
    max_detections: int,
) -> Detections:
    return nms(
        forward(graphdef, params, batch_stats, images, head),
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        classes=classes,
        class_agnostic=class_agnostic,
        max_detections=max_detections,
    )


def _shapes(size: int, stride: int) -> tuple[tuple[int, int], ...]:
    """Returns heights and widths, all multiples of the stride."""
    sides = [math.ceil(size * share / stride) * stride for share in SHARES]
    return tuple(
        dict.fromkeys([*((side, size) for side in sides), *((size, side) for side in sides)])
    )


def _opened(image: Image | str | os.PathLike[str], place: int) -> Image:
    if isinstance(image, str | os.PathLike):
        read_size(image)  # finds what decoders pass over in silence
        return read_image(image)
    if hasattr(image, "__array__"):  # JAX's, too
        image = np.asarray(image)
    if not isinstance(image, np.ndarray):
        raise UserError(f"images[{place}] is a {type(image).__name__}, wanted an array or a file")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or image.dtype != np.uint8:
        raise UserError(
            f"images[{place}] is {image.dtype} of shape {image.shape}, wanted RGB: uint8 [h, w, 3]"
        )
    return image


def _is_size(value: object) -> bool:
    """Says whether a value is a width and a height."""
    several = isinstance(value, Sequence | np.ndarray)
    return several and len(value) == 2 and all(map(_is_count, value))


def _check_type(config: object) -> None:
    if not isinstance(config, DetectorConfig):
        raise UserError(f"config (={config!r}) must be a DetectorConfig")


def _check(config: DetectorConfig, names: Sequence[str], head: HeadConfig) -> None:
    stride = max(head.strides)
    faults = []
    if config.image_size is None or config.image_size % stride:
        faults.append(
            f"image_size (={config.image_size}) must be a multiple of {stride}, the largest stride"
        )
    unknown = [label for label in config.classes or () if not 0 <= label < head.num_classes]
    if unknown:
        faults.append(f"classes {unknown} do not exist; there are 0 to {head.num_classes - 1}")
    if len(names) != head.num_classes:
        faults.append(f"names ({len(names)}) must be as many as the classes ({head.num_classes})")
    if faults:
        raise UserError("; ".join(faults))
