"""Images a second from files to drawn boxes, and where the time goes.

    python -m benchmarks.predict IMAGE... [--models yolov7-tiny yolov7] [--repeats 3]

Each model in its deploy form at its published size, with random weights, a head that is sure of
little, and a threshold that some hundred boxes of an image exceed; the images are used again
until there are enough. The stages are measured alone, one after the other; end to end they overlap,
since images are read in threads.
"""

import argparse
import collections
import functools
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import machine, times_in_turns
from yolov7_jax import create, decode, deploy, nms, split
from yolov7_jax.data.ahead import map_ahead
from yolov7_jax.data.images import read_image
from yolov7_jax.data.letterbox import letterbox
from yolov7_jax.detect.detector import Detector, DetectorConfig
from yolov7_jax.detect.drawing import colour_of, draw_boxes, readable_scale
from yolov7_jax.detect.outputs import Found, found_in
from yolov7_jax.model import ARCHITECTURES, Yolov7, apply, normalize_images

IMAGES = 16  # a measurement, at least
OBJECTNESS, CLASS, SPREAD = -4.0, -1.0, 1.0  # means of the logits, and their deviation
CANDIDATES = 100  # in an image, by the median of several
SEVERAL = 8


def make_model(name: str, images: np.ndarray) -> Yolov7:
    """A deployed model that is sure of little in images, but of no two places the same."""
    model = deploy(create(name, num_classes=80))
    graphdef, params, batch_stats = split(model)
    network = jax.jit(functools.partial(apply, graphdef, train=False))
    outputs, _ = network(params, batch_stats, normalize_images(jnp.asarray(images)))
    for level, logits in zip(model.detect.levels, outputs.lead, strict=True):
        spread = (logits - logits.mean((0, 1, 2))).std()
        mean = np.zeros((model.head.num_anchors, model.head.num_fields), np.float32)
        mean[:, 4], mean[:, 5:] = OBJECTNESS, CLASS
        from_kernel = logits.mean((0, 1, 2)).ravel() - level.bias[...]
        level.kernel[...] = level.kernel[...] * (SPREAD / spread)
        level.bias[...] = mean.ravel() - from_kernel * (SPREAD / spread)
    return model


def draw(image: np.ndarray, found: Found) -> np.ndarray:
    """Draws boxes as the command does."""
    drawn = image.copy()
    labels = found.labels.tolist()
    captions = [f"{label} {score:.2f}" for label, score in zip(labels, found.scores, strict=True)]
    colours = [colour_of(label) for label in labels]
    draw_boxes(drawn, found.boxes_xyxy, colours, captions, readable_scale(*image.shape[:2]))
    return drawn


def measure(name: str, batch_size: int, files: list[pathlib.Path], repeats: int) -> None:
    """Prints the speed of a model at a batch size."""
    files = list(itertools.islice(itertools.cycle(files), max(IMAGES, 2 * batch_size)))
    images = [read_image(file) for file in files]
    side = ARCHITECTURES[name].image_size
    model = make_model(name, np.stack([letterbox(image, side)[0] for image in images[:SEVERAL]]))
    detector = Detector(model)
    boxed = [detector.letterbox(image) for image in images]
    shape = collections.Counter(one.image.shape for one in boxed).most_common(1)[0][0]
    of_shape = np.stack([one.image for one in boxed if one.image.shape == shape])
    batch = jnp.asarray(np.resize(of_shape, (batch_size, *shape)))
    graphdef, params, batch_stats = split(model)

    @jax.jit
    def network(params, images):
        return apply(graphdef, params, batch_stats, normalize_images(images), train=False)[0].lead

    several = np.resize(of_shape, (SEVERAL, *shape))
    best = np.sort(decode(network(params, several), model.head).scores.max(-1), axis=1)
    threshold = float(np.median(best[:, -CANDIDATES]))
    config = DetectorConfig(batch_size=batch_size, score_threshold=threshold)
    detector = Detector(model, config=config)

    @jax.jit
    def after(lead):
        return nms(
            decode(lead, model.head),
            score_threshold=config.score_threshold,
            iou_threshold=config.iou_threshold,
        )

    lead = network(params, batch)
    found = [found_in(one) for one in detector.stream(iter(boxed))]

    def end_to_end() -> None:
        read = map_ahead(read_image, files, workers=2, ahead=batch_size)
        waiting: collections.deque[np.ndarray] = collections.deque()

        def letterboxed():
            for image in read:
                waiting.append(image)
                yield detector.letterbox(image)

        for one in detector.stream(letterboxed()):
            draw(waiting.popleft(), found_in(one))

    stages = {
        "decode": lambda: [read_image(file) for file in files],
        "letterbox": lambda: [detector.letterbox(image) for image in images],
        "model": lambda: network(params, batch),
        "NMS": lambda: after(lead),
        "draw": lambda: [draw(i, f) for i, f in zip(images, found, strict=True)],
        "end to end": end_to_end,
    }
    of_batch = ("model", "NMS")  # the other stages take all images
    spent = {
        stage: times_in_turns({stage: work}, repeats)[stage]
        / (batch_size if stage in of_batch else len(files))
        for stage, work in stages.items()
    }
    whole = spent.pop("end to end")
    parts = ", ".join(f"{stage} {taken:.1f}" for stage, taken in spent.items())
    boxes = np.mean([len(one.labels) for one in found])
    print(
        f"{name}, batch {batch_size}: {1000 / whole:.2f} images/s end to end; ms an image: "
        f"{parts}; {boxes:.0f} boxes drawn",
        flush=True,
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Times prediction.")
    parser.add_argument("images", nargs="+", type=pathlib.Path)
    parser.add_argument(
        "--models", nargs="+", choices=ARCHITECTURES, default=["yolov7-tiny", "yolov7"]
    )
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(f"{machine()}, deploy form, float32")
    for name in options.models:
        for batch_size in options.batch_sizes:
            measure(name, batch_size, options.images, options.repeats)


if __name__ == "__main__":
    main()
