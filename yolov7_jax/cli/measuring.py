"""What `yolov7-jax val` does with its options."""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import jax
import numpy as np

from yolov7_jax.cli.commands import UNREADABLE, described, keep_compiled, new_folder, printable
from yolov7_jax.data.dataset import as_one_class
from yolov7_jax.data.decoder_messages import DecoderMessages
from yolov7_jax.data.sources import load_dataset
from yolov7_jax.errors import UserError
from yolov7_jax.evaluation import (
    class_order,
    damaged_pictures,
    detect_split,
    ground_truth,
    make_detector,
    shared_batch_size,
    without_pictures,
)
from yolov7_jax.inference import LONGEST_SIDE
from yolov7_jax.metrics import coco_ap
from yolov7_jax.model import ARCHITECTURES, Yolov7
from yolov7_jax.page.measured import Measured, as_lines
from yolov7_jax.page.results import results_of
from yolov7_jax.page.validation import write_files
from yolov7_jax.weights.files import check_finite, model_of, read_checkpoint

OUTPUT = pathlib.Path("runs/val")
MOST_NAMED = 20  # pictures, where many cannot be read


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    keep_compiled()
    checkpoint = read_checkpoint(options.weights)
    model = model_of(checkpoint, options.weights)
    check_finite(checkpoint, options.weights)
    image_size = options.image_size
    if image_size is None:
        image_size = checkpoint.image_size or ARCHITECTURES[model.name].image_size
    _check(options, model, image_size)
    dataset = load_dataset(options.data, options.split)
    if options.single_class:
        dataset = as_one_class(dataset)
    order = class_order(checkpoint.names, model.head.num_classes, dataset)
    folder = new_folder(options.output, OUTPUT)

    devices = jax.local_devices()
    batch_size = shared_batch_size(options.batch_size, devices)
    detect = make_detector(
        model,
        devices,
        score_threshold=options.score_threshold,
        iou_threshold=options.iou_threshold,
        augment=options.augment,
    )
    with DecoderMessages():
        found, unreadable = detect_split(
            detect,
            dataset,
            image_size=image_size,
            batch_size=batch_size,
            stride=None if options.square else max(model.head.strides),
        )
    found = found._replace(labels=order[found.labels])
    left_out = [*damaged_pictures(options.data, options.split), *unreadable.values()]
    truth = without_pictures(ground_truth(dataset), unreadable)
    sizes = {"num_images": len(dataset), "num_classes": len(dataset.names)}
    accuracy = coco_ap(truth, found, **sizes)
    measured = Measured(
        results_of(dataset, truth, found),
        accuracy,
        len(dataset) - len(unreadable),
        left_out,
        {
            "weights": str(options.weights),
            "model": model.name,
            "data": str(options.data),
            "split": options.split,
            "image_size": image_size,
            "batch_size": batch_size,
            "single_class": options.single_class,
            "square": options.square,
            "augment": options.augment,
            "score_threshold": options.score_threshold,
            "iou_threshold": options.iou_threshold,
        },
    )
    # Before anything is printed, so that nothing is lost if nobody reads on.
    written = write_files(folder, measured, report=options.report)
    print(f"{options.weights}: {described(model)}")
    if (order != np.arange(len(order))).any():
        print("the classes are in another order in the data; they are matched by their names")
    print("\n".join(map(printable, as_lines(measured))), flush=True)
    print(f"{folder}: {', '.join(written)}", flush=True)
    return _complain(left_out)


def _check(options: argparse.Namespace, model: Yolov7, image_size: int) -> None:
    """Refuses settings that cannot be used.

    Raises:
      UserError: names all of them.
    """
    stride = max(model.head.strides)
    faults = []
    if image_size < 1 or image_size % stride:
        faults.append(
            f"--image-size (={image_size}) must be a positive multiple of {stride}, the largest "
            "stride"
        )
    elif image_size > LONGEST_SIDE:
        faults.append(f"--image-size (={image_size}) must be at most {LONGEST_SIDE}")
    if options.batch_size < 1:
        faults.append(f"--batch-size (={options.batch_size}) must be at least 1")
    for name in ("score_threshold", "iou_threshold"):
        value = getattr(options, name)
        if not 0 <= value <= 1:
            faults.append(f"--{name.replace('_', '-')} (={value:g}) must be in [0, 1]")
    if faults:
        raise UserError("; ".join(faults))


def _complain(left_out: Sequence[str]) -> int:
    """Names pictures that could not be read, if there are any; returns the exit code."""
    for reason in left_out[:MOST_NAMED]:
        print(f"left out: {printable(reason)}", file=sys.stderr)
    if len(left_out) > MOST_NAMED:
        print(f"left out: {len(left_out) - MOST_NAMED} more", file=sys.stderr)
    return UNREADABLE if left_out else 0
