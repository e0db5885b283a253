"""What `yolov7-jax predict` does with its options."""

import argparse
import collections
import contextlib
import difflib
import itertools
import pathlib
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

from yolov7_jax.compiled_programs import keep_compiled
from yolov7_jax.data.ahead import map_ahead
from yolov7_jax.data.faults import plural
from yolov7_jax.detect.detector import Detector, DetectorConfig, Letterboxed
from yolov7_jax.detect.outputs import Found, SaveConfig, Saver, found_in
from yolov7_jax.detect.sources import Frame, Still, Video, find_sources, read_still, read_video
from yolov7_jax.errors import INCOMPLETE, UserError, printable
from yolov7_jax.extras import from_extra
from yolov7_jax.files import folder_if_filled
from yolov7_jax.signals import forget_stop, stop_if_wanted, stopped_by
from yolov7_jax.summary import described
from yolov7_jax.weights.load import open_model

with from_extra("images"):
    from tqdm import tqdm

OUTPUT = pathlib.Path("runs/predict")
READERS = 2  # threads
MOST_NAMED = 5  # ignored files
SECONDS_BETWEEN_LINES = 30.0


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    if options.max_frames is not None and options.max_frames < 1:
        raise UserError(f"--max-frames (={options.max_frames}) must be at least 1")
    sources = find_sources(options.sources)
    keep_compiled()
    model, checkpoint = open_model(options.weights)
    image_size = checkpoint.image_size if options.image_size is None else options.image_size
    names = checkpoint.names or tuple(map(str, range(model.head.num_classes)))
    config = DetectorConfig(
        image_size=image_size,
        batch_size=options.batch_size,
        score_threshold=options.score_threshold,
        iou_threshold=options.iou_threshold,
        classes=chosen_classes(options.classes, names),
        class_agnostic=options.class_agnostic,
        max_detections=options.max_detections,
    )
    detector = Detector(model, names, config)
    saved = SaveConfig(
        images=not options.no_images,
        txt=options.save_txt,
        coco=options.save_coco,
        csv=options.save_csv,
        json_lines=options.save_jsonl,
        crops=options.save_crops,
    )
    if sources.ignored:
        shown = ", ".join(sources.ignored[:MOST_NAMED])
        more = ", ..." if len(sources.ignored) > MOST_NAMED else ""
        print(f"ignored, no images or videos by their suffix: {shown}{more}", file=sys.stderr)
    with folder_if_filled(options.output, OUTPUT) as folder:
        _print(f"{options.weights}: {described(model)}, at {detector.config.image_size} pixels")
        with Saver(folder, names, saved) as saver:
            run = _Run(detector, saver)
            for folder_that_is_shut in sources.unreadable:
                run.unreadable(folder_that_is_shut)
            run.stills(sources.stills)
            for video in sources.videos:
                run.video(video, options.max_frames)
        return run.end()


