import numpy as np
import pytest
from detected import detected, objects, random_case

from yolov7_jax.evaluate.matching import (
    FOUND_IOU,
    MOST_DETECTIONS,
    NEAR_IOU,
    DetectionKind,
    match_detections,
)

BOX = (0, 0, 10, 10)
HALF = (0, 0, 10, 5)  # IoU 0.5 with BOX
THIRD = (0, 0, 10, 4)  # 0.4
FAR = (50, 50, 60, 60)


def match(truth, detections):
    return match_detections(truth, detections, num_images=3, num_classes=3)


def labels(matches):
    return [DetectionKind(kind).label for kind in matches.kinds]


def iou(detection, other, of_detection=False):
    width = min(detection[2], other[2]) - max(detection[0], other[0])
    height = min(detection[3], other[3]) - max(detection[1], other[1])
    shared = max(width, 0) * max(height, 0)
    area = (detection[2] - detection[0]) * (detection[3] - detection[1])
    whole = area + (other[2] - other[0]) * (other[3] - other[1]) - shared
    return shared / (area if of_detection else whole)


def one_after_the_other(truth, detections):
    """The definition, in loops: kind and object of each detection, and who found each object."""
    found, taken, counts = truth.boxes_xyxy.astype(float), {}, {}
    kinds, about = {}, {}
    for row in np.argsort(-detections.scores, kind="stable").tolist():
        box = detections.boxes_xyxy[row].astype(float)
        place = (int(detections.image[row]), int(detections.labels[row]))
        counts[place] = counts.get(place, 0) + 1
        here = [o for o in range(len(truth.labels)) if truth.image[o] == place[0]]
        of_class = [o for o in here if truth.labels[o] == place[1]]
        crowds = [o for o in of_class if truth.crowd[o]]
        ious = {o: iou(box, found[o]) for o in here if not truth.crowd[o]}
        own = {o: ious[o] for o in of_class if o in ious}
        free = [o for o in own if own[o] >= FOUND_IOU and o not in taken]
        on = [o for o in ious if ious[o] >= FOUND_IOU]
        near = [o for o in own if own[o] >= NEAR_IOU]
        if counts[place] > MOST_DETECTIONS:
            kinds[row] = "ignored"
        elif free:
            about[row] = max(free, key=lambda o: (own[o], o))
            taken[about[row]] = row
            kinds[row] = "correct"
        elif any(iou(box, found[o], of_detection=True) >= FOUND_IOU for o in crowds):
            kinds[row] = "ignored"
        elif on:
            about[row] = max(on, key=lambda o: (ious[o], o in own, o))
            kinds[row] = "duplicate" if about[row] in own else "wrong class"
        elif near:
            about[row] = max(near, key=lambda o: (own[o], o))
            kinds[row] = "badly placed"
        else:
            kinds[row] = "false"
    return kinds, about, taken


@pytest.mark.parametrize("seed", range(20))
def test_equals_serving_one_detection_after_the_other(seed):
    truth, detections, images, classes = random_case(seed)
    matches = match_detections(truth, detections, num_images=images, num_classes=classes)
    wanted, about, taken = one_after_the_other(truth, detections)
    rows = range(len(detections.labels))
    assert labels(matches) == [wanted[row] for row in rows]
    assert matches.objects.tolist() == [about.get(row, -1) for row in rows]
    assert matches.finders.tolist() == [taken.get(row, -1) for row in range(len(truth.labels))]
    boxes, of_truth = detections.boxes_xyxy.astype(float), truth.boxes_xyxy.astype(float)
    ious = [iou(boxes[row], of_truth[about[row]]) if row in about else 0 for row in rows]
    np.testing.assert_allclose(matches.ious, ious, atol=1e-12)
    assert len(set(wanted.values())) == len(DetectionKind)  # the cases are worth it


def check_kinds(truth, *cases):
    """Cases are detections, each with the kind that it is."""
    matches = match(truth, detected(*(row for row, _ in cases)))
    assert labels(matches) == [kind for _, kind in cases]
    return matches


def test_every_kind_by_hand():
    check_kinds(
        objects((0, 0, *BOX)),
        ((0, 0, 0.9, *BOX), "correct"),
        ((0, 0, 0.8, *HALF), "duplicate"),
        ((0, 1, 0.7, *HALF), "wrong class"),
        ((0, 0, 0.6, *THIRD), "badly placed"),
        ((0, 1, 0.5, *THIRD), "false"),
        ((0, 0, 0.4, *FAR), "false"),
        ((1, 0, 0.3, *BOX), "false"),
    )


