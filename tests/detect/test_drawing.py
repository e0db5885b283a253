"""Boxes and captions on images."""

import numpy as np
import pytest

from yolov7_jax.detect.drawing import draw_boxes

RED, GREEN = (255, 0, 0), (0, 255, 0)


def drawn(boxes, captions, height=120, width=160):
    image = np.zeros((height, width, 3), np.uint8)
    draw_boxes(image, np.asarray(boxes, np.float64), (RED, GREEN)[: len(boxes)], captions)
    return image


def pixels(image, colour):
    return int((image == colour).all(-1).sum())


def caption_pixels(box, **size):
    """Pixels of a caption's ground, beside another."""
    return pixels(drawn([box], ["dog 0.50"], **size), RED) - pixels(drawn([box], [""], **size), RED)


@pytest.mark.parametrize("other", [(40, 50, 110, 90), (42, 53, 112, 93), (60, 48, 130, 88)])
def test_captions_of_boxes_that_lie_close_cover_each_other_nowhere(other):
    box = (40, 50, 110, 90)
    image = drawn([box, other], ["dog 0.50", "dog 0.50"])
    bare = drawn([box, other], ["", ""])
    ground = caption_pixels(box)
    for colour in (RED, GREEN):
        # A caption covers some of its own box, and of the other's.
        assert pixels(image, colour) - pixels(bare, colour) > 0.7 * ground


@pytest.mark.parametrize("box", [(0, 0, 30, 20), (140, 100, 160, 120), (-20, -9, 400, 300)])
def test_captions_stay_in_the_image(box):
    # In an image with more room on all sides the same caption has as many pixels.
    assert caption_pixels(box) > 0.7 * caption_pixels((60, 50, 100, 90))


def test_a_caption_without_any_room_is_drawn_as_far_as_the_image_goes():
    assert pixels(drawn([(0, 0, 8, 5)], ["dog 0.50"], height=5, width=8), RED) > 20
