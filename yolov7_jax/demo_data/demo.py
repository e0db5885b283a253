"""The embedded default data set: drawn scenes with five kinds of things, in the YOLO txt layout.

Scenes have objects from a dozen pixels to half the image, overlap, cluttered and textured
grounds, changing light and noise; a few are empty. The same images are drawn every time.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, Int32, UInt8

from yolov7_jax.config import DEMO
from yolov7_jax.demo_data.scenery import add_clutter, draw_background, relight
from yolov7_jax.demo_data.sprites import PARTS, Sprite, draw_sprite, random_colour
from yolov7_jax.errors import UserError
from yolov7_jax.files import user_cache

DEMO_VERSION = 2  # changes whenever any image or label does; names the cache folder
WIDTH, HEIGHT = 256, 192
SPLIT_SIZES = {"train": 1000, "val": 150}
NAMES = tuple(PARTS)

MIN_SIZE, MAX_SIZE = 16.0, 120.0  # longer side of objects, in pixels
SIZE_SKEW = 0.6  # 1 would draw sizes log-uniformly; less makes small objects rarer
MOST_OBJECTS = 9
EMPTY_SHARE = 0.06
MIN_VISIBLE = 0.35  # of an object's area; with less it has no label
MIN_SIDE = 8  # pixels; a smaller visible part has no label
JPEG_QUALITY = 92

_HEADER = f"# The demo data set of yolov7_jax, version {DEMO_VERSION}"


class Scene(NamedTuple):
    """A drawn image and its objects.

    Attributes:
      image: 8-bit RGB.
      labels: class indices into `NAMES`.
      boxes_xyxy: corners of the visible parts, in pixels.
    """

    image: UInt8[np.ndarray, "h w 3"]
    labels: Int32[np.ndarray, " m"]
    boxes_xyxy: Float32[np.ndarray, "m 4"]


def data_file(data: str) -> Path:
    """Returns what describes a data set.

    Args:
      data: what `load_dataset` opens, or "demo" for the embedded data set, made if need be.

    Raises:
      UserError: the embedded data set cannot be made.
    """
    return make_demo() if data == DEMO else Path(os.path.expanduser(data))


def make_demo(folder: str | os.PathLike[str] | None = None) -> Path:
    """Returns the demo data set's data.yaml, drawing the images if there are none yet.

    They are drawn into a temporary folder beside and moved into place when complete, so that
    neither an interruption nor a second process leaves half a data set. Takes some 15 s once.

    Args:
      folder: where the data set is or shall be; by default a folder that names the version, in
        `$XDG_CACHE_HOME/yolov7_jax` or `~/.cache/yolov7_jax`.

    Raises:
      UserError: the folder holds something else, or cannot be written.
    """
    usual = user_cache() / f"demo-{DEMO_VERSION}"
    target = Path(usual if folder is None else folder).expanduser().absolute()
    if _is_complete(target):
        return target / "data.yaml"
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(
            f"{target}: exists and is not version {DEMO_VERSION} of the demo data set; "
            "wanted a new or an empty folder"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror}") from error
    try:
        _write(scratch)
        scratch.chmod(0o755)  # temporary folders are private; this one is to be kept
        try:
            scratch.rename(target)
        except OSError:
            if not _is_complete(target):  # else another process was faster
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target / "data.yaml"


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draws one image.

    Args:
      rng: decides everything; the same state gives the same image.
    """
    image = draw_background(WIDTH, HEIGHT, rng)
    add_clutter(image, rng)
    owner = np.full((HEIGHT, WIDTH), -1, np.int32)  # which object is seen at each pixel
    labels, areas = [], []
    count = 0 if rng.random() < EMPTY_SHARE else 1 + rng.binomial(MOST_OBJECTS - 1, 0.45)
    sizes = MIN_SIZE * (MAX_SIZE / MIN_SIZE) ** (rng.random(count) ** SIZE_SKEW)
    # Large things come first as a rule, so that they stand behind small ones.
    for size in sizes[np.argsort(-sizes * rng.uniform(0.5, 1.0, count))]:
        label = int(rng.integers(len(NAMES)))
        sprite = draw_sprite(NAMES[label], size, rng)
        _place(image, owner, sprite, len(labels), rng)
        labels.append(label)
        areas.append(int((sprite.alpha > 0.5).sum()))
    if rng.random() < 0.3:
        for _ in range(int(rng.integers(1, 4))):  # a fence or twigs before the camera
            start, end = rng.uniform((0, 0), (WIDTH, HEIGHT), (2, 2)).astype(int).tolist()
            cv2.line(image, start, end, random_colour(rng), 1, cv2.LINE_AA)
    boxes = [_visible_box(owner == number, area) for number, area in enumerate(areas)]
    kept = [number for number, box in enumerate(boxes) if box is not None]
    return Scene(
        relight(image, rng),
        np.asarray([labels[number] for number in kept], np.int32),
        np.asarray([boxes[number] for number in kept], np.float32).reshape(-1, 4),
    )


