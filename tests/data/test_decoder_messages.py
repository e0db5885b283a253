"""What C libraries print about images: kept off the terminal, and told as reasons."""

import os
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest
from data_sets import write_text

from yolov7_jax.data.decoder_messages import DecoderMessages, is_damage, is_doubt, watch_decoder
from yolov7_jax.data.faults import Kind
from yolov7_jax.data.image_size import read_size
from yolov7_jax.data.images import UnreadableImageError
from yolov7_jax.data.layouts import open_source
from yolov7_jax.data.scan import scan_source

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
    source = open_source(damaged, "train")
    found = scan_source(source, damaged, "train", decode=True, workers=workers)
    told = [(os.path.basename(fault.file), fault.kind, fault.reason) for fault in found.faults]
    reason = f"is truncated or damaged ({MESSAGE})"
    wanted = [f"{number:02d}.jpg" for number in range(0, 40, 4)]
    assert told == [(name, Kind.UNREADABLE_IMAGE, reason) for name in wanted]
    assert len(found.dataset) == 30
    assert capfd.readouterr() == ("", "")


def test_the_scan_of_headers_prints_nothing_either(damaged, capfd):
    (damaged.parent / "images/00.jpg").write_bytes(jpeg()[:500])
    png = cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes()
    (damaged.parent / "images/01.jpg").write_bytes(png[:40])
    found = scan_source(open_source(damaged, "train"), damaged, "train")
    assert len(found.faults) == 2
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("message", "damage", "doubt"),
    [
        (MESSAGE, True, False),
        ("Premature end of JPEG file", True, False),
        ("Corrupt JPEG data: 3 extraneous bytes before marker 0xd9", False, True),
        ("Corrupt JPEG data: 3 extraneous bytes before marker 0xc4", False, False),
        ("libpng warning: iCCP: known incorrect sRGB profile", False, False),
        ("", False, False),
    ],
)
def test_what_is_harmless_is_no_damage(message, damage, doubt):
    assert (is_damage(message), is_doubt(message)) == (damage, doubt)


def test_a_image_that_may_be_damaged_is_kept_and_named(damaged):
    whole = jpeg(1)
    (damaged.parent / "images/01.jpg").write_bytes(whole[:-2] + bytes(9) + whole[-2:])
    source = open_source(damaged, "train")
    found = scan_source(source, damaged, "train", decode=True)
    (fault,) = [fault for fault in found.faults if fault.file.endswith("01.jpg")]
    assert fault.kind is Kind.DOUBTFUL_IMAGE
    assert fault.reason.startswith("is decoded, but: Corrupt JPEG data: ")
    assert fault.file in found.dataset.paths


def test_without_a_collector_images_are_decoded_all_the_same(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg())
    assert read_size(tmp_path / "a.jpg", decode=True) == (64, 64)
    (tmp_path / "a.jpg").write_bytes(jpeg()[:500])
    with pytest.raises(UnreadableImageError, match=r"is truncated or damaged$"):
        read_size(tmp_path / "a.jpg", decode=True)


def test_messages_of_threads_at_work_together_are_not_mixed_up():
    def decode(number):
        def print_and_return():
            if number % 3 == 0:
                os.write(2, f"libpng warning: {number}\n".encode())
            return number

        results[number] = watch_decoder(print_and_return)

    results = {}
    with DecoderMessages():
        threads = [threading.Thread(target=decode, args=(number,)) for number in range(60)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    messages = {n: "" if n % 3 else f"libpng warning: {n}" for n in range(60)}
    assert results == {number: (number, text) for number, text in messages.items()}


COLLECT = """
import os, sys
from yolov7_jax.data.decoder_messages import DecoderMessages
with DecoderMessages():
    os.write(2, b"libpng warning: dull\\nlast words\\n")
    if "crash" in sys.argv:
        os.abort()
"""


@pytest.mark.parametrize("end", ["usual", "crash"])
def test_what_no_decoder_printed_arrives_in_the_end_even_of_a_crash(end):
    run = subprocess.Popen([sys.executable, "-c", COLLECT, end], stderr=subprocess.PIPE, text=True)
    assert run.communicate(timeout=60)[1] == "last words\n"


QUIET = """
import os, sys
import cv2, numpy as np
from yolov7_jax.data.decoder_messages import quiet_decoders
with quiet_decoders():
    cv2.imdecode(np.fromfile(sys.argv[1], np.uint8), cv2.IMREAD_COLOR)
    print("from Python", file=sys.stderr)
    os.write(2, b"from C\\n")
    if "crash" in sys.argv:
        os.abort()
print("afterwards", file=sys.stderr)
os.write(2, b"afterwards from C\\n")
"""


@pytest.mark.parametrize("crash", [False, True])
def test_only_complaints_about_images_are_kept_off_the_terminal(tmp_path, crash):
    path = tmp_path / "a.jpg"
    path.write_bytes(cut_short(jpeg()))
    command = [sys.executable, "-c", QUIET, str(path), *(["crash"] if crash else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    printed = done.stderr.splitlines()
    assert MESSAGE not in done.stderr
    assert {"from Python", "from C"} <= set(printed)
    assert (done.returncode == 0) != crash
    if not crash:
        assert printed[-2:] == ["afterwards", "afterwards from C"]
