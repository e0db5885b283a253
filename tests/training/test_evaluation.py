import dataclasses
import functools
import json

import cv2
import jax
import numpy as np
import pytest
from bright_boxes import (
    SIZE,
    STRIDE,
    check_same_detections,
    find_bright,
    narrow_model,
    seven_images,
)

from yolov7_jax import LossConfig, assign_anchor, deploy, split
from yolov7_jax.data import images
from yolov7_jax.data.dataset import as_one_class
from yolov7_jax.evaluate.batches import eval_batches
from yolov7_jax.evaluate.coco_results import write_coco_results
from yolov7_jax.evaluate.detect_split import (
    detect_split,
    ground_truth,
    make_detect_batch,
)
from yolov7_jax.training.evaluation import evaluate
from yolov7_jax.training.mesh import make_mesh, shard_batch
from yolov7_jax.training.pipeline.image_cache import cached_reader, open_cache
from yolov7_jax.training.step import EvalLosses, make_eval_step


@pytest.fixture
def dataset(tmp_path):
    return seven_images(tmp_path)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(1, jax.devices()[:1])


def losses_of(boxes, present):
    """Made-up losses: an image of the batch loses 3, 2 and 1 for each of its objects."""
    objects = (np.asarray(boxes)[..., 2] > 0).sum(1) * np.asarray(present)
    return EvalLosses(*(loss * objects.sum() for loss in (3.0, 2.0, 1.0)))


def look(images, targets, present):
    """An evaluation step of a detector that finds bright rectangles."""
    return on_device(find_bright(images)), losses_of(targets.boxes, present)


def on_device(detections):
    """As a mesh of one device would have them."""
    return shard_batch(detections, make_mesh(1, jax.devices()[:1]))


def run(dataset, mesh, **options):
    options = {"image_size": SIZE, "batch_size": 3} | options
    return evaluate(look, dataset, ground_truth(dataset), mesh, **options)


def in_order(detections):
    order = np.argsort(detections.image, kind="stable")
    return [np.asarray(field)[order] for field in detections]


def as_jpeg(dataset):
    """The images as noise in JPEG files, most of them large enough to be decoded at a half."""
    paths = tuple(path.replace(".png", ".jpg") for path in dataset.paths)
    rng = np.random.default_rng(0)
    for path, (width, height) in zip(paths, dataset.sizes.tolist(), strict=True):
        cv2.imwrite(path, rng.integers(0, 256, (height, width, 3), np.uint8))
    return dataclasses.replace(dataset, paths=paths)


@pytest.mark.parametrize("stride", [None, STRIDE])
@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_batches_from_a_cache_are_the_same_bit_for_bit(
    dataset, kind, stride, tmp_path, monkeypatch
):
    noisy = as_jpeg(dataset)
    options = {"image_size": SIZE, "batch_size": 3, "stride": stride}
    cache = open_cache(noisy, SIZE, kind, tmp_path / "val.images", "evaluation")
    read = cached_reader(noisy, SIZE, cache)
    passes = [list(eval_batches(noisy, **options))]
    passes.append(list(eval_batches(noisy, **options, read=read)))

    def unwanted(path, size):
        raise AssertionError(f"{path} was decoded again")

    monkeypatch.setattr(images, "read_whole", unwanted)
    passes.append(list(eval_batches(noisy, **options, read=read)))
    for other in passes[1:]:
        jax.tree.map(np.testing.assert_array_equal, passes[0], other)


def test_accuracy_with_a_cache_is_the_same(dataset, mesh, tmp_path):
    cache = open_cache(dataset, SIZE, "memory", tmp_path, "evaluation")
    plain, cached = run(dataset, mesh), run(dataset, mesh, cache=cache)
    jax.tree.map(np.testing.assert_array_equal, plain.detections, cached.detections)


def test_a_cache_for_training_is_refused(dataset, tmp_path):
    cache = open_cache(dataset, SIZE, "memory", tmp_path)
    with pytest.raises(ValueError, match="cache has images for training, wanted evaluation"):
        cached_reader(dataset, SIZE, cache)


@pytest.mark.parametrize("stride", [None, STRIDE])
def test_detections_do_not_depend_on_the_batch_size(dataset, mesh, stride, monkeypatch):
    monkeypatch.setattr("yolov7_jax.evaluate.batches.COMPILATION_IMAGES", 0)
    results = [
        run(dataset, mesh, batch_size=batch_size, stride=stride) for batch_size in (1, 2, 5, 16)
    ]
    for result in results[1:]:
        assert result.accuracy[:2] == results[0].accuracy[:2]
        both = in_order(result.detections), in_order(results[0].detections)
        jax.tree.map(np.testing.assert_array_equal, *both)
    # Each box is found to within a pixel of what the network sees.
    _, boxes, _, _ = in_order(results[0].detections)
    limit = np.maximum(1, dataset.sizes.max(1) / SIZE)[:, None]
    assert (np.abs(boxes - ground_truth(dataset).boxes_xyxy) <= limit).all()


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_losses_are_means_over_the_images_that_are_there(dataset, mesh, batch_size):
    # Each of the seven has one object; those that fill up the last batch have none.
    losses = run(dataset, mesh, batch_size=batch_size).losses
    assert losses == pytest.approx({"box": 3, "obj": 2, "cls": 1})


def test_the_step_is_given_the_objects_where_they_are_in_its_images(dataset, mesh):
    def check(images, targets, present):
        found = look(images, targets, present)
        for row in np.flatnonzero(present):
            (object_,) = np.flatnonzero(np.asarray(targets.valid)[row])
            cx, cy, w, h = np.asarray(targets.boxes)[row, object_] * SIZE
            box = np.asarray([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
            assert np.abs(box - np.asarray(found[0].boxes_xyxy)[row, 0]).max() <= 1
        return found

    evaluate(check, dataset, ground_truth(dataset), mesh, image_size=SIZE, batch_size=3)


def test_taken_for_one_class_results_have_the_first_id_of_the_source(dataset, mesh, tmp_path):
    one = as_one_class(dataset)
    assert one.names == ("object",)
    assert not one.labels.any()

    def find_one_class(images, targets, present):
        found, losses = look(images, targets, present)
        return found._replace(labels=found.labels * 0), losses

    truth = ground_truth(one)
    evaluation = evaluate(find_one_class, one, truth, mesh, image_size=SIZE, batch_size=3)
    assert 0.1 < evaluation.accuracy.ap <= 1
    assert len(evaluation.accuracy.class_ap) == 1
    write_coco_results(one, evaluation.detections, tmp_path / "one.json")
    rows = json.loads((tmp_path / "one.json").read_text())
    assert {row["category_id"] for row in rows} == {5}
    assert {row["image_id"] for row in rows} == set(dataset.image_ids.tolist())


def test_a_detector_finds_what_training_measures(dataset, mesh):
    truth, options = ground_truth(dataset), {"image_size": SIZE, "batch_size": 4}
    # Folding rounds, and a fresh network has scores that are all but equal.
    model = deploy(narrow_model())
    graphdef, params, batch_stats = split(model)
    step = jax.jit(make_eval_step(graphdef, model.head, LossConfig(), assigner=assign_anchor))
    step = functools.partial(step, params, batch_stats)
    trained = evaluate(step, dataset, truth, mesh, **options).detections
    thresholds = {"score_threshold": 0.001, "iou_threshold": 0.65}
    detect = make_detect_batch(model, mesh.devices.ravel(), classes=range(2), **thresholds)
    found, unreadable = detect_split(detect, dataset, **options)
    assert not unreadable
    check_same_detections(found, trained)
