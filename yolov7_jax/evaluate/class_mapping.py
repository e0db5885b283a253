"""Which class of the weights each class of a data set is."""

import collections
from collections.abc import Sequence

from yolov7_jax.errors import UserError

MOST_NAMED = 8  # classes in a message


def map_classes(names: Sequence[str] | None, num_classes: int, wanted: Sequence[str]) -> list[int]:
    """Returns which class of a network each class of a data set is.

    Args:
      names: of the network's classes; None where its weights have none, which are then taken to be
        those of the data set, in its order.
      num_classes: of the network.
      wanted: the data set's; may stand in another order, and be only some of the network's.

    Raises:
      UserError: the data have classes that the network does not; the message names them.
    """
    if names is None and num_classes != len(wanted):
        raise UserError(
            f"the weights have {num_classes} classes without names, the data {len(wanted)}: "
            f"{_listed(wanted)}"
        )
    if names is None or tuple(names) == tuple(wanted):
        return list(range(num_classes))
    missing = [name for name in dict.fromkeys(wanted) if name not in names]
    if missing:
        spare = [name for name in dict.fromkeys(names) if name not in wanted]
        have = f"; they know {_listed(spare)} instead" if spare else ""
        raise UserError(
            f"the weights do not know {len(missing)} of the data's {len(wanted)} classes: "
            f"{_listed(missing)}{have}"
        )
    counts = collections.Counter(names) + collections.Counter(wanted)
    repeated = [name for name in dict.fromkeys(wanted) if counts[name] > 2]
    if repeated:
        raise UserError(
            "the classes of the weights and the data are not the same, and cannot be matched by "
            f"names that stand for several classes: {_listed(repeated)}"
        )
    return [list(names).index(name) for name in wanted]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:MOST_NAMED]))
    return shown if len(names) <= MOST_NAMED else f"{shown} and {len(names) - MOST_NAMED} more"
