"""A pass over a split: where detections end up, and which of them count."""

import json
import pathlib

import jax
import numpy as np
import pytest
from bright_boxes import (
    SIZE,
    STRIDE,
    check_same_detections,
    find_bright,
    make_dataset,
    narrow_model,
    seven_images,
)
from detected import pycocotools_ap

from yolov7_jax import Detections
from yolov7_jax.evaluate.coco_ap import coco_ap
from yolov7_jax.evaluate.coco_results import write_coco_results
from yolov7_jax.evaluate.detect_split import (
    detect_split,
    ground_truth,
    make_detect_batch,
    shared_batch_size,
    without_images,
)


@pytest.fixture
def dataset(tmp_path):
    return seven_images(tmp_path)


def bright(batch):
    return find_bright(batch.images)


def detected(dataset, detect=bright, **options):
    options = {"image_size": SIZE, "batch_size": 3} | options
    return detect_split(detect, dataset, **options)


def accuracy_of(dataset, detections, truth=None):
    truth = ground_truth(dataset) if truth is None else truth
    return coco_ap(truth, detections, num_images=len(dataset), num_classes=len(dataset.names))


@pytest.mark.parametrize("stride", [None, STRIDE])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_boxes_come_back_in_pixels_of_the_images_one_by_one(
    dataset, batch_size, stride, monkeypatch
):
    monkeypatch.setattr("yolov7_jax.evaluate.batches.COMPILATION_IMAGES", 0)
    found, unreadable = detected(dataset, batch_size=batch_size, stride=stride)
    assert not unreadable
    assert found.image.tolist() == list(range(len(dataset)))
    assert found.labels.tolist() == dataset.labels.tolist()
    limit = np.maximum(1, dataset.sizes.max(1) / SIZE)[:, None]  # a pixel that the network sees
    assert (np.abs(found.boxes_xyxy - ground_truth(dataset).boxes_xyxy) <= limit).all()


def test_images_that_cannot_be_decoded_are_named_and_neither_miss_nor_find(dataset):
    whole = accuracy_of(dataset, detected(dataset).detections)
    pathlib.Path(dataset.paths[2]).write_bytes(b"no image")
    pathlib.Path(dataset.paths[5]).unlink()

    def everywhere(batch):
        found = bright(batch)
        return found._replace(valid=np.ones_like(found.valid))

    found, unreadable = detected(dataset, everywhere)
    assert list(unreadable) == [2, 5]
    assert "2.png: is not an image" in unreadable[2]
    assert "5.png: cannot be read: No such file" in unreadable[5]
    assert found.image.tolist() == [0, 1, 3, 4, 6]
    truth = without_images(ground_truth(dataset), unreadable)
    assert truth.image.tolist() == [0, 1, 3, 4, 6]
    assert len(truth.crowd) == len(truth.area) == 5
    assert accuracy_of(dataset, found, truth).ap >= whole.ap


def test_detections_in_crowd_regions_are_no_faults(tmp_path):
    boxes, sizes = [[(10, 10, 40, 40)], [(4, 4, 60, 60)]], [(64, 64), (64, 64)]
    plain = make_dataset(tmp_path, sizes, boxes, [0, 0])
    marked = make_dataset(tmp_path, sizes, boxes, [0, 0], crowd=np.asarray([False, True]))

    def find(batch):
        # In the image of the crowd, a part of it, with the higher score.
        shape = (len(batch.images), 1)
        surface = (batch.images[..., 0] > 135).sum((1, 2))
        scores = (surface / 64**2).reshape(shape).astype(np.float32)
        boxes = np.asarray([[[10, 10, 40, 40]]] * len(batch.images), np.float32)
        return Detections(boxes, scores, np.zeros(shape, np.int32), np.ones(shape, bool))

    accuracy = [accuracy_of(data, detected(data, find).detections).ap for data in (plain, marked)]
    assert accuracy[0] < 0.3
    assert accuracy[1] == pytest.approx(1)


def test_areas_of_the_source_tell_small_objects_from_large(tmp_path):
    boxes, sizes = [[(10, 10, 60, 60)]], [(64, 64)]
    box_area = make_dataset(tmp_path, sizes, boxes, [0])
    outlined = make_dataset(tmp_path, sizes, boxes, [0], areas=np.asarray([900], np.float32))
    of_boxes, of_outlines = (
        accuracy_of(data, detected(data).detections) for data in (box_area, outlined)
    )
    assert of_boxes.ap_medium == of_outlines.ap_small == pytest.approx(1)
    assert np.isnan(of_boxes.ap_small)
    assert np.isnan(of_outlines.ap_medium)


def test_written_detections_have_the_ids_of_the_source_and_the_same_accuracy(dataset, tmp_path):
    detections = detected(dataset).detections
    path = tmp_path / "detections.json"
    write_coco_results(dataset, detections, path)
    rows = json.loads(path.read_text())
    assert {row["image_id"] for row in rows} == set(dataset.image_ids.tolist())
    assert {row["category_id"] for row in rows} == {5, 90}
    truth = ground_truth(dataset)
    stats, _ = pycocotools_ap(truth, str(path), dataset.image_ids, dataset.category_ids)
    accuracy = np.nan_to_num(np.asarray(accuracy_of(dataset, detections)[:12], float), nan=-1)
    assert 0.1 < accuracy[0] < 1
    np.testing.assert_allclose(stats, accuracy, atol=1e-12)


def test_no_detections_can_be_measured_and_written(dataset, tmp_path):
    def find_nothing(batch):
        found = bright(batch)
        return found._replace(valid=np.zeros_like(found.valid))

    detections = detected(dataset, find_nothing).detections
    assert accuracy_of(dataset, detections).ap == 0
    write_coco_results(dataset, detections, tmp_path / "none.json")
    assert json.loads((tmp_path / "none.json").read_text()) == []


def test_detections_are_the_same_on_one_and_eight_devices(dataset):
    model, results = narrow_model(), []
    for devices in (jax.devices()[:1], jax.devices()):
        thresholds = {"score_threshold": 0.001, "iou_threshold": 0.65}
        detect = make_detect_batch(model, devices, classes=(0, 1), augment=True, **thresholds)
        results.append(detected(dataset, detect, batch_size=shared_batch_size(3, devices)))
    assert len(jax.devices()) == 8
    check_same_detections(*(result.detections for result in results))


def test_batches_grow_to_what_devices_can_share():
    assert [shared_batch_size(size, range(8)) for size in (1, 8, 9, 16)] == [8, 8, 16, 16]
