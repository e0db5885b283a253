"""What a training run is told: one frozen record, read from recipes, flags and run folders."""

import dataclasses
import json
import pathlib
import typing
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import yaml

from yolov7_jax.config import P5_MODELS, P6_MODELS, LossConfig
from yolov7_jax.errors import UserError, did_you_mean
from yolov7_jax.files import write_whole
from yolov7_jax.strict_yaml import load_strictly
from yolov7_jax.training.augment_config import AugmentConfig
from yolov7_jax.training.schedule import OptimConfig

Anchors = tuple[tuple[tuple[float, float], ...], ...]  # width and height in pixels, by level
CacheKind = Literal["none", "memory", "disk"]

MOST_WIDTH = 8  # times the published channels
MOST_SEED = 2**32 - 1
CONFIG_FILE = "config.yaml"
RECIPES = pathlib.Path(__file__).parent / "recipes"
# What may be otherwise when a run is continued: where things are, how they are computed, what is
# told of them, and when it ends. All else decides over the numbers.
CHANGEABLE = {
    "recipe",
    "data",
    "weights",
    "output",
    "remat",
    "shard_parameters",
    "eval_batch_size",
    "eval_epochs",
    "num_workers",
    "worker_processes",
    "cache",
    "patience",
    "max_hours",
    "max_skipped",
    "checkpoint_minutes",
    "tensorboard",
    "wandb",
    "processes",
}


