"""Boxes, captions and tiles on pictures: what reports and previews are drawn with."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from yolov7_jax.files import write_whole

try:
    import cv2
except ImportError as error:
    raise ImportError(
        "yolov7_jax.drawing needs OpenCV: pip install 'yolov7-jax[images]'"
    ) from error

Picture = UInt8[np.ndarray, "h w 3"]
Colour = tuple[int, int, int]

HEADER = 22  # pixels above a tile, for its title
GAP = 8
WHITE = (255, 255, 255)
FONT = cv2.FONT_HERSHEY_SIMPLEX
CAPTION_FONT = cv2.FontFace("sans")  # has the letters of most scripts
LETTERS, LINE = 12, 2  # pixels
DESCENT = 0.22  # of the letters' height, under the line that they stand on
USUAL_SIDE = 512  # pixels of a picture that is drawn on at a scale of 1
NO_PICTURE = (1 << 15, 1 << 15)  # a size that no caption exceeds
COLOURS = (  # told apart on light and dark pictures; RGB
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
    picture: Picture,
    boxes_xyxy: Float[np.ndarray, "n 4"],
    colours: Sequence[Colour],
    captions: Sequence[str],
    scale: float = 1.0,
) -> None:
    """Draws boxes with captions into a picture, all captions above all boxes.

    Args:
      picture: RGB; changed.
      boxes_xyxy: corners in pixels.
      colours: of the boxes.
      captions: of the boxes; "" for none.
      scale: times lines of two pixels and letters of eleven; `readable_scale` suits large pictures.
    """
    corners = boxes_xyxy.round().astype(int).tolist()
    line = max(1, round(LINE * scale))
    for (x0, y0, x1, y1), colour in zip(corners, colours, strict=True):
        cv2.rectangle(picture, (x0, y0), (x1, y1), colour, line)
    for (x0, y0, _, _), colour, text in zip(corners, colours, captions, strict=True):
        if text:
            _caption(picture, text, x0, y0, colour, scale)


def readable_scale(height: int, width: int) -> float:
    """Returns a scale for `draw_boxes`: captions can be read when the picture is shown whole."""
    return max(1.0, max(height, width) / USUAL_SIDE)


def box_tile(
    image: Picture,
    boxes_xyxy: Float[np.ndarray, "n 4"],
    labels: Int[np.ndarray, " n"],
    captions: Sequence[str],
    title: str,
    side: int,
) -> Picture:
    """Draws boxes on a picture, scaled into a square, with a title above."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = np.ascontiguousarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    draw_boxes(picture, boxes_xyxy * scale, [colour_of(int(i)) for i in labels], captions)
    return titled(picture, title, side)


def titled(picture: Picture, title: str, width: int) -> Picture:
    """Returns a picture on white with a title above and a gap below and at the right."""
    tile = np.full((HEADER + len(picture) + GAP, width + GAP, 3), WHITE, np.uint8)
    tile[HEADER : HEADER + len(picture), : picture.shape[1]] = picture
    shown = title
    while shown and cv2.getTextSize(shown, FONT, 0.42, 1)[0][0] > width:
        shown = shown[:-1]
    cv2.putText(tile, shown, (2, 15), FONT, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return tile


def grid(tiles: Sequence[Picture], columns: int) -> Picture:
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


def write_png(picture: Picture, path: Path) -> None:
    """Writes a picture.

    Raises:
      OSError: the file cannot be written.
      RuntimeError: OpenCV cannot encode it.
    """
    encoded, png = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not encoded:
        raise RuntimeError(f"{path}: OpenCV could not encode the picture")
    write_whole(path, png.tobytes())


def _caption(picture: Picture, text: str, x: int, y: int, colour: Colour, scale: float) -> None:
    """Writes on a coloured ground above a box, or inside where there is no room above."""
    size = round(LETTERS * scale)
    margin = round(2 * scale)
    left, _, width, height = cv2.getTextSize(NO_PICTURE, text, (0, 0), CAPTION_FONT, size)
    height = max(height, size)  # the same ground whatever the letters
    x = min(max(x, 0), max(0, picture.shape[1] - width - 2 * margin))
    over = y >= height + 2 * margin
    bottom = y if over else min(y + height + 2 * margin, picture.shape[0])
    corner = x + width + 2 * margin, bottom
    cv2.rectangle(picture, (x, bottom - height - 2 * margin), corner, colour, cv2.FILLED)
    origin = x + margin - left, bottom - margin - round(size * DESCENT)
    cv2.putText(picture, text, origin, WHITE, CAPTION_FONT, size)
