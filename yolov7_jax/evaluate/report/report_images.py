"""Images in a page, with their objects and what was detected drawn over them."""

import base64
import pathlib
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from yolov7_jax.data.images import UnreadableImageError, read_image, resize
from yolov7_jax.evaluate.matching import Kind
from yolov7_jax.evaluate.report.html import Element, faint, legend, node
from yolov7_jax.evaluate.report.results import Results

IMAGES = 6  # of the worst, and of the best
MOST_UNREADABLE = 20  # images tried in vain before giving up
SIDE = 480  # pixels of the longer side
MOST_BYTES = 130_000  # of a JPEG
QUALITIES = (82, 65, 45, 25)
MOST_BOXES = 80  # detections drawn in an image
MOST_CAPTIONS = 14  # more than so many hide the image: then only wrong detections have one
COLUMN = 350  # pixels that an image is about wide on the page
CAPTION = 11.0  # pixels that a caption is high there


def kind_class(kind: int) -> str:
    """Returns how the style of the page calls a kind of detection."""
    return Kind(kind).name.lower()


def kind_name(kind: int) -> str:
    """Returns what people call a kind of detection."""
    return Kind(kind).name.lower().replace("_", " ")


class Ranking(NamedTuple):
    """Images by how well their objects were found, at the score threshold of the results.

    Attributes:
      objects: per image, those to find.
      found: of these.
      wrong: detections that found none.
      f1: of both; 0 where there is neither object nor detection.
      worst: images with faults, the lowest F1 first; of equals, more faults are worse.
      best: images with found objects, the highest F1 first; of equals, more of them are better.
    """

    objects: Int[np.ndarray, " n"]
    found: Int[np.ndarray, " n"]
    wrong: Int[np.ndarray, " n"]
    f1: Float[np.ndarray, " n"]
    worst: list[int]
    best: list[int]

    def caption(self, image: int) -> str:
        """Returns the numbers of an image in words."""
        return (
            f"F1 {self.f1[image]:.2f}: {self.found[image]} of {self.objects[image]} objects found, "
            f"{self.wrong[image]} wrong"
        )


def rank_images(results: Results) -> Ranking:
    """Counts what was found in each image."""
    num_images = len(results.dataset)

    def count(images: np.ndarray, which: np.ndarray) -> Int[np.ndarray, " n"]:
        return np.bincount(np.asarray(images, np.int64)[which], minlength=num_images)

    objects = count(results.truth.image, results.real)
    found = count(results.truth.image, results.found)
    wrong = count(results.detections.image, results.shown) - found
    faults = objects - found + wrong
    f1 = 2 * found / np.maximum(objects + found + wrong, 1)
    return Ranking(
        objects,
        found,
        wrong,
        f1,
        worst=[int(image) for image in np.lexsort((-faults, f1)) if faults[image]],
        best=[int(image) for image in np.lexsort((-found, -f1)) if found[image]],
    )


def image_parts(results: Results) -> list[Element]:
    """Returns the images with the lowest and with the highest F1, and what their boxes mean.

    Images that cannot be read are left out and named.
    """
    ranking = rank_images(results)
    used: set[int] = set()
    children = [
        faint(
            f"By the F1 of their detections from a score of {results.curves.best_score:.3f}. "
            "A box tells its class, score and overlap where the pointer rests on it."
        ),
        kind_legend(),
    ]
    for heading, images in (("Worst", ranking.worst), ("Best", ranking.best)):
        figures, unreadable = [], []
        for image in images:
            if len(figures) == IMAGES or len(unreadable) == MOST_UNREADABLE:
                break
            if image in used:
                continue
            try:
                figures.append(_figure(results, image, ranking.caption(image)))
                used.add(image)
            except UnreadableImageError as error:
                unreadable.append(str(error))
        grid = node("div", {"class": "grid"}, *figures) if figures else faint("None.")
        children += [node("h3", {}, heading), grid]
        if unreadable:
            more = "" if len(unreadable) == 1 else f" and {len(unreadable) - 1} more"
            children.append(faint(f"Left out: {unreadable[0]}{more}"))
    return children


def kind_legend() -> Element:
    """Returns what the colours of boxes mean."""
    kinds = [kind for kind in Kind if kind != Kind.IGNORED]
    return legend(
        [
            *((kind_name(kind), "", kind_class(kind)) for kind in kinds),
            ("missed object", "", "missed dashed"),
            ("object that was found", "", "truth"),
            ("crowd region", "", "crowd dashed"),
        ]
    )


