import contextlib
import dataclasses
import io
import json

import cv2
import jax
import numpy as np
import pytest
from bright_boxes import SIZE, STRIDE, make_dataset, seven_pictures
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from train.data.picture_cache import cached_reader, open_cache
from train.evaluate import evaluate, ground_truth, write_detections
from train.mesh import make_mesh, shard_batch
from train.start import as_one_class
from train.step import EvalLosses
from yolov7_jax import Detections
from yolov7_jax.data import pictures
from yolov7_jax.data.evaluation_batches import (
    eval_batches,
)


@pytest.fixture
def dataset(tmp_path):
    return seven_pictures(tmp_path)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(1, jax.devices()[:1])


def losses_of(boxes, present):
    """Made-up losses: a picture of the batch loses 3, 2 and 1 for each of its objects."""
    objects = (np.asarray(boxes)[..., 2] > 0).sum(1) * np.asarray(present)
    return EvalLosses(*(loss * objects.sum() for loss in (3.0, 2.0, 1.0)))


def find_bright(images, targets, present):
    """A detector: the bright rectangle of each picture, of the class that its brightness says."""
    boxes, found = np.zeros((len(images), 1, 4), np.float32), np.zeros((len(images), 1), bool)
    for row, image in enumerate(np.asarray(images)):
        ys, xs = np.nonzero(image[..., 0] > 135)
        if len(ys):
            boxes[row, 0], found[row] = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1), True
    labels = np.asarray(images).max((1, 2, 3))[:, None] < 225
    detections = Detections(boxes, boxes.sum(2) / 1000, labels.astype(np.int32), found)
    return on_device(detections), losses_of(targets.boxes, present)


def on_device(detections):
    """As a mesh of one device would have them."""
    return shard_batch(detections, make_mesh(1, jax.devices()[:1]))


def run(dataset, mesh, **options):
    options = {"image_size": SIZE, "batch_size": 3} | options
    return evaluate(find_bright, dataset, ground_truth(dataset), mesh, **options)


def in_order(detections):
    order = np.argsort(detections.image, kind="stable")
    return [np.asarray(field)[order] for field in detections]


def as_jpeg(dataset):
    """The pictures as noise in JPEG files, most of them large enough to be decoded at a half."""
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
    cache = open_cache(noisy, SIZE, kind, tmp_path / "val.pictures", "evaluation")
    read = cached_reader(noisy, SIZE, cache)
    passes = [list(eval_batches(noisy, **options))]
    passes.append(list(eval_batches(noisy, **options, read=read)))

    def unwanted(path, size):
        raise AssertionError(f"{path} was decoded again")

    monkeypatch.setattr(pictures, "read_whole", unwanted)
    passes.append(list(eval_batches(noisy, **options, read=read)))
    for other in passes[1:]:
        for batch, same in zip(passes[0], other, strict=True):
            np.testing.assert_array_equal(batch.images, same.images)
            for field, kept in zip(batch.letterbox, same.letterbox, strict=True):
                np.testing.assert_array_equal(field, kept)


def test_accuracy_with_a_cache_is_the_same(dataset, mesh, tmp_path):
    cache = open_cache(dataset, SIZE, "memory", tmp_path, "evaluation")
    plain, cached = run(dataset, mesh), run(dataset, mesh, cache=cache)
    for field, same in zip(plain.detections, cached.detections, strict=True):
        np.testing.assert_array_equal(field, same)


def test_a_cache_for_training_is_refused(dataset, tmp_path):
    cache = open_cache(dataset, SIZE, "memory", tmp_path)
    with pytest.raises(ValueError, match="cache has pictures for training, wanted evaluation"):
        cached_reader(dataset, SIZE, cache)


@pytest.mark.parametrize("stride", [None, STRIDE])
def test_detections_do_not_depend_on_the_batch_size(dataset, mesh, stride, monkeypatch):
    monkeypatch.setattr("yolov7_jax.data.evaluation_batches.COMPILATION_PICTURES", 0)
    results = [
        run(dataset, mesh, batch_size=batch_size, stride=stride) for batch_size in (1, 2, 5, 16)
    ]
    for result in results[1:]:
        assert result.accuracy[:2] == results[0].accuracy[:2]
        for field, same in zip(
            in_order(result.detections), in_order(results[0].detections), strict=True
        ):
            np.testing.assert_array_equal(field, same)
    # Each box is found to within a pixel of what the network sees.
    _, boxes, _, _ = in_order(results[0].detections)
    limit = np.maximum(1, dataset.sizes.max(1) / SIZE)[:, None]
    assert (np.abs(boxes - ground_truth(dataset).boxes_xyxy) <= limit).all()


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_losses_are_means_over_the_pictures_that_are_there(dataset, mesh, batch_size):
    # Each of the seven has one object; those that fill up the last batch have none.
    losses = run(dataset, mesh, batch_size=batch_size).losses
    assert losses == pytest.approx({"box": 3, "obj": 2, "cls": 1})