def test_higher_scores_choose_first_in_any_order_of_rows():
    rows = ((0, 0, 0.3, *BOX), "duplicate"), ((0, 0, 0.8, *HALF), "correct")
    check_kinds(objects((0, 0, *BOX)), *rows)


def test_second_choice_is_taken_where_the_first_is_gone():
    truth = objects((0, 0, 0, 0, 10, 10), (0, 0, 2, 0, 12, 10))
    matches = check_kinds(
        truth,
        ((0, 0, 0.9, *BOX), "correct"),
        ((0, 0, 0.8, *BOX), "correct"),
        ((0, 0, 0.7, *BOX), "duplicate"),
    )
    assert matches.objects.tolist() == [0, 1, 0]
    assert matches.finders.tolist() == [0, 1]
    assert matches.ious == pytest.approx([1, 80 / 120, 1])


@pytest.mark.parametrize(
    ("bottom", "kind"),
    [(5, "correct"), (4.999, "badly placed"), (1, "badly placed"), (0.999, "false")],
)
def test_an_iou_of_just_half_finds_and_just_a_tenth_is_near(bottom, kind):
    check_kinds(objects((0, 0, *BOX)), ((0, 0, 0.9, 0, 0, 10, bottom), kind))


def test_detections_in_a_crowd_of_their_class_are_ignored():
    truth = objects((0, 0, 0, 0, 100, 100), (0, 0, *BOX), crowd=[0])
    matches = check_kinds(
        truth,
        ((0, 0, 0.6, *FAR), "ignored"),
        ((0, 1, 0.5, *FAR), "false"),
        ((0, 0, 0.4, 95, 0, 105, 10), "ignored"),  # half inside
        ((0, 0, 0.4, 96, 0, 106, 10), "false"),
        ((0, 0, 0.3, *BOX), "correct"),
    )
    assert matches.finders.tolist() == [-1, 4]


def test_only_the_best_100_of_an_image_and_class_count():
    rows = [(0, 0, 1 - score / 1000, *FAR) for score in range(MOST_DETECTIONS)]
    last = (0, 0, 0.1, *BOX)
    others = [(0, 1, 1, *FAR), (1, 0, 1, *FAR)]  # another class, another image
    for before, kind in ((rows, "ignored"), (rows[1:], "correct"), (rows[1:] + others, "correct")):
        matches = match(objects((0, 0, *BOX)), detected(*before, last))
        assert labels(matches)[-1] == kind


def test_found_objects_depend_on_the_score_threshold():
    truth = objects((0, 0, *BOX), (0, 0, *FAR), (1, 0, *BOX))
    detections = detected((0, 0, 0.5, *BOX), (0, 0, 0.25, *FAR))
    matches = match(truth, detections)
    for score, found in ((0.0, [0, 1]), (0.5, [0]), (0.6, [])):
        assert np.flatnonzero(matches.found_objects(detections, score)).tolist() == found


def test_matching_is_the_same_without_what_scores_less():
    truth, detections, images, classes = random_case(0)
    sizes = {"num_images": images, "num_classes": classes}
    shown = detections.scores >= 0.5
    whole = match_detections(truth, detections, **sizes)
    part = match_detections(
        truth, type(detections)(*(field[shown] for field in detections)), **sizes
    )
    np.testing.assert_array_equal(whole.kinds[shown], part.kinds)
    np.testing.assert_array_equal(whole.objects[shown], part.objects)


@pytest.mark.parametrize("num_objects", [0, 2])
@pytest.mark.parametrize("num_detections", [0, 2])
def test_nothing_on_either_side_is_no_fault(num_objects, num_detections):
    truth = objects(*[(0, 0, *BOX)] * num_objects)
    detections = detected(*[(0, 0, 0.5, *BOX)] * num_detections)
    matches = match(truth, detections)
    assert labels(matches).count("correct") == min(num_objects, num_detections)
    assert len(matches.finders) == num_objects


def test_boxes_without_area_find_nothing():
    truth = objects((0, 0, 5, 5, 5, 5), (0, 0, *BOX))
    check_kinds(truth, ((0, 0, 0.5, 5, 5, 5, 5), "false"))


def test_what_cannot_be_measured_is_refused_by_name():
    with pytest.raises(ValueError, match=r"detections\.labels has 1 values outside \[0, 3\)"):
        match(objects((0, 0, *BOX)), detected((0, 3, 0.5, *BOX)))
