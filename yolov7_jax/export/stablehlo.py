"""StableHLO: one file that JAX runs on processors, GPUs and TPUs, without this library.

The file is a zip archive: `program.bin` is what `jax.export` wrote, `arguments/*.npy` the weights
and thresholds that it takes, and `metadata.json` the facts about it. docs/export.md has a loader.
"""

import json
import zipfile
from pathlib import Path

import jax
import numpy as np
from jax import export

from yolov7_jax.export.export_config import ExportConfig
from yolov7_jax.export.export_metadata import Metadata, describe_program
from yolov7_jax.export.program import program_of
from yolov7_jax.export.verify import Results, Run
from yolov7_jax.model import Yolov7

PLATFORMS = ("cpu", "cuda", "tpu")
IMAGES: Metadata = {"layout": "NHWC", "dtype": "uint8", "range": [0, 255]}


def write(model: Yolov7, settings: ExportConfig, facts: Metadata, path: Path) -> None:
    """Writes a deployed model as StableHLO, facts included; a `Write`."""
    program, arguments = program_of(model, settings)
    batch = export.symbolic_shape("batch")[0] if settings.batch is None else settings.batch
    images = jax.ShapeDtypeStruct((batch, *settings.image_size, 3), np.uint8)
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in arguments.items()}
    exported = export.export(jax.jit(program), platforms=PLATFORMS)(shapes, images)
    metadata = {
        **facts,
        **describe_program(settings, IMAGES),
        "jax": jax.__version__,
        "platforms": PLATFORMS,
        "arguments": list(arguments),
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps(metadata, ensure_ascii=False, indent=1))
        archive.writestr("program.bin", bytes(exported.serialize()))
        for name, array in arguments.items():
            with archive.open(f"arguments/{name}.npy", "w") as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)


def load(path: Path, settings: ExportConfig) -> Run:
    """Returns what a file computes; a `Load`."""
    with zipfile.ZipFile(path) as archive:
        metadata = json.loads(archive.read("metadata.json"))
        program = export.deserialize(bytearray(archive.read("program.bin")))
        arguments = {}
        for name in metadata["arguments"]:
            with archive.open(f"arguments/{name}.npy") as file:
                arguments[name] = np.lib.format.read_array(file, allow_pickle=False)
    call = jax.jit(program.call)

    def run(images: np.ndarray, score_threshold: float | None) -> Results:
        changed = (
            {} if score_threshold is None else {"score_threshold": np.float32(score_threshold)}
        )
        return jax.device_get(call(arguments | changed, images))

    return run
