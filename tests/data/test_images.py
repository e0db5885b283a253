import struct

import cv2
import numpy as np
import pytest
from data_sets import write_image

from yolov7_jax.config import PAD_VALUE
from yolov7_jax.data.images import UnreadableImageError, read_image, read_size
from yolov7_jax.data.letterbox import LetterboxInfo, letterbox, unletterbox


def to_input(boxes_xyxy, info):
    scale, offset = (np.concatenate([field, field], -1)[..., None, :] for field in info[:2])
    return boxes_xyxy * scale + offset


def test_landscape_fills_the_width_and_is_centred_on_grey():
    image = np.full((30, 60, 3), 200, np.uint8)
    padded, info = letterbox(image, 120)
    assert padded.shape == (120, 120, 3)
    assert (padded[:30] == PAD_VALUE).all()
    assert (padded[30:90] == 200).all()
    assert (padded[90:] == PAD_VALUE).all()
    assert info.scale_xy.tolist() == [2, 2]
    assert info.pad_xy.tolist() == [0, 30]
    assert info.size_wh.tolist() == [60, 30]


def test_evaluation_never_enlarges_but_still_shrinks():
    padded, info = letterbox(np.full((10, 20, 3), 9, np.uint8), 64, enlarge=False)
    assert info.scale_xy.tolist() == [1, 1]
    assert info.pad_xy.tolist() == [22, 27]
    assert (padded[27:37, 22:42] == 9).all()
    assert (padded == 9).sum() == 10 * 20 * 3
    _, info = letterbox(np.zeros((128, 100, 3), np.uint8), 64, enlarge=False)
    assert info.scale_xy.tolist() == [0.5, 0.5]


def test_input_need_not_be_square():
    padded, info = letterbox(np.zeros((50, 100, 3), np.uint8), (64, 96))
    assert padded.shape == (64, 96, 3)
    assert info.scale_xy.tolist() == pytest.approx([0.96, 0.96])
    assert info.pad_xy.tolist() == [0, 8]


def test_boxes_follow_the_pixels():
    image = np.zeros((90, 160, 3), np.uint8)
    image[20:60, 40:100] = 255
    box = np.asarray([[40, 20, 100, 60]], np.float32)
    for size in (96, (320, 256)):
        padded, info = letterbox(image, size)
        x0, y0, x1, y1 = np.round(to_input(box, info)[0]).astype(int)
        assert (padded[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2] == 255).all()
        outside = np.ones(padded.shape[:2], bool)
        outside[y0 - 2 : y1 + 2, x0 - 2 : x1 + 2] = False
        assert padded[outside].max() <= PAD_VALUE


@pytest.mark.parametrize(
    "size", [(5000, 100), (100, 5000), (20000, 3), (999, 1001), (1920, 1080), (17, 640), (3, 3)]
)
@pytest.mark.parametrize("enlarge", [True, False])
def test_boxes_map_back_to_where_their_pixels_are_in_images_of_any_shape(size, enlarge):
    """Whole rows and columns go where resizing puts them, however many pixels rounding makes."""
    width, height = size
    image = np.zeros((height, width, 3), np.uint8)
    padded, info = letterbox(image, 640, enlarge=enlarge)
    ys, xs = np.nonzero((padded == 0).all(2))
    inside = np.asarray([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]], np.float32)
    mapped = inside - np.tile(info.pad_xy, 2)
    np.testing.assert_allclose(mapped / np.tile(info.scale_xy, 2), [[0, 0, *size]], rtol=1e-5)
    np.testing.assert_allclose(unletterbox(inside, info), [[0, 0, *size]], rtol=1e-5)


