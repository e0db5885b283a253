"""What a user can fix: the one exception for it, and how it is put."""

import difflib
from collections.abc import Iterable, Mapping

# Exit codes of the commands.
INCOMPLETE = 1  # some images could not be read, all else was done
FAILED = 1  # a fault of the program, or too little memory
WRONG_USE = 2


class UserError(ValueError):
    """Something the user gave is wrong; the message alone must be enough to fix it.

    Attributes:
      advice: what a command tells beside the message.
      exit_code: of a command that it ends.
    """

    advice = ""
    exit_code = WRONG_USE


def is_out_of_memory(error: BaseException) -> bool:
    """Says whether an error means that the host or a device has no memory left."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def below_least(limits: Mapping[str, tuple[int, int]]) -> list[str]:
    """Returns what to tell about numbers that are too small.

    Args:
      limits: by name, the number and the least that it may be.
    """
    return [
        f"{name} (={value}) must be at least {least}"
        for name, (value, least) in limits.items()
        if value < least
    ]


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Returns ` (did you mean epochs?)` for a name that does not exist, or nothing."""
    known = list(known)
    longer = [other for other in known if other.startswith(name)]
    close = longer or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {prefix}{close[0]}?)" if close else ""


def printable(text: str) -> str:
    """Returns a text from a file with whatever could move a terminal's cursor written out."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
