"""Turns the arguments of a command into its settings, and the parser's complaint into one line."""

import contextlib
import io
from typing import TypeVar

import tyro

from train.errors import UserError

Settings = TypeVar("Settings")


def parse(
    settings: type[Settings], arguments: list[str], *, program: str, default: Settings | None = None
) -> Settings:
    """Reads flags into a dataclass.

    Args:
      settings: the dataclass.
      arguments: the flags.
      program: what `--help` calls the command.
      default: what flags override; None for the dataclass's own defaults.

    Raises:
      UserError: a flag is unknown or malformed.
      SystemExit: `--help` was asked for and printed.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            if default is None:
                return tyro.cli(settings, prog=program, args=arguments)
            return tyro.cli(settings, prog=program, args=arguments, default=default)
    except SystemExit as error:
        if error.code in (0, None):
            raise
        raise UserError(first_message(printed.getvalue())) from None


def first_message(box: str) -> str:
    """Returns the message in the box that the parser draws, and what it suggests, as one line.

    The box has a title, then sections with rules between them: the message, then what may have
    been meant. Without Unicode there is no frame, and a rule below the title.
    """
    lines = box.splitlines()
    framed = box.startswith("╭")
    sections: list[list[str]] = [[]]
    for line in lines[1:-1] if framed else lines:
        row = line.strip("│ ")
        if row and not row.strip("─-"):
            sections.append([])
        elif row:
            sections[-1].append(row)
    message, *others = sections if framed else sections[1:]
    meant = [rows[1].split()[0] for rows in others if rows[0].startswith("Perhaps you meant")]
    return " ".join(message) + (f" (did you mean {meant[0]}?)" if meant else "")
