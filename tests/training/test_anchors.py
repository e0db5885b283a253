"""Anchors against the sizes of objects: measured by hand, and found where they can be."""

import dataclasses

import numpy as np
import pytest

from yolov7_jax import create_abstract
from yolov7_jax.data.dataset import Dataset
from yolov7_jax.errors import UserError
from yolov7_jax.training.anchor_fit import better_anchors, fit_of, object_sizes
from yolov7_jax.training.choose_anchors import choose_anchors, describe_anchors, head_with_anchors
from yolov7_jax.training.train_config import TrainConfig, read_yaml, write_yaml

HEAD = create_abstract("yolov7-tiny", 1, width=0.1).head
GIVEN = HEAD.anchors
MINE = tuple(tuple((5.0, 6.0 + a) for a in range(3)) for _ in range(3))


def dataset(sizes, *, image=(640, 480), crowd=None):
    """One image with objects of these sizes in pixels."""
    sizes = np.asarray(sizes, np.float32).reshape(-1, 2)
    boxes = np.concatenate([np.full_like(sizes, 0.5), sizes / np.float32(image)], axis=1)
    return Dataset(
        names=("thing",),
        paths=("a.jpg",),
        sizes=np.array([image], np.int32),
        offsets=np.array([0, len(sizes)], np.int64),
        labels=np.zeros(len(sizes), np.int32),
        boxes=boxes.astype(np.float32),
        crowd=None if crowd is None else np.array(crowd),
    )


def spread(seed, count=300):
    """Thin objects that no published anchor reaches."""
    rng = np.random.default_rng(seed)
    height = np.exp(rng.uniform(np.log(60), np.log(400), count))
    return np.stack([height / rng.uniform(12, 20, count), height], axis=1)


def test_recall_counts_objects_whose_sides_differ_less_than_the_threshold():
    anchors = (((10.0, 10.0), (40.0, 40.0)),)
    sizes = np.float32([[10, 10], [39.9, 10], [2.5, 10], [160, 40], [100, 20]])
    fit = fit_of(anchors, sizes, 4.0)
    # The third misses by a ratio of exactly 4, the fourth likewise.
    assert fit.recall == pytest.approx(3 / 5)
    assert fit.per_object == pytest.approx((2 - 1 + 1 + 0 + 0 + 1) / 5, abs=0.21)
    assert fit_of(anchors, sizes[:1], 4.0).fitness == 1


def test_nothing_can_be_said_without_objects():
    assert fit_of(GIVEN, np.zeros((0, 2), np.float32), 4.0) is None
    choice = choose_anchors(TrainConfig(), dataset([]), HEAD)
    assert choice.chosen == GIVEN
    assert "no objects" in choice.line()


def test_objects_are_measured_at_the_training_size_without_crowds_and_specks():
    data = dataset([[64, 48], [1, 1], [320, 240]], crowd=[False, False, True])
    np.testing.assert_allclose(object_sizes(data, 320), [[32, 24]])


def test_anchors_that_reach_the_objects_stay():
    sizes = np.random.default_rng(0).uniform(12, 300, (200, 1)).repeat(2, axis=1)
    choice = choose_anchors(TrainConfig(), dataset(sizes), HEAD)
    assert choice.chosen == GIVEN
    assert choice.found is None


@pytest.fixture(scope="module")
def thin_choice():
    return choose_anchors(TrainConfig(), dataset(spread(0)), HEAD)


def test_objects_out_of_reach_get_anchors_of_their_own(thin_choice):
    choice = thin_choice
    assert choice.given.recall < 0.98
    assert choice.found.recall == 1
    areas = [w * h for level in choice.chosen for w, h in level]
    assert areas == sorted(areas)
    assert "new ones, which are used" in choice.line()
    other = object_sizes(dataset(spread(1)), 640)
    assert fit_of(choice.chosen, other, 4.0).recall > 0.98


def test_the_search_repeats_exactly_and_never_makes_it_worse():
    sizes = object_sizes(dataset(spread(0, 60)), 640)
    assert better_anchors(GIVEN, sizes, 4.0, 3) == better_anchors(GIVEN, sizes, 4.0, 3)
    best = better_anchors(GIVEN, sizes, 4.0, 3)
    again = better_anchors(best, sizes, 4.0, 4)
    assert fit_of(again, sizes, 4.0) >= fit_of(best, sizes, 4.0)


@pytest.mark.parametrize("count", [1, 5, 9])
def test_few_objects_do_not_break_the_search(count):
    sizes = object_sizes(dataset(spread(0, count)), 640)
    assert len(better_anchors(GIVEN, sizes, 4.0, 0)) == 3


@pytest.mark.parametrize(
    ("config", "kept", "told"),
    [
        (TrainConfig(autoanchor=False), GIVEN, "keeps those of yolov7-tiny: --no-autoanchor"),
        (TrainConfig(anchors=MINE), MINE, "keeps those of the recipe"),
    ],
)
def test_it_can_be_switched_off_and_given_anchors_are_kept(config, kept, told):
    thin = dataset(spread(0))
    assert choose_anchors(config, thin, HEAD).chosen == kept
    assert f"training {told}" in describe_anchors(config, thin, HEAD)


def test_the_choice_survives_in_the_config_of_a_run(thin_choice, tmp_path):
    config = dataclasses.replace(TrainConfig(), anchors=thin_choice.chosen)
    write_yaml(config, tmp_path / "config.yaml")
    assert read_yaml(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("given", ["3", "[[[1, 2, 3]]]", "[[[1, x]]]"])
def test_malformed_anchors_in_a_recipe_are_named(given, tmp_path):
    (tmp_path / "a.yaml").write_text(f"anchors: {given}")
    with pytest.raises(UserError, match=r"a\.yaml: anchors must be lists of pairs of numbers"):
        read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("anchors", "message"),
    [
        ((((1.0, 2.0),),) * 3, r"\[1, 1, 1\] anchors by level.*\[3, 3, 3\]"),
        ((((1.0, 2.0),) * 3,) * 2, r"\[3, 3\]"),
        ((((1.0, -2.0),) * 3,) * 3, "anchors"),
    ],
)
def test_anchors_that_do_not_fit_the_network_are_named(anchors, message):
    with pytest.raises(UserError, match=message):
        head_with_anchors(HEAD, anchors)


def test_the_report_has_the_fitted_anchors_as_a_recipe_takes_them(thin_choice, tmp_path):
    config = TrainConfig(data="mine")
    text = describe_anchors(config, dataset(spread(0)), HEAD)
    assert "training uses the fitted ones" in text
    recipe = text[text.index("anchors:\n") :]
    (tmp_path / "a.yaml").write_text(recipe)
    assert read_yaml(tmp_path / "a.yaml").anchors == thin_choice.chosen
    with pytest.raises(UserError, match="no objects"):
        describe_anchors(config, dataset([]), HEAD)
