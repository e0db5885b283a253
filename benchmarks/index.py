"""Time and memory to index a data set of COCO's size, and to start from the cache of it.

    python -m benchmarks.index [--layout coco|yolo] [--images 118000] [--objects 860000]

Annotations are synthetic, with polygons as long as COCO's; images are tiny and shared by hard
links, so that the time is that of the files and their headers. Each measurement is a process of
its own, and its peak memory includes Python, NumPy and JAX.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT = 640, 480
CLASSES = 80
DISTINCT = 500  # images and outlines; hard links of one file are limited
CORNERS = 22  # of a polygon on average, as in COCO
GOALS = {"scan": (60.0, 1000), "cache": (5.0, 1000)}  # seconds, megabytes


def make_images(folder: Path, num_images: int) -> None:
    """Writes images of 640 x 480 pixels and about 4 KB."""
    folder.mkdir(parents=True)
    encoded = cv2.imencode(".jpg", np.full((HEIGHT, WIDTH, 3), 114, np.uint8))[1].tobytes()
    for image in range(num_images):
        path = folder / f"{image:012d}.jpg"
        if image < DISTINCT:
            path.write_bytes(encoded)
        else:
            path.hardlink_to(folder / f"{image % DISTINCT:012d}.jpg")


def random_outlines(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yields outlines `[corners, 2]` inside the image, in pixels of two decimals."""
    for _ in range(DISTINCT):
        corners = max(3, int(rng.poisson(CORNERS)))
        angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
        radius = rng.uniform(20, 120, (corners, 1))
        centre = rng.uniform(130, (WIDTH - 130, HEIGHT - 130), 2)
        yield (centre + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)).round(2)


def make_coco(folder: Path, num_images: int, num_objects: int) -> Path:
    """Writes instances.json and its images."""
    make_images(folder / "images", num_images)
    rng = np.random.default_rng(0)
    outlines = [
        (json.dumps([points.ravel().tolist()]), points.min(axis=0), np.ptp(points, axis=0))
        for points in random_outlines(rng)
    ]
    path = folder / "instances.json"
    image_of, label_of = rng.integers(0, num_images, num_objects), rng.integers(0, CLASSES)
    with path.open("w") as file:
        images = [
            {"id": i, "file_name": f"{i:012d}.jpg", "width": WIDTH, "height": HEIGHT}
            for i in range(num_images)
        ]
        categories = [{"id": i + 1, "name": f"class {i}"} for i in range(CLASSES)]
        file.write(f'{{"images": {json.dumps(images)}, "categories": {json.dumps(categories)}')
        file.write(', "annotations": [')
        for row, image in enumerate(image_of.tolist()):
            text, (x, y), (w, h) = outlines[row % DISTINCT]
            x += row % 97 / 100  # no two boxes of an image are the same
            file.write(
                f'{", " if row else ""}{{"segmentation": {text}, "area": {w * h / 2:.4f}, '
                f'"iscrowd": 0, "image_id": {image}, "bbox": [{x:.2f}, {y:.2f}, {w:.2f}, {h:.2f}], '
                f'"category_id": {(label_of + row) % CLASSES + 1}, "id": {row + 1}}}'
            )
        file.write("]}")
    return path


def make_yolo(folder: Path, num_images: int, num_objects: int) -> Path:
    """Writes data.yaml, the images, and label files with boxes."""
    make_images(folder / "images", num_images)
    (folder / "labels").mkdir()
    rng = np.random.default_rng(0)
    per_image = np.bincount(rng.integers(0, num_images, num_objects), minlength=num_images)
    boxes = rng.uniform(0.1, 0.9, (num_objects, 2))
    first = 0
    for image, count in enumerate(per_image.tolist()):
        rows = boxes[first : first + count].tolist()
        lines = [f"{row % CLASSES} {x:.6f} {y:.6f} 0.1 0.2\n" for row, (x, y) in enumerate(rows)]
        (folder / "labels" / f"{image:012d}.txt").write_text("".join(lines))
        first += count
    path = folder / "data.yaml"
    path.write_text(f"train: images\nnames: [{', '.join(f'c{i}' for i in range(CLASSES))}]\n")
    return path


def load(path: str) -> None:
    """Loads a split in this process, and prints seconds, megabytes, images and objects."""
    from yolov7_jax.data.layouts import load_dataset

    start = time.perf_counter()
    dataset = load_dataset(path, "train")
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps([seconds, peak, len(dataset), len(dataset.labels)]))


def main():
    """Prints a row for the first start and one for the second."""
    parser = argparse.ArgumentParser(description="Times the indexing of a large data set.")
    parser.add_argument("--layout", choices=("coco", "yolo"), default="coco")
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--objects", type=int, default=860_000)
    parser.add_argument("--load", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.load:
        load(given.load)
        return
    with tempfile.TemporaryDirectory() as folder:
        make = make_coco if given.layout == "coco" else make_yolo
        path = make(Path(folder) / "data", given.images, given.objects)
        print(f"{given.layout}: {path.name} of {path.stat().st_size / 1e6:.0f} MB")
        print("start      seconds   (goal)   peak MB   (goal)    images     objects")
        for name, (seconds_goal, memory_goal) in GOALS.items():
            command = [sys.executable, "-m", "benchmarks.index", "--load", str(path)]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            seconds, peak, images, objects = json.loads(output)
            print(
                f"{name:8} {seconds:9.1f} {seconds_goal:8.0f} {peak:9} {memory_goal:8} "
                f"{images:11} {objects:11}"
            )


if __name__ == "__main__":
    main()
