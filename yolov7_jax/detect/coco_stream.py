"""A COCO .json file that grows on disk, since a stream of images may have no end."""

import contextlib
import json
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, Any, Self

from yolov7_jax.files import naming, write_whole

# What is no text in the name of a file is written as an escape, which JSON turns back into it.
UTF8, ERRORS = "utf-8", "backslashreplace"
PART = 2**20  # bytes


class CocoFile:
    """Writes images and annotations that have a score; a context manager.

    The file appears at the end, whole.
    """

    def __init__(self, path: pathlib.Path, names: Sequence[str]):
        self._path, self._names = path, names
        self._stack = contextlib.ExitStack()
        self._lists: dict[str, IO[bytes]] = {}
        self._counts = {"images": 0, "annotations": 0}

    def __enter__(self) -> Self:
        with naming(self._path):
            for name in self._counts:
                file = tempfile.TemporaryFile(dir=self._path.parent)
                self._lists[name] = self._stack.enter_context(file)
        return self

    def __exit__(self, *exception: object) -> None:
        with self._stack:
            write_whole(self._path, self._parts())

    def add(
        self, name: str, size: tuple[int, int], rows: Sequence[tuple[list[float], float, int]]
    ) -> None:
        """Adds an image.

        Args:
          name: what the file calls it.
          size: its width and height in pixels.
          rows: corners in pixels, score and class index of each object in it.

        Raises:
          OSError: the disk is full.
        """
        with naming(self._path):
            number = self._append("images", file_name=name, width=size[0], height=size[1])
            for (x0, y0, x1, y1), score, label in rows:
                box = [round(side, 3) for side in (x0, y0, x1 - x0, y1 - y0)]
                self._append(
                    "annotations",
                    image_id=number,
                    category_id=label + 1,
                    bbox=box,
                    area=round(box[2] * box[3], 3),
                    iscrowd=0,
                    score=round(score, 6),
                )

    def _append(self, name: str, **values: Any) -> int:
        """Adds a row to a list; returns its id."""
        self._counts[name] += 1
        row = json.dumps({"id": self._counts[name], **values}, ensure_ascii=False)
        comma = ",\n" if self._counts[name] > 1 else ""
        self._lists[name].write(f"{comma}{row}".encode(UTF8, ERRORS))
        return self._counts[name]

    def _parts(self) -> Iterator[bytes]:
        categories = [{"id": n, "name": name} for n, name in enumerate(self._names, 1)]
        yield f'{{"categories": {json.dumps(categories, ensure_ascii=False)}'.encode(UTF8, ERRORS)
        for name, file in self._lists.items():
            yield f',\n"{name}": ['.encode()
            file.seek(0)
            while part := file.read(PART):
                yield part
            yield b"]"
        yield b"}\n"
