"""Reads the long lists of a large JSON file element by element, in little memory.

A file of annotations may have hundreds of megabytes; parsed as a whole it would take several
gigabytes of Python objects.
"""

import json
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from yolov7_jax.errors import UserError

_CHUNK = 4 << 20  # characters
_SPACE = re.compile(r"[ \t\n\r]*")
# An error this close to the end of what was read may be because the rest is missing.
_LONGEST_WORD = 16


def iterate_lists(
    path: Path, keys: Collection[str], needed: Collection[str] = ()
) -> Iterator[tuple[str, Any, int]]:
    """Yields the elements of chosen lists of a JSON object as they come.

    Args:
      path: the file.
      keys: which members of the outermost object to read; each must be a list.
      needed: those that must be there.

    Yields:
      The key, an element of its list and the line where it starts.

    Raises:
      UserError: the file cannot be read or is no such JSON.
    """
    try:
        with (
            path.open(encoding="utf-8-sig", newline="\n") as file,
            tqdm(
                total=os.path.getsize(path),
                desc=path.name,
                unit="B",
                unit_scale=True,
                disable=None,
                leave=False,
            ) as bar,
        ):
            yield from _Reader(path, file, bar).members(keys, needed)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not a text file in UTF-8") from error


class _Reader:
    """A window of the file's text that moves on."""

    def __init__(self, path: Path, file: TextIO, bar: tqdm):
        self.path, self.file, self.bar = path, file, bar
        self.text, self.at, self.ended = "", 0, False
        self.counted, self.line = 0, 1  # lines are counted up to here
        self.decoder = json.JSONDecoder()

    def members(
        self, keys: Collection[str], needed: Collection[str]
    ) -> Iterator[tuple[str, Any, int]]:
        if self.peek() != "{":
            raise UserError(f"{self.path}: wanted a JSON object with {', '.join(keys)}")
        present = set()
        for _ in self.between("{", "}"):
            key, _ = self.value()
            if not isinstance(key, str):
                raise self.error("a key must be a text")
            present.add(key)
            self.expect(":")
            if key not in keys:
                self.value()
                continue
            if self.peek() != "[":
                raise self.error(f"'{key}' must be a list")
            for _ in self.between("[", "]"):
                yield key, *self.value()
        if self.peek():
            raise self.error("nothing may follow the outermost object")
        missing = [key for key in needed if key not in present]
        if missing:
            raise UserError(f"{self.path}: is not COCO JSON: it has no {', '.join(missing)}")

    def between(self, opening: str, closing: str) -> Iterator[None]:
        """Yields once before each element between an opening and a closing bracket."""
        self.expect(opening)
        if self.peek() != closing:
            yield
            while self.peek() == ",":
                self.at += 1
                yield
        self.expect(closing)

    def value(self) -> tuple[Any, int]:
        """Reads a value, and returns it with its line."""
        self.peek()
        line = self.line_here()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                open_end = error.msg.startswith("Unterminated string")
                cut = open_end or error.pos + _LONGEST_WORD > len(self.text)
                if self.ended or not cut:
                    self.at = error.pos
                    raise self.error(error.msg) from None
            except (RecursionError, ValueError) as error:
                raise self.error(str(error)) from None
            else:
                # A number at the end of the window may go on behind it.
                if self.ended or end < len(self.text):
                    self.at = end
                    return value, line
            self.more()

    def expect(self, mark: str) -> None:
        if self.peek() != mark:
            raise self.error(f"wanted {mark!r}")
        self.at += 1

    def peek(self) -> str:
        """Skips white space and returns the next character; empty at the end."""
        while True:
            self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr] - matches always
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.more()

    def more(self) -> None:
        """Forgets what was read, and doubles what wasn't."""
        self.line_here()
        rest = self.text[self.at :]
        read = self.file.read(max(_CHUNK, len(rest)))
        self.ended = not read
        self.bar.update(len(read))
        self.text, self.at, self.counted = rest + read, 0, 0

    def line_here(self) -> int:
        self.line += self.text.count("\n", self.counted, self.at)
        self.counted = self.at
        return self.line

    def error(self, problem: str) -> UserError:
        line = self.line_here()
        if self.ended and self.at >= len(self.text):
            problem = "it ends too early"
        return UserError(f"{self.path}:{line}: is not JSON as wanted: {problem}")
