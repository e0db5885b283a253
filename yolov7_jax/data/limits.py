"""Numbers that callers give, against the least that they may be."""

from collections.abc import Mapping


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
