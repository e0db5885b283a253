"""`yolov7-jax val`: how accurate weights are on a data set."""

import argparse
from collections.abc import Sequence

from yolov7_jax.cli.parser import Parser
from yolov7_jax.cli.run_settings import DATA_HELP, check_data
from yolov7_jax.config import EVAL_IOU_THRESHOLD, EVAL_SCORE_THRESHOLD
from yolov7_jax.files import check_exists

BATCH_SIZE = 16
EXAMPLES = (
    "val --weights runs/demo --data demo",
    "val --weights yolov7.pt --data coco/instances_val.json --report",
)


def make_parser(arguments: Sequence[str]) -> Parser:
    """Returns the flags."""
    parser = Parser(
        "val",
        "Detects in all images of a split and measures it as COCO does. Prints the "
        "numbers, and writes them, the detections, curves, confusions and the worst images. Exit "
        "code 1 if any image had to be left out. Of a COCO file without annotations, as "
        "competitions have them, only the detections are written.",
        EXAMPLES,
    )
    parser.add_argument(
        "--weights", metavar="FILE", required=True, help="a file of weights, or a run's folder"
    )
    parser.add_argument("--data", metavar="DATA", required=True, help=DATA_HELP)
    parser.add_argument("--split", default="val", help="train, val or test; default: %(default)s")
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="longer side that larger images are shrunk to; default: what the weights were "
        "trained with, or the model's published size",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        default=BATCH_SIZE,
        help="images at a time, rounded up for the devices to share; default: %(default)s",
    )
    parser.add_argument(
        "--augment",
        action="store_true",
        help="test-time augmentation: look at each image in three sizes, the largest its own; "
        "takes twice the time, and finds more unless images are small",
    )
    parser.add_argument(
        "--single-class",
        action="store_true",
        help="take all objects for one class, as weights want it that were trained so",
    )
    parser.add_argument(
        "--square",
        action="store_true",
        help="pad images to squares, as in training, instead of to a few rectangles",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="where to write, empty or new; default: runs/val, or the first of runs/val-2, "
        "runs/val-3 ... that does not exist",
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="also write report.html, a page to look through the images by class, score and "
        "kind of fault",
    )
    parser.add_argument(
        "--score-threshold",
        type=float,
        metavar="SCORE",
        default=EVAL_SCORE_THRESHOLD,
        help="detections with more are kept; default: %(default)s",
    )
    parser.add_argument(
        "--iou-threshold",
        type=float,
        metavar="IOU",
        default=EVAL_IOU_THRESHOLD,
        help="of two boxes of a class that overlap more, one is dropped; default: %(default)s",
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Measures the weights; returns the exit code."""
    check_exists(options.weights, "--weights")
    check_data(options.data)
    from yolov7_jax.demo_data.demo import data_file
    from yolov7_jax.evaluate import validate  # needs the extra `images`

    options.data = data_file(options.data)
    return validate.run(options)