class _Run:
    """Looks at sources, tells what is found, and counts."""

    def __init__(self, detector: Detector, saver: Saver):
        self._detector, self._saver = detector, saver
        self._images = self._objects = self._unreadable = 0

    def stills(self, stills: Sequence[Still]) -> None:
        """Looks at images of their own."""
        if not stills:
            return
        frames = map_ahead(read_still, stills, workers=READERS, ahead=READERS)
        with _Progress("images") as progress:
            for frame, found in self._looked_at(frames):
                progress.update(len(stills))
                if found is None:
                    continue
                labels = collections.Counter(found.labels.tolist())
                _print(f"{printable(frame.source)}: {self._counted(labels)}")
                if frame.note:
                    _warn(f"{frame.source}: {frame.note}")

    def video(self, video: Video, max_frames: int | None) -> None:
        """Looks at the images of a video, a camera or a stream."""
        labels: collections.Counter[int] = collections.Counter()
        count = 0
        live = not isinstance(video.opened, str) or "://" in video.opened
        frames = itertools.islice(read_video(video), max_frames)
        # Ctrl-C ends what has no end itself.
        ending = _ended_by_ctrl_c() if live else contextlib.nullcontext()
        with _Progress(printable(video.source)) as progress, ending:
            for frame, found in self._looked_at(frames, batch_size=1 if live else None):
                if found is None:
                    continue
                progress.update(min(filter(None, (frame.total, max_frames)), default=None))
                count += 1
                labels.update(found.labels.tolist())
        if count:
            _print(f"{printable(video.source)}: {counted('image', count)}; {self._counted(labels)}")

    def unreadable(self, frame: Frame) -> None:
        """Names what cannot be read."""
        self._unreadable += 1
        _warn(f"{frame.source}: {frame.fault}")
        self._saver.write_fault(frame)

    def _looked_at(
        self, frames: Iterable[Frame], batch_size: int | None = None
    ) -> Iterator[tuple[Frame, Found | None]]:
        """Yields every frame with what was found, saved and counted; None in unreadable ones."""
        waiting: collections.deque[Frame] = collections.deque()

        def readable() -> Iterator[Letterboxed]:
            for frame in frames:
                stop_if_wanted()
                waiting.append(frame)
                if frame.image is not None:
                    yield self._detector.letterbox(frame.image)

        def unreadable() -> Iterator[tuple[Frame, None]]:
            while waiting and waiting[0].image is None:
                self.unreadable(waiting[0])
                yield waiting.popleft(), None

        for detections in self._detector.stream(readable(), batch_size):
            yield from unreadable()
            frame, found = waiting.popleft(), found_in(detections)
            self._saver.write(frame, found)
            self._images += 1
            self._objects += len(found.labels)
            yield frame, found
        yield from unreadable()

    def _counted(self, labels: collections.Counter[int]) -> str:
        """Returns what was found, in words: the most frequent first."""
        counts = labels.most_common()
        names = self._detector.names
        return ", ".join(f"{n} {printable(names[label])}" for label, n in counts) or "nothing"

    def end(self) -> int:
        """Tells the sums; returns the exit code."""
        told = f"{counted('image', self._images)}, {counted('object', self._objects)}"
        if self._unreadable:
            told += f"; {self._unreadable} could not be read, or not to the end"
        folder = self._saver.folder
        if any(folder.iterdir()):
            told += f"; written to {folder}"
        _print(told)
        return INCOMPLETE if self._unreadable else 0


class _Progress:
    """A bar on a terminal; elsewhere a plain line now and then. A context manager."""

    def __init__(self, of: str):
        self._of, self._seen = of, 0
        self._bar = tqdm(desc=of, unit=" images", disable=None, leave=False)
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def update(self, total: int | None) -> None:
        """Tells of one image more, of so many; None where nobody knows."""
        self._seen += 1
        if not self._bar.disable:
            self._bar.total = total
            self._bar.update()
            return
        now = time.monotonic()
        if now - self._last_line < SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        rate = self._seen / (now - self._started)
        if total is None:
            _warn(f"{self._of}: {self._seen} images, {rate:.1f} images/s")
        else:
            left = tqdm.format_interval(max(0, total - self._seen) / rate)
            percent = min(100, 100 * self._seen / total)
            _warn(f"{self._of}: {percent:3.0f}% {rate:.1f} images/s, {left} left")


@contextlib.contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
    """Lets Ctrl-C end its body, and nothing else."""
    try:
        yield
        stop_if_wanted()
    except KeyboardInterrupt:
        if stopped_by() is not signal.SIGINT:
            raise
        forget_stop()


def counted(noun: str, count: int) -> str:
    """Returns how many of something there are."""
    return f"{count} {plural(noun, count)}"


def chosen_classes(wanted: Sequence[str] | None, names: Sequence[str]) -> tuple[int, ...] | None:
    """Returns the indices of classes that are given by name or by index.

    Several may have the same name, and all of them are meant then.

    Raises:
      UserError: names those that do not exist.
    """
    if wanted is None:
        return None
    known = {
        **{str(label): (label,) for label in range(len(names))},
        **{name: tuple(n for n, other in enumerate(names) if other == name) for name in names},
    }
    unknown = [name for name in wanted if name not in known]
    if unknown:
        close = difflib.get_close_matches(unknown[0], names, 1)
        hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(names)}"
        raise UserError(f"--classes: the weights have no class {', '.join(unknown)}{hint}")
    return tuple(dict.fromkeys(label for name in wanted for label in known[name]))


def _print(line: str) -> None:
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


def _warn(line: str) -> None:
    tqdm.write(printable(line), file=sys.stderr)
