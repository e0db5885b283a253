"""`yolov7-jax predict`: what is in images and videos."""

import argparse
from collections.abc import Sequence

from yolov7_jax.cli.parser import Parser
from yolov7_jax.files import check_exists

EXAMPLES = (
    "predict images/ --weights yolov7.pt",
    "predict 0 --weights runs/demo --classes person car",
)


def make_parser(arguments: Sequence[str]) -> Parser:
    """Returns the flags."""
    parser = Parser(
        "predict",
        "Finds objects in images and videos, prints a line for each, and writes "
        "them with boxes drawn. Exit code 1 if any could not be read.",
        EXAMPLES,
    )
    parser.add_argument(
        "sources",
        metavar="SOURCE",
        nargs="+",
        help="an image, a video, a folder of them, a pattern like 'some/*.jpg', the index of a "
        "camera, the address of a stream, or - for an image on standard input",
    )
    parser.add_argument(
        "--weights", metavar="FILE", required=True, help="a file of weights, or a run's folder"
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="new or empty; default: runs/predict, or the first free of runs/predict-2, -3 ...",
    )
    looks = parser.add_argument_group("how to look")
    looks.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="longer side that images are scaled to; default: that of the training, where the "
        "weights tell, or the published one",
    )
    looks.add_argument("--batch-size", type=int, default=8, metavar="N", help="default: 8")
    looks.add_argument(
        "--score-threshold", type=float, default=0.25, metavar="S", help="default: 0.25"
    )
    looks.add_argument(
        "--iou-threshold",
        type=float,
        default=0.45,
        metavar="IOU",
        help="boxes that overlap a better one of their class more are dropped; default: 0.45",
    )
    looks.add_argument(
        "--classes",
        nargs="+",
        metavar="CLASS",
        help="names or indices, given after the sources; default: all",
    )
    looks.add_argument(
        "--class-agnostic", action="store_true", help="boxes suppress those of other classes too"
    )
    looks.add_argument(
        "--max-detections", type=int, default=300, metavar="N", help="in an image; default: 300"
    )
    looks.add_argument(
        "--max-frames", type=int, metavar="N", help="of each video, camera or stream; default: all"
    )
    saves = parser.add_argument_group("what to write")
    saves.add_argument(
        "--no-images", action="store_true", help="not the images and videos with boxes drawn"
    )
    saves.add_argument("--save-txt", action="store_true", help="YOLO txt, with scores")
    saves.add_argument("--save-coco", action="store_true", help="one COCO .json file")
    saves.add_argument(
        "--save-csv",
        action="store_true",
        help="one .csv file; its column output has the image or video that was written, relative "
        "to the folder, and is empty with --no-images",
    )
    saves.add_argument(
        "--save-jsonl",
        action="store_true",
        help="one file with a line an image; output is that of --save-csv, or null",
    )
    saves.add_argument("--save-crops", action="store_true", help="an image of each object")
    return parser


def run(options: argparse.Namespace) -> int:
    """Looks at the sources; returns the exit code."""
    check_exists(options.weights, "--weights")
    from yolov7_jax.detect import predict_files  # needs the extra `images`

    return predict_files.run(options)
