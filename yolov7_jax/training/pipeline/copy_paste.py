"""Objects put onto others: copy-paste within a scene, paste-in from other images."""

import numpy as np

from yolov7_jax.data.dataset import Polygons
from yolov7_jax.training.augment_config import AugmentConfig
from yolov7_jax.training.pipeline.geometry import (
    concatenate_polygons,
    covered_share,
    has_outline,
    hull_of,
    keeps_enough,
    outline_of,
    scale_and_shift,
    warp_points,
)
from yolov7_jax.training.pipeline.plan import PASTE_PLACES, Images, Sample, Scene, Tile
from yolov7_jax.training.pipeline.render import draw_tile

MAX_COVERED = 0.3  # of the box of any object by one that is put over it
PASTE_SKIPPED = 0.2  # probability that a place for a cut-out stays empty


def copy_paste(scene: Scene, config: AugmentConfig, rng: np.random.Generator) -> Scene:
    """Repeats some of a scene's objects, mirrored left to right about its middle.

    Args:
      scene: a scene; only its objects with an outline are repeated.
      config: `copy_paste` is the share of those that are drawn to be repeated. An object that
        would cover 30 % of another's box or more is not.
      rng: source of the choice.
    """
    if not config.copy_paste:
        return scene
    rows = np.flatnonzero(has_outline(scene.polygons))
    rows = rng.permutation(rows)[: round(config.copy_paste * len(rows))]
    width = scene.size[0]
    mirror = scale_and_shift(-1, 1, width, 0)
    tiles, boxes, copied, outlines = list(scene.tiles), scene.boxes_xyxy, [], []
    for row in rows.tolist():
        box = scene.boxes_xyxy[row, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (width, 0, width, 0)
        if (covered_share(boxes, box) >= MAX_COVERED).any():
            continue
        boxes = np.concatenate([boxes, box[None].astype(np.float32)])
        source = scene.tiles[scene.tile[row]]
        outline = outline_of(scene.polygons, row)
        to_image = np.linalg.inv(source.matrix)
        in_image = tuple(warp_points(part, to_image) for part in outline)
        x0, y0, x1, y1 = hull_of(np.concatenate(in_image)).tolist()
        left, top, right, bottom = source.region_xyxy
        region = max(x0, left), max(y0, top), min(x1, right), min(y1, bottom)
        tiles.append(Tile(source.image, mirror @ source.matrix, region, in_image))
        copied.append(row)
        outlines.append([warp_points(part, mirror) for part in outline])
    if not copied:
        return scene
    return Scene(
        scene.size,
        tuple(tiles),
        boxes,
        np.concatenate([scene.labels, scene.labels[copied]]),
        concatenate_polygons([scene.polygons, Polygons.pack(outlines)]),
        np.concatenate(
            [scene.tile, np.arange(len(scene.tiles), len(tiles), dtype=scene.tile.dtype)]
        ),
    )


def paste_in(sample: Sample, images: Images, longest: int, rng: np.random.Generator) -> Sample:
    """Puts cut-outs of objects of the data set at random places of a sample.

    There are 20 places, of sides up to 0.75 to 0.0625 of the sample's, each left empty with
    probability 0.2. A place gets an object with an outline, drawn from an image that is drawn
    first, scaled to fit. It stays empty where the object would cover 30 % of another's box or
    more, or be too small or too thin to be learnt.

    Args:
      sample: an image; it is not changed.
      images: the data set.
      longest: images with a longer side than that are shrunk to it first.
      rng: source of everything random.
    """
    height, width = sample.image.shape[:2]
    limits = np.repeat([side for _, side in PASTE_PLACES], [count for count, _ in PASTE_PLACES])
    filled = rng.random(len(limits)) >= PASTE_SKIPPED
    sides = rng.uniform(0, 1, (len(limits), 2)) * limits[:, None] * (width, height)
    corners = rng.random((len(limits), 2)) * ((width, height) - sides)
    chosen = rng.integers(len(images), size=len(limits)).tolist()
    chosen_objects = rng.random(len(limits))

    image, boxes, labels, outlines = sample.image, sample.boxes_xyxy, [], []
    for place in np.flatnonzero(filled).tolist():
        source_index = chosen[place]
        objects = images.objects(source_index)
        outlined = np.flatnonzero(has_outline(objects.polygons))
        if not len(outlined):
            continue
        row = int(outlined[int(chosen_objects[place] * len(outlined))])
        size = images.size(source_index)
        outline = tuple(
            part.astype(np.float64) * size for part in outline_of(objects.polygons, row)
        )
        box = hull_of(np.concatenate(outline))
        zoom = float((sides[place] / np.maximum(box[2:] - box[:2], 1e-9)).min())
        matrix = scale_and_shift(zoom, zoom, *(corners[place] - zoom * box[:2]).tolist())
        pasted = np.concatenate([corners[place], corners[place] + zoom * (box[2:] - box[:2])])
        whole = pasted[None]
        if not keeps_enough(whole, whole, outlined=np.ones(1, bool)).all():
            continue  # too small or too thin
        if (covered_share(boxes, pasted) >= MAX_COVERED).any():
            continue
        if image is sample.image:
            image = image.copy()
        tile = Tile(source_index, matrix, tuple(box.tolist()), outline)
        draw_tile(image, tile, images, longest)
        boxes = np.concatenate([boxes, whole.astype(np.float32)])
        labels.append(objects.labels[row])
        outlines.append([warp_points(part, matrix) for part in outline])
    return sample._replace(image=image).with_objects(
        boxes[len(sample.boxes_xyxy) :], np.asarray(labels, np.int32), Polygons.pack(outlines)
    )
