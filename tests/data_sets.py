"""The same small data set, written in each of the layouts; what reading data sets comes to."""

import json

import cv2
import numpy as np
import pytest

from yolov7_jax.data.layouts import load_dataset, open_source
from yolov7_jax.data.scan import scan_source
from yolov7_jax.errors import UserError

NAMES = ("cat", "dog")
IMAGES = {"a": (40, 20), "b": (30, 30), "c": (16, 24)}  # width, height
OBJECTS = {  # class, and left, top, right, bottom in pixels
    "a": [(1, (4, 2, 24, 12)), (0, (0, 0, 40, 20))],
    "b": [],
    "c": [(0, (1, 3, 9, 23))],
}


def write_image(path, width=20, height=10):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((height, width, 3), np.uint8))


def write_text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_yolo(folder, objects=OBJECTS, split="train"):
    for name, (width, height) in IMAGES.items():
        write_image(folder / f"images/{split}/{name}.jpg", width, height)
        rows = [
            f"{label} {(x1 + x2) / 2 / width:.9f} {(y1 + y2) / 2 / height:.9f} "
            f"{(x2 - x1) / width:.9f} {(y2 - y1) / height:.9f}\n"
            for label, (x1, y1, x2, y2) in objects[name]
        ]
        if rows:
            write_text(folder / f"labels/{split}/{name}.txt", "".join(rows))
    text = f"train: images/train\nval: images/val\nnames: [{', '.join(NAMES)}]\n"
    return write_text(folder / "data.yaml", text)


def coco_content(objects=OBJECTS):
    """Categories have the ids 3 and 18, images 100, 101 ..., annotations 1, 2 ..."""
    ids = {name: 100 + row for row, name in enumerate(IMAGES)}
    annotations = [
        {
            "image_id": ids[name],
            "category_id": (3, 18)[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "iscrowd": 0,
        }
        for name in IMAGES
        for label, (x1, y1, x2, y2) in objects[name]
    ]
    return {
        "info": {"year": 2017},
        "images": [
            {"id": ids[name], "file_name": f"{name}.jpg", "width": width, "height": height}
            for name, (width, height) in IMAGES.items()
        ],
        "annotations": [{"id": row + 1, **item} for row, item in enumerate(annotations)],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


def write_coco(folder, content=None):
    for name, size in IMAGES.items():
        write_image(folder / f"images/{name}.jpg", *size)
    content = coco_content() if content is None else content
    return write_text(folder / "instances.json", json.dumps(content))


def voc_object(label, box, difficult=0):
    """VOC counts pixels from 1, and both corners belong to the box."""
    x1, y1, x2, y2 = box
    return (
        f"<object>\n<name>{NAMES[label]}</name><difficult>{difficult}</difficult>\n"
        f"<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>\n"
        f"<bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>\n</object>\n"
    )


def write_voc(folder, objects=OBJECTS, split="train"):
    for name, (width, height) in IMAGES.items():
        write_image(folder / f"JPEGImages/{name}.jpg", width, height)
        rows = "".join(voc_object(*item) for item in objects[name])
        size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        text = f"<annotation>\n{size}\n{rows}</annotation>\n"
        write_text(folder / f"Annotations/{name}.xml", text)
    write_text(folder / f"ImageSets/Main/{split}.txt", "\n".join(IMAGES) + "\n")
    return folder


def scan(data, **how):
    return scan_source(open_source(data, "train"), data, "train", **how)


def scan_coco(folder, change):
    """Scans the data set as a COCO file after a change of its content."""
    content = coco_content()
    change(content)
    return scan(write_coco(folder, content))


def without_folder(text, data):
    folder = data if data.is_dir() else data.parent
    return str(text).replace(f"{folder}/", "")


def faults_of(data):
    return [without_folder(fault, data) for fault in scan(data).faults]


def error_of(data, split="train"):
    """Returns the one line with which a data set is refused."""
    with pytest.raises(UserError) as fault:
        load_dataset(data, split)
    assert "\n" not in str(fault.value)
    return without_folder(fault.value, data)
