"""What can be wrong with a data set, and what is done about it."""

import enum
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from yolov7_jax.errors import printable


class Effect(enum.Enum):
    """What a fault does to the data set that is trained on; the value is how reports put it."""

    SPLIT = "split not usable"
    IMAGE = "image left out"
    REPETITION = "repetition left out"
    DOUBTFUL = "image kept but to be looked at"
    OBJECT = "object left out"
    DOUBTFUL_OBJECT = "object kept but to be looked at"
    OUTLINE = "outline left out, box kept"
    CLIPPED = "box clipped to the image"
    NOTHING = "file not used"


class FaultKind(enum.Enum):
    """Kinds of faults: what reports call them, and their effect."""

    UNREADABLE_SPLIT = ("split that cannot be read", Effect.SPLIT)
    NO_LABELS = ("no labels at all", Effect.SPLIT)
    MISSING_IMAGE = ("missing image", Effect.IMAGE)
    UNREADABLE_IMAGE = ("unreadable or truncated image", Effect.IMAGE)
    OTHER_SIZE = ("image of another size than annotated", Effect.IMAGE)
    DOUBTFUL_IMAGE = ("image that may be damaged", Effect.DOUBTFUL)
    UNSUPPORTED_IMAGE = ("image of a type that is not read", Effect.IMAGE)
    REPEATED_IMAGE = ("repeated image", Effect.REPETITION)
    SHARED_LABELS = ("images with the same label file", Effect.DOUBTFUL)
    UNREADABLE_LABELS = ("unreadable labels of an image", Effect.IMAGE)
    MALFORMED = ("malformed annotation", Effect.OBJECT)
    COLUMNS = ("wrong number of columns", Effect.OBJECT)
    NO_NUMBER = ("not a number", Effect.OBJECT)
    NOT_FINITE = ("NaN or infinite", Effect.OBJECT)
    UNKNOWN_CLASS = ("unknown class", Effect.OBJECT)
    UNKNOWN_IMAGE = ("unknown image", Effect.OBJECT)
    OUT_OF_RANGE = ("label out of range", Effect.OBJECT)
    OUTSIDE = ("box outside the image", Effect.OBJECT)
    ZERO_AREA = ("zero area", Effect.OBJECT)
    DUPLICATE = ("duplicate box", Effect.OBJECT)
    UNKNOWN_DIFFICULT = ("'difficult' neither 0 nor 1", Effect.DOUBTFUL_OBJECT)
    BAD_OUTLINE = ("bad outline", Effect.OUTLINE)
    STICKS_OUT = ("box sticks out of the image", Effect.CLIPPED)
    NO_IMAGE = ("labels without an image", Effect.NOTHING)

    def __init__(self, title: str, effect: Effect):
        self.title = title
        self.effect = effect


class Fault(NamedTuple):
    """One thing that is wrong.

    Attributes:
      kind: what is wrong, and so what was done about it.
      file: where.
      line: counted from 1; None where the whole file is meant.
      reason: what came and what was wanted.
    """

    kind: FaultKind
    file: str
    line: int | None
    reason: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.reason}"


def summarize(faults: Iterable[Fault]) -> str:
    """Returns how much each effect happened, as in `2 images left out, 5 objects left out`."""
    counts = dict.fromkeys(Effect, 0)
    for fault in faults:
        counts[fault.kind.effect] += 1
    words = []
    for effect, count in counts.items():
        thing, consequence = effect.value.split(" ", 1)
        if count:
            words.append(f"{count} {plural(thing, count)} {consequence}")
    return ", ".join(words) or "no faults"


def counted(faults: Collection[Fault]) -> str:
    """Returns how many there are and what they did, as in `3 faults (3 images left out)`."""
    return f"{len(faults)} {plural('fault', len(faults))} ({summarize(faults)})"


def plural(noun: str, count: int) -> str:
    """Returns a noun as it stands behind a number."""
    if count == 1:
        return noun
    return noun + ("es" if noun.endswith(("x", "s")) else "s")


def shown(text: object, most: int = 60) -> str:
    """Returns text of a file as a message can show it: short, and without control characters."""
    letters = printable(str(text)[: 2 * most])
    return letters if len(letters) <= most else letters[: most - 3] + "..."


def first_of(texts: Sequence[str]) -> str:
    """Returns the first of several texts as an example."""
    return texts[0] + ", the first" * (len(texts) > 1)


def quoted(value: object) -> str:
    """Returns a parsed value as a message can show it: texts in quotes, so '3' is not 3."""
    return shown(repr(value))
