"""What can be wrong with a data set, and what is done about it."""

import enum
from collections.abc import Iterable
from typing import NamedTuple


class Effect(enum.Enum):
    """What a fault does to the data set that is trained on; the value is how reports put it."""

    PICTURE = "picture left out"
    OBJECT = "object left out"
    OUTLINE = "outline left out, box kept"
    CLIPPED = "box clipped to the picture"
    NOTHING = "file not used"


class Kind(enum.Enum):
    """Kinds of faults: what reports call them, and their effect."""

    MISSING_PICTURE = ("missing picture", Effect.PICTURE)
    UNREADABLE_PICTURE = ("unreadable or truncated picture", Effect.PICTURE)
    OTHER_SIZE = ("picture of another size than annotated", Effect.PICTURE)
    REPEATED_PICTURE = ("repeated picture", Effect.PICTURE)
    UNREADABLE_LABELS = ("unreadable labels of a picture", Effect.PICTURE)
    MALFORMED = ("malformed annotation", Effect.OBJECT)
    COLUMNS = ("wrong number of columns", Effect.OBJECT)
    NO_NUMBER = ("not a number", Effect.OBJECT)
    NOT_FINITE = ("NaN or infinite", Effect.OBJECT)
    UNKNOWN_CLASS = ("unknown class", Effect.OBJECT)
    UNKNOWN_IMAGE = ("unknown image", Effect.OBJECT)
    OUT_OF_RANGE = ("label out of range", Effect.OBJECT)
    OUTSIDE = ("box outside the picture", Effect.OBJECT)
    ZERO_AREA = ("zero area", Effect.OBJECT)
    DUPLICATE = ("duplicate box", Effect.OBJECT)
    BAD_OUTLINE = ("bad polygon", Effect.OUTLINE)
    STICKS_OUT = ("box sticks out of the picture", Effect.CLIPPED)
    NO_PICTURE = ("labels without a picture", Effect.NOTHING)

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

    kind: Kind
    file: str
    line: int | None
    reason: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.reason}"


def summarize(faults: Iterable[Fault]) -> str:
    """Returns how much each effect happened, as in `2 pictures left out, 5 objects left out`."""
    counts = dict.fromkeys(Effect, 0)
    for fault in faults:
        counts[fault.kind.effect] += 1
    words = []
    for effect, count in counts.items():
        thing, consequence = effect.value.split(" ", 1)
        if count:
            words.append(f"{count} {plural(thing, count)} {consequence}")
    return ", ".join(words) or "no faults"


def plural(noun: str, count: int) -> str:
    """Returns a noun as it stands behind a number."""
    if count == 1:
        return noun
    return noun + ("es" if noun.endswith(("x", "s")) else "s")


def shown(text: object, most: int = 60) -> str:
    """Returns text of a file as a message can show it: short, and without control characters."""
    letters = str(text)[: 2 * most]
    printable = "".join(
        letter if letter.isprintable() else ascii(letter)[1:-1] for letter in letters
    )
    return printable if len(printable) <= most else printable[: most - 3] + "..."
