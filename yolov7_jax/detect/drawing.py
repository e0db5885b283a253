"""Boxes, captions and tiles on images: what reports and previews are drawn with."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from yolov7_jax.extras import from_extra
from yolov7_jax.files import write_whole

with from_extra("images"):
    import cv2

Image = UInt8[np.ndarray, "h w 3"]
Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]  # x0, y0, x1, y1

HEADER = 22  # pixels above a tile, for its title
GAP = 8
WHITE = (255, 255, 255)
FONT = cv2.FONT_HERSHEY_SIMPLEX
CAPTION_FONT = cv2.FontFace("sans")  # has the letters of most scripts
LETTERS, LINE = 12, 2  # pixels
MARGIN = 1 / 6  # of the letters' height, around a caption
DESCENT = 0.22  # of the letters' height, under the line that they stand on
USUAL_SIDE = 512  # pixels of an image that is drawn on at a scale of 1
NO_IMAGE = (1 << 15, 1 << 15)  # a size that no caption exceeds
COLOURS = (  # told apart on light and dark images; RGB
    (230, 25, 75),
    (0, 130, 200),
    (60, 180, 75),
    (245, 130, 48),
    (145, 30, 180),
    (0, 128, 128),
    (240, 50, 230),
    (170, 110, 40),
    (128, 0, 0),
    (128, 128, 0),
)


def colour_of(index: int) -> Colour:
    """Returns the colour of a class or an object."""
    return COLOURS[index % len(COLOURS)]


def draw_boxes(
    image: Image,
    boxes_xyxy: Float[np.ndarray, "n 4"],
    colours: Sequence[Colour],
    captions: Sequence[str],
    scale: float = 1.0,
) -> None:
    """Draws boxes with captions into an image, all captions above all boxes.

    A caption stands above its box at the left, or at another of its corners where one before has
    that place.

    Args:
      image: RGB; changed.
      boxes_xyxy: corners in pixels.
      colours: of the boxes.
      captions: of the boxes; "" for none.
      scale: times lines of two pixels and letters of eleven; `readable_scale` suits large images.
    """
    corners = boxes_xyxy.round().astype(int).tolist()
    line = max(1, round(LINE * scale))
    for (x0, y0, x1, y1), colour in zip(corners, colours, strict=True):
        cv2.rectangle(image, (x0, y0), (x1, y1), colour, line)
    letters = max(1, round(LETTERS * scale))
    grounds: dict[int, Box] = {}
    # The last is in front, so it is the first to choose its place and the last to be drawn.
    for n in range(len(captions) - 1, -1, -1):
        if captions[n]:
            size = _caption_size(captions[n], letters)
            grounds[n] = _free_place(image, corners[n], size, list(grounds.values()))
    for n, ground in reversed(grounds.items()):
        _caption(image, captions[n], ground, colours[n], letters)


def readable_scale(height: int, width: int) -> float:
    """Returns a scale for `draw_boxes`: captions can be read when the image is shown whole."""
    return max(1.0, max(height, width) / USUAL_SIDE)


def box_tile(
    image: Image,
    boxes_xyxy: Float[np.ndarray, "n 4"],
    labels: Int[np.ndarray, " n"],
    captions: Sequence[str],
    title: str,
    side: int,
) -> Image:
    """Draws boxes on an image, scaled into a square, with a title above."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = np.ascontiguousarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    draw_boxes(canvas, boxes_xyxy * scale, [colour_of(int(i)) for i in labels], captions)
    return titled(canvas, title, side)


def titled(image: Image, title: str, width: int) -> Image:
    """Returns an image on white with a title above and a gap below and at the right."""
    tile = np.full((HEADER + len(image) + GAP, width + GAP, 3), WHITE, np.uint8)
    tile[HEADER : HEADER + len(image), : image.shape[1]] = image
    shown = title
    while shown and cv2.getTextSize(shown, FONT, 0.42, 1)[0][0] > width:
        shown = shown[:-1]
    cv2.putText(tile, shown, (2, 15), FONT, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return tile


def grid(tiles: Sequence[Image], columns: int) -> Image:
    """Joins tiles of one width, of any heights, row by row."""
    width = tiles[0].shape[1]
    rows = []
    for start in range(0, len(tiles), columns):
        of_row = tiles[start : start + columns]
        row = np.full((max(map(len, of_row)), columns * width, 3), WHITE, np.uint8)
        for number, tile in enumerate(of_row):
            row[: len(tile), number * width : (number + 1) * width] = tile
        rows.append(row)
    return np.vstack(rows)


def write_image(image: Image, path: Path) -> None:
    """Writes an image in the format of the file's suffix, or as PNG where that cannot hold it.

    Raises:
      OSError: the file cannot be written.
    """
    try:
        done, encoded = cv2.imencode(path.suffix, image[..., ::-1])
    except cv2.error:
        done, encoded = False, None
    if not done or encoded is None:
        path = path.with_name(path.name.removesuffix(path.suffix) + ".png")
        _, encoded = cv2.imencode(path.suffix, image[..., ::-1])
    write_whole(path, encoded.tobytes())


def _caption_size(text: str, letters: int) -> tuple[int, int]:
    """Returns width and height of a caption's ground; the same height whatever the letters."""
    _, _, width, height = cv2.getTextSize(NO_IMAGE, text, (0, 0), CAPTION_FONT, letters)
    margin = round(letters * MARGIN)
    return width + 2 * margin, max(height, letters) + 2 * margin


def _free_place(
    image: Image, box: Sequence[int], size: tuple[int, int], taken: Sequence[Box]
) -> Box:
    """Returns where the caption of a box covers least of the places that are taken."""
    (x0, y0, x1, y1), (width, height) = box, size
    tops = (y0 - height, y0, y1, y1 - height)  # above, inside, below, inside: the usual one first
    places = np.asarray([(x, y) for y in tops for x in (x0, x1 - width)])
    places[:, 0] = places[:, 0].clip(0, max(0, image.shape[1] - width))
    places[:, 1] = np.minimum(places[:, 1], image.shape[0] - height)
    inside = places[:, 1] >= 0
    places = places[inside] if inside.any() else places
    others = np.reshape(np.asarray(taken, int), (-1, 4))
    ends = np.minimum(places[:, None] + size, others[:, 2:])
    shared = (ends - np.maximum(places[:, None], others[:, :2])).clip(0).prod(-1)  # [places, taken]
    x, y = places[shared.sum(-1).argmin()].tolist()
    return x, y, x + width, y + height


def _caption(image: Image, text: str, ground: Box, colour: Colour, letters: int) -> None:
    """Writes on a coloured ground."""
    margin = round(letters * MARGIN)
    cv2.rectangle(image, ground[:2], ground[2:], colour, cv2.FILLED)
    origin = ground[0] + margin, ground[3] - margin - round(letters * DESCENT)
    cv2.putText(image, text, origin, WHITE, CAPTION_FONT, letters)
