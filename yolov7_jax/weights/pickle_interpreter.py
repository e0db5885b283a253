"""Reads pickles as data, without importing or calling anything that they name.

Python's own unpickler executes what a file asks for and allocates what its numbers say. This one
knows the operations that `torch.save` writes (protocols 2 to 5), builds containers, scalars and
descriptions of tensors, and keeps everything else as an inert record of a class and its state. A
class or function outside of the known homes is refused by name.

Time and memory are bounded by the size of the pickle: every operation takes at least one byte and
constant time, apart from those that copy items, and these may copy no more items than there were
operations. Dictionary keys are limited to short scalars, since the hash of a nested tuple or of a
huge number can take exponential or quadratic time.
"""

import dataclasses
import pickletools
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from yolov7_jax.weights.checkpoint_contents import FormatError, quoted
from yolov7_jax.weights.pickle_allowlist import (
    CALLED,
    STORAGE_DTYPES,
    STORAGE_HOMES,
    Global,
    Instance,
    Storage,
    StoredTensor,
    is_inert,
)

MAX_OPERATIONS = 2_000_000  # the largest model with its optimizer state takes about 500,000
MAX_KEY_LENGTH = 4096  # of texts and bytes as dictionary keys
MAX_NAME_LENGTH = 256  # of a module's or a class's name
INT64 = range(-(2**63), 2**63)


@dataclasses.dataclass(frozen=True, slots=True, eq=False, repr=False)
class Pickle:
    """A pickle's value, and the storages that it mentions, by key."""

    value: Any
    storages: dict[str, Storage]


def read_pickle(stream: BinaryIO) -> Pickle:
    """Reads one pickle and leaves the stream behind it.

    Args:
      stream: in memory, at the start of a pickle.

    Returns:
      The value: scalars, lists, tuples, sets, dicts (with keys that are scalars), `Global`,
      `Instance` and `StoredTensor`, possibly nested without end.

    Raises:
      FormatError: the pickle is damaged, too large, or names what no checkpoint needs.
    """
    machine = _Machine()
    for count, (opcode, argument, position) in enumerate(_operations(stream)):
        operation = OPERATIONS.get(opcode.name)
        if operation is None:
            raise FormatError(
                f"pickle operation {opcode.name} at byte {position} is none that torch.save writes"
            )
        if count >= MAX_OPERATIONS:
            raise FormatError(f"the pickle has more than {MAX_OPERATIONS:,} operations")
        machine.executed = count
        operation(machine, argument)
    if len(machine.stack) != 1 or machine.marks:
        raise FormatError(f"the pickle ends with {len(machine.stack)} values, not with one")
    return Pickle(machine.stack[0], machine.storages)


def _operations(stream: BinaryIO) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]:
    """Yields operations up to STOP; what `pickletools` raises for damaged ones is a FormatError."""
    try:
        yield from pickletools.genops(stream)
    except (ValueError, OverflowError, IndexError, EOFError) as fault:
        raise FormatError(f"damaged pickle ({quoted(str(fault))})") from None