@pytest.mark.parametrize("enlarge", [True, False])
def test_unletterbox_inverts_letterbox_on_a_batch(enlarge):
    rng = np.random.default_rng(0)
    infos, boxes = [], []
    for width, height in ((100, 30), (31, 77), (640, 480)):
        infos.append(letterbox(np.zeros((height, width, 3), np.uint8), 96, enlarge=enlarge)[1])
        corners = np.sort(rng.uniform(0, 1, (5, 2, 2)), axis=1).reshape(5, 4)
        boxes.append(corners * (width, height, width, height))
    info = LetterboxInfo(*(np.stack(field) for field in zip(*infos, strict=True)))
    boxes = np.stack(boxes).astype(np.float32)
    np.testing.assert_allclose(unletterbox(to_input(boxes, info), info), boxes, atol=1e-3)


def test_unletterbox_clips_to_the_image():
    _, info = letterbox(np.zeros((50, 100, 3), np.uint8), 100)
    clipped = unletterbox(np.asarray([[-10, 0, 200, 100]], np.float32), info)
    assert clipped.tolist() == [[0, 0, 100, 50]]


def test_shrinking_averages_instead_of_aliasing():
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, ::4] = 255  # a quarter of the columns
    padded, _ = letterbox(image, 16)
    np.testing.assert_allclose(padded, 64, atol=1)


def test_wrong_shapes_and_sizes_are_named():
    with pytest.raises(ValueError, match=r"\(4, 4\); wanted \[h, w, 3\]"):
        letterbox(np.zeros((4, 4), np.uint8), 32)
    with pytest.raises(ValueError, match=r"size \(=0\) must be positive"):
        letterbox(np.zeros((4, 4, 3), np.uint8), 0)


def test_colours_are_red_green_blue(tmp_path):
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, :, 0] = 255
    cv2.imwrite(str(tmp_path / "red.png"), image[..., ::-1])
    np.testing.assert_array_equal(read_image(tmp_path / "red.png"), image)


def test_grey_alpha_and_16_bits_become_8_bit_rgb(tmp_path):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.stack([grey] * 3, -1))
    bgra = np.zeros((8, 8, 4), np.uint8)
    bgra[..., 2] = 200
    cv2.imwrite(str(tmp_path / "alpha.png"), bgra)
    assert read_image(tmp_path / "alpha.png")[0, 0].tolist() == [200, 0, 0]
    cv2.imwrite(str(tmp_path / "deep.png"), grey.astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png")[..., 0], grey)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0\0\x10JFIF"])
def test_what_is_no_image_is_named(tmp_path, content):
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.jpg: is not an image"):
        read_image(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.jpg: cannot be read: No such file"):
        read_image(tmp_path / "gone.jpg")


def test_size_is_found_behind_long_headers_and_in_front_of_trailing_bytes(tmp_path):
    encoded = cv2.imencode(".jpg", np.zeros((10, 20, 3), np.uint8))[1].tobytes()
    comment = b"\xff\xfe" + struct.pack(">H", 60_002) + bytes(60_000)
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded[:2] + comment * 3 + encoded[2:] + b"trailing")
    assert read_size(path) == (20, 10)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp", ".tiff", ".jpg"])
def test_size_is_read_from_every_format(tmp_path, suffix):
    write_image(tmp_path / f"a{suffix}", 21, 12)
    assert read_size(tmp_path / f"a{suffix}") == (21, 12)
    assert read_size(tmp_path / f"a{suffix}", decode=True) == (21, 12)


def test_damage_inside_a_png_is_found_by_decoding(tmp_path):
    rng = np.random.default_rng(0)
    encoded = bytearray(cv2.imencode(".png", rng.integers(0, 255, (9, 9, 3)))[1].tobytes())
    encoded[len(encoded) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(encoded)
    assert read_size(tmp_path / "a.png") == (9, 9)
    with pytest.raises(UnreadableImageError, match="is truncated or damaged"):
        read_size(tmp_path / "a.png", decode=True)


def test_bytes_behind_the_end_of_a_png_are_no_part_of_it(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    content = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    (tmp_path / "a.png").write_bytes(content + b"more")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", strict=True), image)
    assert read_size(tmp_path / "a.png") == (5, 4)
