"""Writes a model in another format, and proves that the file computes what the model does."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from yolov7_jax.deploy import deploy
from yolov7_jax.errors import UserError
from yolov7_jax.export.export_config import ExportConfig
from yolov7_jax.export.export_metadata import Metadata, describe_exported
from yolov7_jax.export.program import program_of
from yolov7_jax.export.verify import (
    Comparison,
    ExportError,
    Results,
    Run,
    compare_detections,
    compare_outputs,
    lower_threshold,
    sample_images,
)
from yolov7_jax.files import replacing
from yolov7_jax.model import Yolov7

# Writes a deployed model, as the settings ask, with facts about it, to a path.
Write = Callable[[Yolov7, ExportConfig, Metadata, Path], None]
# Loads what was written with the settings, as users would, and returns what it computes.
Load = Callable[[Path, ExportConfig], Run]


def export_model(
    model: Yolov7,
    path: str | os.PathLike[str],
    settings: ExportConfig,
    *,
    write: Write,
    load: Load,
    names: Sequence[str] | None = None,
) -> Comparison:
    """Writes a model in its deploy form, loads the file back and compares.

    The file gets its name only when it has passed; until then, and if it fails, whatever had the
    name stays.

    Args:
      model: in any form; it is not changed.
      path: of the file, replaced if it exists.
      settings: what to write.
      write: writes a deployed model in a format.
      load: loads such a file, as its users would.
      names: of the classes.

    Returns:
      how far the file is from `model` itself, on random and on smooth images.

    Raises:
      UserError: the model does not take images of this size.
      ExportError: the file is not what it should be.
      OSError: the file cannot be written.
    """
    settings.check_strides(model.head.strides)
    facts = describe_exported(model, names, max(settings.image_size))
    with replacing(Path(path)) as unfinished:
        write(deploy(model), settings, facts, unfinished)
        try:
            return _compare(model, unfinished, settings, load)
        except ExportError as fault:
            raise ExportError(f"{path} was not written: {fault}") from fault


def _compare(model: Yolov7, path: Path, settings: ExportConfig, load: Load) -> Comparison:
    # Accelerators round products to fewer digits than the comparison needs.
    with jax.default_device(_processor()), jax.default_matmul_precision("highest"):
        images = sample_images(2 if settings.batch is None else settings.batch, settings.image_size)
        # Any number of images means one, too.
        batches = [images] if settings.batch is not None else [images, images[:1]]
        wanted = _model_results(model, settings, images)
        run = load(path, settings)
        results = [_compare_batch(run, batch, wanted, settings, None) for batch in batches]
        if settings.contents == "detections":
            # Images of nothing have few detections, if any: so once more with many.
            threshold = lower_threshold(wanted)
            results += [
                _compare_batch(run, batch, wanted, settings, threshold) for batch in batches
            ]
    return Comparison(
        max(result.difference for result in results), sum(result.detections for result in results)
    )


def _processor() -> Any:  # jax.Device, which type checkers take for a variable
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError as fault:
        raise UserError(
            "the comparison runs on the processor, which JAX is told not to use; add cpu to "
            f"JAX_PLATFORMS (={os.environ.get('JAX_PLATFORMS', '')})"
        ) from fault


def _model_results(model: Yolov7, settings: ExportConfig, images: np.ndarray) -> Results:
    """Returns what the model itself computes, before NMS."""
    contents = "raw" if settings.contents == "raw" else "decoded"
    before_nms = ExportConfig(settings.image_size, contents=contents)
    program, arguments = program_of(model, before_nms)
    return jax.device_get(jax.jit(program)(jax.device_get(arguments), images))


def _compare_batch(
    run: Run,
    images: np.ndarray,
    wanted: Results,
    settings: ExportConfig,
    score_threshold: float | None,
) -> Comparison:
    """Runs a file on some of the images, the first ones, and compares."""
    wanted = {name: array[: len(images)] for name, array in wanted.items()}
    found = run(images, score_threshold)
    if settings.contents != "detections":
        return compare_outputs(found, wanted)
    threshold = settings.score_threshold if score_threshold is None else score_threshold
    return compare_detections(found, wanted, settings, threshold)
