"""Reads TensorBoard's files back, without TensorBoard."""

import pathlib
import struct

from tensorboardX.proto.event_pb2 import Event, SessionLog


def events(folder: pathlib.Path) -> list[Event]:
    """The events of all files of a folder, oldest file first.

    A file is records of length, checksum, message and checksum.
    """
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            found.append(Event.FromString(data[at + 12 : at + 12 + length]))
            at += 16 + length
    return found


def curves(folder: pathlib.Path) -> dict[str, dict[int, float]]:
    """The numbers by name and step, as TensorBoard shows them: a start drops what comes after."""
    shown: dict[str, dict[int, float]] = {}
    for event in events(folder):
        if event.session_log.status == SessionLog.START:
            for curve in shown.values():
                for step in [step for step in curve if step >= event.step]:
                    del curve[step]
        for value in event.summary.value:
            shown.setdefault(value.tag, {})[event.step] = value.simple_value
    return shown
