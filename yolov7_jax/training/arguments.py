"""Turns the arguments of a command into its settings, and the parser's complaint into one line."""

import contextlib
import dataclasses
import inspect
import io
import typing
from collections.abc import Collection, Mapping
from typing import Annotated, Any, TypeVar

import tyro

from yolov7_jax.errors import UserError

Settings = TypeVar("Settings")

DATA_HELP = (
    "a data.yaml, which names the classes and where images with YOLO label files are (or COCO "
    ".json files, or Pascal VOC folders); or a COCO .json file itself, beside which the one of the "
    "other split is found by its name, as instances_train.json and instances_val.json; or a Pascal "
    "VOC folder itself, with Annotations, JPEGImages and ImageSets/Main; or demo, the embedded "
    "data set."
)
HELP_FLAGS = ("-h", "--help")


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


def print_help(
    settings: Any,
    *,
    program: str,
    summary: str,
    only: Collection[str] = (),
    texts: Mapping[str, str],
) -> None:
    """Prints a command's flags.

    Args:
      settings: the dataclass with the values that are the defaults.
      program: what the command is called.
      summary: what it does.
      only: which flags to show, as in `epochs` or `optim.lr0`; all if empty.
      texts: what to say of some of them; the dataclass's docstring tells the rest.
    """
    default = _with_visible(settings, only, texts, "")
    type(default).__doc__ = f"{summary}\n\n{_attributes(type(settings))}"
    with contextlib.suppress(SystemExit):
        tyro.cli(type(default), prog=program, args=["--help"], default=default)


def _with_visible(
    settings: Any, only: Collection[str], texts: Mapping[str, str], prefix: str
) -> Any:
    """Returns the settings as a dataclass that shows a part of its fields in its help."""
    hints = typing.get_type_hints(type(settings), include_extras=True)
    fields, values = [], {}
    for field in dataclasses.fields(settings):
        name, hint, value = prefix + field.name, hints[field.name], getattr(settings, field.name)
        inside = {flag for flag in only if flag.startswith(f"{name}.")}
        if inside:
            value = _with_visible(value, inside, texts, f"{name}.")
            hint = type(value)
        elif only and name not in only:
            hint = Annotated[hint, tyro.conf.Suppress]
        if name in texts:
            hint = Annotated[hint, tyro.conf.arg(help=texts[name])]
        fields.append((field.name, hint))
        values[field.name] = value
    shown = dataclasses.make_dataclass(type(settings).__name__, fields, frozen=True)
    shown.__doc__ = type(settings).__doc__
    return shown(**values)


def _attributes(settings: type) -> str:
    """Returns the part of a docstring that tells of the fields."""
    # Without the indentation, which interpreters from 3.13 on leave out themselves.
    _, heading, rest = (inspect.getdoc(settings) or "").partition("\nAttributes:")
    return heading + rest


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
    meant = [
        rows[1].split()[0].rstrip(",") for rows in others if rows[0].startswith("Perhaps you meant")
    ]
    return " ".join(message) + (f" (did you mean {meant[0]}?)" if meant else "")
