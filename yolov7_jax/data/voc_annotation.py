"""The XML file of one image, as Pascal VOC has them."""

import dataclasses
import math
from typing import NamedTuple
from xml.parsers import expat

from yolov7_jax.data.faults import Fault, Kind, shown

CORNERS = ("xmin", "ymin", "xmax", "ymax")
OUTERMOST = "annotation"
# What is read, by the element that it stands in.
READ = {
    OUTERMOST: ("size", "object"),
    "size": ("width", "height"),
    "object": ("name", "difficult", "bndbox"),
    "bndbox": CORNERS,
}
# What `difficult` may say, in lower case; VOC's first years have "Unspecified".
DIFFICULT, NOT_DIFFICULT = ("1", "true"), ("", "0", "false", "unspecified")
DEEPEST = 50  # elements within elements; VOC's own have 4


@dataclasses.dataclass
class Element:
    """An element of an XML file: its tag, the line where it starts, its text and children."""

    tag: str
    line: int
    text: str = ""
    children: list["Element"] = dataclasses.field(default_factory=list)

    def child(self, tag: str) -> "Element | None":
        """Returns the first child of this tag."""
        return next((child for child in self.children if child.tag == tag), None)

    def text_of(self, tag: str) -> str | None:
        """Returns the text of the first child of this tag."""
        found = self.child(tag)
        return None if found is None else found.text.strip()


class VocObject(NamedTuple):
    """An object.

    Attributes:
      name: of its class.
      box: corners in pixels, 0 the border of the first.
      difficult: whether it is marked so.
      line: where it starts, counted from 1.
    """

    name: str
    box: tuple[float, float, float, float]
    difficult: bool
    line: int


class VocLabels(NamedTuple):
    """What the XML file of an image says.

    Attributes:
      size: width and height in pixels; zeros where it doesn't say.
      objects: those that are sound.
      faults: what is wrong.
    """

    size: tuple[int, int]
    objects: list[VocObject]
    faults: list[Fault]


def read_annotation(file: str) -> VocLabels:
    """Reads the XML file of one image."""
    content, problem = annotation_bytes(file)
    if problem:
        return _unreadable(file, None, f"cannot be read: {problem}")
    try:
        root = _parse(content)
    except expat.ExpatError as error:
        return _unreadable(file, error.lineno, f"is not XML: {error}")
    except (ValueError, LookupError) as error:
        return _unreadable(file, None, str(error))
    if root.tag != OUTERMOST:
        reason = f"has <{shown(root.tag)}> outermost, wanted <{OUTERMOST}>"
        return _unreadable(file, None, reason)
    strange = _other_spelling(root)
    if strange is not None:
        reason = f"has <{shown(strange.tag)}>, wanted <{_plain(strange.tag)}>"
        return _unreadable(file, strange.line, reason)
    faults: list[Fault] = []
    objects = []
    for element in root.children:
        if element.tag != "object":
            continue
        try:
            objects.append(_object(element))
        except ValueError as error:
            faults.append(Fault(Kind.MALFORMED, file, element.line, str(error)))
            continue
        difficult = element.text_of("difficult") or ""
        if difficult.lower() not in (*DIFFICULT, *NOT_DIFFICULT):
            reason = f"difficult must be 0 or 1, got {shown(difficult)}; it is taken for 0"
            faults.append(Fault(Kind.UNKNOWN_DIFFICULT, file, element.line, reason))
    return VocLabels(_size(root), objects, faults)


def _unreadable(file: str, line: int | None, reason: str) -> VocLabels:
    reason += "; its image is left out"
    return VocLabels((0, 0), [], [Fault(Kind.UNREADABLE_LABELS, file, line, reason)])


def annotation_bytes(file: str) -> tuple[bytes, str]:
    """Returns what is in a file, and why it cannot be read; one of them is empty."""
    try:
        with open(file, "rb", buffering=0) as opened:
            return opened.read(), ""
    except (OSError, ValueError) as error:
        return b"", getattr(error, "strerror", None) or str(error)


def _parse(content: bytes) -> Element:
    """Parses XML; a ValueError, LookupError (encoding) or ExpatError says what is wrong with it."""
    parser = expat.ParserCreate()
    outermost = Element("", 0)
    path = [outermost]

    def start(tag: str, _attributes: dict[str, str]) -> None:
        if len(path) > DEEPEST:
            raise ValueError(f"has elements more than {DEEPEST} deep")
        element = Element(tag, parser.CurrentLineNumber)
        path[-1].children.append(element)
        path.append(element)

    def end(_tag: str) -> None:
        path.pop()

    def text(data: str) -> None:
        path[-1].text += data

    def entity(*_declaration: object) -> None:
        # Entities can make a small file grow without end, and labels have no use for them.
        raise ValueError("declares entities, which are not allowed")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.EntityDeclHandler = text, entity
    parser.buffer_text = True
    parser.Parse(content, True)
    return outermost.children[0]


def _other_spelling(element: Element) -> Element | None:
    """Returns an element that would be read if its tag had no prefix, or no capitals.

    To pass over it could take the image for one without objects.
    """
    wanted = READ.get(element.tag, ())
    for child in element.children:
        if child.tag in wanted:
            deeper = _other_spelling(child)
            if deeper is not None:
                return deeper
        elif _plain(child.tag) in wanted:
            return child
    return None


def _plain(tag: str) -> str:
    return tag.rpartition(":")[2].lower()


def _object(element: Element) -> VocObject:
    name = element.text_of("name")
    if not name:
        raise ValueError("the object has no name")
    box = element.child("bndbox")
    if box is None:
        raise ValueError(f"{shown(name)}: the object has no bndbox")
    texts = [box.text_of(corner) or "" for corner in CORNERS]
    try:
        left, top, right, bottom = map(float, texts)
    except ValueError:
        reason = f"{shown(name)}: {' '.join(CORNERS)} must be numbers, got {shown(texts)}"
        raise ValueError(reason) from None
    difficult = (element.text_of("difficult") or "").lower() in DIFFICULT
    return VocObject(name, (left - 1, top - 1, right, bottom), difficult, element.line)


def _size(root: Element) -> tuple[int, int]:
    """Returns width and height, zeros where the file gives none that could be right."""
    size = root.child("size")
    try:
        sides = [float((size and size.text_of(side)) or 0) for side in ("width", "height")]
    except ValueError:
        return 0, 0
    if not all(math.isfinite(side) and side > 0 for side in sides):
        return 0, 0
    return int(sides[0]), int(sides[1])
