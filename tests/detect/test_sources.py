import base64
import io
import os
import struct
import sys
import zlib

import cv2
import numpy as np
import pytest

from yolov7_jax.detect.sources import find_sources, read_still, read_video
from yolov7_jax.errors import UserError

IMAGE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)


def write(path, image=IMAGE):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def write_video(path, count=5, rate=10.0):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, (64, 48))
    for number in range(count):
        writer.write(np.full((48, 64, 3), 40 * number, np.uint8))
    writer.release()
    return path


def read_one(path):
    (still,) = find_sources([str(path)]).stills
    return read_still(still)


def test_files_folders_and_patterns_are_found_in_the_order_they_are_named(tmp_path):
    one, two = write(tmp_path / "one.png"), write(tmp_path / "two.JPG")
    inner = [write(tmp_path / "folder" / "b" / "x.png"), write(tmp_path / "folder" / "c.webp")]
    (tmp_path / "folder" / "notes.txt").write_text("?")
    video = write_video(tmp_path / "folder" / "film.mp4")
    found = find_sources([str(two), str(tmp_path / "folder"), str(tmp_path / "o*.png")])
    assert [still.source for still in found.stills] == [str(p) for p in (two, *inner, one)]
    assert [str(still.place) for still in found.stills] == [
        "two.JPG",
        "b/x.png",
        "c.webp",
        "one.png",
    ]
    assert [film.opened for film in found.videos] == [str(video)]
    assert found.ignored == (str(tmp_path / "folder" / "notes.txt"),)


def test_links_to_folders_are_followed_and_each_folder_is_looked_into_once(tmp_path):
    for name in ("in/b/one.png", "in/c/two.png", "out/three.png", "out/deeper/four.png"):
        write(tmp_path / name)
    for link, target in (
        ("in/a", "in/b"),  # which has its own name in the folder
        ("in/y", "out"),
        ("in/x", "out"),  # the first of two in order
        ("in/b/up", "in"),
        ("out/back", "out"),
    ):
        (tmp_path / link).symlink_to(tmp_path / target)
    found = find_sources([str(tmp_path / "in")]).stills
    assert [str(still.place) for still in found] == [
        *("b/one.png", "c/two.png", "x/deeper/four.png", "x/three.png")
    ]
    assert all(read_still(still).fault == "" for still in found)


def test_cameras_and_streams_are_told_by_their_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = find_sources(["0", "rtsp://camera.example/live?x=1"])
    assert [video.opened for video in found.videos] == [0, "rtsp://camera.example/live?x=1"]
    assert [str(video.place) for video in found.videos] == [
        "camera-0.mp4",
        "camera.example_live_x_1.mp4",
    ]
    write(tmp_path / "0.png").rename(tmp_path / "0")  # a file of that name comes first
    assert [still.source for still in find_sources(["0"]).stills] == ["0"]


def test_everything_that_is_not_there_is_named_at_once(tmp_path):
    (tmp_path / "empty").mkdir()
    named = [str(tmp_path / name) for name in ("gone.jpg", "*.nothing", "empty")]
    with pytest.raises(UserError) as fault:
        find_sources(named)
    assert "gone.jpg: no such file or folder" in str(fault.value)
    assert "*.nothing: no file is called like that" in str(fault.value)
    assert "empty: no images or videos in this folder" in str(fault.value)


def test_standard_input_is_a_image(monkeypatch):
    class Stdin:
        buffer = io.BytesIO(cv2.imencode(".png", IMAGE[..., ::-1])[1].tobytes())

    monkeypatch.setattr(sys, "stdin", Stdin)
    found = find_sources(["-"])
    frame = read_still(found.stills[0])
    assert frame.source == "standard input"
    np.testing.assert_array_equal(frame.image, IMAGE)


# 8 x 8 pixels of a purple, in four colour components as printers want them.
CMYK_JPEG = base64.b64decode(
    "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwAQCwwODAoQDg0OEhEQExgoGhgWFhgxIyUdKDozPTw5Mzg3QEhcTkBEV0U3OF"
    "BtUVdfYmdoZz5NcXlwZHhcZWdj/8AAFAgACAAIBEMRAE0RAFkRAEsRAP/EABQAAQAAAAAAAAAAAAAAAAAAAAb/xAAU"
    "EAEAAAAAAAAAAAAAAAAAAAAA/9oADgRDAE0AWQBLAAA/AHY0Ylj/2Q=="
)


