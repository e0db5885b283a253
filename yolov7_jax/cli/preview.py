"""`yolov7-jax preview`: what a run would be trained on."""

import argparse
import pathlib
from collections.abc import Sequence

from yolov7_jax.cli.parser import Parser
from yolov7_jax.cli.run_settings import RUNS, data_name, recipe_parser, run_settings

EXAMPLES = (
    "preview --data blood/data.yaml",
    "preview --data demo --augment.mosaic 0 --output look",
)
SHOWN = (
    *("recipe", "data", "model", "width", "activation", "dtype", "output", "image_size"),
    *("single_class", "batch_size", "seed", "autoanchor", "loss.anchor_threshold"),
    *("loss.restrict_to_own_candidates", "augment"),
)


def make_parser(arguments: Sequence[str]) -> Parser:
    """Returns the flags."""
    return recipe_parser(
        "preview",
        "Draws a batch as training sees it, and which cells and anchors its objects are given. The "
        "other settings of `train` may be given too, and change nothing.",
        EXAMPLES,
        arguments,
        only=SHOWN,
        texts={"output": "folder to write to; runs/DATA-preview if not given"},
    )


def run(options: argparse.Namespace) -> int:
    """Draws what the settings would train on."""
    config = run_settings(options)
    from yolov7_jax.training.model_and_data import create_model, load_split
    from yolov7_jax.training.preview import write_preview
    from yolov7_jax.training.run_folder import free_folder, make_folder

    dataset = load_split(config, "train")
    model = create_model(config, len(dataset.names))
    if config.output is None:
        folder = free_folder(RUNS / f"{data_name(config.data)}-preview")
    else:
        folder = pathlib.Path(config.output)
    make_folder(folder)
    sheet, *pages = write_preview(config, dataset, model, folder)
    print("look at:")
    print(f"  {sheet}   a batch as the network sees it")
    print(f"  {pages[0]} ...   which cells and anchors each object gets, image by image")
    return 0
