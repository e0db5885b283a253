"""Damaged images are told with what their decoder complains of, and intact ones are read."""

import functools
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from data_sets import scan, write_text

from yolov7_jax.data.faults import FaultKind
from yolov7_jax.data.images import (
    UnreadableImageError,
    is_damage,
    is_doubt,
    read_image,
    read_size,
)

MESSAGE = "Corrupt JPEG data: premature end of data segment"


def jpeg(seed=0):
    noise = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), np.uint8)
    return cv2.imencode(".jpg", noise)[1].tobytes()


def cut_short(encoded):
    """Start and end are there, what is between ends too early."""
    return encoded[: len(encoded) // 2] + encoded[-2:]


@pytest.fixture
def damaged(tmp_path):
    """Forty images; every fourth has a hole."""
    for number in range(40):
        content = jpeg(number) if number % 4 else cut_short(jpeg(number))
        path = tmp_path / f"images/{number:02d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        write_text(tmp_path / f"labels/{number:02d}.txt", "0 0.5 0.5 0.5 0.5\n")
    return write_text(tmp_path / "data.yaml", "train: images\nval: images\nnames: [cat]\n")


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_a_decoders_message_is_the_reason_for_its_own_image_and_not_printed(
    damaged, capfd, workers
):
    found = scan(damaged, decode=True, workers=workers)
    told = [(os.path.basename(fault.file), fault.kind, fault.reason) for fault in found.faults]
    reason = f"is truncated or damaged ({MESSAGE})"
    wanted = [f"{number:02d}.jpg" for number in range(0, 40, 4)]
    assert told == [(name, FaultKind.UNREADABLE_IMAGE, reason) for name in wanted]
    assert len(found.dataset) == 30
    assert capfd.readouterr() == ("", "")


def test_a_progressive_image_is_refused_wherever_it_is_cut(tmp_path):
    soft = cv2.GaussianBlur(cv2.imdecode(np.frombuffer(jpeg(), np.uint8), 1), (3, 3), 0)
    content = cv2.imencode(".jpg", soft, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    for end in range(0, len(content) - 1, 3):
        (tmp_path / "a.jpg").write_bytes(content[:end])
        with pytest.raises(UnreadableImageError):
            read_image(tmp_path / "a.jpg", strict=True)


def test_the_scan_of_headers_prints_nothing_either(damaged, capfd):
    (damaged.parent / "images/00.jpg").write_bytes(jpeg()[:500])
    found = scan(damaged)
    assert len(found.faults) == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("message", "damage", "doubt"),
    [
        (MESSAGE, True, False),
        ("Unsupported marker type 0x67", True, False),
        ("Corrupt JPEG data: 3 extraneous bytes before marker 0xd9", False, True),
        ("Corrupt JPEG data: 3 extraneous bytes before marker 0xc4", False, False),
        ("libpng warning: iCCP: known incorrect sRGB profile", False, False),
        ("", False, False),
    ],
)
def test_what_is_harmless_is_no_damage(message, damage, doubt):
    assert (is_damage(message), is_doubt(message)) == (damage, doubt)


def test_an_image_that_may_be_damaged_is_kept_and_named(damaged):
    whole = jpeg(1)
    (damaged.parent / "images/01.jpg").write_bytes(whole[:-2] + bytes(9) + whole[-2:])
    found = scan(damaged, decode=True)
    (fault,) = [fault for fault in found.faults if fault.file.endswith("01.jpg")]
    assert fault.kind is FaultKind.DOUBTFUL_IMAGE
    assert fault.reason.startswith("is decoded, but: Corrupt JPEG data: ")
    assert fault.file in found.dataset.paths


def test_an_image_that_is_cut_off_is_truncated(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg()[: len(jpeg()) // 2])
    for read in (read_image, functools.partial(read_size, decode=True)):
        with pytest.raises(UnreadableImageError, match=r"is truncated or damaged"):
            read(tmp_path / "a.jpg")


@pytest.mark.parametrize("damage", ["", "pixels", "end"])
def test_png_profiles_print_nothing_and_damaged_pixels_are_refused(tmp_path, damage, capfd):
    image = np.random.default_rng(1).integers(0, 255, (24, 40, 3), np.uint8)
    content = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    profile = b"iCCP" + b"no profile\0\0"  # libpng prints what it thinks of it
    chunk = struct.pack(">I", len(profile) - 4) + profile + struct.pack(">I", zlib.crc32(profile))
    content = content[:33] + chunk + content[33:]
    if damage:
        content = content[:-12] if damage == "end" else content[:-40] + bytes(9) + content[-31:]
    path = tmp_path / "a.png"
    path.write_bytes(content)
    if damage:
        with pytest.raises(UnreadableImageError, match="is not an image"):
            read_image(path)
    else:
        np.testing.assert_array_equal(read_image(path), image)
    assert capfd.readouterr() == ("", "")


def exif(orientation, order=">"):
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = (
        {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, 1) + entry + bytes(4)
    )
    return b"\xff\xe1" + struct.pack(">H", 8 + len(tiff)) + b"Exif\0\0" + tiff


@pytest.mark.parametrize("orientation", [None, *range(9)])
@pytest.mark.parametrize(
    ("shape", "order"), [((24, 40), "<"), ((24, 40, 3), ">")], ids=["grey", "colour"]
)
def test_jpeg_images_have_the_pixels_that_opencv_gives_turned_upright(
    tmp_path, shape, order, orientation, capfd
):
    image = np.random.default_rng(1).integers(0, 255, shape, np.uint8)
    content = cv2.imencode(".jpg", image)[1].tobytes()
    if orientation is not None:
        content = content[:2] + exif(orientation, order) + content[2:]
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    wanted = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    assert wanted.shape[:2] == ((40, 24) if (orientation or 1) > 4 else (24, 40))
    np.testing.assert_array_equal(read_image(path), wanted)
    assert read_size(path) == (wanted.shape[1], wanted.shape[0])
    np.testing.assert_array_equal(read_image(path, strict=True), wanted)
    path.write_bytes(cut_short(content))
    assert read_image(path).shape == wanted.shape
    with pytest.raises(UnreadableImageError, match=r"is truncated or damaged \(Corrupt JPEG"):
        read_image(path, strict=True)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("segments", "is_turned"),
    [
        ([exif(6), exif(1)], True),
        ([exif(1), exif(6)], False),
        ([exif(6).replace(b"\x01\x12", b"\x01\x13"), exif(6)], True),  # the first has none
        ([b"\xff\xe2" + struct.pack(">H", 65000) + bytes(64998)] * 5 + [exif(6)], True),
    ],
)
def test_the_first_orientation_counts_wherever_it_stands(tmp_path, segments, is_turned):
    image = np.random.default_rng(1).integers(0, 255, (24, 40, 3), np.uint8)
    content = cv2.imencode(".jpg", image)[1].tobytes()
    path = tmp_path / "a.jpg"
    path.write_bytes(content[:2] + b"".join(segments) + content[2:])
    assert read_size(path) == ((24, 40) if is_turned else (40, 24))
    np.testing.assert_array_equal(read_image(path), cv2.imread(str(path), cv2.IMREAD_COLOR_RGB))


def test_a_small_jpeg_that_claims_many_pixels_fills_no_memory(tmp_path):
    content = bytearray(jpeg())
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", 65000, 65000)
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UnreadableImageError, match="is not an image that OpenCV can decode"):
        read_image(tmp_path / "a.jpg")


def test_a_jpeg_whose_decoder_loses_its_place_is_damaged(tmp_path):
    content = jpeg()
    middle = len(content) // 2
    (tmp_path / "a.jpg").write_bytes(content[:middle] + b"\xff\x67" + content[middle + 2 :])
    with pytest.raises(UnreadableImageError, match="is truncated or damaged"):
        read_size(tmp_path / "a.jpg", decode=True)
