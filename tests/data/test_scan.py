"""What a scan remembers, and that nothing in a file can make it fail."""

import dataclasses
import hashlib
import os
import stat
import struct

import cv2
import numpy as np
import pytest
from data_sets import scan, write_coco, write_image, write_text, write_voc, write_yolo

from yolov7_jax.data import scan_cache
from yolov7_jax.data.faults import Effect, Fault, FaultKind, summarize
from yolov7_jax.data.layouts import load_dataset
from yolov7_jax.data.scan_cache import cache_files, image_stamps
from yolov7_jax.data.yolo_txt import IMAGE_SUFFIXES, YoloTxt
from yolov7_jax.errors import UserError

WRITERS = (write_yolo, write_coco, write_voc)
HOSTILE_FILES = 10_000


def cache_of(data):
    return cache_files(data, "train")[0]


def assert_same(one, other):
    assert one.faults == other.faults
    assert one.notes == other.notes
    assert one.looked_at == other.looked_at
    for field in dataclasses.fields(one.dataset):
        ours, theirs = getattr(one.dataset, field.name), getattr(other.dataset, field.name)
        if isinstance(ours, np.ndarray):
            assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.fixture
def faulty(tmp_path):
    """A data set with outlines, a fault with a line and one without."""
    data = write_yolo(tmp_path)
    rows = "0 0.1 0.2 0.5 0.2 0.3 0.8\n9 0.5 0.5 0.1 0.1\n1 0.5 0.5 0.2 0.2\n"
    write_text(tmp_path / "labels/train/a.txt", rows)
    (tmp_path / "images/train/b.jpg").write_bytes(b"")
    return data


def forbid_reading(monkeypatch):
    def refuse(self, *, decode, workers):
        raise AssertionError("the cache was to be used")

    monkeypatch.setattr(YoloTxt, "read", refuse)


@pytest.mark.parametrize("write", WRITERS)
def test_the_second_scan_is_the_first_one_faults_included(tmp_path, write):
    data = write(tmp_path)
    (tmp_path / next(tmp_path.rglob("b.jpg"))).write_bytes(b"")
    first = scan(data)
    assert cache_of(data).is_file()
    assert_same(scan(data), first)
    assert len(first.faults) == 1


def test_an_unchanged_split_is_not_read_again(faulty, monkeypatch):
    first = scan(faulty)
    forbid_reading(monkeypatch)
    second = scan(faulty)
    assert_same(second, first)
    assert [fault.kind for fault in second.faults] == [
        FaultKind.UNREADABLE_IMAGE,
        FaultKind.UNKNOWN_CLASS,
    ]
    assert second.dataset.fingerprint() == first.dataset.fingerprint()


def test_the_second_start_still_tells_of_the_faults(faulty, caplog):
    for _ in range(2):
        load_dataset(faulty, "train")
    first, second = [record.getMessage() for record in caplog.records]
    assert first == second
    assert "2 faults (1 image left out, 1 object left out)" in first


