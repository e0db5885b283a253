"""What YOLOv7 computes, read slowly: the oracle for random cases.

Plain numpy and Python loops over images, levels, objects, anchors and cells. The coarse choice of
cells is made in float32, because objects on grid lines are decided by its rounding; everything
else is float64. Nothing here is shared with the library but the two frozen configurations.

Objects are rows `[n, 6]`: image, class, cx, cy, w, h, normalised by the size of the input.
Outputs are one `[b, h, w, a, 5 + c]` array of logits per level.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from yolov7_jax.config import HeadConfig

DIRECTIONS = ((0, 0), (1, 0), (0, 1), (-1, 0), (0, -1))  # own, left, up, right, down
BALANCE = {3: (4.0, 1.0, 0.4), 4: (4.0, 1.0, 0.25, 0.06)}
AUXILIARY_WEIGHT = 0.25
FOCAL_ALPHA = 0.25
CIOU_EPS = 1e-7

Box = Sequence[float]
Levels = Sequence[np.ndarray]


class Match(NamedTuple):
    """One prediction and an object of its image, by the object's place within the image."""

    image: int
    level: int
    anchor: int
    row: int
    column: int
    object: int


class Loss(NamedTuple):
    """The loss and its parts; box, obj and cls after gains, the lists one value per lead level."""

    total: float
    box: float
    obj: float
    cls: float
    obj_per_level: list[float]
    num_matched: list[int]


class Fixed(NamedTuple):
    """All that no gradient flows through, of the lead or of the auxiliary head; per level."""

    matches: list[list[Match]]  # in candidate order
    alpha: list[list[float]]  # CIoU's weight of the aspect term, per match
    objectness: list[np.ndarray]  # targets `[b, h, w, a]`


def objects_of(rows: np.ndarray, image: int) -> np.ndarray:
    """The objects `[m, 6]` of one image, float32, in their order."""
    rows = np.asarray(rows, np.float32).reshape(-1, 6)
    return np.array([row for row in rows if int(row[0]) == image], np.float32).reshape(-1, 6)


def grid_box(row: np.ndarray, shape: Sequence[int]) -> tuple[np.float32, ...]:
    """An object's cx, cy, w, h in cells of a level of shape (b, h, w), in float32."""
    height, width = np.float32(shape[1]), np.float32(shape[2])
    return row[2] * width, row[3] * height, row[4] * width, row[5] * height


def relative_box(match: Match, objects: np.ndarray, shape: Sequence[int]) -> tuple[float, ...]:
    """A match's object in grid units relative to the match's cell, in float32."""
    gx, gy, gw, gh = grid_box(objects[match.object], shape)
    x, y = gx - np.float32(match.column), gy - np.float32(match.row)
    return float(x), float(y), float(gw), float(gh)


# ---------------------------------------------------------------------------- assignment


def candidates(rows, head, shapes, anchor_threshold, center_radius) -> list[list[Match]]:
    """The coarse choice: per image its candidates, each with the object that produced it."""
    return [
        list(
            _of_image(image, objects_of(rows, image), head, shapes, anchor_threshold, center_radius)
        )
        for image in range(shapes[0][0])
    ]


def _of_image(image, objects, head, shapes, anchor_threshold, center_radius) -> Iterator[Match]:
    for level, shape in enumerate(shapes):
        height, width = shape[1:3]
        for direction in DIRECTIONS:
            for anchor in range(head.num_anchors):
                for index, row in enumerate(objects):
                    box = grid_box(row, shape)
                    if not _anchor_fits(box, head, level, anchor, anchor_threshold):
                        continue
                    if not _is_near(box, direction, height, width, center_radius):
                        continue
                    column = int(box[0] - np.float32(center_radius * direction[0]))
                    line = int(box[1] - np.float32(center_radius * direction[1]))
                    column = min(max(column, 0), width - 1)
                    line = min(max(line, 0), height - 1)
                    yield Match(image, level, anchor, line, column, index)


