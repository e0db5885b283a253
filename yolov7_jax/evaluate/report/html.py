"""HTML pages in one file: elements whose text needs no escaping by hand, and their style."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

Element = ElementTree.Element

# What is in the page itself, and nothing from anywhere else.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)

STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --card: #f6f7f9; --ink: #1c2430; --faint: #5c6675; --rule: #d5dae1;
  --heat: 66 133 244; --fault: 240 130 40;
  --line0: #1f6fd0; --line1: #d9480f; --line2: #2b8a3e; --line3: #9c36b5; --line4: #0b7285;
  --line5: #b08900; --line6: #c2255c; --line7: #5f6b7a;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #14181f; --card: #1d232d; --ink: #e6e9ee; --faint: #9aa5b5; --rule: #37404d;
    --heat: 60 120 220; --fault: 215 105 20;
    --line0: #6ea8fe; --line1: #ff8f5a; --line2: #69cf85; --line3: #d08be8; --line4: #4fc3d6;
    --line5: #e3c044; --line6: #f27aa5; --line7: #a9b4c2;
  }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px; max-width: 1160px; background: var(--page);
  color: var(--ink); font: 15px/1.45 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 26px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 36px 0 8px; padding-top: 10px; border-top: 1px solid var(--rule); }
h3 { font-size: 15px; margin: 20px 0 6px; }
p { margin: 6px 0; max-width: 80ch; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 10px 0; }
a { color: var(--line0); }
.faint, figcaption { color: var(--faint); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(132px, 1fr)); gap: 10px;
  margin: 16px 0; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
  padding: 8px 12px; }
.card b { display: block; font-size: 20px; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.card span { color: var(--faint); font-size: 13px; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr));
  gap: 14px; }
.grid.wide { grid-template-columns: repeat(auto-fill, minmax(min(440px, 100%), 1fr)); }
figure { margin: 0; background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
  padding: 10px; break-inside: avoid; min-width: 0; }
figcaption { font-size: 13px; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); font-size: 14px; }
figure svg { display: block; width: 100%; height: auto; }
.legend { display: flex; flex-wrap: wrap; gap: 0 12px; font-size: 12.5px; color: var(--faint); }
.legend i { display: inline-block; width: 14px; height: 0; margin-right: 5px;
  border-top: 3px solid currentColor; vertical-align: middle; }
.legend i.dashed { border-top-style: dashed; }
.axis { stroke: var(--rule); stroke-width: 1; fill: none; }
.tick { fill: var(--faint); font-size: 10.5px; }
.mark { stroke: var(--faint); stroke-dasharray: 3 3; }
.line { fill: none; stroke: currentColor; stroke-width: 1.6; stroke-linejoin: round; }
.bold { stroke-width: 3; }
.point { fill: currentColor; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 2px 10px; text-align: left; border-bottom: 1px solid var(--rule);
  overflow-wrap: anywhere; }
thead th { color: var(--faint); font-weight: 600; vertical-align: bottom; }
th { font-weight: 500; }
.scroll > table:not(.matrix) th:first-child { min-width: 7em; }
.number { text-align: right; white-space: nowrap; }
.wrapped { white-space: normal; }
.bar { background: linear-gradient(90deg, rgb(var(--heat) / 0.35) calc(var(--v) * 100%),
  transparent 0); min-width: 84px; }
.columns { columns: 320px; column-gap: 24px; }
.columns table { width: 100%; break-inside: avoid; margin-bottom: 14px; table-layout: fixed; }
.matrix { font-size: 12px; }
.matrix th, .matrix td { padding: 2px 5px; border: 1px solid var(--rule); }
.matrix td { text-align: center; min-width: 30px; }
.matrix thead th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left;
  border: 0; padding: 5px 2px; max-height: 140px; }
.matrix tbody th { text-align: right; border: 0; }
.matrix thead th, .matrix tbody th { white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; max-width: 130px; font-weight: 400; }
.dense { font-size: 9.5px; line-height: 1; }
.dense td, .dense tbody th, .dense thead th { padding: 0; }
.dense td { min-width: 11.5px; width: 11.5px; height: 11.5px; }
.dense tbody th { max-width: 116px; padding-right: 3px; }
.dense thead th { padding-top: 3px; }
.hit { background: rgb(var(--heat) / var(--v)); }
.miss { background: rgb(var(--fault) / var(--v)); }
.box { fill: none; stroke: currentColor; stroke-width: 2; vector-effect: non-scaling-stroke;
  pointer-events: all; }
.caption { fill: #fff; stroke: #000; stroke-width: 0.22em; paint-order: stroke;
  font-weight: 600; pointer-events: none; }
.truth { color: #ffffff; } rect.truth { stroke-width: 1; }
.crowd { color: #b0b0b0; } rect.crowd { stroke-dasharray: 2 4; }
.correct { color: #38b000; } .duplicate { color: #3a86ff; } .wrong_class { color: #c05bff; }
.badly_placed { color: #ffb703; } .false { color: #ff2d3f; }
.missed { color: #ff1493; } rect.missed { stroke-dasharray: 6 4; }
.legend .truth { color: var(--faint); }
@media print {
  body { padding: 0; max-width: none; font-size: 11pt; }
  nav { display: none; }
  h2, h3 { break-after: avoid; }
  tr { break-inside: avoid; }
  .scroll { overflow: visible; }
  .grid { grid-template-columns: repeat(3, 1fr); }
  .grid.wide { grid-template-columns: repeat(2, 1fr); }
  .long table { break-inside: auto; }
  .dense { font-size: 6px; }
  .dense td { min-width: 6.8px; width: 6.8px; height: 6.8px; }
  .dense tbody th, .dense thead th { max-width: 76px; max-height: 90px; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""


def node(tag: str, attributes: Mapping[str, str | float], *children: Element | str) -> Element:
    """Returns an element; texts and attributes are taken literally, whatever they hold."""
    element = Element(tag, {name: _attribute(value) for name, value in attributes.items()})
    for child in children:
        if not isinstance(child, str):
            element.append(child)
        elif len(element):
            element[-1].tail = (element[-1].tail or "") + child
        else:
            element.text = (element.text or "") + child
    return element


def _attribute(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"


def section(anchor: str, title: str, *children: Element | str) -> Element:
    """Returns a part of the page that can be linked to."""
    return node("section", {"id": anchor}, node("h2", {}, title), *children)


def faint(text: str) -> Element:
    """Returns a paragraph of explanation."""
    return node("p", {"class": "faint"}, text)


def table(head: Sequence[str], rows: Sequence[Sequence[Element | str]]) -> Element:
    """Returns a table; its first column names the rows, texts in the others are numbers."""
    top = [
        node("th", {"class": "number"} if place else {}, name) for place, name in enumerate(head)
    ]
    body = [
        node("tr", {}, *(_cell(value, place) for place, value in enumerate(row))) for row in rows
    ]
    return node("table", {}, node("thead", {}, node("tr", {}, *top)), node("tbody", {}, *body))


def _cell(value: Element | str, place: int) -> Element:
    if not isinstance(value, str):
        return value
    return node("td", {"class": "number"}, value) if place else node("th", {}, value)


def legend(entries: Sequence[tuple[str, str, str]]) -> Element:
    """Returns what colours mean.

    Args:
      entries: for each its name, and the style and class that colour it.
    """
    items = [
        node("span", {}, node("i", {"style": style, "class": name_of_class}), name)
        for name, style, name_of_class in entries
    ]
    return node("div", {"class": "legend"}, *items)


def bar(value: float) -> Element:
    """Returns the cell of a number in [0, 1], with a bar of that length behind it."""
    if not math.isfinite(value):
        return node("td", {"class": "number"}, number(value))
    return node("td", {"class": "number bar", "style": f"--v:{value:.3f}"}, number(value))


def number(value: float) -> str:
    """Returns a number in [0, 1] for people; a dash where it is undefined."""
    return f"{value:.3f}" if math.isfinite(value) else "–"  # noqa: RUF001 - a dash is meant


def write_page(
    path: pathlib.Path, title: str, children: Sequence[Element], *, style: str = ""
) -> None:
    """Writes a page whole or not at all.

    Browsers are told to fetch nothing for it, whatever it holds.

    Args:
      path: where to write.
      title: of the page.
      children: what is in it.
      style: what it needs beside the style of all pages.

    Raises:
      OSError: the file cannot be written.
    """
    head = node(
        "head",
        {},
        node("meta", {"charset": "utf-8"}),
        node("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        node("meta", {"http-equiv": "Content-Security-Policy", "content": POLICY}),
        node("title", {}, title),
        node("style", {}, STYLE + style),
    )
    html = node("html", {"lang": "en"}, head, node("body", {}, *children))
    text = "<!DOCTYPE html>\n" + ElementTree.tostring(html, encoding="unicode", method="html")
    temporary = path.with_name(path.name + ".tmp")
    # File names may hold bytes that are no UTF-8, which Python keeps as lone surrogates.
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    temporary.replace(path)
