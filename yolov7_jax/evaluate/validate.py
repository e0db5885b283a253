"""What `yolov7-jax val` does with its options."""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import jax

from yolov7_jax.compiled_programs import keep_compiled
from yolov7_jax.config import LONGEST_SIDE
from yolov7_jax.data.assemble import Scan
from yolov7_jax.data.dataset import as_one_class
from yolov7_jax.data.faults import Effect, counted
from yolov7_jax.data.layouts import load_split
from yolov7_jax.errors import INCOMPLETE, UserError, printable
from yolov7_jax.evaluate.batches import EvalBatch
from yolov7_jax.evaluate.class_mapping import map_classes
from yolov7_jax.evaluate.coco_results import write_coco_results
from yolov7_jax.evaluate.detect_split import (
    detect_split,
    ground_truth,
    make_detect_batch,
    shared_batch_size,
    without_images,
)
from yolov7_jax.evaluate.report.matched_split import match_split
from yolov7_jax.evaluate.report.metrics_text import Validation, as_lines
from yolov7_jax.evaluate.report.val_files import (
    DETECTIONS_FILE,
    FAULTS_FILE,
    write_faults,
    write_files,
)
from yolov7_jax.files import new_folder
from yolov7_jax.model import ARCHITECTURES, Yolov7
from yolov7_jax.signals import stop_if_wanted
from yolov7_jax.summary import described
from yolov7_jax.types import Detections
from yolov7_jax.weights.load import open_model

OUTPUT = pathlib.Path("runs/val")
SETTINGS = ("single_class", "square", "augment", "score_threshold", "iou_threshold")
MOST_NAMED = 20  # images, where many cannot be read


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    keep_compiled()
    model, checkpoint = open_model(options.weights)
    image_size = options.image_size
    if image_size is None:
        image_size = checkpoint.image_size or ARCHITECTURES[model.name].image_size
    _check(options, model, image_size)
    scan = load_split(options.data, options.split, unlabelled=True)
    dataset = as_one_class(scan.dataset) if options.single_class else scan.dataset
    if options.report and not len(dataset.labels):
        raise UserError(f"--report: {options.data} has no objects to compare detections with")
    classes = map_classes(checkpoint.names, model.head.num_classes, dataset.names)
    folder = new_folder(options.output, OUTPUT)

    devices = jax.local_devices()
    batch_size = shared_batch_size(options.batch_size, devices)
    detect = make_detect_batch(
        model,
        devices,
        score_threshold=options.score_threshold,
        iou_threshold=options.iou_threshold,
        classes=classes,
        augment=options.augment,
    )

    def detect_or_stop(batch: EvalBatch) -> Detections:
        found = detect(batch)
        stop_if_wanted()
        return found

    detections, unreadable = detect_split(
        detect_or_stop,
        dataset,
        image_size=image_size,
        batch_size=batch_size,
        stride=None if options.square else max(model.head.strides),
    )
    settings = {
        "weights": str(options.weights),
        "model": model.name,
        "data": str(options.data),
        "split": options.split,
        "image_size": image_size,
        "batch_size": batch_size,
        **{name: getattr(options, name) for name in SETTINGS},
    }
    left_out = [*_faults(scan, Effect.IMAGE), *unreadable.values()]
    num_images = len(dataset) - len(unreadable)
    # Before anything is printed, so that nothing is lost if nobody reads on.
    if len(dataset.labels):
        truth = without_images(ground_truth(dataset), unreadable)
        objects_left_out = len(_faults(scan, Effect.OBJECT))
        matched = match_split(dataset, truth, detections)
        validation = Validation(matched, num_images, left_out, objects_left_out, settings)
        written = write_files(folder, validation, report=options.report)
        lines = as_lines(validation)
    else:
        write_coco_results(dataset, detections, folder / DETECTIONS_FILE)
        written = [DETECTIONS_FILE]
        lines = [
            f"{options.data}, {options.split}: {num_images} images, {len(detections.labels)} "
            "detections; there are no objects, so nothing is measured"
        ]
    if scan.faults:
        written.append(write_faults(folder, scan.faults))
    print(f"{options.weights}: {described(model)}")
    for line in (*_about_classes(classes, model), *lines):
        print(printable(line))
    print(f"{folder}: {', '.join(written)}", flush=True)
    if scan.faults:
        faults = f"{options.data}: {options.split}: {counted(scan.faults)}"
        print(f"warning: {faults}; see {folder / FAULTS_FILE}", file=sys.stderr)
    return _complain(left_out)


def _faults(scan: Scan, effect: Effect) -> list[str]:
    """Returns the faults that had an effect."""
    return [str(fault) for fault in scan.faults if fault.kind.effect is effect]


def _about_classes(classes: Sequence[int], model: Yolov7) -> list[str]:
    """Returns what to tell about classes that are not simply those of the weights."""
    spare = model.head.num_classes - len(classes)
    lines = []
    if spare:
        some = "class of the weights is" if spare == 1 else "classes of the weights are"
        lines.append(f"{spare} {some} not in the data, and not looked for")
    if list(classes) != sorted(classes):
        lines.append(
            "the classes are in another order in the data; they are matched by their names"
        )
    return lines


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
    """Names images that could not be read, if there are any; returns the exit code."""
    for reason in left_out[:MOST_NAMED]:
        print(f"left out: {printable(reason)}", file=sys.stderr)
    if len(left_out) > MOST_NAMED:
        print(f"left out: {len(left_out) - MOST_NAMED} more", file=sys.stderr)
    return INCOMPLETE if left_out else 0