def _anchor_fits(box, head: HeadConfig, level: int, anchor: int, threshold: float) -> bool:
    stride = np.float32(head.strides[level])
    for side, anchor_side in zip(box[2:], head.anchors[level][anchor], strict=True):
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = side / (np.float32(anchor_side) / stride)
            worst = max(ratio, np.float32(1) / ratio)
        if not worst < np.float32(threshold):
            return False
    return True


def _is_near(
    box, direction: tuple[int, int], height: int, width: int, center_radius: float
) -> bool:
    if direction == (0, 0):
        return True
    axis = 0 if direction[0] else 1
    position = box[axis]
    if sum(direction) < 0:  # right and down measure from the far border
        position = np.float32((width, height)[axis]) - position
    return bool(position % np.float32(1) < np.float32(center_radius) and position > 1)


def assign_anchor(lead, rows, head, config, *, center_radius=0.5, top_k=10) -> list[Match]:
    """The plain assigner: every candidate keeps its object. In candidate order, image by image."""
    shapes = [level.shape for level in lead]
    found = candidates(rows, head, shapes, config.anchor_threshold, center_radius)
    return [candidate for image in found for candidate in image]


def assign_ota(lead, rows, head, config, *, center_radius=0.5, top_k=10) -> list[Match]:
    """SimOTA. In candidate order, image by image."""
    matches = []
    shapes = [level.shape for level in lead]
    found = candidates(rows, head, shapes, config.anchor_threshold, center_radius)
    for image, columns in enumerate(found):
        objects = objects_of(rows, image)
        if len(objects) == 0 or not columns:
            continue
        iou, cost = _iou_and_cost(lead, objects, columns, head)
        claims = []
        for m in range(len(objects)):
            k = max(1, math.trunc(sum(sorted(iou[m], reverse=True)[:top_k])))
            order = [int(n) for n in np.argsort(cost[m], kind="stable")]  # tie: lower column
            if config.restrict_to_own_candidates:
                order = [n for n in order if columns[n].object == m]
            claims.append(set(order[:k]))
        for n, column in enumerate(columns):
            claimants = [m for m, claimed in enumerate(claims) if n in claimed]
            if len(claimants) > 1:  # the cheapest of ALL objects, the lower row of equals
                claimants = [int(np.argmin(cost[:, n]))]
            if claimants:
                matches.append(column._replace(object=claimants[0]))
    return matches


def _iou_and_cost(lead, objects, columns, head) -> tuple[np.ndarray, np.ndarray]:
    """Objects against candidates, both `[m, n]`."""
    image_height = lead[0].shape[1] * head.strides[0]
    image_width = lead[0].shape[2] * head.strides[0]
    scale = (image_width, image_height, image_width, image_height)
    boxes = [
        corners_of([float(v) * s for v, s in zip(row[2:], scale, strict=True)]) for row in objects
    ]
    labels = [int(row[1]) for row in objects]
    iou = np.zeros((len(objects), len(columns)))
    cost = np.zeros((len(objects), len(columns)))
    for n, candidate in enumerate(columns):
        logits = logits_of(lead, candidate)
        predicted = corners_of(decode_one(logits, candidate, head))
        class_cost = {label: _class_cost(logits, label) for label in set(labels)}
        for m, (box, label) in enumerate(zip(boxes, labels, strict=True)):
            iou[m, n] = plain_iou(box, predicted)
            cost[m, n] = class_cost[label] - 3 * math.log(iou[m, n] + 1e-8)
    return iou, cost


def _class_cost(logits: np.ndarray, label: int) -> float:
    """The sum over classes of BCE(sqrt(class score * objectness), whether it is the label)."""
    log_y = -0.5 * (np.logaddexp(0, -logits[5:]) + np.logaddexp(0, -logits[4]))
    log_not_y = np.log(np.maximum(-np.expm1(log_y), np.finfo(np.float64).tiny))
    return -sum(log_y[c] if c == label else log_not_y[c] for c in range(len(log_y)))


# ---------------------------------------------------------------------------- boxes


def logits_of(levels: Levels, match: Match) -> np.ndarray:
    """The prediction of a match `[5 + c]` in float64."""
    place = (match.image, match.row, match.column, match.anchor)
    return levels[match.level][place].astype(np.float64)


def sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))