def _figure(results: Results, image: int, caption: str) -> Element:
    """Returns an image with boxes, each with its class and score as a tooltip.

    Raises:
      UnreadableImageError: the image cannot be read.
    """
    path = results.dataset.paths[image]
    pixels = read_image(path)
    scale = min(1.0, SIDE / max(pixels.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    address = jpeg_address(resize(pixels, width, height), MOST_BYTES)
    objects = np.flatnonzero(np.asarray(results.truth.image) == image)
    rows = np.flatnonzero(results.shown & (np.asarray(results.detections.image) == image))
    rows = rows[np.argsort(-np.asarray(results.detections.scores)[rows], kind="stable")]
    drawn = rows[:MOST_BOXES]
    boxes = [_object(results, int(row), scale) for row in objects]
    boxes += [_detection(results, int(row), scale) for row in drawn[::-1]]
    if len(drawn) < len(rows):
        caption += f"; the best {len(drawn)} of {len(rows)} detections are drawn"
    name = pathlib.PurePath(path).name
    return node(
        "figure",
        {},
        node(
            "svg",
            {"viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": name},
            node("image", {"href": address, "width": width, "height": height}),
            *boxes,
            *_captions(results, objects, drawn, scale, width, height),
        ),
        node("figcaption", {}, node("b", {}, name), node("br", {}), caption),
    )


def jpeg_address(image: UInt8[np.ndarray, "h w 3"], most_bytes: int) -> str:
    """Returns an image as text, of lower quality where it would be larger than that."""
    colours = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    jpeg = b""
    for quality in QUALITIES:
        encoded, data = cv2.imencode(".jpg", colours, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if not encoded:
            raise RuntimeError("OpenCV could not encode an image")
        jpeg = data.tobytes()
        if len(jpeg) <= most_bytes:
            break
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _box(box_xyxy: np.ndarray, scale: float, kind: str, title: str) -> Element:
    x0, y0, x1, y1 = (float(value) * scale for value in box_xyxy)
    place = {"x": x0, "y": y0, "width": max(x1 - x0, 0.5), "height": max(y1 - y0, 0.5)}
    return node("rect", {"class": f"box {kind}", **place}, node("title", {}, title))


def _object(results: Results, row: int, scale: float) -> Element:
    name = results.dataset.names[results.truth.labels[row]]
    box = results.truth.boxes_xyxy[row]
    if not results.real[row]:
        return _box(box, scale, "crowd", f"{name}: crowd region")
    if results.found[row]:
        return _box(box, scale, "truth", f"{name}: object")
    return _box(box, scale, "missed", f"{name}: missed")


def _detection(results: Results, row: int, scale: float) -> Element:
    kind, about = results.matches.kinds[row], results.matches.objects[row]
    overlap = f", IoU {results.matches.ious[row]:.2f}" if about >= 0 else ""
    title = f"{_named(results, row)}: {kind_name(kind)}{overlap}"
    return _box(results.detections.boxes_xyxy[row], scale, kind_class(kind), title)


def _named(results: Results, row: int) -> str:
    name = results.dataset.names[results.detections.labels[row]]
    return f"{name} {results.detections.scores[row]:.2f}"


def _captions(
    results: Results,
    objects: Int[np.ndarray, " m"],
    drawn: Int[np.ndarray, " k"],
    scale: float,
    width: int,
    height: int,
) -> list[Element]:
    """Returns the classes of missed objects, and classes and scores of detections."""
    missed = objects[~results.found[objects] & results.real[objects]]
    is_right = results.matches.kinds[drawn] == Kind.CORRECT
    rows = np.concatenate([drawn[~is_right], drawn[is_right]])
    if len(missed) + len(rows) > MOST_CAPTIONS:
        missed, rows = missed[:0], drawn[~is_right][:MOST_CAPTIONS]
    names, labels = results.dataset.names, results.truth.labels
    size = CAPTION * width / COLUMN
    # Those of objects stand below, not to cover those of detections that are about them.
    entries = [
        (results.truth.boxes_xyxy[row], 3, 1.0, f"{names[labels[row]]} missed") for row in missed
    ]
    entries += [
        (results.detections.boxes_xyxy[row], 1, -0.25, _named(results, int(row))) for row in rows
    ]
    texts = []
    for box, edge, below, text in entries:
        # Letters are two thirds as wide as high, at most.
        x = min(float(box[0]) * scale, max(0.0, width - 0.67 * size * len(text)))
        y = min(max(float(box[edge]) * scale + below * size, size), height - 0.25 * size)
        texts.append(node("text", {"class": "caption", "x": x, "y": y, "font-size": size}, text))
    return texts
