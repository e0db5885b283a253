"""The XML file of one image, as Pascal VOC has them."""

import math
from typing import Any

from lxml import etree  # pyright: ignore[reportAttributeAccessIssue] - it has no types

from yolov7_jax.data.faults import Fault, FaultKind, shown
from yolov7_jax.data.image_labels import ImageLabels, LabelRow, Size, label_file, unreadable

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


def read_annotation(file: str, size: Size) -> ImageLabels:
    """Reads the XML file of an image of that width and height; classes are names."""
    _, content, problem = label_file([file])
    if problem:
        return unreadable(file, None, f"cannot be read: {problem}")
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
        return unreadable(file, line, f"is not XML: {shown(getattr(error, 'msg', error))}")
    dtd = root.getroottree().docinfo.internalDTD
    if dtd is not None and dtd.entities():
        return unreadable(file, None, "declares entities, which are not allowed")
    if root.tag != OUTERMOST:
        reason = f"has <{shown(_tag(root))}> outermost, wanted <{OUTERMOST}>"
        return unreadable(file, None, reason)
    strange = _other_spelling(root)
    if strange is not None:
        reason = f"has <{shown(_tag(strange))}>, wanted <{_plain(strange.tag)}>"
        return unreadable(file, strange.sourceline, reason)
    faults: list[Fault] = []
    objects = []
    for element in root.iterchildren("object"):
        try:
            objects.append(_object(element, size))
        except ValueError as error:
            faults.append(Fault(FaultKind.MALFORMED, file, element.sourceline, str(error)))
            continue
        difficult = _text(element, "difficult")
        if difficult.lower() not in (*DIFFICULT, *NOT_DIFFICULT):
            reason = f"difficult must be 0 or 1, got {shown(difficult)}; it is taken for 0"
            faults.append(Fault(FaultKind.UNKNOWN_DIFFICULT, file, element.sourceline, reason))
    return ImageLabels(file, objects, faults, _size(root))


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


def _object(element: Element, size: Size) -> LabelRow:
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
    # Corners count pixels from 1, and both belong to the box.
    left, top = left - 1, top - 1
    width, height = (max(side, 1) for side in size)
    cx, cy = (left + right) / 2 / width, (top + bottom) / 2 / height
    box = (cx, cy, (right - left) / width, (bottom - top) / height)
    return LabelRow(name, box, element.sourceline, crowd=difficult)


def _size(root: Element) -> tuple[int, int]:
    """Returns width and height, zeros where the file gives none that could be right."""
    try:
        sides = [float(_text(root, f"size/{side}") or 0) for side in ("width", "height")]
    except ValueError:
        return 0, 0
    if not all(math.isfinite(side) and side > 0 for side in sides):
        return 0, 0
    return int(sides[0]), int(sides[1])
