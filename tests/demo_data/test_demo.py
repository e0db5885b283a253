import numpy as np
import pytest

from yolov7_jax.data.images import read_image
from yolov7_jax.data.layouts import load_dataset
from yolov7_jax.demo_data import demo
from yolov7_jax.demo_data.demo import HEIGHT, NAMES, WIDTH, draw_scene, make_demo
from yolov7_jax.demo_data.sprites import draw_sprite
from yolov7_jax.errors import UserError


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(demo, "SPLIT_SIZES", {"train": 6, "val": 3})


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(np.random.default_rng(seed)) for seed in range(60)]


def test_drawing_again_gives_the_same_bytes_and_splits_differ(few, tmp_path):
    make_demo(tmp_path / "a")
    make_demo(tmp_path / "b")
    first = contents(tmp_path / "a")
    assert first == contents(tmp_path / "b")
    images = [data for name, data in first.items() if name.endswith(".jpg")]
    assert len(set(images)) == 9


def test_the_data_set_loads_with_labels_that_match_the_scenes(few, tmp_path):
    data_yaml = make_demo(tmp_path / "new" / "demo")
    for split, count in demo.SPLIT_SIZES.items():
        dataset = load_dataset(data_yaml, split)
        assert dataset.names == NAMES == ("fish", "car", "mushroom", "boat", "house")
        assert len(dataset) == count
        assert (dataset.sizes == (WIDTH, HEIGHT)).all()
        assert read_image(dataset.paths[0]).shape == (HEIGHT, WIDTH, 3)
        number = list(demo.SPLIT_SIZES).index(split)
        scene = draw_scene(np.random.default_rng((demo.DEMO_VERSION, number, 0)))
        labels, boxes, _, _ = dataset.objects_of(0)
        assert labels.tolist() == scene.labels.tolist()
        corners = np.concatenate(
            [boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1
        )
        np.testing.assert_allclose(
            corners * np.tile((WIDTH, HEIGHT), 2), scene.boxes_xyxy, atol=1e-3
        )


def test_a_complete_data_set_is_used_again(few, tmp_path, monkeypatch):
    data_yaml = make_demo(tmp_path / "demo")
    monkeypatch.setattr(demo, "draw_scene", lambda rng: pytest.fail("drawn again"))
    assert make_demo(tmp_path / "demo") == data_yaml


def test_an_interruption_leaves_nothing_behind(few, tmp_path, monkeypatch):
    def interrupted(rng):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "draw_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_demo(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_comes_second_uses_what_the_first_made(few, tmp_path, monkeypatch):
    write = demo._write

    def slow(folder):
        write(folder)
        monkeypatch.setattr(demo, "_write", write)
        make_demo(tmp_path / "demo")

    monkeypatch.setattr(demo, "_write", slow)
    assert make_demo(tmp_path / "demo") == tmp_path / "demo" / "data.yaml"
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "data.yaml").write_text("train: mine\n")
    with pytest.raises(UserError, match=r"exists and is not version \d+ of the demo data set"):
        make_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["data.yaml"]


def test_the_default_place_is_the_users_cache(few, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    wanted = tmp_path / "yolov7_jax" / f"demo-{demo.DEMO_VERSION}" / "data.yaml"
    assert make_demo() == wanted


def test_boxes_lie_inside_the_image_and_are_never_tiny(scenes):
    for scene in scenes:
        corners = scene.boxes_xyxy
        assert (corners >= 0).all()
        assert (corners <= (WIDTH, HEIGHT) * 2).all()
        assert ((corners[:, 2:] - corners[:, :2]) >= demo.MIN_SIDE).all()


def test_scenes_hold_all_classes_sizes_overlap_and_emptiness(scenes):
    sides = np.concatenate([(s.boxes_xyxy[:, 2:] - s.boxes_xyxy[:, :2]).max(1) for s in scenes])
    shares = np.bincount(np.concatenate([s.labels for s in scenes]), minlength=5) / len(sides)
    assert shares.min() > 0.12
    assert sides.min() < 20
    assert sides.max() > 110
    assert any(len(s.labels) == 0 for s in scenes)
    assert max(len(s.labels) for s in scenes) >= 6
    assert sum(_any_overlap(s.boxes_xyxy) for s in scenes) > 10


def _any_overlap(boxes):
    top_left = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    bottom_right = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    return ((bottom_right - top_left > 4).all(2).sum() - len(boxes)) > 0


def test_an_object_hidden_by_two_thirds_has_no_label():
    seen = np.zeros((20, 20), bool)
    seen[5:15, 4:14] = True  # 100 pixels
    assert demo._visible_box(seen, 285) == (4, 5, 14, 15)
    assert demo._visible_box(seen, 286) is None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [16, 100])
def test_objects_have_about_the_size_asked_for_and_are_cut_tightly(name, size):
    longer = []
    for seed in range(12):
        sprite = draw_sprite(name, size, np.random.default_rng(seed))
        longer.append(max(sprite.alpha.shape))
        solid = sprite.alpha > 0.5
        assert all(edge.any() for edge in (solid[0], solid[-1], solid[:, 0], solid[:, -1]))
    assert 0.75 * size < np.mean(longer) < 1.25 * size


def test_colour_does_not_tell_the_class():
    """A class' mean colours spread far more than the means of the classes differ."""
    spread, centres = [], []
    for name in NAMES:
        colours = []
        for seed in range(30):
            sprite = draw_sprite(name, 40, np.random.default_rng(seed))
            colours.append(sprite.image[sprite.alpha > 0.5].mean(0))
        centres.append(np.mean(colours, 0))
        spread.append(np.std(colours, 0))
    assert np.std(centres, 0).max() < 0.7 * np.mean(spread)