class _Machine:
    """The stack machine: values, the marks between them, and the memo of values to repeat."""

    def __init__(self):
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.globals: dict[tuple[str, str], Global] = {}
        self.storages: dict[str, Storage] = {}
        self.executed = 0
        self.copied = 0

    def pop(self) -> Any:
        self.top()
        return self.stack.pop()

    def top(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise FormatError("damaged pickle (a value is missing on the stack)")
        return self.stack[-1]

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise FormatError("damaged pickle (a mark is missing on the stack)")
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def pop_items(self, count: int | None) -> list[Any]:
        """Returns the last values in their order: so many, or those up to the mark."""
        if count is None:
            return self.pop_to_mark()
        return [self.pop() for _ in range(count)][::-1]

    def count_copies(self, items: list | tuple) -> None:
        # An honest pickle copies an item once, and it took an operation to make it.
        self.copied += len(items)
        if self.copied > self.executed:
            raise FormatError("the pickle copies the same items again and again")

    def find_global(self, module: Any, name: Any) -> Global:
        if type(module) is not str or type(name) is not str:
            raise FormatError("damaged pickle (a class is named by something that is not a text)")
        if max(len(module), len(name)) > MAX_NAME_LENGTH:
            raise FormatError(f"a class has a name of more than {MAX_NAME_LENGTH} characters")
        found = self.globals.get((module, name))
        if found is None:
            if (module, name) not in CALLED and not is_inert(module, name):
                raise FormatError(
                    f"refers to {quoted(f'{module}.{name}')}, which no YOLOv7 checkpoint needs; "
                    "it may be hostile, and nothing in it was executed"
                )
            found = self.globals[module, name] = Global(module, name)
        return found

    def find_storage(self, identity: Any) -> Storage | Global:
        match identity:
            # The older format wraps the first mention of a module's class, to add its source.
            case ("module", Global() as cls, _, _):
                return cls
            case ("storage", Global() as kind, str() as key, _, int() as numel, *views):
                dtype = STORAGE_DTYPES.get(kind.name) if kind.module in STORAGE_HOMES else None
            case _:
                raise FormatError("refers to something outside of the pickle that is no storage")
        if dtype is None or len(views) > 1 or not 0 <= numel < 2**48:
            raise FormatError(f"storage {quoted(key)} has an impossible type or size")
        known = self.storages.setdefault(key, Storage(key, dtype, numel))
        if known.dtype != dtype or known.numel != numel:
            raise FormatError(f"storage {quoted(key)} is described in two ways")
        match views:
            case [] | [None]:
                return known
            case [(str(), int() as first, int() as count)]:
                return dataclasses.replace(known, view=(first, count))
        raise FormatError(f"storage {quoted(key)} has a damaged view")

    def call(self, function: Any, args: Any) -> Any:
        """Returns what a call would have made of the few functions known, else a record of it."""
        if type(function) is not Global or type(args) is not tuple:
            raise FormatError("damaged pickle (something is called that is not a class)")
        if (function.module, function.name) not in CALLED:
            return Instance(function, args)
        match (function.name, args):
            # After the stride: whether it had a gradient, its hooks and metadata.
            case (
                "_rebuild_tensor" | "_rebuild_tensor_v2",
                (Storage() as storage, offset, size, stride, *_),
            ):
                return StoredTensor(storage, offset, size, stride)
            case (
                "_rebuild_parameter" | "_rebuild_parameter_with_state" | "Parameter",
                (StoredTensor() as tensor, *_),
            ):
                return tensor
            case (
                "_rebuild_from_type_v2",
                (Global(module="torch._utils") as rebuild, _, tuple() as inner, _),
            ):
                return self.call(rebuild, inner)
            case ("Size", (tuple() as size,)):
                return size
            case ("defaultdict", _) | ("OrderedDict", ()):
                return {}  # what it gives for a missing key does not matter to a reader
            case ("OrderedDict", (list() as pairs,)) if all(map(_is_pair, pairs)):
                self.count_copies(pairs)
                return {_key(key): value for key, value in pairs}
            case ("set" | "frozenset", ()):
                return set()
            case ("set" | "frozenset", (list() | tuple() as members,)):
                self.count_copies(members)
                return {_key(member) for member in members}
        raise FormatError(f"a call of {function.path} is damaged")


def _is_pair(value: Any) -> bool:
    return type(value) in (list, tuple) and len(value) == 2


def _key(key: Any) -> Any:
    """Returns a dictionary's key or a set's member, checked to be hashed in constant time."""
    kind = type(key)
    quick = key is None or kind in (bool, float)
    quick = quick or (kind is int and key in INT64)
    quick = quick or (isinstance(key, str | bytes) and len(key) <= MAX_KEY_LENGTH)
    if not quick:
        raise FormatError(f"a {kind.__name__} is a dictionary's key, which must be a short scalar")
    return key


Operation = Callable[[_Machine, Any], Any]


def _push(make: Callable[[Any], Any]) -> Operation:
    """Pushes what is made of the operation's argument."""
    return lambda machine, argument: machine.stack.append(make(argument))


def _get(machine: _Machine, index: int) -> None:
    if index not in machine.memo:
        raise FormatError("damaged pickle (it repeats a value that it never stored)")
    machine.stack.append(machine.memo[index])


def _put(machine: _Machine, index: int | None) -> None:
    machine.memo[len(machine.memo) if index is None else index] = machine.top()


def _collect(count: int | None, kind: Callable[[list], Any]) -> Operation:
    """Makes a container of the last `count` values, or of those up to the mark."""
    return lambda machine, _: machine.stack.append(kind(machine.pop_items(count)))


def _add(count: int | None, kind: type, change: Callable[[Any, list], None]) -> Operation:
    """Adds the last `count` values, or those up to the mark, to the container before them."""

    def operation(machine: _Machine, _: Any) -> None:
        items, target = machine.pop_items(count), machine.top()
        if type(target) is not kind:
            raise FormatError(
                f"damaged pickle (items for a {kind.__name__} and no {kind.__name__})"
            )
        change(target, items)

    return operation


def _update_dict(target: dict, items: list) -> None:
    if len(items) % 2:
        raise FormatError("damaged pickle (a dictionary's key lacks its value)")
    target.update(zip(map(_key, items[::2]), items[1::2], strict=True))


def _global(machine: _Machine, argument: str | None) -> None:
    if argument is None:
        name, module = machine.pop(), machine.pop()
    else:
        module, _, name = argument.partition(" ")
    machine.stack.append(machine.find_global(module, name))


def _reduce(machine: _Machine, argument: Any) -> None:
    args, function = machine.pop(), machine.pop()
    machine.stack.append(machine.call(function, args))


def _new_object_with_keywords(machine: _Machine, argument: Any) -> None:
    machine.pop()  # the keywords, of which no class here has any that matters
    _reduce(machine, argument)


def _build(machine: _Machine, argument: Any) -> None:
    state, target = machine.pop(), machine.top()
    if type(target) is Instance:
        target.state = state
    # A state_dict and a tensor can have attributes too, and none of them matters.
    elif type(target) not in (dict, StoredTensor):
        raise FormatError("damaged pickle (attributes for something that has none)")


SCALARS = "BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT NONE"  # NONE has no argument, or None
TEXTS = "SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINSTRING BINSTRING"
BYTES = "SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8"
OPERATIONS: dict[str, Operation] = {
    # FRAME only announces how many bytes could be read at once, PROTO which operations come.
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    **dict.fromkeys(f"{SCALARS} {TEXTS} {BYTES}".split(), _push(lambda argument: argument)),
    "NEWTRUE": _push(lambda _: True),
    "NEWFALSE": _push(lambda _: False),
    "EMPTY_LIST": _push(lambda _: []),
    "EMPTY_TUPLE": _push(lambda _: ()),
    "EMPTY_DICT": _push(lambda _: {}),
    "EMPTY_SET": _push(lambda _: set()),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": lambda machine, _: machine.pop(),
    "POP_MARK": lambda machine, _: machine.pop_to_mark(),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _get),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _put),
    "TUPLE1": _collect(1, tuple),
    "TUPLE2": _collect(2, tuple),
    "TUPLE3": _collect(3, tuple),
    "TUPLE": _collect(None, tuple),
    "FROZENSET": _collect(None, lambda items: frozenset(map(_key, items))),
    "APPEND": _add(1, list, list.extend),
    "APPENDS": _add(None, list, list.extend),
    "ADDITEMS": _add(None, set, lambda target, items: target.update(map(_key, items))),
    "SETITEM": _add(2, dict, _update_dict),
    "SETITEMS": _add(None, dict, _update_dict),
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL"), _global),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _reduce),
    "NEWOBJ_EX": _new_object_with_keywords,
    "BUILD": _build,
    "BINPERSID": lambda machine, _: machine.stack.append(machine.find_storage(machine.pop())),
}