def decode_one(logits: np.ndarray, match: Match, head: HeadConfig) -> tuple[float, ...]:
    """Centre, width and height in input pixels."""
    stride = head.strides[match.level]
    x, y, w, h = 2 * sigmoid(logits[:4])
    anchor_w, anchor_h = head.anchors[match.level][match.anchor]
    return (
        (x - 0.5 + match.column) * stride,
        (y - 0.5 + match.row) * stride,
        w**2 * anchor_w,
        h**2 * anchor_h,
    )


def corners_of(box_cxcywh: Box) -> tuple[float, float, float, float]:
    cx, cy, w, h = (float(value) for value in box_cxcywh)
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def _intersection(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)


def plain_iou(a_xyxy: Box, b_xyxy: Box) -> float:
    """IoU without an epsilon; 0 where both boxes are empty."""
    shared = _intersection(a_xyxy, b_xyxy)
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a_xyxy, b_xyxy)]
    union = sum(areas) - shared
    return shared / union if union > 0 else 0.0


def ciou(a_cxcywh: Box, b_cxcywh: Box, alpha: float | None = None) -> tuple[float, float]:
    """CIoU and its alpha; a given alpha is used as it is, so that no gradient flows through it."""
    ax1, ay1, ax2, ay2 = a = corners_of(a_cxcywh)
    bx1, by1, bx2, by2 = b = corners_of(b_cxcywh)
    w1, h1 = ax2 - ax1, ay2 - ay1 + CIOU_EPS
    w2, h2 = bx2 - bx1, by2 - by1 + CIOU_EPS
    shared = _intersection(a, b)
    iou = shared / (w1 * h1 + w2 * h2 - shared + CIOU_EPS)
    enclosing_w, enclosing_h = max(ax2, bx2) - min(ax1, bx1), max(ay2, by2) - min(ay1, by1)
    c2 = enclosing_w**2 + enclosing_h**2 + CIOU_EPS
    rho2 = (float(a_cxcywh[0]) - float(b_cxcywh[0])) ** 2
    rho2 += (float(a_cxcywh[1]) - float(b_cxcywh[1])) ** 2
    turn = math.atan(w2 / (h2 + CIOU_EPS)) - math.atan(w1 / (h1 + CIOU_EPS))
    v = 4 / math.pi**2 * turn**2
    if alpha is None:
        alpha = v / (v - iou + 1 + CIOU_EPS)
    return iou - (rho2 / c2 + v * alpha), alpha


def _ciou_of_match(levels, match, objects, head, alpha=None):
    x, y, w, h = decode_one(logits_of(levels, match), match._replace(row=0, column=0), head)
    stride = head.strides[match.level]
    predicted = (x / stride, y / stride, w / stride, h / stride)
    return ciou(predicted, relative_box(match, objects, levels[match.level].shape), alpha)


# ---------------------------------------------------------------------------- losses


def bce(
    logits: np.ndarray, targets: np.ndarray | float, pos_weight: float, gamma: float
) -> np.ndarray:
    """Binary cross-entropy per element, with the focal weight where gamma > 0."""
    targets = np.asarray(targets, np.float64)
    loss = pos_weight * targets * np.logaddexp(0, -logits)
    loss = loss + (1 - targets) * np.logaddexp(0, logits)
    if gamma > 0:
        p = sigmoid(logits)
        right = targets * p + (1 - targets) * (1 - p)
        weight = targets * FOCAL_ALPHA + (1 - targets) * (1 - FOCAL_ALPHA)
        loss = loss * weight * (1 - right) ** gamma
    return loss


def fix(lead, rows, head, config, *, assigner=assign_ota, auxiliary=()) -> list[Fixed]:
    """What the loss takes as given at these outputs: of the lead, then of auxiliary heads."""
    assign = functools.partial(
        assigner, lead, rows, head, config, top_k=20 if len(auxiliary) else 10
    )
    fine = assign(center_radius=0.5)
    fixed = [_fix_one(lead, fine, rows, head, config)]
    if len(auxiliary):  # the lead's predictions decide here too
        coarse = assign(center_radius=1.0)
        fixed.append(_fix_one(auxiliary, coarse, rows, head, config))
    return fixed


