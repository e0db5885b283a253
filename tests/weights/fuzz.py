"""Mutations of files of `torch.save`, the same ones in every run."""

import io
import pickletools
import struct
import zipfile

import numpy as np
from weights.torch_writer import zip_bytes

INTERESTING = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63 - 1, 2**64 - 1)
OPCODES = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]


def mutations(files, count):
    """Yields `count` mutations of the files' bytes, half of them with the zip's sums repaired."""
    rng = np.random.default_rng(0)
    contents = list(files.values())
    archives = [entries(data) for data in contents if data.startswith(b"PK")]
    pickles = [archive["data.pkl"] for archive in archives]
    cuts = [operation_starts(pickled) for pickled in pickles]
    for number in range(count):
        if number % 2:
            data = contents[rng.integers(len(contents))]
            yield MANGLERS[rng.integers(len(MANGLERS))](rng, data)
            continue
        chosen = rng.integers(len(archives))
        other = rng.integers(len(archives))
        pickled = pickles[chosen]
        match rng.integers(4):
            case 0:
                pickled = spliced(rng, pickled, cuts[chosen], pickles[other], cuts[other])
            case 1:
                pickled = with_operation(rng, pickled, cuts[chosen])
            case 2:
                pickled = without_operation(rng, pickled, cuts[chosen])
            case _:
                pickled = MANGLERS[rng.integers(len(MANGLERS))](rng, pickled)
        yield zip_bytes({**archives[chosen], "data.pkl": pickled})


def entries(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def operation_starts(pickled):
    return [position for _, _, position in pickletools.genops(pickled)]


def flipped(rng, data):
    changed = bytearray(data)
    for place in rng.integers(len(data), size=rng.integers(1, 6)):
        changed[place] = rng.integers(256)
    return bytes(changed)


def truncated(rng, data):
    return data[: rng.integers(len(data))]


def with_number(rng, data):
    place = rng.integers(len(data))
    number = struct.pack("<Q", INTERESTING[rng.integers(len(INTERESTING))])[: rng.integers(1, 9)]
    return data[:place] + number + data[place + len(number) :]


def with_gap(rng, data):
    start = rng.integers(len(data))
    return data[:start] + data[start + rng.integers(1, 64) :]


def with_repetition(rng, data):
    start = rng.integers(len(data))
    stop = start + rng.integers(1, 400)
    return data[:stop] + data[start:stop] * rng.integers(1, 4) + data[stop:]


MANGLERS = (flipped, flipped, truncated, with_number, with_gap, with_repetition)


def between(rng, cuts):
    start, stop = sorted(rng.choice(cuts, 2))
    return start, min(stop, start + 2000)


def spliced(rng, pickled, cuts, other, other_cuts):
    start, stop = between(rng, cuts)
    other_start, other_stop = between(rng, other_cuts)
    return pickled[:start] + other[other_start:other_stop] + pickled[stop:]


def with_operation(rng, pickled, cuts):
    place = rng.choice(cuts)
    operation = OPCODES[rng.integers(len(OPCODES))] + rng.bytes(rng.integers(0, 6))
    return pickled[:place] + operation + pickled[place:]


def without_operation(rng, pickled, cuts):
    index = rng.integers(len(cuts) - 1)
    return pickled[: cuts[index]] + pickled[cuts[index + 1] :]