@dataclasses.dataclass(frozen=True)
class ProcessConfig:
    """Which of several processes this is. On TPU pods, Slurm and Open MPI that is found out.

    Attributes:
      coordinator: address HOST:PORT of the first process; the same for all.
      count: number of processes.
      index: number of this one, from 0.
    """

    coordinator: str | None = None
    count: int | None = None
    index: int | None = None


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Trains a detector.

    Attributes:
      recipe: settings to start from: a recipe of the package by its name, or a YAML file. Flags
        override it. Each model has one, its default.
      data: data.yaml of a data set in the YOLO layout, a COCO or VOC data set, or "demo" for the
        embedded one. Empty where a recipe leaves it to the flags.
      model: which network.
      weights: weights to start from: an official .pt file, a .safetensors file or the folder of
        another run. What differs in shape, such as the heads of other classes, starts fresh.
      freeze: names of parameters to leave as they are, such as backbone, or patterns. A norm whose
        parameters are all frozen normalises by its stored statistics and keeps them.
      width: scales the channels of the network; 1 is the published one.
      activation: the network's non-linearity; none means the published one.
      dtype: what the network computes in; weights and losses are float32 always. auto is bfloat16
        on GPUs and TPUs, where also float32 multiplies with fewer digits, unless the environment
        has JAX_DEFAULT_MATMUL_PRECISION=highest.
      remat: compute the stages of the network again in the backward pass instead of keeping what
        they gave: less memory, about a third more time.
      shard_parameters: give each device a part of the weights, averages and momentum instead of a
        copy of all: less memory for large networks on many devices.
      output: folder of the run, a new one; runs/DATA-RECIPE if not given.
      image_size: side of the training and evaluation images in pixels.
      multi_scale: how many sizes, spread between a half and one and a half times the image size,
        steps choose from at random. Each is one more compilation. 0 trains at the image size.
      single_class: take objects of all classes for one.
      epochs: passes over the training split.
      batch_size: images per step, over all devices.
      eval_batch_size: images per step of the evaluation.
      eval_epochs: evaluate after every so many epochs, and after the last.
      seed: of the weights, the order of the images and the augmentation.
      num_workers: threads that prepare images, in each process.
      worker_processes: prepare them in processes instead, which pays with many cores.
      cache: keep resized images between epochs: in memory, or in a file beside the data set.
      rectangular: evaluate images in a few shapes near their own instead of in squares.
      image_weights: choose images at random, those with objects of classes of low accuracy more
        often, instead of each once an epoch.
      plain_epochs: the last so many epochs go without mosaics, mixup and pasting.
      autoanchor: fit the anchors to the data where less than 98 % of the objects are in reach of
        those of the network; once, before the first step.
      anchors: width and height in pixels, by level; those of the network if not given. A run's
        config.yaml holds those that it uses.
      assigner: how objects choose predictions: ota, or the older and cheaper anchor.
      patience: stop after so many epochs without a higher AP; 0 never does.
      max_hours: stop after that time with a checkpoint to continue from.
      max_skipped: stop when the loss or gradients of so many batches in a row are not finite.
      checkpoint_minutes: save within epochs too, at least that often.
      tensorboard: write TensorBoard's files into the run's folder.
      wandb: report to Weights & Biases too; its own environment variables say where.
      optim: optimiser.
      loss: weights of the loss, for 80 classes and 640 pixels; they are scaled to the run's.
      augment: augmentation.
      processes: where several processes train together; not kept in a run's config.yaml.
    """

    recipe: str = "tiny"
    data: str = ""
    model: str = "yolov7-tiny"
    weights: str | None = None
    freeze: tuple[str, ...] = ()
    width: float = 1.0
    activation: Literal["leaky_relu", "silu"] | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    remat: bool = False
    shard_parameters: bool = False
    output: str | None = None
    image_size: int = 640
    multi_scale: int = 0
    single_class: bool = False
    epochs: int = 300
    batch_size: int = 16
    eval_batch_size: int = 16
    eval_epochs: int = 1
    seed: int = 0
    num_workers: int = 2
    worker_processes: bool = False
    cache: CacheKind = "none"
    rectangular: bool = False
    image_weights: bool = False
    plain_epochs: int = 0
    autoanchor: bool = True
    anchors: Anchors | None = dataclasses.field(default=None, metadata={"flag": False})
    assigner: Literal["ota", "anchor"] = "ota"
    patience: int = 0
    max_hours: float | None = None
    max_skipped: int = 10
    checkpoint_minutes: float = 30.0
    tensorboard: bool = True
    wandb: bool = False
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    processes: ProcessConfig = dataclasses.field(default_factory=ProcessConfig)


def check_config(config: TrainConfig) -> None:
    """Refuses settings that cannot be trained with.

    Raises:
      UserError: names every value that is out of its range.
    """
    least = {
        "image_size": 1,
        "epochs": 1,
        "batch_size": 1,
        "eval_batch_size": 1,
        "seed": 0,
        "num_workers": 0,
        "multi_scale": 0,
        "eval_epochs": 1,
        "plain_epochs": 0,
        "patience": 0,
        "max_skipped": 1,
    }
    faults = [
        f"{_flag(name)} (={getattr(config, name)}) must be at least {bound}"
        for name, bound in least.items()
        if getattr(config, name) < bound
    ]
    if config.multi_scale == 1:
        faults.append("--multi-scale (=1) must be 0 or at least 2; --image-size chooses one size")
    if not 0 < config.width <= MOST_WIDTH:
        faults.append(f"--width (={config.width}) must be more than 0 and at most {MOST_WIDTH}")
    if config.cache == "memory" and config.worker_processes and config.num_workers:
        faults.append("--cache memory is not shared by --worker-processes; use --cache disk")
    if config.max_hours is not None and not config.max_hours > 0:
        faults.append(f"--max-hours (={config.max_hours}) must be more than 0")
    if not config.checkpoint_minutes > 0:
        faults.append(f"--checkpoint-minutes (={config.checkpoint_minutes}) must be more than 0")
    faults += [
        f"{_flag(name)} must not be empty"
        for name in ("output", "weights")
        if getattr(config, name) == ""
    ]
    if "" in config.freeze:
        faults.append("--freeze: a name must not be empty")
    if config.seed > MOST_SEED:
        faults.append(f"--seed (={config.seed}) must be at most {MOST_SEED}")
    if faults:
        raise UserError("; ".join(faults))


def check_image_size(image_size: int, strides: tuple[int, ...]) -> None:
    """Refuses an image size that the network's grids do not divide.

    Raises:
      UserError: the size is no multiple of the largest stride.
    """
    largest = max(strides)
    if image_size % largest:
        below = image_size // largest * largest
        near = f"{below} or {below + largest}" if below else f"{largest}"
        raise UserError(
            f"--image-size (={image_size}) must be a multiple of {largest}, the largest stride; "
            f"{near} would do"
        )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def recipe_of(model: str) -> str:
    """Returns the recipe of a model; the first one for what is no model."""
    if model in P6_MODELS:
        return "p6"
    return "p5" if model in P5_MODELS and "tiny" not in model else TrainConfig.recipe


def fixed_settings(config: TrainConfig) -> dict[str, Any]:
    """Returns the settings that a run keeps to its end, as JSON, by names as in `optim.lr0`."""
    settings = {}
    for name, value in dataclasses.asdict(config).items():
        if name not in CHANGEABLE:
            inner = value if isinstance(value, dict) else {"": value}
            settings |= {f"{name}.{key}".rstrip("."): part for key, part in inner.items()}
    return json.loads(json.dumps(settings))


def load_recipe(recipe: str) -> TrainConfig:
    """Reads a recipe.

    Args:
      recipe: a name of a recipe that comes with the package, or the path of a YAML file.

    Returns:
      The configuration; what the recipe does not mention has its default.

    Raises:
      UserError: there is no such recipe, or it is not a proper one.
    """
    is_path = recipe.endswith((".yaml", ".yml")) or "/" in recipe
    path = pathlib.Path(recipe) if is_path else RECIPES / f"{recipe}.yaml"
    if not is_path and not path.is_file():
        names = sorted(known.stem for known in RECIPES.glob("*.yaml"))
        raise UserError(
            f"unknown recipe {recipe!r}; known are {', '.join(names)}, or the path of a YAML file"
            + did_you_mean(recipe, names)
        )
    return dataclasses.replace(read_yaml(path), recipe=recipe)


def read_yaml(path: pathlib.Path, *, whole: bool = False) -> TrainConfig:
    """Reads a configuration strictly.

    Args:
      path: a YAML file with any of the fields of `TrainConfig`; groups are nested mappings.
      whole: it has all of them, as `write_yaml` writes it.

    Returns:
      The configuration; fields that the file does not mention have their defaults.

    Raises:
      UserError: the file is missing or is no YAML, a key is unknown (the message suggests the one
        that was meant), a value has the wrong type, or a field lacks that must not.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: cannot be read: {reason}") from error
    try:
        tree = load_strictly(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: is not YAML: {reason}") from error
    tree = {} if tree is None else tree
    config = _build(TrainConfig, tree, str(path), "")
    missing = [field.name for field in dataclasses.fields(config) if field.name not in tree]
    missing = [name for name in missing if name != "processes"]
    if whole and missing:
        raise UserError(
            f"{path}: lacks {', '.join(missing)}; it is not as the start of the run wrote it"
        )
    return config


def write_yaml(config: TrainConfig, path: pathlib.Path) -> None:
    """Writes a configuration, so that `read_yaml` gives it back: all but the processes."""
    tree = dataclasses.asdict(config)
    del tree["processes"]
    write_whole(path, yaml.safe_dump(tree, sort_keys=False).encode())


def _build(cls: type, tree: Any, source: str, prefix: str) -> Any:
    """Makes a dataclass of a mapping; every fault of the file's level is in one error."""
    if not isinstance(tree, Mapping):
        where = f"{prefix.rstrip('.')} " if prefix else ""
        raise UserError(f"{source}: {where}must be a mapping of settings, got {tree!r}")
    hints = typing.get_type_hints(cls)
    faults, values = [], {}
    for key, value in tree.items():
        if key not in hints:
            faults.append(f"unknown key {prefix}{key}{did_you_mean(str(key), hints, prefix)}")
        elif dataclasses.is_dataclass(hints[key]):
            values[key] = _build(hints[key], value, source, f"{prefix}{key}.")
        else:
            try:
                values[key] = msgspec.convert(value, hints[key])
            except msgspec.ValidationError:
                faults.append(f"{prefix}{key} must be {_wanted(hints[key])}, got {value!r}")
    if faults:
        raise UserError(f"{source}: " + "; ".join(faults))
    try:
        return cls(**values)
    except UserError as error:
        raise UserError(f"{source}: {prefix}{error}") from error


def _wanted(hint: Any) -> str:
    """Returns a type in words."""
    words = {
        **{int: "an integer", float: "a number", str: "text", bool: "true or false"},
        **{type(None): "null", tuple[str, ...]: "a list of texts"},
    }
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return f"one of {', '.join(parts)}"
    if hint in words or not parts:
        return words.get(hint, str(hint))
    if typing.get_origin(hint) is tuple:
        return "lists of pairs of numbers, one for each level"
    return " or ".join(map(_wanted, parts))