def _fix_one(levels, matches, rows, head, config) -> Fixed:
    by_level = [[m for m in matches if m.level == level] for level in range(len(levels))]
    alphas = [[0.0] * len(of_level) for of_level in by_level]
    objectness = [np.zeros(level.shape[:4]) for level in levels]
    for level, of_level in enumerate(by_level):
        for n, match in enumerate(of_level):  # a repeated cell is written again: the last one wins
            objects = objects_of(rows, match.image)
            value, alphas[level][n] = _ciou_of_match(levels, match, objects, head)
            target = (1 - config.iou_ratio) + config.iou_ratio * max(value, 0.0)
            objectness[level][match.image, match.row, match.column, match.anchor] = target
    return Fixed(by_level, alphas, objectness)


def loss(lead, rows, head, config, *, assigner=assign_ota, auxiliary=()) -> Loss:
    """The loss of a batch, times the number of images."""
    fixed = fix(lead, rows, head, config, assigner=assigner, auxiliary=auxiliary)
    return loss_of_fixed(lead, rows, head, config, fixed, auxiliary=auxiliary)


def loss_of_fixed(lead, rows, head, config, fixed: list[Fixed], *, auxiliary=()) -> Loss:
    """The loss as a function of the outputs alone, what `fix` found being held fast."""
    balance = BALANCE[len(lead)]
    per_image = [objects_of(rows, image) for image in range(len(lead[0]))]
    box = obj = cls = 0.0
    obj_per_level = []
    for head_number, (levels, given) in enumerate(zip((lead, auxiliary), fixed, strict=False)):
        weight = AUXILIARY_WEIGHT if head_number else 1.0
        for level in range(len(levels)):
            box_l, obj_l, cls_l = _terms(levels, level, given, per_image, head, config)
            box += weight * box_l
            obj += weight * balance[level] * obj_l
            cls += weight * cls_l
            if head_number == 0:
                obj_per_level.append(obj_l)
    box, obj, cls = config.box_gain * box, config.obj_gain * obj, config.cls_gain * cls
    total = (box + obj + cls) * len(lead[0])
    return Loss(total, box, obj, cls, obj_per_level, [len(of) for of in fixed[0].matches])


def _terms(levels, level, given, per_image, head, config) -> tuple[float, float, float]:
    """Box, objectness and class loss of one level before gains and balance."""
    matches = given.matches[level]
    box = cls = 0.0
    smooth = config.label_smoothing / 2
    for match, alpha in zip(matches, given.alpha[level], strict=True):
        objects = per_image[match.image]
        box += 1 - _ciou_of_match(levels, match, objects, head, alpha)[0]
        targets = np.full(head.num_classes, smooth)
        targets[int(objects[match.object, 1])] = 1 - smooth
        class_logits = logits_of(levels, match)[5:]
        cls += bce(class_logits, targets, config.cls_pos_weight, config.focal_gamma).sum()
    count = max(len(matches), 1)
    box, cls = box / count, cls / (count * head.num_classes)
    if head.num_classes == 1:
        cls = 0.0
    logits = levels[level][..., 4].astype(np.float64)
    obj = bce(logits, given.objectness[level], config.obj_pos_weight, config.focal_gamma).mean()
    return box, float(obj), float(cls)


def gradient(
    lead, rows, head, config, entries, fixed: list[Fixed], *, auxiliary=(), step=1e-5
) -> list[float]:
    """The total's derivative by chosen logits, by central differences.

    An entry is (level, image, row, column, anchor, field); auxiliary levels follow the lead's.
    """
    levels = [level.astype(np.float64) for level in (*lead, *auxiliary)]
    derivatives = []
    for level, *place in entries:
        array, place = levels[level], tuple(place)
        start = array[place]
        totals = []
        for moved in (start + step, start - step):
            array[place] = moved
            lead_64, auxiliary_64 = levels[: len(lead)], levels[len(lead) :]
            loss = loss_of_fixed(lead_64, rows, head, config, fixed, auxiliary=auxiliary_64)
            totals.append(loss.total)
        array[place] = start
        derivatives.append((totals[0] - totals[1]) / (2 * step))
    return derivatives