def change_label(folder):
    """As long as before, and with the time of change put back."""
    path = folder / "labels/train/c.txt"
    before = path.stat()
    path.write_text(path.read_text().replace("0", "1", 1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    "class": lambda f: write_text(f / "data.yaml", "train: images/train\nnames: [cat, elk]\n"),
    "label": change_label,
    "new label": lambda f: write_text(f / "labels/train/b.txt", "0 0.5 0.5 0.5"),
    "no image": lambda f: (f / "images/train/a.jpg").unlink(),
    "new image": lambda f: write_image(f / "images/train/d.jpg"),
    "image": lambda f: write_image(f / "images/train/a.jpg", 50, 60),
    "intact image": lambda f: write_image(f / "images/train/b.jpg", 30, 30),
    "orphan": lambda f: write_text(f / "labels/train/z.txt", ""),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_after_a_change_the_scan_is_that_of_a_fresh_one(faulty, change):
    before = scan(faulty)
    change(faulty.parent)
    after = scan(faulty)
    cache_of(faulty).unlink()
    assert_same(after, scan(faulty))
    with pytest.raises(AssertionError):
        assert_same(after, before)


def test_coco_images_that_change_or_appear_are_noticed(tmp_path):
    data = write_coco(tmp_path)
    (tmp_path / "images/a.jpg").unlink()
    assert len(scan(data).dataset) == 2
    write_image(tmp_path / "images/a.jpg", 40, 20)
    assert len(scan(data).dataset) == 3
    write_image(tmp_path / "images/a.jpg", 41, 20)
    assert len(scan(data).dataset) == 2
    data.write_text(data.read_text().replace('"dog"', '"elk"'))
    assert scan(data).dataset.names == ("cat", "elk")


def test_what_decoding_finds_stays_known_and_headers_alone_do_not_replace_it(tmp_path):
    data = write_yolo(tmp_path)
    path = tmp_path / "images/train/a.png"
    rng = np.random.default_rng(0)
    encoded = bytearray(cv2.imencode(".png", rng.integers(0, 255, (20, 40, 3)))[1].tobytes())
    encoded[len(encoded) // 2] ^= 1
    path.write_bytes(encoded)
    assert len(scan(data).dataset) == 4
    assert len(scan(data, decode=True).dataset) == 3
    assert len(load_dataset(data, "train")) == 3


@pytest.mark.parametrize("write", WRITERS)
def test_what_decoding_finds_stays_known_after_annotations_change(tmp_path, write):
    data = write(tmp_path)
    path = next(tmp_path.rglob("b.jpg"))
    sound = path.read_bytes()
    # Its header and end are sound, and between them is nothing.
    scan_starts = sound.index(b"\xff\xda") + 14
    path.write_bytes(sound[:scan_starts] + b"\xff\xd9")
    assert len(scan(data).dataset) == 3
    checked = scan(data, decode=True)
    assert len(checked.dataset) == 2
    for change in range(2):
        touch_annotations(tmp_path, change)
        after = scan(data)
        assert not after.decoded
        assert after.faults == checked.faults
        assert len(after.dataset) == 2
    path.write_bytes(sound)
    assert len(scan(data).dataset) == 3


def touch_annotations(folder, change):
    """Makes the annotations of any layout others, with the same meaning."""
    for suffix in (".txt", ".json", ".xml"):
        for path in folder.rglob(f"*{suffix}"):
            if "ImageSets" not in path.parts:
                path.write_text(path.read_text() + "\n" * (change + 1))


def test_a_damaged_cache_is_rebuilt_whichever_byte_is_wrong(faulty):
    first = scan(faulty)
    path = cache_of(faulty)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    ends = [*range(16), *range(len(whole) - 96, len(whole))]
    places = [*ends, *rng.integers(16, len(whole) - 96, 50).tolist()]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        assert scan_cache.read_scan(faulty, "train", "0") is None
        assert_same(scan(faulty), first)
        assert path.read_bytes() == whole


def test_a_truncated_or_foreign_cache_is_rebuilt(faulty):
    first = scan(faulty)
    path = cache_of(faulty)
    whole = path.read_bytes()
    foreign = [b"", b"\x80\x04.", whole + b"more", whole.replace(b" scan ", b" scam ")]
    foreign += [whole[:length] for length in range(0, len(whole), 97)]
    for header in (b"{}", b"[]", b"nonsense", b'{"digest": 3}', b"\xff"):  # with the right hash
        content = struct.pack("<Q", len(header)) + header
        foreign.append(content + scan_cache.MAGIC + hashlib.blake2b(content).digest())
    for content in foreign:
        path.write_bytes(content)
        assert_same(scan(faulty), first)
        assert path.read_bytes() == whole
    path.unlink()
    path.mkdir()
    assert_same(scan(faulty), first)


def test_the_cache_can_be_read_by_all_that_the_umask_allows(faulty, tmp_path):
    scan(faulty)
    usual = tmp_path / "usual"
    usual.touch()
    assert cache_of(faulty).stat().st_mode == usual.stat().st_mode


def test_a_cache_that_cannot_be_written_beside_the_data_is_the_users(faulty, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    write_text(faulty.parent / scan_cache.CACHE_FOLDER, "a file in the way")
    first = scan(faulty)
    assert cache_files(faulty, "train")[1].is_file()
    assert str(cache_files(faulty, "train")[1]).startswith(str(tmp_path / "home"))
    forbid_reading(monkeypatch)
    assert_same(scan(faulty), first)


def test_without_any_place_for_a_cache_the_scan_is_the_same(faulty, tmp_path, monkeypatch):
    first = scan(faulty)
    cache_of(faulty).unlink()
    cache_of(faulty).parent.rmdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(write_text(tmp_path / "file", "")))
    write_text(faulty.parent / scan_cache.CACHE_FOLDER, "a file in the way")
    assert_same(scan(faulty), first)


def test_no_unfinished_cache_is_left_behind(faulty, monkeypatch):
    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setenv("XDG_CACHE_HOME", str(faulty.parent / "home"))
    monkeypatch.setattr(os, "replace", fail)
    scan(faulty)
    assert list(cache_of(faulty).parent.iterdir()) == []


@pytest.mark.parametrize("write", WRITERS)
def test_any_number_of_workers_finds_the_same(tmp_path, write):
    data = write(tmp_path)
    for name in "defghijklmnop":
        write_image(tmp_path / f"images/train/{name}.jpg")
    scans = []
    for workers in (0, 1, 3):
        scans.append(scan(data, decode=True, workers=workers))
        cache_of(data).unlink()
    assert_same(scans[1], scans[0])
    assert_same(scans[2], scans[0])


def test_stamps_tell_missing_files_from_empty_ones(tmp_path):
    path = str(tmp_path / "a")
    missing = image_stamps((path,))
    write_text(tmp_path / "a", "")
    assert image_stamps((path,)) != missing


def test_effects_are_counted_by_what_is_left_out():
    kinds = (
        FaultKind.DUPLICATE,
        FaultKind.ZERO_AREA,
        FaultKind.MISSING_IMAGE,
        FaultKind.STICKS_OUT,
        FaultKind.STICKS_OUT,
    )
    faults = [Fault(kind, "file", None, "") for kind in kinds]
    text = "1 image left out, 2 objects left out, 2 boxes clipped to the image"
    assert summarize(faults) == text
    assert {kind.effect for kind in FaultKind} == set(Effect)


# ------------------------------------------------------------------ hostile files


def hostile_label(rng):
    """Returns the content of a label file and the lines of it that must be named."""
    kind = rng.integers(8)
    good = "0 0.5 0.5 0.25 0.25"
    if kind == 0:  # any bytes
        return rng.integers(0, 256, rng.integers(1, 60), np.uint8).tobytes(), None
    if kind == 1:  # any printable text
        return bytes(rng.integers(32, 127, rng.integers(1, 60), np.uint8)), None
    words = good.split()
    place = int(rng.integers(5))
    bad = ("nan", "-inf", "1e999", "x", "--1", "0x1", "1e400", "9" * 400, "-5", "7.25", "½", "\0")
    if kind in (2, 3):  # one wrong word
        words[place] = str(rng.choice(bad[:-2])) if kind == 2 else bad[int(rng.integers(len(bad)))]
    elif kind == 4:  # too few or too many columns
        words = words[: place + 1] if place < 4 else [*words, "0.5"]
    elif kind == 5:  # zero area
        words[3 + place % 2] = "0"
    elif kind == 6:  # a polygon of half a corner too much
        words += ["0.1"] * 3
    else:  # repeated
        words = good.split()
    if kind in (2, 3) and words[place] == "0x1" and place == 0:
        words[0] = "x"
    return f"{good}\n\n{' '.join(words)}\n".encode(), 3


def hostile_image(rng, encoded):
    """Returns an image that is cut somewhere."""
    whole = encoded[int(rng.integers(len(encoded)))]
    return whole[: int(rng.integers(len(whole) - 1))]


def test_hostile_label_files_and_truncated_images_are_named_and_nothing_fails(tmp_path):
    rng = np.random.default_rng(7)
    image = rng.integers(0, 255, (8, 8, 3), np.uint8)
    encoded = [cv2.imencode(suffix, image)[1].tobytes() for suffix in (".jpg", ".png", ".bmp")]
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "good.jpg").write_bytes(encoded[0])
    wanted_lines, cut = {}, set()
    for number in range(HOSTILE_FILES):
        content, line = hostile_label(rng)
        label = tmp_path / f"labels/{number}.txt"
        label.write_bytes(content)
        image = tmp_path / f"images/{number}.jpg"
        if number % 4 == 0:
            image.write_bytes(hostile_image(rng, encoded))
            cut.add(str(image))
        else:
            image.hardlink_to(tmp_path / "good.jpg")
            if line is not None:
                wanted_lines[str(label)] = line
    data = write_text(tmp_path / "data.yaml", "train: images\nnames: [cat, dog]\n")
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    found = scan(data)
    cv2.utils.logging.setLogLevel(level)
    named = {(fault.file, fault.line) for fault in found.faults}
    assert {file for file, _ in named} >= cut
    assert not set(found.dataset.paths) & cut
    assert named >= set(wanted_lines.items())
    boxes = found.dataset.boxes
    assert len(boxes) >= len(wanted_lines)
    assert np.isfinite(boxes).all()
    assert (boxes[:, 2:] > 0).all()
    assert (np.abs(boxes - 0.5) <= 0.5).all()
    assert set(np.unique(found.dataset.labels)) <= {0, 1}
    assert all(os.path.splitext(path)[1] in IMAGE_SUFFIXES for path in found.looked_at)
    assert stat.S_ISREG(os.stat(cache_of(data)).st_mode)


def test_mutilated_coco_and_voc_annotations_never_fail_otherwise_than_in_one_line(tmp_path):
    rng = np.random.default_rng(11)
    coco, voc = write_coco(tmp_path / "coco"), write_voc(tmp_path / "voc")
    xml = voc / "Annotations/a.xml"
    for path, data in ((coco, coco), (xml, voc)):
        whole = path.read_bytes()
        for _ in range(300):
            content = bytearray(whole)
            for _ in range(int(rng.integers(1, 4))):
                place = int(rng.integers(len(content)))
                digits = b'0123456789-.e"[]{}<>/,:\0\xff nN'
                content[place] = digits[int(rng.integers(len(digits)))]
            path.write_bytes(content)
            try:
                found = scan(data)
                messages = list(map(str, found.faults))
                assert np.isfinite(found.dataset.boxes).all()
            except UserError as error:
                messages = [str(error)]
            assert not any("\n" in message for message in messages)
