"""Where images to look at come from: files, folders, patterns, videos, cameras, streams."""

import glob
import os
import pathlib
import re
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from yolov7_jax.data.images import UnreadableImageError, read_image, read_size
from yolov7_jax.errors import UserError
from yolov7_jax.extras import from_extra

with from_extra("images"):
    import cv2

# By suffix, in folders; a file that is named is opened whatever it is called.
IMAGES = frozenset(
    f".{name}"
    for name in (
        *("avif", "bmp", "dib", "gif", "jfif", "jp2", "jpe", "jpeg", "jpg"),
        *("pbm", "pgm", "png", "ppm", "tif", "tiff", "webp"),
    )
)
VIDEOS = frozenset(
    f".{name}"
    for name in (
        *("avi", "flv", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts", "ogv", "ts", "webm"),
        "wmv",
    )
)
STANDARD_INPUT = "-"
CAMERA = re.compile("[0-9]{1,3}")  # an index
USUAL_RATE = 25.0  # images a second, where a video does not tell or tells what cannot be
SHORTFALL = 0.2  # of the images that a video promises; with more it is taken for damaged
MOST_BYTES = 2**30  # of an image's file
# How files begin that may have several images: GIF, WebP, PNG, TIFF, and AVIF after four bytes.
SEVERAL = (b"GIF8", b"RIFF", b"\x89PNG", b"II*\0", b"MM\0*")

NO_LISTS = "; lists of images are not read: give a folder, or a pattern like 'some/*.jpg'"

Spooled = tempfile._TemporaryFileWrapper
Image = UInt8[np.ndarray, "h w 3"]


class Frame(NamedTuple):
    """An image, or why there is none.

    Attributes:
      source: what people know it by.
      place: where it lies in the folder that it was found in; relative.
      number: of a video's image, from 0; None for an image of its own.
      rate: of a video, images a second.
      total: images that a video promises; 0 where it does not tell.
      image: None where it cannot be read.
      fault: why not; "" otherwise.
      note: what else should be known of it; "" for nothing.
    """

    source: str
    place: pathlib.PurePath
    number: int | None = None
    rate: float = USUAL_RATE
    total: int = 0
    image: Image | None = None
    fault: str = ""
    note: str = ""


class Still(NamedTuple):
    """An image that is yet to be read.

    Attributes:
      source, place: as in `Frame`.
      path: of its file.
    """

    source: str
    place: pathlib.PurePath
    path: pathlib.Path


class Video(NamedTuple):
    """A video that is yet to be read.

    Attributes:
      source, place: as in `Frame`.
      opened: what OpenCV opens: a file, the address of a stream, or the index of a camera.
    """

    source: str
    place: pathlib.PurePath
    opened: str | int


class Sources(NamedTuple):
    """What there is to look at, in the order that it was named.

    Attributes:
      stills: images of their own.
      videos: with cameras and streams.
      ignored: files in folders that are neither, by their suffix.
      unreadable: folders that cannot be looked into, with the reason.
      spooled: what came on standard input; there as long as this is held.
    """

    stills: tuple[Still, ...]
    videos: tuple[Video, ...]
    ignored: tuple[str, ...]
    unreadable: tuple[Frame, ...]
    spooled: tuple["Spooled", ...]


def find_sources(named: Sequence[str]) -> Sources:
    """Finds what is meant.

    Args:
      named: files, folders (with those in them, links followed), patterns such as `some/*.jpg`,
        indices of cameras, addresses of streams, and `-` for an image on standard input.

    Raises:
      UserError: names all that do not exist, or that hold no images.
    """
    stills: list[Still] = []
    videos: list[Video] = []
    ignored: list[str] = []
    faults: list[str] = []
    unreadable: list[Frame] = []
    spooled: list[Spooled] = []

    def refused(error: OSError) -> None:
        fault = f"cannot be looked into: {error.strerror or error}"
        unreadable.append(Frame(str(error.filename), pathlib.PurePath(), fault=fault))

    def add(path: pathlib.Path, place: pathlib.PurePath) -> None:
        if path.suffix.lower() in VIDEOS:
            videos.append(Video(str(path), place, str(path)))
        else:
            stills.append(Still(str(path), place, path))

    for name in named:
        path = pathlib.Path(os.path.expanduser(name))
        if name == STANDARD_INPUT:
            # Here and not in a thread, which nothing could stop while it waits.
            spooled.append(_standard_input())
            stills.append(
                Still(
                    "standard input", pathlib.PurePath("stdin.png"), pathlib.Path(spooled[-1].name)
                )
            )
        elif "://" in name:
            shown = re.sub(r"://[^/@]*@", "://", name)  # without a password
            place = pathlib.PurePath(re.sub(r"[^\w.-]", "_", shown.partition("://")[2]) + ".mp4")
            videos.append(Video(shown, place, name))
        elif path.is_dir():
            inside = sorted(_files_in(path, refused))
            wanted = [entry for entry in inside if _is_shown(entry)]
            ignored += [str(entry) for entry in inside if not _is_shown(entry)]
            if not wanted and not unreadable:
                faults.append(f"{name}: no images or videos in this folder")
            for entry in wanted:
                add(entry, entry.relative_to(path))
        elif path.exists():
            add(path, pathlib.PurePath(path.name))
        elif CAMERA.fullmatch(name):
            videos.append(
                Video(f"camera {name}", pathlib.PurePath(f"camera-{name}.mp4"), int(name))
            )
        elif glob.has_magic(name):
            matching = sorted(glob.glob(os.path.expanduser(name), recursive=True))
            files = [pathlib.Path(match) for match in matching if os.path.isfile(match)]
            if not files:
                faults.append(f"{name}: no file is called like that")
            for file in files:
                add(file, pathlib.PurePath(file.name))
        else:
            faults.append(f"{name}: no such file or folder")
    if faults:
        raise UserError("; ".join(faults))
    return Sources(tuple(stills), tuple(videos), tuple(ignored), tuple(unreadable), tuple(spooled))


def _files_in(folder: pathlib.Path, refused: Callable[[OSError], None]) -> Iterator[pathlib.Path]:
    """Yields what lies in a folder and in those inside, links to others followed.

    Each is looked into once: as what it is called inside, or else by the first link to it.

    Args:
      folder: where to begin.
      refused: is told of folders that cannot be looked into.
    """
    seen: set[str] = set()
    links = [str(folder)]
    while links:
        found: list[str] = []
        for root, inner, names in os.walk(links.pop(0), onerror=refused):
            real = os.path.realpath(root)
            if real in seen:
                inner.clear()
                continue
            seen.add(real)
            yield from (pathlib.Path(root, name) for name in names)
            found += [link for name in inner if os.path.islink(link := os.path.join(root, name))]
        links += sorted(found)


def _standard_input() -> "Spooled":
    """Returns a file with what comes on standard input, as far as it is read."""
    file = tempfile.NamedTemporaryFile(prefix="yolov7_jax-")  # noqa: SIM115 - the caller holds it
    left = MOST_BYTES + 1
    while left > 0 and (part := sys.stdin.buffer.read(min(left, 2**20))):
        file.write(part)
        left -= len(part)
    file.flush()
    return file


def _is_shown(path: pathlib.Path) -> bool:
    return path.suffix.lower() in IMAGES or path.suffix.lower() in VIDEOS


def read_still(still: Still) -> Frame:
    """Reads an image; where it is damaged, that is the fault. Safe to run in threads."""
    frame = Frame(still.source, still.place)
    try:
        return _read(frame, still.path)
    except OSError as error:
        return frame._replace(fault=f"cannot be read: {error.strerror or error}")


def _read(frame: Frame, path: pathlib.Path) -> Frame:
    """Returns a frame with the image of a file, or with what is wrong with it."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        return frame._replace(fault="is not a regular file")
    if status.st_size > MOST_BYTES:
        return frame._replace(fault=f"has {status.st_size} bytes; at most {MOST_BYTES} are read")
    try:
        read_size(path)  # finds what decoders pass over in silence
        image = read_image(path, strict=True)
    except UnreadableImageError as error:
        fault = str(error).removeprefix(f"{path}: ")
        return frame._replace(fault=fault + (NO_LISTS if path.suffix.lower() == ".txt" else ""))
    count = _count(path)
    note = f"has {count} images, of which the first is looked at" if count > 1 else ""
    return frame._replace(image=image, note=note)


def _count(path: pathlib.Path) -> int:
    """Returns how many images a file has, as animations and multi-page documents do."""
    with path.open("rb") as file:
        head = file.read(12)
    if not head.startswith(SEVERAL) and head[4:12] != b"ftypavis":
        return 1
    try:
        return cv2.imcount(os.fspath(path)) if _is_text(path) else 1
    except cv2.error:
        return 1


def _is_text(path: str | os.PathLike[str]) -> bool:
    """Says whether a name can be given to OpenCV, which crashes at others."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def read_video(video: Video) -> Iterator[Frame]:
    """Yields the images of a video; what is wrong with it is the last one's fault."""
    frame = Frame(video.source, video.place)
    # FFmpeg alone: others take a % in the name of a file for a pattern.
    of_camera = isinstance(video.opened, int)
    opened = video.opened
    if isinstance(opened, str) and not _is_text(opened):
        yield frame._replace(fault="OpenCV opens no video whose name is no text")
        return
    if isinstance(opened, str) and "://" not in opened:
        opened = os.path.abspath(opened)  # or FFmpeg takes what is before a colon for a protocol
    capture = cv2.VideoCapture(opened, cv2.CAP_ANY if of_camera else cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            yield frame._replace(fault=f"cannot be opened as a video{_instead(video.opened)}")
            return
        rate, promised = capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        frame = frame._replace(
            rate=rate if 1 <= rate <= 1000 else USUAL_RATE, total=max(0, promised)
        )
        number = 0
        while True:
            there, image = capture.read()
            if not there:
                break
            yield frame._replace(
                number=number, image=np.ascontiguousarray(image[..., ::-1], np.uint8)
            )
            number += 1
        # What is promised is an estimate in most formats: duration by rate.
        if number < (1 - SHORTFALL) * promised or number == 0:
            yield frame._replace(fault=f"ended after {number} of {promised} images")
    finally:
        capture.release()


def _instead(opened: str | int) -> str:
    """Returns what to do where an address is no video, because it may be that of an image."""
    if not isinstance(opened, str):
        return ""
    if opened.lower().startswith(("http://", "https://")):
        return "; images are not downloaded: give the path of a file"
    if opened.lower().startswith("file://"):
        return "; of an image give the path, not an address"
    return ""
