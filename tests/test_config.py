"""Frozen settings: what they accept, and that they say what they don't."""

import dataclasses

import pytest

from yolov7_jax import HeadConfig, LossConfig
from yolov7_jax.errors import UserError

ANCHORS = (((10.0, 12.0), (20.0, 24.0)), ((30.0, 36.0), (60.0, 72.0)))


def test_heads_made_from_lists_equal_those_from_tuples_and_hash_alike():
    from_lists = HeadConfig(3, [8, 16], [[[10, 12], [20, 24]], [[30, 36], [60, 72]]])
    from_tuples = HeadConfig(3, (8, 16), ANCHORS)
    assert from_lists == from_tuples
    assert hash(from_lists) == hash(from_tuples)
    assert (from_lists.num_levels, from_lists.num_anchors, from_lists.num_fields) == (2, 2, 8)


@pytest.mark.parametrize("config", [HeadConfig(3, (8, 16), ANCHORS), LossConfig()])
def test_settings_are_frozen(config):
    field = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, field, 1)


@pytest.mark.parametrize(
    ("num_classes", "strides", "anchors", "message"),
    [
        (0, (8, 16), ANCHORS, r"num_classes \(=0\) must be an integer of at least 1"),
        (3, (), (), r"strides \(=\(\)\) must be positive integers, one per level"),
        (3, (0, 16), ANCHORS, r"strides \(=\(0, 16\)\) must be positive"),
        (3, (8, 16, 32), ANCHORS, r"anchors has 2 levels and strides has 3"),
        (3, (8, 16), (ANCHORS[0], ANCHORS[1][:1]), r"same number of anchors.*\[2, 1\]"),
        (3, (8, 16), ((), ()), r"at least 1; got \[0, 0\]"),
        (3, (8,), (((10.0, 0.0),),), r"anchors .* must have positive, finite widths and heights"),
        (3, (8,), (((1, float("nan")),),), "positive, finite widths and heights"),
        (2.5, (8, 16), ANCHORS, r"num_classes \(=2\.5\) must be an integer"),
        (2, (8.5, 16), ANCHORS, "must be positive integers"),
        (2, (16, 8), ANCHORS, "must grow from level to level"),
    ],
)
def test_impossible_heads_are_refused(num_classes, strides, anchors, message):
    with pytest.raises(UserError, match=message):
        HeadConfig(num_classes, strides, anchors)


def test_defaults_of_the_loss_are_the_published_ones():
    config = LossConfig()
    assert (config.box_gain, config.obj_gain, config.cls_gain) == (0.05, 0.7, 0.3)
    assert config.anchor_threshold == 4
    assert (config.label_smoothing, config.focal_gamma) == (0, 0)
    assert (config.cls_pos_weight, config.obj_pos_weight, config.iou_ratio) == (1, 1, 1)
    assert not config.restrict_to_own_candidates


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("box_gain", -1, "at least 0"),
        ("obj_gain", float("nan"), "at least 0"),
        ("focal_gamma", -0.5, "at least 0"),
        ("cls_pos_weight", 0, "more than 0"),
        ("obj_pos_weight", -1, "more than 0"),
        ("label_smoothing", 1.1, "between 0 and 1"),
        ("iou_ratio", -0.1, "between 0 and 1"),
        ("anchor_threshold", 1, "more than 1"),
    ],
)
def test_values_out_of_range_are_refused(field, value, wanted):
    with pytest.raises(UserError, match=rf"{field} \(={value}\) must be {wanted}"):
        LossConfig(**{field: value})


def test_all_faults_of_a_loss_are_told_at_once():
    with pytest.raises(UserError, match=r"cls_gain .*; iou_ratio "):
        LossConfig(cls_gain=-1, iou_ratio=2)


def test_gains_follow_levels_classes_and_image_size():
    anchors = (((10.0, 12.0),),) * 4
    head = HeadConfig(20, (8, 16, 32, 64), anchors)
    scaled = LossConfig(focal_gamma=1.5).scaled(head, 1280)
    assert scaled.box_gain == pytest.approx(0.05 * 3 / 4)
    assert scaled.obj_gain == pytest.approx(0.7 * 4 * 3 / 4)
    assert scaled.cls_gain == pytest.approx(0.3 * 20 / 80 * 3 / 4)
    assert scaled.focal_gamma == 1.5


def test_gains_stay_for_80_classes_640_pixels_and_3_levels():
    scaled = LossConfig().scaled(HeadConfig(80, (8, 16, 32), (ANCHORS[0],) * 3), 640)
    assert scaled == LossConfig()
