"""`yolov7-jax export`: models for programs that know nothing of this one."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from yolov7_jax.cli.parser import Parser
from yolov7_jax.errors import UserError
from yolov7_jax.export.export_config import Contents, ExportConfig
from yolov7_jax.files import check_exists, check_target, expanded

if TYPE_CHECKING:
    from yolov7_jax.export.export_model import Load, Write

EXAMPLES = (
    "export --weights runs/demo --format onnx",
    "export --weights yolov7.pt --format stablehlo --image-size 384,640 --batch 1",
)
ENDINGS = {
    "stablehlo": ".stablehlo",
    "onnx": ".onnx",
    "safetensors": ".safetensors",
    "saved-pt": ".pt",
}
WEIGHTS_ONLY = ("safetensors", "saved-pt")
# What can be set of programs alone, by the field of `ExportConfig`.
PROGRAM_OPTIONS = {
    "contents": "--contents",
    "batch": "--batch",
    "score_threshold": "--score-threshold",
    "iou_threshold": "--iou-threshold",
    "max_detections": "--max-detections",
    "class_agnostic": "--class-agnostic",
}


def make_parser(arguments: Sequence[str]) -> Parser:
    """Returns the flags."""
    parser = Parser(
        "export",
        "Writes the model of a file in its deploy form, the moving average where there "
        "is one; then loads what was written as its users would, and compares it with the model.",
        EXAMPLES,
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        required=True,
        help="a .pt or .safetensors file, or a training run's folder",
    )
    parser.add_argument(
        "--format",
        choices=ENDINGS,
        required=True,
        help="stablehlo for JAX without this library, onnx, or weights under the official names: "
        "safetensors, saved-pt for PyTorch",
    )
    parser.add_argument("--output", metavar="OUT", help="default: beside FILE, after its name")
    parser.add_argument(
        "--image-size",
        type=_image_size,
        metavar="PIXELS",
        help="side of the images, or height,width; default: that of training",
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    program = parser.add_argument_group("stablehlo and onnx")
    program.add_argument(
        "--contents",
        choices=get_args(Contents),
        help="raw logits of each level, decoded boxes and scores, or detections, with NMS inside; "
        "default: detections",
    )
    program.add_argument(
        "--batch",
        type=_batch,
        metavar="N",
        help="how many images at once, or dynamic; default: dynamic",
    )
    fields = {field.name: field.default for field in dataclasses.fields(ExportConfig)}
    for name, kind, meaning in (
        ("score_threshold", float, "objectness and score must both be more"),
        ("iou_threshold", float, "boxes of a class that overlap more are dropped"),
        ("max_detections", int, "rows given for each image"),
    ):
        program.add_argument(
            PROGRAM_OPTIONS[name],
            type=kind,
            metavar="N" if kind is int else "X",
            help=f"{meaning}; default: {fields[name]}",
        )
    program.add_argument(
        "--class-agnostic",
        action="store_const",
        const=True,
        help="boxes drop those of other classes too",
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Exports the model."""
    given = {
        name: getattr(options, name)
        for name in PROGRAM_OPTIONS
        if getattr(options, name) is not None
    }
    if options.format in WEIGHTS_ONLY and given:
        needless = ", ".join(PROGRAM_OPTIONS[name] for name in given)
        raise UserError(f"{options.format} holds weights alone and has no use for {needless}")
    _check_thresholds_are_used(given)
    check_exists(options.weights, "--weights")
    target = _target(options)
    from yolov7_jax.compiled_programs import keep_compiled
    from yolov7_jax.export.export_model import export_model
    from yolov7_jax.model import ARCHITECTURES
    from yolov7_jax.summary import described
    from yolov7_jax.weights.load import open_model

    write, load = _functions(options.format)
    model, checkpoint = open_model(options.weights)
    side = checkpoint.image_size or ARCHITECTURES[model.name].image_size
    size = options.image_size or (side, side)
    if options.format in WEIGHTS_ONLY:
        # What to compare; the file holds nothing of it but the size.
        settings = ExportConfig(size, batch=2, contents="raw")
    else:
        settings = dataclasses.replace(ExportConfig(size), **given)
    keep_compiled()
    comparison = export_model(
        model, target, settings, write=write, load=load, names=checkpoint.names
    )
    print(f"{target}: {described(model)}, written in deploy form, {_size(target)}")
    compared = f", {comparison.detections} detections compared" if comparison.detections else ""
    print(
        f"loaded back: largest difference {comparison.difference:.1e} of the largest output"
        f"{compared}"
    )
    return 0


def _check_thresholds_are_used(given: dict[str, object]) -> None:
    contents = given.get("contents", "detections")
    needless = [PROGRAM_OPTIONS[name] for name in given if name not in ("contents", "batch")]
    if contents != "detections" and needless:
        raise UserError(f"--contents {contents} has no NMS and no use for {', '.join(needless)}")


def _functions(name: str) -> "tuple[Write, Load]":
    """Returns what writes and what loads a format."""
    from yolov7_jax.export import stablehlo, weights_file

    match name:
        case "stablehlo":
            return stablehlo.write, stablehlo.load
        case "safetensors":
            return weights_file.write_as_safetensors, weights_file.load
        case "saved-pt":
            return weights_file.write_as_saved_pt, weights_file.load
    # Only now, since it needs an extra.
    from yolov7_jax.export.onnx import onnx_file as file

    return file.write, file.load


def _target(options: argparse.Namespace) -> Path:
    """Returns the path to write to, if it can be written."""
    source, ending = Path(options.weights), ENDINGS[options.format]
    if options.output is not None:
        target = expanded(options.output)
    else:
        # The folder of a run may be given as a dot; a file of weights must not be replaced.
        source = source.absolute() if source.name else source.resolve()
        stem = source.name if source.is_dir() else source.stem
        deployed = "-deployed" if options.format in WEIGHTS_ONLY else ""
        target = source.parent / f"{stem}{deployed}{ending}"
    check_target(target, ending, source, "--output", options.force)
    return target


def _image_size(text: str) -> tuple[int, int]:
    try:
        sides = [int(side) for side in text.split(",")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2):
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of pixels, or height,width")
    return sides[0], sides[-1]


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of images, or dynamic")
    return int(text)


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
