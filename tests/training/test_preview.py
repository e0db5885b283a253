"""The preview shows the images, the objects and the cells that training will use."""

import cv2
import jax
import numpy as np
import pytest

from yolov7_jax import LossConfig, assign_anchor, create, pad_targets
from yolov7_jax.config import HeadConfig
from yolov7_jax.data.dataset import Dataset
from yolov7_jax.detect.drawing import COLOURS, GAP, HEADER
from yolov7_jax.training import preview
from yolov7_jax.training.pipeline.augment import AugmentConfig
from yolov7_jax.training.pipeline.stream import Batch
from yolov7_jax.training.preview import PAGE_TILE, assignment_page, choices, write_preview
from yolov7_jax.training.train_config import TrainConfig

TOP = HEADER + GAP + HEADER  # of the first row's images: below a title of the row and their own

HEAD = HeadConfig(1, (8, 16), [[(16, 16), (32, 32)], [(48, 48), (96, 96)]])


def page(boxes):
    """The coarse page of one white image of 64 pixels."""
    rows = np.array([[0, 0, *box] for box in boxes])
    targets = pad_targets(rows, batch_size=1, max_objects=8)
    lead = [np.zeros((1, 64 // s, 64 // s, 2, 6), np.float32) for s in HEAD.strides]
    assignment = jax.device_get(assign_anchor(lead, targets, HEAD, LossConfig()))
    batch = Batch(np.full((1, 64, 64, 3), 255, np.uint8), targets)
    return assignment_page(batch, 0, HEAD, ["coarse"], [assignment])


def strip(image, stride, level, row, column, anchor):
    """A place in a strip of a cell, where no caption covers it."""
    side = PAGE_TILE / 64 * stride
    x = (column + (anchor + 0.5) / 2) * side + level * (PAGE_TILE + 8)
    return image[TOP + round((row + 0.25) * side), round(x)]


def test_the_strips_of_an_objects_cells_have_its_colour_and_no_others():
    # Centre (20.8, 20.8): on stride 8 cell (2, 2), nearest neighbours right and below.
    image = page([(0.325, 0.325, 0.25, 0.25)])
    assert filled(image, 8, 0) == {(r, c, a) for r, c in ((2, 2), (2, 3), (3, 2)) for a in (0, 1)}
    # 16 pixels are within 4 times of 48, not of 96; on stride 16 the neighbours are left and up.
    assert filled(image, 16, 1) == {(1, 1, 0), (1, 0, 0), (0, 1, 0)}


def filled(image, stride, level):
    """The strips `(row, column, anchor)` of a level that have the first object's colour."""
    side = 64 // stride
    return {
        strips
        for strips in np.ndindex(side, side, 2)
        if tuple(strip(image, stride, level, *strips)) == COLOURS[0]
    }


def test_a_strip_that_several_objects_get_is_divided_among_them():
    # The middles of all three are in the same cell, two of them in the same place.
    boxes = [(0.325, 0.325, 0.25, 0.25), (0.325, 0.325, 0.2, 0.2), (0.34, 0.34, 0.25, 0.25)]
    image = page(boxes)
    side = PAGE_TILE / 64 * 8
    x = round(2.25 * side)  # of the first anchor
    heights = [round((2 + share) * side) for share in (1 / 6, 3 / 6, 5 / 6)]
    assert [tuple(image[TOP + y, x]) for y in heights] == list(COLOURS[:3])
    assert tuple(strip(page(boxes[:1]), 8, 0, 2, 2, 0)) == COLOURS[0]


def test_the_title_counts_the_strips_that_several_objects_get():
    cells = np.array([(2, 2, 0, 0), (2, 2, 0, 1), (2, 2, 1, 0), (2, 3, 0, 1), (2, 2, 0, 2)])
    assert preview._count_shared(cells) == 1
    assert preview._count_shared(cells[:1]) == 0
    assert preview._count_shared(cells[:0]) == 0


def test_a_page_without_objects_has_no_colours():
    image = page(np.zeros((0, 4)))
    assert not any((image == colour).all(-1).any() for colour in COLOURS)


def test_models_with_auxiliary_heads_have_a_choice_more():
    assert len(choices(False)) == 2
    assert len(choices(True)) == 3


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for number in range(3):
        paths.append(str(tmp_path / f"{number}.png"))
        cv2.imwrite(paths[-1], rng.integers(0, 255, (48, 64, 3), np.uint8))
    return Dataset(
        names=("cat", "dog"),
        paths=tuple(paths),
        sizes=np.tile(np.int32([64, 48]), (3, 1)),
        offsets=np.array([0, 2, 2, 3], np.int64),
        labels=np.array([0, 1, 1], np.int32),
        boxes=np.float32([[0.3, 0.3, 0.3, 0.4], [0.7, 0.6, 0.4, 0.5], [0.5, 0.5, 0.8, 0.8]]),
    )


@pytest.mark.parametrize(("name", "pages"), [("yolov7-tiny", 3), ("yolov7-w6", 2)])
def test_a_preview_is_a_sheet_and_a_page_for_every_image_or_as_many_as_it_says(
    quick_programs, name, pages, data, tmp_path, monkeypatch, caplog
):
    config = TrainConfig(
        model=name, image_size=64, batch_size=3, augment=AugmentConfig(mosaic=0.0), num_workers=0
    )
    monkeypatch.setattr(preview, "MOST_PAGES", pages)
    model = create(name, 2, width=0.05)
    folder = tmp_path / "preview"
    folder.mkdir()
    (folder / "assignment-007.png").touch()  # of an earlier preview
    written = write_preview(config, data, model, folder)
    names = ["batches.png", *(f"assignment-00{page}.png" for page in range(pages))]
    assert [path.name for path in written] == names
    assert sorted(folder.iterdir()) == sorted(written)
    levels, ways = len(model.head.strides), 3 if name == "yolov7-w6" else 2
    shape = cv2.imread(str(written[1])).shape
    assert shape == (ways * (TOP + PAGE_TILE + GAP), levels * (PAGE_TILE + GAP), 3)
    warned = "the first 2 of the 3 images of the batch have pages" in caplog.text
    assert warned == (pages < 3)
