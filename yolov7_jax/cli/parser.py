"""Flags: mistakes in one line, examples below the help, flags for the fields of dataclasses."""

import argparse
import dataclasses
import inspect
import itertools
import re
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NoReturn

from yolov7_jax.errors import UserError, did_you_mean

PROGRAM = "yolov7-jax"


class Parser(argparse.ArgumentParser):
    """The flags of a verb."""

    def __init__(
        self, verb: str, description: str, examples: Sequence[str], *, abbreviations: bool = True
    ):
        """Makes a parser without flags.

        Args:
          verb: its name.
          description: what the verb does.
          examples: what may follow the program's name.
          abbreviations: whether the beginning of a flag will do.
        """
        super().__init__(
            prog=f"{PROGRAM} {verb}".strip(),
            description=description,
            epilog="\n".join(["examples:", *(f"  {PROGRAM} {example}" for example in examples)]),
            formatter_class=_Formatter,
            allow_abbrev=abbreviations,
        )

    def error(self, message: str) -> NoReturn:
        """Tells of a mistake."""
        raise UserError(f"{message}; see {self.prog} --help")

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Reads the arguments; a flag that does not exist is told of before what is missing.

        Raises:
          UserError: they are wrong.
          SystemExit: `--help` was printed.
        """
        known = self._option_string_actions
        for argument in itertools.takewhile(lambda argument: argument != "--", arguments):
            flag = argument.partition("=")[0]
            # With a space in it, it is a value.
            exists = (
                any(name.startswith(flag) for name in known) if self.allow_abbrev else flag in known
            )
            if flag.startswith("--") and " " not in flag and not exists:
                self.error(f"there is no {flag}{did_you_mean(flag, known)}")
        return self.parse_args(arguments)

    def add_settings(
        self,
        settings: Any,
        only: Collection[str] = (),
        texts: Mapping[str, str] = types.MappingProxyType({}),
        *,
        others: bool = True,
        default: str = "",
        prefix: str = "",
    ) -> None:
        """Adds a flag for each field of a dataclass, explained by the dataclass's docstring.

        A flag that is not given leaves nothing in the result, so that `overridden` changes what is
        given alone.

        Args:
          settings: an instance with the values that the help shows.
          only: which flags the help shows, as in `epochs` or `optim.lr0`; all if empty.
          texts: what the help says of some of them instead.
          others: whether flags that the help does not show may be given.
          default: what the help says instead of values, but of those in groups.
          prefix: of the names.
        """
        meanings, hints = _attributes(type(settings)), typing.get_type_hints(type(settings))
        group = self.add_argument_group(prefix.rstrip(".")) if prefix else self
        for field in dataclasses.fields(settings):
            name, value = prefix + field.name, getattr(settings, field.name)
            if dataclasses.is_dataclass(value):
                self.add_settings(value, only, texts, others=others, prefix=f"{name}.")
                continue
            shown = not only or name in only or prefix.rstrip(".") in only
            if not field.metadata.get("flag", True) or not (shown or others):
                continue
            text = texts.get(name, meanings[field.name])
            group.add_argument(
                "--" + name.replace("_", "-"),
                dest=name,
                default=argparse.SUPPRESS,
                help=f"{text} (default: {default or _shown(value)})".replace("%", "%%")
                if shown
                else argparse.SUPPRESS,
                **_reading(hints[field.name]),
            )


def overridden(settings: Any, given: argparse.Namespace, prefix: str = "") -> Any:
    """Returns a dataclass with the values of the flags that were given; see `add_settings`."""
    changes = {}
    for field in dataclasses.fields(settings):
        name, value = prefix + field.name, getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = overridden(value, given, f"{name}.")
        elif name in given:
            changed = getattr(given, name)
            changes[field.name] = tuple(changed) if isinstance(changed, list) else changed
    return dataclasses.replace(settings, **changes)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of lists, which are indented, and fills those of other paragraphs."""

    def add_text(self, text: str | None) -> None:
        if text and "\n  " not in text:
            text = "\n".join(self._split_lines(text, self._width))
        super().add_text(text)


def _attributes(settings: type) -> dict[str, str]:
    """Returns what a docstring says of the fields, each as one line."""
    section = (inspect.getdoc(settings) or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    _, *entries = re.split(r"^  (\w+): ", section, flags=re.MULTILINE)
    texts = (" ".join(text.split()) for text in entries[1::2])
    return dict(zip(entries[::2], texts, strict=True))


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        value = " ".join(value)
    return "none" if value in (None, "") else str(value)


def _reading(hint: Any) -> dict[str, Any]:
    """Returns what argparse is to know of a type."""
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(hint) is tuple:
        return {"nargs": "*", "metavar": "TEXT"}
    optional = type(None) in typing.get_args(hint)
    if optional:
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        return (
            {
                "choices": (*choices, None),
                "type": _or_none(str),
                "metavar": f"{{{','.join((*choices, 'none'))}}}",
            }
            if optional
            else {"choices": choices}
        )
    metavar = {int: "N", float: "X"}.get(hint, "TEXT")
    return {"type": _or_none(hint) if optional else hint, "metavar": metavar}


def _or_none(kind: type) -> Any:
    def read(text: str) -> Any:
        return None if text.lower() == "none" else kind(text)

    read.__name__ = kind.__name__
    return read