def test_the_step_is_given_the_objects_where_they_are_in_its_pictures(dataset, mesh):
    def look(images, targets, present):
        found = find_bright(images, targets, present)
        for row in np.flatnonzero(present):
            (object_,) = np.flatnonzero(np.asarray(targets.valid)[row])
            cx, cy, w, h = np.asarray(targets.boxes)[row, object_] * SIZE
            box = np.asarray([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
            assert np.abs(box - np.asarray(found[0].boxes_xyxy)[row, 0]).max() <= 1
        return found

    evaluate(look, dataset, ground_truth(dataset), mesh, image_size=SIZE, batch_size=3)


def test_taken_for_one_class_results_have_the_first_id_of_the_source(dataset, mesh, tmp_path):
    one = as_one_class(dataset)
    assert one.names == ("object",)
    assert not one.labels.any()

    def find_one_class(images, targets, present):
        found, losses = find_bright(images, targets, present)
        return found._replace(labels=found.labels * 0), losses

    truth = ground_truth(one)
    evaluation = evaluate(find_one_class, one, truth, mesh, image_size=SIZE, batch_size=3)
    assert 0.1 < evaluation.accuracy.ap <= 1
    assert len(evaluation.accuracy.class_ap) == 1
    write_detections(one, evaluation.detections, tmp_path / "one.json")
    rows = json.loads((tmp_path / "one.json").read_text())
    assert {row["category_id"] for row in rows} == {5}
    assert {row["image_id"] for row in rows} == set(dataset.image_ids.tolist())


def test_detections_in_crowd_regions_are_no_faults(tmp_path, mesh):
    boxes = [[(10, 10, 40, 40)], [(4, 4, 60, 60)]]
    crowd = np.asarray([False, True])
    sizes = [(64, 64), (64, 64)]
    plain = make_dataset(tmp_path, sizes, boxes, [0, 0])
    marked = make_dataset(tmp_path, sizes, boxes, [0, 0], crowd=crowd)

    def find(images, targets, present):
        # In the picture of the crowd, a part of it, with the higher score.
        found = np.asarray([[[10, 10, 40, 40]]] * len(images), np.float32)
        surface = (np.asarray(images)[..., 0] > 135).sum((1, 2))
        shape = (len(images), 1)
        scores = (surface / 64**2).reshape(shape).astype(np.float32)
        detections = Detections(found, scores, np.zeros(shape, np.int32), np.ones(shape, bool))
        return on_device(detections), EvalLosses(0, 0, 0)

    options = {"image_size": 64, "batch_size": 2}
    accuracy = [
        evaluate(find, data, ground_truth(data), mesh, **options).accuracy.ap
        for data in (plain, marked)
    ]
    assert accuracy[0] < 0.3
    assert accuracy[1] == pytest.approx(1)


def test_areas_of_the_source_tell_small_objects_from_large(dataset, tmp_path, mesh):
    boxes = [[(10, 10, 60, 60)]]
    sizes = [(64, 64)]
    box_area = make_dataset(tmp_path, sizes, boxes, [0])
    outlined = make_dataset(tmp_path, sizes, boxes, [0], areas=np.asarray([900], np.float32))
    assert run(box_area, mesh).accuracy.ap_medium == pytest.approx(1)
    assert np.isnan(run(box_area, mesh).accuracy.ap_small)
    assert run(outlined, mesh).accuracy.ap_small == pytest.approx(1)
    assert np.isnan(run(outlined, mesh).accuracy.ap_medium)


def test_written_detections_have_the_ids_of_the_source_and_the_same_accuracy(
    dataset, tmp_path, mesh
):
    evaluation = run(dataset, mesh)
    path = tmp_path / "detections.json"
    write_detections(dataset, evaluation.detections, path)
    rows = json.loads(path.read_text())
    assert {row["image_id"] for row in rows} == set(dataset.image_ids.tolist())
    assert {row["category_id"] for row in rows} == {5, 90}
    truth = ground_truth(dataset)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": image} for image in dataset.image_ids.tolist()],
            "categories": [{"id": 5, "name": "a"}, {"id": 90, "name": "b"}],
            "annotations": [
                {
                    "id": row + 1,
                    "image_id": int(dataset.image_ids[truth.image[row]]),
                    "category_id": int(dataset.category_ids[truth.labels[row]]),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": float(truth.area[row]),
                    "iscrowd": int(truth.crowd[row]),
                }
                for row, (x0, y0, x1, y1) in enumerate(truth.boxes_xyxy.tolist())
            ],
        }
        coco.createIndex()
        measured = COCOeval(coco, coco.loadRes(str(path)), "bbox")
        measured.evaluate()
        measured.accumulate()
        measured.summarize()
    accuracy = np.nan_to_num(np.asarray(evaluation.accuracy[:12], float), nan=-1)
    assert 0.1 < accuracy[0] < 1
    np.testing.assert_allclose(measured.stats, accuracy, atol=1e-12)


def test_no_detections_can_be_measured_and_written(dataset, tmp_path, mesh):
    def find_nothing(images, targets, present):
        empty = Detections(*(np.zeros((len(images), 3, *more)) for more in ((4,), (), (), ())))
        nothing = empty._replace(labels=empty.labels.astype(int), valid=empty.valid.astype(bool))
        return on_device(nothing), EvalLosses(0, 0, 0)

    options = {"image_size": SIZE, "batch_size": 4}
    evaluation = evaluate(find_nothing, dataset, ground_truth(dataset), mesh, **options)
    assert evaluation.accuracy.ap == 0
    write_detections(dataset, evaluation.detections, tmp_path / "none.json")
    assert json.loads((tmp_path / "none.json").read_text()) == []
