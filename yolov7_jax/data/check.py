"""`yolov7-jax check`: what a data set holds, and everything that is wrong with it."""

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence, Sized
from pathlib import Path
from typing import Any, NamedTuple

from yolov7_jax.data.dataset import Dataset
from yolov7_jax.data.faults import Fault, FaultKind, plural, summarize
from yolov7_jax.data.layouts import Source, data_notes, expected_splits, missing_labels, open_source
from yolov7_jax.data.scan import scan_source
from yolov7_jax.data.scan_cache import kept_scan
from yolov7_jax.data.split_overlap import contradictions, identical_images
from yolov7_jax.data.statistics import statistics
from yolov7_jax.demo_data.demo import data_file
from yolov7_jax.errors import UserError

FAULTY = 1  # exit code of --strict
BAR_WIDTH = 30
MOST_CLASSES = 100  # on screen
MOST_SIZES = 5


class SplitResult(NamedTuple):
    """What came of one split.

    Attributes:
      dataset: what is sound.
      looked_at: number of images.
      faults: what is wrong, gravest first.
      notes: what is no fault, but good to know.
      from_cache: whether they were looked at before, and have not changed since.
    """

    dataset: Dataset
    looked_at: int
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]
    from_cache: bool


def check(
    data: str,
    *,
    split: str | None = None,
    strict: bool = False,
    report: Path | None = None,
    show: int = 5,
    workers: int | None = None,
) -> int:
    """Looks at every image and label of a data set; prints what is there and what is wrong.

    Args:
      data: a data.yaml, a COCO .json file, a Pascal VOC folder, or "demo".
      split: which part; all that there are, and train and val, if not given.
      strict: makes any fault an error.
      report: a .json file to write everything to.
      show: how many faults of a kind to print.
      workers: threads that decode images; one per core if not given.

    Returns:
      The exit code: 0, or 1 if `strict` and anything is wrong.

    Raises:
      UserError: no split can be read, or the report cannot be written.
    """
    if report is not None:
        _check_writable(report)
    data = str(data_file(data))
    wanted = [split] if split else expected_splits(data)
    notes = data_notes(data)
    # What cannot be opened is told before the first scan takes its time.
    sources: dict[str, Source] = {}
    broken: dict[str, Fault] = {}
    for name in wanted:
        try:
            sources[name] = open_source(data, name)
        except UserError as error:
            broken[name] = _unreadable(data, error)
    _refuse_if_none(data, sources, broken)
    print(data)
    _print_lines([f"note: {note}" for note in notes])
    for name, fault in broken.items():
        _print_lines(_broken_lines(name, fault))
    results: dict[str, SplitResult] = {}
    for name, source in sources.items():
        start = time.perf_counter()
        try:
            scan = scan_source(source, data, name, decode=True, workers=workers)
        except UserError as error:
            broken[name] = _unreadable(data, error)
            _print_lines(_broken_lines(name, broken[name]))
            continue
        missing = missing_labels(source, scan)
        faults = [Fault(FaultKind.NO_LABELS, data, None, missing)] if missing else []
        results[name] = SplitResult(
            scan.dataset,
            len(scan.looked_at),
            (*faults, *scan.faults),
            source.notes + scan.notes,
            scan.from_cache,
        )
        seconds = time.perf_counter() - start
        _print_lines(_split_lines(name, results[name], seconds, _folder_of(data), show))
    _refuse_if_none(data, results, broken)
    datasets = {name: result.dataset for name, result in results.items()}
    warnings, same = contradictions(datasets), identical_images(datasets)
    folder = _folder_of(data)
    _print_lines([f"\nwarning: {warning}" for warning in warnings])
    _print_lines([f"\nnote: {note.replace(folder, '')}" for note in same])
    trainable = [name for name, result in results.items() if len(result.dataset.labels)]
    _print_lines(_index_lines(data, trainable))
    if report is not None:
        _write_report(report, data, results, broken, notes + same, warnings)
        print(f"the whole report is in {report}")
    faulty = broken or warnings or any(result.faults for result in results.values())
    if faulty and strict:
        print("error: there are faults, and --strict was given", file=sys.stderr)
        return FAULTY
    return 0


def _check_writable(report: Path) -> None:
    """Refuses a report that could not be written; before the scan that it would tell of."""
    if report.is_dir():
        raise UserError(f"--report (={report}) must be a file, not a folder")
    existed = report.exists()
    if existed and not report.is_file():
        return  # a pipe or a device, which trying may change
    try:
        report.open("ab").close()
        if not existed:
            report.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"--report (={report}) cannot be written: {reason}") from error


def _unreadable(data: str, error: UserError) -> Fault:
    return Fault(FaultKind.UNREADABLE_SPLIT, data, None, str(error))


def _refuse_if_none(data: str, usable: Sized, broken: dict[str, Fault]) -> None:
    if usable:
        return
    reasons = dict.fromkeys(fault.reason for fault in broken.values())
    raise UserError("; ".join(reasons) or f"{data}: has no split; wanted train, val or test")


def _split_lines(
    split: str, result: SplitResult, seconds: float, folder: str, most: int
) -> list[str]:
    images = f"{result.looked_at} {plural('image', result.looked_at)}"
    if result.from_cache:
        title = f"{images}, unchanged since the last check, which found:"
    else:
        title = f"looked at {images} in {seconds:.1f} s"
    lines = ["", f"{split}: {title}"]
    absent = [fault for fault in result.faults if fault.kind is FaultKind.NO_LABELS]
    lines += [f"  NOT USABLE: {fault.reason.replace(folder, '')}" for fault in absent]
    lines += [f"  note: {note.replace(folder, '')}" for note in result.notes]
    return lines + _dataset_lines(result.dataset) + _fault_lines(result.faults, folder, most)


