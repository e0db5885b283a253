"""The comparison after an export finds what is wrong with a file, and forgives rounding."""

import jax
import numpy as np
import pytest

from yolov7_jax import Predictions, nms
from yolov7_jax.export.export_config import ExportConfig
from yolov7_jax.export.verify import (
    ExportError,
    compare_detections,
    compare_outputs,
    lower_threshold,
    sample_images,
)

# Compiled once for each kind of call.
NMS = jax.jit(nms, static_argnames=("class_agnostic", "max_detections"))
SETTINGS = ExportConfig((64, 64), score_threshold=0.2, max_detections=40)


def predictions(seed=0, batch=2, num=200, classes=3):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 40, (batch, num, 2))
    boxes = np.concatenate([low, low + rng.uniform(3, 30, (batch, num, 2))], -1)
    objectness = rng.uniform(size=(batch, num))
    scores = objectness[..., None] * rng.uniform(size=(batch, num, classes))
    fields = (boxes, objectness, scores)
    return {name: x.astype(np.float32) for name, x in zip(Predictions._fields, fields, strict=True)}


def detections(wanted, settings=SETTINGS):
    found = NMS(
        Predictions(**wanted),
        score_threshold=settings.score_threshold,
        iou_threshold=settings.iou_threshold,
        class_agnostic=settings.class_agnostic,
        max_detections=settings.max_detections,
    )
    return {name: np.array(x) for name, x in found._asdict().items()}


def compare(found, wanted, settings=SETTINGS):
    return compare_detections(found, wanted, settings, settings.score_threshold)


@pytest.mark.parametrize("class_agnostic", [False, True])
@pytest.mark.parametrize("max_detections", [10, 300])
def test_what_nms_keeps_passes(class_agnostic, max_detections):
    settings = ExportConfig(
        (64, 64),
        score_threshold=0.2,
        class_agnostic=class_agnostic,
        max_detections=max_detections,
    )
    for seed in range(10):
        wanted = predictions(seed)
        found = detections(wanted, settings)
        assert compare(found, wanted, settings) == (0, found["valid"].sum())


def test_rounding_passes_even_where_it_decides():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        wanted = predictions(seed)
        # Many boxes of equal scores, in which order they are kept is then left to rounding.
        wanted["objectness"] = np.round(wanted["objectness"] * 4) / 4
        wanted["scores"] = np.round(wanted["scores"] * 4) / 4
        rounded = {
            name: x + rng.uniform(-1e-6, 1e-6, x.shape).astype(np.float32) * x.max()
            for name, x in wanted.items()
        }
        found, exact = detections(rounded), detections(wanted)
        assert 0 < compare(found, wanted).difference < 1e-5
        if not np.array_equal(found["labels"], exact["labels"]):
            return
    raise AssertionError("rounding decided nowhere")


def change(found, name, value):
    found[name] = found[name].copy()
    found[name][1, 2] = value
    return found


def without_row(found, row):
    """Detections of the second image without one, the others moved up."""
    found = {name: x.copy() for name, x in found.items()}
    for x in found.values():
        x[1, row:-1] = x[1, row + 1 :]
        x[1, -1] = 0
    return found


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda found: change(found, "labels", (found["labels"][1, 2] + 1) % 3),
            "detection is off",
        ),
        (lambda found: change(found, "scores", found["scores"][1, 2] * 0.998), "detection is off"),
        (lambda found: change(found, "boxes_xyxy", np.nan), "detection is off"),
        (lambda found: change(found, "boxes_xyxy", [1, 2, 3, 4]), "detection is off"),
        (lambda found: change(found, "valid", False), "rows behind the last"),
        (lambda found: without_row(found, 0), "detections are missing"),
        (lambda found: {**found, "labels": found["labels"].astype(np.int64)}, "int64"),
        (lambda found: {**found, "scores": found["scores"][:, ::-1]}, "zeros"),
        (lambda found: {"boxes_xyxy": found["boxes_xyxy"]}, "gives"),
    ],
)
def test_a_wrong_detection_is_found(spoil, message):
    wanted = predictions()
    settings = ExportConfig((64, 64), score_threshold=0.2)
    found = spoil(detections(wanted, settings))
    with pytest.raises(ExportError, match=message):
        compare(found, wanted, settings)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (ExportConfig((64, 64), score_threshold=0.3), "missing"),
        (ExportConfig((64, 64), score_threshold=0.1), "off|none was wanted"),
        (ExportConfig((64, 64), score_threshold=0.2, iou_threshold=0.3), "missing"),
        (ExportConfig((64, 64), score_threshold=0.2, iou_threshold=0.6), "overlap"),
        (ExportConfig((64, 64), score_threshold=0.2, class_agnostic=True), "missing"),
    ],
)
def test_other_thresholds_than_asked_for_are_found(other, message):
    wanted = predictions()
    found = detections(wanted, other)
    with pytest.raises(ExportError, match=message):
        compare(found, wanted, ExportConfig((64, 64), score_threshold=0.2))


def test_outputs_have_to_be_within_a_thousandth_of_the_largest():
    wanted = {"a": np.array([1.0, -4.0], np.float32), "b": np.zeros(3, np.float32)}
    assert compare_outputs(wanted, wanted).difference == 0
    close = {**wanted, "a": np.array([1.003, -4.0], np.float32)}
    assert compare_outputs(close, wanted).difference == pytest.approx(0.00075, rel=1e-3)
    for far in ([1.005, -4], [1, np.nan], [1, np.inf]):
        with pytest.raises(ExportError, match="a is off"):
            compare_outputs({**wanted, "a": np.array(far, np.float32)}, wanted)
    with pytest.raises(ExportError, match="b is off"):
        compare_outputs({**wanted, "b": np.full(3, 0.1, np.float32)}, wanted)
    with pytest.raises(ExportError, match="not finite"):
        compare_outputs(wanted, {**wanted, "a": np.array([1, np.nan], np.float32)})
    with pytest.raises(ExportError, match=r"float64\[2\]"):
        compare_outputs({**wanted, "a": np.array([1.0, -4.0])}, wanted)
    with pytest.raises(ExportError, match="gives a; wanted a, b"):
        compare_outputs({"a": wanted["a"]}, wanted)


def test_the_lowered_threshold_leaves_many_candidates():
    wanted = predictions(num=1000)
    strength = np.minimum(wanted["objectness"], wanted["scores"].max(axis=2))
    passing = (strength > lower_threshold(wanted)).sum(axis=1)
    assert passing.max() == 300
    assert passing.min() > 100


def test_images_are_smooth_and_random_in_turn_and_always_the_same():
    images = sample_images(4, (64, 96))
    np.testing.assert_array_equal(images, sample_images(4, (64, 96)))
    steps = np.abs(np.diff(images.astype(int), axis=2)).mean(axis=(1, 2, 3))
    assert (steps[[0, 2]] < 30).all()
    assert (steps[[1, 3]] > 60).all()
    assert (images.max(axis=(1, 2, 3)) > 200).all()
