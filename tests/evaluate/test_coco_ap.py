import numpy as np
import pytest
from detected import pycocotools_ap

from yolov7_jax.evaluate.coco_ap import CocoAp, GroundTruth, ScoredBoxes, coco_ap, xyxy_to_xywh

NUMBERS = CocoAp._fields[:12]  # in the order of pycocotools' stats


def random_case(seed, *, num_images=12, num_classes=5, tied=True):
    rng = np.random.default_rng(seed)

    def boxes(count):
        corner = rng.uniform(0, 300, (count, 2))
        side = np.exp(rng.uniform(np.log(5), np.log(200), (count, 2)))
        return np.concatenate([corner, corner + side], 1).astype(np.float32)

    count = 60
    image = rng.integers(0, num_images // 2, count)  # the others are empty
    labels = rng.integers(0, num_classes - 2, count)  # two classes have no object
    truth = GroundTruth(image, boxes(count), labels)
    near = rng.integers(0, count, 150)
    shaken = truth.boxes_xyxy[near] + rng.normal(0, 5, (150, 4)).astype(np.float32)
    shaken[:, 2:] = np.maximum(shaken[:, 2:], shaken[:, :2] + 1)
    wrong = rng.random(150) < 0.2
    detected = np.where(wrong, rng.integers(0, num_classes, 150), labels[near])
    scores = rng.random(200).astype(np.float32)
    detections = ScoredBoxes(
        np.concatenate([image[near], rng.integers(0, num_images, 50)]),
        np.concatenate([shaken, boxes(50)]),
        np.round(scores, 1) if tied else scores,
        np.concatenate([detected, rng.integers(0, num_classes, 50)]),
    )
    return truth, detections, num_images, num_classes


def check_against_pycocotools(truth, detections, num_images, num_classes):
    result = coco_ap(truth, detections, num_images=num_images, num_classes=num_classes)
    results = [
        {"image_id": int(image), "category_id": int(label), "bbox": box, "score": float(score)}
        for image, box, score, label in zip(
            detections.image,
            xyxy_to_xywh(detections.boxes_xyxy).tolist(),
            detections.scores,
            detections.labels,
            strict=True,
        )
    ]
    stats, precision = pycocotools_ap(truth, results, range(num_images), range(num_classes))
    values = np.asarray([getattr(result, field) for field in NUMBERS])
    np.testing.assert_allclose(np.nan_to_num(values, nan=-1), stats, atol=1e-12)
    for values, wanted in (
        (result.class_ap, precision.mean((0, 1))),
        (result.class_ap50, precision[0].mean(0)),
        (result.class_precision, precision[0].T),
    ):
        np.testing.assert_allclose(np.nan_to_num(values, nan=-1), wanted, atol=1e-12)
    return result


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_equals_pycocotools_with_empty_images_and_missing_classes(seed, tied):
    result = check_against_pycocotools(*random_case(seed, tied=tied))
    assert 0 < result.ap < result.ap50 < 1
    assert np.isnan(result.class_ap[-2:]).all()


@pytest.mark.parametrize("seed", range(50))
def test_equals_pycocotools_on_random_data_sets_with_crowds_and_the_areas_of_outlines(seed):
    truth, detections, images, classes = random_case(seed)
    rng = np.random.default_rng((1, seed))
    count = len(truth.labels)
    sides = truth.boxes_xyxy[:, 2:] - truth.boxes_xyxy[:, :2]
    area = sides.prod(1) * rng.uniform(0.2, 1, count)
    truth = truth._replace(crowd=rng.random(count) < 0.25, area=area)
    result = check_against_pycocotools(truth, detections, images, classes)
    # Every case has what makes data sets hard.
    assert truth.crowd.any()
    assert len(np.unique(truth.image)) < images
    assert len(np.unique(truth.labels)) < len(np.unique(detections.labels)) == classes
    assert len(np.unique(detections.scores)) <= 11 < len(detections.scores)
    sizes = {"num_images": images, "num_classes": classes}
    assert result.ap != coco_ap(truth._replace(crowd=None), detections, **sizes).ap
    without_area = coco_ap(truth._replace(area=None), detections, **sizes)
    assert result.ap == without_area.ap
    assert result.ap_small != without_area.ap_small


def test_detections_in_a_crowd_count_neither_for_nor_against():
    boxes = np.asarray([[10, 10, 50, 50], [100, 100, 300, 300]], np.float32)
    zeros = np.zeros(2, int)
    truth = GroundTruth(zeros, boxes, zeros, crowd=np.asarray([False, True]))
    found = np.asarray([[10, 10, 50, 50], [110, 110, 150, 150], [200, 200, 240, 240]], np.float32)
    scores = np.asarray([0.5, 0.9, 0.8])
    detections = ScoredBoxes(np.zeros(3, int), found, scores, np.zeros(3, int))
    sizes = {"num_images": 1, "num_classes": 1}
    assert coco_ap(truth, detections, **sizes).ap == pytest.approx(1)
    assert coco_ap(truth._replace(crowd=None), detections, **sizes).ap < 0.5
    only_crowd = GroundTruth(*(None if field is None else field[1:] for field in truth))
    assert np.isnan(coco_ap(only_crowd, detections, **sizes).ap)


def test_equals_pycocotools_beyond_100_detections_in_an_image():
    truth, detections, _, classes = random_case(7)
    truth = truth._replace(image=np.zeros_like(truth.image))
    detections = detections._replace(
        image=np.zeros_like(detections.image), labels=np.zeros_like(detections.labels)
    )
    check_against_pycocotools(truth, detections, 1, classes)


def test_the_first_object_counts_like_any_other():
    box = np.asarray([[10, 10, 50, 50]], np.float32)
    zero = np.zeros(1, int)
    result = check_against_pycocotools(
        GroundTruth(zero, box, zero), ScoredBoxes(zero, box, np.ones(1), zero), 1, 1
    )
    assert result.ap == pytest.approx(1)
    assert np.isnan(result.ap_small)


def test_order_of_images_does_not_matter_without_ties():
    truth, detections, images, classes = random_case(3, tied=False)
    order = np.random.default_rng(0).permutation(len(detections.labels))
    shuffled = ScoredBoxes(*(field[order] for field in detections))
    sizes = {"num_images": images, "num_classes": classes}
    assert coco_ap(truth, detections, **sizes)[:12] == pytest.approx(
        coco_ap(truth, shuffled, **sizes)[:12], nan_ok=True
    )


def test_no_detections_is_zero_and_no_objects_is_undefined():
    truth, detections, images, classes = random_case(0)
    sizes = {"num_images": images, "num_classes": classes}
    none = ScoredBoxes(*(field[:0] for field in detections))
    assert coco_ap(truth, none, **sizes).ap == 0
    nothing = GroundTruth(truth.image[:0], truth.boxes_xyxy[:0], truth.labels[:0])
    assert np.isnan(coco_ap(nothing, detections, **sizes).ap)
    assert np.isnan(coco_ap(nothing, none, **sizes).ap)


def test_unknown_images_classes_and_values_are_refused_together():
    truth, detections, images, _ = random_case(0)
    image, boxes = detections.image.copy(), detections.boxes_xyxy.copy()
    image[4] = images
    boxes[7, 2] = np.nan
    wrong = detections._replace(image=image, boxes_xyxy=boxes)
    with pytest.raises(ValueError) as fault:  # noqa: PT011 - what follows checks it
        coco_ap(truth, wrong, num_images=images, num_classes=2)
    message = str(fault.value)
    assert (
        f"detections.image has 1 values outside [0, {images}), the first is 12 in row 4" in message
    )
    assert "detections.boxes_xyxy has 1 values that are not finite" in message
    assert "truth.labels has" in message


def test_areas_that_are_not_finite_and_fields_of_other_lengths_are_refused():
    truth, detections, images, classes = random_case(0)
    sizes = {"num_images": images, "num_classes": classes}
    area = np.full(len(truth.labels), np.inf)
    with pytest.raises(ValueError, match=r"truth\.area has 60 values that are not finite"):
        coco_ap(truth._replace(area=area), detections, **sizes)
    detections = detections._replace(scores=detections.scores[:3])
    with pytest.raises(ValueError, match=r"detections\.scores has the shape \(3,\), wanted \(200,"):
        coco_ap(truth, detections, **sizes)
