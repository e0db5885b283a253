import json
import pathlib

import chex
import jax
import numpy as np
import oracle_detections as oracle
import pytest

from yolov7_jax import Predictions, nms

GOLDEN = sorted((pathlib.Path(__file__).parent / "golden" / "nms").glob("*.npz"))


def from_measurement(decoded):
    """Predictions from `[b, n, 5 + c]` rows of cx cy w h, objectness and class scores."""
    centre, size = decoded[..., :2], decoded[..., 2:4]
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=-1)
    objectness = decoded[..., 4]
    scores = decoded[..., 5:] * objectness[..., None]
    if scores.shape[-1] == 1:
        scores = objectness[..., None]
    return Predictions(boxes, objectness, scores)


def as_rows(detections, image):
    fields = (detections.boxes_xyxy, detections.scores[..., None], detections.labels[..., None])
    rows = np.concatenate([np.asarray(field[image], np.float64) for field in fields], axis=-1)
    return rows[np.asarray(detections.valid[image])]


def random_predictions(rng, batch=2, num=60, classes=3, *, ties=False):
    low = rng.uniform(0, 60, (batch, num, 2))
    boxes = np.concatenate([low, low + rng.uniform(0, 40, (batch, num, 2))], -1)
    objectness, classes = rng.uniform(size=(batch, num)), rng.uniform(size=(batch, num, classes))
    scores = objectness[..., None] * classes
    if ties:
        boxes, scores = np.round(boxes / 16) * 16, np.round(scores * 8) / 8
    return Predictions(*(x.astype(np.float32) for x in (boxes, objectness, scores)))


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_nms_reproduces_the_measured_detections(path, jitted):
    with np.load(path) as file:
        meta = json.loads(bytes(file["meta"]))
        predictions = from_measurement(file["prediction"])
        expected = [file[f"detections_{i}"] for i in range(len(predictions.boxes_xyxy))]

    def run(predictions):
        return nms(
            predictions,
            score_threshold=meta["conf_thres"],
            iou_threshold=meta["iou_thres"],
            multi_label=meta.get("multi_label", False),
            class_agnostic=meta.get("agnostic", False),
            classes=meta.get("classes"),
        )

    detections = (jax.jit(run) if jitted else run)(predictions)
    for image, rows in enumerate(expected):
        np.testing.assert_allclose(as_rows(detections, image), rows, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("class_agnostic", [False, True])
@pytest.mark.parametrize("classes", [None, np.array([0, 2])], ids=["all", "two"])
def test_nms_equals_the_oracle_on_random_boxes(multi_label, class_agnostic, classes):
    settings = {
        "score_threshold": 0.15,
        "iou_threshold": 0.4,
        "multi_label": multi_label,
        "class_agnostic": class_agnostic,
        "classes": classes,
        "max_candidates": 50,
        "max_detections": 20,
    }
    batched = jax.jit(lambda predictions: nms(predictions, **settings))

    @jax.jit
    def one_by_one(predictions):
        alone = jax.tree.map(lambda x: x[:, None], predictions)
        found = jax.vmap(lambda p: nms(p, **settings))(alone)
        return jax.tree.map(lambda x: x[:, 0], found)

    for seed in range(16):  # 128 images, so 1,024 with the other settings
        rng = np.random.default_rng(seed)
        predictions = random_predictions(rng, batch=8, ties=seed >= 8)
        detections = (one_by_one if seed % 2 else batched)(predictions)
        expected = oracle.nms(*predictions, **settings)
        for image, rows in enumerate(expected):
            np.testing.assert_allclose(
                as_rows(detections, image), np.reshape(rows, (-1, 6)), rtol=1e-6
            )


def test_nothing_above_the_threshold_gives_only_padding():
    predictions = random_predictions(np.random.default_rng(0))
    detections = nms(predictions, score_threshold=1.0, iou_threshold=0.5, max_detections=7)
    chex.assert_shape(detections.boxes_xyxy, (2, 7, 4))
    assert not detections.valid.any()
    assert not detections.boxes_xyxy.any()


def test_a_class_that_does_not_exist_is_refused_by_name():
    predictions = random_predictions(np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"classes \[3\] do not exist; there are 0 to 2"):
        nms(predictions, score_threshold=0.1, iou_threshold=0.5, classes=[1, 3])


def test_predictions_that_do_not_fit_each_other_are_refused():
    boxes, objectness, scores = random_predictions(np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"predictions .* have shapes .* were wanted"):
        nms(Predictions(boxes[:, 1:], objectness, scores), score_threshold=0.1, iou_threshold=0.5)
