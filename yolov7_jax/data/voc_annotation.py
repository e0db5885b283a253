"""The XML file of one image, as Pascal VOC has them."""

import math
from typing import Any, NamedTuple

from yolov7_jax.data.faults import Fault, FaultKind, shown

try:
    from lxml import etree  # pyright: ignore[reportAttributeAccessIssue] - it has no types
except ImportError as error:
    raise ImportError("reading Pascal VOC needs lxml: pip install 'yolov7-jax[images]'") from error

Element = Any  # of lxml

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
    # No entities, which can make a small file grow without end; nothing from elsewhere.
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        root = etree.fromstring(content, parser)
    except (etree.XMLSyntaxError, LookupError) as error:
        line = getattr(error, "lineno", None)
        return _unreadable(file, line, f"is not XML: {shown(getattr(error, 'msg', error))}")
    dtd = root.getroottree().docinfo.internalDTD
    if dtd is not None and dtd.entities():
        return _unreadable(file, None, "declares entities, which are not allowed")
    if root.tag != OUTERMOST:
        reason = f"has <{shown(_tag(root))}> outermost, wanted <{OUTERMOST}>"
        return _unreadable(file, None, reason)
    strange = _other_spelling(root)
    if strange is not None:
        reason = f"has <{shown(_tag(strange))}>, wanted <{_plain(strange.tag)}>"
        return _unreadable(file, strange.sourceline, reason)
    faults: list[Fault] = []
    objects = []
    for element in root.iterchildren("object"):
        try:
            objects.append(_object(element))
        except ValueError as error:
            faults.append(Fault(FaultKind.MALFORMED, file, element.sourceline, str(error)))
            continue
        difficult = _text(element, "difficult")
        if difficult.lower() not in (*DIFFICULT, *NOT_DIFFICULT):
            reason = f"difficult must be 0 or 1, got {shown(difficult)}; it is taken for 0"
            faults.append(Fault(FaultKind.UNKNOWN_DIFFICULT, file, element.sourceline, reason))
    return VocLabels(_size(root), objects, faults)


def _unreadable(file: str, line: int | None, reason: str) -> VocLabels:
    reason += "; its image is left out"
    return VocLabels((0, 0), [], [Fault(FaultKind.UNREADABLE_LABELS, file, line, reason)])


def annotation_bytes(file: str) -> tuple[bytes, str]:
    """Returns what is in a file, and why it cannot be read; one of them is empty."""
    try:
        with open(file, "rb", buffering=0) as opened:
            return opened.read(), ""
    except (OSError, ValueError) as error:
        return b"", getattr(error, "strerror", None) or str(error)


def _text(element: Element, path: str) -> str:
    """Returns the text of the first element at a path; empty where there is none."""
    found = element.find(path)
    return "" if found is None else "".join(found.itertext(with_tail=False)).strip()


def _other_spelling(element: Element) -> Element | None:
    """Returns an element that would be read if its tag had no prefix, or no capitals.

    To pass over it could take the image for one without objects.
    """
    wanted = READ.get(element.tag, ())
    for child in element.iterchildren(etree.Element):
        if child.tag in wanted:
            deeper = _other_spelling(child)
            if deeper is not None:
                return deeper
        elif _plain(child.tag) in wanted:
            return child
    return None


def _plain(tag: str) -> str:
    return tag.rpartition("}")[2].rpartition(":")[2].lower()


def _tag(element: Element) -> str:
    """Returns the tag as the file has it."""
    name = etree.QName(element).localname
    return f"{element.prefix}:{name}" if element.prefix else name


def _object(element: Element) -> VocObject:
    name = _text(element, "name")
    if not name:
        raise ValueError("the object has no name")
    box = element.find("bndbox")
    if box is None:
        raise ValueError(f"{shown(name)}: the object has no bndbox")
    texts = [_text(box, corner) for corner in CORNERS]
    try:
        left, top, right, bottom = map(float, texts)
    except ValueError:
        reason = f"{shown(name)}: {' '.join(CORNERS)} must be numbers, got {shown(texts)}"
        raise ValueError(reason) from None
    difficult = _text(element, "difficult").lower() in DIFFICULT
    return VocObject(name, (left - 1, top - 1, right, bottom), difficult, element.sourceline)


def _size(root: Element) -> tuple[int, int]:
    """Returns width and height, zeros where the file gives none that could be right."""
    try:
        sides = [float(_text(root, f"size/{side}") or 0) for side in ("width", "height")]
    except ValueError:
        return 0, 0
    if not all(math.isfinite(side) and side > 0 for side in sides):
        return 0, 0
    return int(sides[0]), int(sides[1])