def _place(
    image: np.ndarray, owner: np.ndarray, sprite: Sprite, number: int, rng: np.random.Generator
) -> None:
    """Pastes an object where it hides not too much of those before it."""
    height, width = sprite.alpha.shape
    tolerance = 0.02 if rng.random() < 0.6 else 0.45  # of its own area, on top of others
    best, least = (0, 0), np.inf
    for _ in range(12):
        x = int(rng.uniform(0.15 * width, WIDTH - 0.15 * width) - width / 2)
        y = int(rng.uniform(0.15 * height, HEIGHT - 0.15 * height) - height / 2)
        window, part = _overlap(x, y, sprite)
        solid = sprite.alpha[part] > 0.5
        hidden = float((solid & (owner[window] >= 0)).mean())
        if hidden < least:
            best, least = (x, y), hidden
        if least <= tolerance:
            break
    window, part = _overlap(*best, sprite)
    alpha = sprite.alpha[part][..., None]
    image[window] = np.round(image[window] * (1 - alpha) + sprite.image[part] * alpha)
    owner[window][sprite.alpha[part] > 0.5] = number


def _overlap(x: int, y: int, sprite: Sprite) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Returns the window of the image that a sprite at (x, y) covers, and the part seen there."""
    height, width = sprite.alpha.shape
    x0, y0 = max(x, 0), max(y, 0)
    x1, y1 = max(min(x + width, WIDTH), x0), max(min(y + height, HEIGHT), y0)
    return np.s_[y0:y1, x0:x1], np.s_[y0 - y : y1 - y, x0 - x : x1 - x]


def _visible_box(seen: np.ndarray, area: int) -> tuple[int, int, int, int] | None:
    """Returns the box around what is seen of an object, or None where that is too little."""
    if seen.sum() < MIN_VISIBLE * area:
        return None
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    x0, y0, x1, y1 = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    if min(x1 - x0, y1 - y0) < MIN_SIDE:
        return None
    return int(x0), int(y0), int(x1), int(y1)


def _is_complete(folder: Path) -> bool:
    data_yaml = folder / "data.yaml"
    return data_yaml.is_file() and _HEADER in data_yaml.read_text(errors="replace")


def _write(folder: Path) -> None:
    for split in SPLIT_SIZES:
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for number in range(SPLIT_SIZES[split]):
            _write_scene(folder, split, number)
    lines = [_HEADER, "path: .", *(f"{split}: images/{split}" for split in SPLIT_SIZES)]
    lines += [f"nc: {len(NAMES)}", f"names: [{', '.join(NAMES)}]", ""]
    (folder / "data.yaml").write_text("\n".join(lines), encoding="utf-8")


def _write_scene(folder: Path, split: str, number: int) -> None:
    rng = np.random.default_rng((DEMO_VERSION, tuple(SPLIT_SIZES).index(split), number))
    scene = draw_scene(rng)
    bgr = cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
    (folder / "images" / split / f"{number:04}.jpg").write_bytes(encoded.tobytes())
    half = np.asarray((WIDTH, HEIGHT), np.float32)
    centres = (scene.boxes_xyxy[:, :2] + scene.boxes_xyxy[:, 2:]) / 2 / half
    sides = (scene.boxes_xyxy[:, 2:] - scene.boxes_xyxy[:, :2]) / half
    rows = zip(scene.labels, np.concatenate([centres, sides], 1), strict=True)
    text = "".join(f"{label} {' '.join(f'{value:.6f}' for value in box)}\n" for label, box in rows)
    (folder / "labels" / split / f"{number:04}.txt").write_text(text, encoding="utf-8")