def _broken_lines(split: str, fault: Fault) -> list[str]:
    return ["", f"{split}: NOT USABLE: {fault.reason}"]


def _index_lines(data: str, splits: list[str]) -> list[str]:
    kept = [path for split in splits if (path := kept_scan(data, split)) is not None]
    return [
        f"\nthe index is kept in {folder}, so that training starts at once; without it every file "
        "is looked at again"
        for folder in dict.fromkeys(path.parent for path in kept)
    ]


def _dataset_lines(dataset: Dataset) -> list[str]:
    figures = statistics(dataset)
    crowds, outlines = figures["crowd_regions"], figures["objects_with_outline"]
    objects = figures["objects"]
    lines = [
        f"  images   {len(dataset)}, {figures['images_without_objects']} of them without objects",
        f"  objects    {objects}: {crowds} {plural('crowd region', crowds)}, "
        f"{outlines} with outlines",
        "  sizes      " + _image_sizes(figures["image_sizes"]),
    ]
    if not objects:
        return lines
    absent = sum(not count for count in figures["classes"].values())
    lines += [
        "",
        "  objects by class" + f" ({absent} of {len(dataset.names)} have none)" * (absent > 0),
    ]
    lines += _bars(figures["classes"], MOST_CLASSES)
    lines += ["", "  objects by area (small: under 32 x 32 pixels, large: over 96 x 96)"]
    lines += _bars(figures["box_sizes"], 3)
    lines += ["", _table_row("quantiles", figures["box_side_quantiles"])]
    lines.append(_table_row("side in pixels", figures["box_side_quantiles"].values()))
    per_image = figures["objects_per_image_quantiles"].values()
    lines.append(_table_row("objects per image", per_image))
    return lines


def _table_row(title: str, cells: Iterable[object]) -> str:
    return f"  {title:20}" + "".join(f"{cell:>8}" for cell in cells)


def _image_sizes(sizes: list[list[int]]) -> str:
    words = [f"{width} x {height} ({count})" for width, height, count in sizes[:MOST_SIZES]]
    if len(sizes) > MOST_SIZES:
        words.append(f"and {len(sizes) - MOST_SIZES} more")
    return ", ".join(words) or "none"


def _bars(counts: dict[str, int], most: int) -> list[str]:
    """Returns a row per name with a bar; many names are cut to the most frequent ones."""
    names = list(counts)
    if len(names) > most:
        names = sorted(names, key=counts.__getitem__, reverse=True)[:most]
    largest, total = max(max(counts.values()), 1), max(sum(counts.values()), 1)
    width = min(max(map(len, names)), 24)
    lines = []
    for name in names:
        count = counts[name]
        length = round(BAR_WIDTH * count / largest)
        bar = "█" * (length or bool(count))
        shown = name if len(name) <= width else name[: width - 1] + "…"
        lines.append(f"    {shown:{width}} {count:8} {100 * count / total:5.1f} %  {bar}".rstrip())
    if len(names) < len(counts):
        lines.append(f"    and {len(counts) - len(names)} classes more")
    return lines


def _fault_lines(faults: Sequence[Fault], folder: str, most: int) -> list[str]:
    """Returns the faults by kind, with files relative to the folder of the data set."""
    if not faults:
        return ["", "  no faults"]
    by_kind: dict[FaultKind, list[Fault]] = {kind: [] for kind in FaultKind}
    for fault in faults:
        by_kind[fault.kind].append(fault)
    lines = ["", f"  {len(faults)} {plural('fault', len(faults))}: {summarize(faults)}"]
    for kind, found in by_kind.items():
        if not found:
            continue
        lines.append(f"    {kind.title}: {len(found)} ({kind.effect.value})")
        if kind is FaultKind.NO_LABELS:
            continue  # stands above
        for fault in found[:most]:
            lines.append(f"      {str(fault).replace(folder, '')}")
        if len(found) > most:
            lines.append(f"      and {len(found) - most} more")
    if any(len(found) > most for found in by_kind.values()):
        lines.append("    --report FILE.json has them all")
    return lines


def _write_report(
    path: Path,
    data: str,
    results: dict[str, SplitResult],
    broken: dict[str, Fault],
    notes: list[str],
    warnings: list[str],
) -> None:
    splits: dict[str, Any] = {
        split: {
            **statistics(result.dataset),
            "looked_at": result.looked_at,
            "notes": result.notes,
            "faults": [_as_json(fault) for fault in result.faults],
        }
        for split, result in results.items()
    }
    splits |= {split: {"faults": [_as_json(fault)]} for split, fault in broken.items()}
    report = {
        "data": os.path.abspath(data),
        "notes": notes,
        "warnings": warnings,
        "splits": splits,
    }
    try:
        path.write_text(json.dumps(report, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error


def _as_json(fault: Fault) -> dict[str, Any]:
    return {
        "kind": fault.kind.title,
        "effect": fault.kind.effect.value,
        "file": fault.file,
        "line": fault.line,
        "reason": fault.reason,
    }


def _folder_of(data: str) -> str:
    path = Path(os.path.abspath(data))
    return str(path if path.is_dir() else path.parent) + os.sep


def _print_lines(lines: list[str]) -> None:
    for line in lines:
        # A name may have letters that the terminal has not.
        encoding = sys.stdout.encoding or "utf-8"
        print(line.encode(encoding, "replace").decode(encoding))
