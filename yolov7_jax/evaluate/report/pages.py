"""Pages of one file each, from the templates beside this module."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jinja2

from yolov7_jax.files import write_whole


def unit(value: float) -> str:
    """Returns a number in [0, 1] for people; a dash where it is undefined."""
    return f"{value:.3f}" if math.isfinite(value) else "–"  # noqa: RUF001 - a dash is meant


_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("yolov7_jax.evaluate.report"),
    autoescape=True,  # class and file names are shown as they are, whatever they hold
    undefined=jinja2.StrictUndefined,
    finalize=lambda value: f"{value:.6g}" if isinstance(value, float) else value,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters["unit"] = unit
_TEMPLATES.globals["nan"] = math.nan
_TEMPLATES.policies["json.dumps_kwargs"] = {"separators": (",", ":")}


def write_page(path: pathlib.Path, sections: Mapping[str, str], **values: Any) -> None:
    """Writes a page whole or not at all.

    Args:
      path: where to write.
      sections: headings by the names of their templates, without the suffix.
      **values: what the templates show; `title`, `summary` and `cards` are those of any page.

    Raises:
      OSError: the file cannot be written.
    """
    text = _TEMPLATES.get_template("page.html").render(sections=sections, **values)
    # File names may hold bytes that are no UTF-8, which Python keeps as lone surrogates.
    write_whole(path, text.encode("utf-8", "backslashreplace"))