def animation():
    frames = [np.full((8, 8, 3), 80 * number, np.uint8) for number in range(3)]
    animation = cv2.Animation()
    animation.frames, animation.durations = frames, [100] * 3
    done, encoded = cv2.imencodeanimation(".gif", animation)
    assert done
    return encoded.tobytes()


def test_images_of_every_kind_become_8_bit_rgb(tmp_path):
    kinds = {
        "grey.png": IMAGE[..., 0],
        "alpha.png": np.dstack([IMAGE, IMAGE[..., 0]]),
        "deep.png": IMAGE.astype(np.uint16) * 257,
        "deep.tiff": IMAGE.astype(np.uint16) * 257,
        "dot.png": IMAGE[:1, :1],
        "line.png": np.zeros((3, 20000, 3), np.uint8),
    }
    for name, image in kinds.items():
        frame = read_one(write(tmp_path / name, image))
        assert frame.fault == ""
        assert frame.image.shape == (*image.shape[:2], 3)
        assert frame.image.dtype == np.uint8


def test_four_components_for_printing_become_three(tmp_path):
    path = tmp_path / "print.jpg"
    path.write_bytes(CMYK_JPEG)
    red, green, blue = read_one(path).image[4, 4].tolist()
    assert green < min(red, blue)  # 200 of 255 parts magenta, little of the rest


def test_the_content_of_a_file_decides_not_its_name(tmp_path):
    path = write(tmp_path / "a.png")
    for name in ("b.jpg", "c", "d.doc"):
        other = tmp_path / name
        other.write_bytes(path.read_bytes())
        np.testing.assert_array_equal(read_one(other).image, IMAGE[..., ::-1])


def test_the_first_image_of_an_animation_is_taken_and_that_is_said(tmp_path):
    path = tmp_path / "moving.gif"
    path.write_bytes(animation())
    frame = read_one(path)
    assert (frame.image == 0).all()
    assert frame.note == "has 3 images, of which the first is looked at"
    assert read_one(write(tmp_path / "still.png")).note == ""


def huge_png():
    """Says that it has 40,000 x 40,000 pixels, which nobody wants in memory."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.jpg", b"", "is empty, 0 bytes"),
        ("text.jpg", b"no image at all", "is not an image that OpenCV can decode"),
        ("some.txt", b"a.jpg", "lists of images are not read: give a folder, or a pattern"),
        ("cut.jpg", cv2.imencode(".jpg", IMAGE)[1].tobytes()[:-300], "is truncated or damaged"),
        ("cut.png", cv2.imencode(".png", IMAGE)[1].tobytes()[:-300], "is truncated or damaged"),
        ("cut.webp", cv2.imencode(".webp", IMAGE)[1].tobytes()[:-99], "OpenCV can decode"),
        ("huge.png", huge_png(), ""),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    frame = read_one(path)
    assert frame.image is None
    assert frame.fault
    assert reason in frame.fault
    assert str(tmp_path) not in frame.fault  # the source says it already


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (still,) = find_sources([str(tmp_path / "pipe.jpg")]).stills
    assert read_still(still).fault == "is not a regular file"


def test_videos_give_their_images_in_order_and_their_rate(tmp_path):
    (video,) = find_sources([str(write_video(tmp_path / "film.mp4"))]).videos
    frames = list(read_video(video))
    assert [frame.number for frame in frames] == [0, 1, 2, 3, 4]
    assert {frame.rate for frame in frames} == {10}
    assert {frame.total for frame in frames} == {5}
    for frame in frames:
        assert abs(frame.image.mean() - 40 * frame.number) < 6
        assert frame.image.shape == (48, 64, 3)


def test_a_video_that_is_none_or_ends_early_says_so(tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"nothing")
    (frame,) = read_video(find_sources([str(bad)]).videos[0])
    assert frame.fault == "cannot be opened as a video"


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("http://127.0.0.1:9/a.jpg", "; images are not downloaded: give the path of a file"),
        ("file:///nowhere/a.jpg", "; of an image give the path, not an address"),
        ("rtsp://127.0.0.1:9/live", ""),
    ],
)
def test_addresses_of_images_are_not_opened_and_that_is_said(address, told):
    (frame,) = read_video(find_sources([address]).videos[0])
    assert frame.fault == f"cannot be opened as a video{told}"
