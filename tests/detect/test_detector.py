import concurrent.futures
import dataclasses
import math

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data.test_damaged_images import exif

from yolov7_jax import Predictions, create, weights
from yolov7_jax.data.images import UnreadableImageError, read_image
from yolov7_jax.detect import detector as prediction
from yolov7_jax.detect.detector import Detector, DetectorConfig
from yolov7_jax.weights import CheckpointError, save_safetensors

SIZE = 64
CONFIG = DetectorConfig(image_size=SIZE, batch_size=2, score_threshold=0.05, max_detections=20)
NAMES = ("cat", "dog")


@pytest.fixture(scope="module")
def model():
    """Random weights that see something everywhere."""
    model = create("yolov7-tiny", 2, key=jax.random.key(3), width=0.125)
    for level in model.detect.levels:
        level.bias[...] = jax.random.normal(jax.random.key(1), level.bias.shape)
        level.kernel[...] = 8 * level.kernel[...]
    return model


@pytest.fixture(scope="module")
def detector(model):
    return Detector(model, NAMES, CONFIG)


@pytest.fixture(scope="module")
def images():
    """Smooth noise of many shapes, as arrays."""
    rng = np.random.default_rng(0)
    sizes = [(96, 72), (60, 80), (300, 200), (200, 300), (50, 50), (400, 60), (30, 200), (7, 5)]
    return [
        cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (w, h), interpolation=cv2.INTER_CUBIC)
        for w, h in sizes
    ]


def assert_same(found, others):
    """The same boxes to a hundredth of a pixel, in images of up to 400."""
    for field, other in zip(found, others, strict=True):
        np.testing.assert_allclose(field, other, rtol=1e-5, atol=0.01)


def at(found, places):
    return type(found)(*(field[places] for field in found))


def test_a_image_has_the_same_objects_alone_and_among_others_in_any_order(detector, images):
    together = detector(images)
    assert together.valid.sum(1).min() > 2
    alone = [detector([image]) for image in images]
    for place, found in enumerate(alone):
        assert_same(at(together, [place]), found)
    order = np.random.default_rng(1).permutation(len(images)).tolist()
    assert_same(detector([images[place] for place in order]), at(together, order))
    assert_same(at(detector(images * 3), slice(8, 16)), together)


def test_files_and_arrays_give_the_same_objects(detector, images, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        cv2.imwrite(str(path), image[..., ::-1])
    assert_same(detector(paths), detector(images))
    cv2.imwrite(str(tmp_path / "a.jpg"), images[0])
    assert_same(detector([str(tmp_path / "a.jpg")]), detector([read_image(tmp_path / "a.jpg")]))


@pytest.mark.parametrize(("orientation", "quarters"), [(6, 3), (3, 2), (8, 1)])
def test_images_are_looked_at_upright(detector, images, tmp_path, orientation, quarters):
    content = cv2.imencode(".jpg", images[2])[1].tobytes()
    (tmp_path / "plain.jpg").write_bytes(content)
    (tmp_path / "lying.jpg").write_bytes(content[:2] + exif(orientation) + content[2:])
    upright = np.ascontiguousarray(np.rot90(read_image(tmp_path / "plain.jpg"), quarters))
    assert_same(detector([tmp_path / "lying.jpg"]), detector([upright]))


def red_rectangle(params, batch_stats, images):
    """What a perfect network would say: the box of what is red, to fractions of a pixel."""
    images = images.astype(jnp.float32)
    red = jnp.clip(images[..., 0] - images[..., 1], 0) / 255  # [b, h, w]; padding is grey
    boxes = []
    for axis in (1, 2):
        across = red.max(axis)  # how much of a column, or of a row, is red
        length = across.sum(1)
        place = jnp.arange(across.shape[1]) + 0.5
        centre = (across * place).sum(1) / jnp.maximum(length, 1e-6)
        boxes.append(jnp.stack([centre - length / 2, centre + length / 2], -1))
    corners = jnp.stack(boxes, -1).reshape(len(images), 1, 4)
    return Predictions(corners, jnp.ones((len(images), 1)), jnp.ones((len(images), 1, 2)))


@pytest.fixture
def finding_red(model, monkeypatch):
    def forward(graphdef, params, batch_stats, images, head):
        return red_rectangle(params, batch_stats, images)

    monkeypatch.setattr(prediction, "forward", forward)
    # With a setting of its own, so that nothing compiled before is used.
    return Detector(model, NAMES, dataclasses.replace(CONFIG, image_size=96, max_detections=3))


SIDES = (40, 64, 96, 131, 250, 333, 640)


@pytest.mark.parametrize("width", SIDES)
def test_boxes_are_in_pixels_of_the_image_whatever_its_shape(finding_red, width):
    rng = np.random.default_rng(width)
    images, boxes = [], []
    for height in SIDES:
        x0, y0 = int(rng.integers(0, width // 3)), int(rng.integers(0, height // 3))
        x1, y1 = (
            int(rng.integers(side // 2, side + 1 - (side > 100) * 3)) for side in (width, height)
        )
        image = np.zeros((height, width, 3), np.uint8)
        image[y0:y1, x0:x1, 0] = 255
        images.append(image)
        boxes.append((x0, y0, x1, y1))
    found = finding_red(images)
    np.testing.assert_array_equal(found.valid[:, :2].sum(1), 1)
    np.testing.assert_allclose(found.boxes_xyxy[:, 0], boxes, atol=0.5)


def test_shapes_are_few_hold_every_image_and_waste_little(model, detector):
    assert len(Detector(model, NAMES).shapes) == 7
    assert set(detector.shapes) == {(64, 64), (64, 32), (32, 64)}
    rng = np.random.default_rng(0)
    for width, height in [*rng.integers(1, 2000, (300, 2)).tolist(), (20000, 3), (3, 20000)]:
        image = np.broadcast_to(np.zeros(3, np.uint8), (height, width, 3))
        padded, info = detector.letterbox(image)
        assert padded.shape[:2] in detector.shapes
        fitted = np.round(info.scale_xy * info.size_wh)
        assert max(fitted) == SIZE
        assert (fitted <= padded.shape[1::-1]).all()
        assert (padded.shape[1::-1] - fitted).min() == 0
        assert (padded.shape[1::-1] - fitted).max() <= 32


def test_programs_are_compiled_once_for_a_shape_and_a_power_of_two(model, images):
    detector = Detector(model, NAMES, dataclasses.replace(CONFIG, batch_size=4, max_detections=7))
    before = prediction._detect._cache_size()
    detector.warm_up([(64, 30), (30, 64)])
    detector.warm_up([(64, 30)], batch_size=3)
    assert prediction._detect._cache_size() == before + 3
    landscape = np.zeros((30, 64, 3), np.uint8)
    detector([landscape] * 3)
    detector([landscape] * 4)
    detector([landscape] * 5)
    detector([landscape.transpose(1, 0, 2)])
    Detector(model, NAMES, detector.config)([landscape])
    assert prediction._detect._cache_size() == before + 3


def test_threads_may_share_a_detector(detector, images):
    expected = [detector([image]) for image in images]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for found, of_image in zip(
            pool.map(lambda image: detector([image]), images * 4), expected * 4, strict=True
        ):
            assert_same(found, of_image)


def test_images_are_read_a_few_batches_ahead_at_most(detector, images):
    taken = []

    def letterboxed():
        for number in range(100):
            taken.append(number)
            yield detector.letterbox(images[number % 2])

    stream = detector.stream(letterboxed())
    next(stream)
    assert len(taken) <= 2 * CONFIG.batch_size


def test_with_a_batch_size_of_one_no_image_waits_for_the_next(model, images):
    live = Detector(model, NAMES, dataclasses.replace(CONFIG, batch_size=1))
    taken = []

    def camera():
        for image in images[4:5] * 3:
            taken.append(image)
            yield live.letterbox(image)

    for number, _ in enumerate(live.stream(camera()), 1):
        assert len(taken) == number


def test_weights_tell_names_and_image_size(model, tmp_path, images):
    path = tmp_path / "model.safetensors"
    weights.save_safetensors(model, path, names=NAMES, image_size=SIZE)
    config = dataclasses.replace(CONFIG, image_size=None)
    loaded = Detector.from_weights(path, config)
    assert loaded.names == NAMES
    assert loaded.config.image_size == SIZE
    assert_same(loaded(images[:2]), Detector(model, NAMES, CONFIG)(images[:2]))
    assert Detector(model).names == ("0", "1")
    assert Detector(model).config.image_size == 640


def test_only_the_classes_that_are_wanted_are_told(model, images):
    dogs = Detector(model, NAMES, dataclasses.replace(CONFIG, classes=(1,)))(images[4:6])
    assert dogs.valid.any()
    assert (dogs.labels[dogs.valid] == 1).all()


def test_no_images_give_no_detections(detector):
    found = detector([])
    assert [field.shape for field in found] == [(0, 20, 4), (0, 20), (0, 20), (0, 20)]


def test_images_that_are_none_are_named(detector, tmp_path):
    with pytest.raises(UnreadableImageError, match=r"gone\.jpg: cannot be read"):
        detector([tmp_path / "gone.jpg"])
    with pytest.raises(ValueError, match=r"images\[1\] is float32 of shape \(4, 4, 3\)"):
        detector([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.float32)])
    with pytest.raises(ValueError, match=r"images\[0\] is a list"):
        detector([[1, 2]])
    with pytest.raises(ValueError, match="put a single one into brackets"):
        detector("street.jpg")


def test_weights_of_a_diverged_run_are_refused(tmp_path):
    broken = create("yolov7-tiny", 2, width=0.125)
    broken.detect.levels[0].bias[...] = np.nan
    save_safetensors(broken, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"a\.safetensors: .* model\.77\.m\.0\.bias first"):
        Detector.from_weights(tmp_path / "a.safetensors")


def test_settings_beyond_all_reason_are_refused(model):
    with pytest.raises(ValueError, match="must be an integer from 1 to 16384") as fault:
        DetectorConfig(image_size=32 * 10**5, max_detections=10**9)
    wanted = "max_detections (=1000000000) must be an integer from 1 to 30000"
    assert wanted in str(fault.value)


@pytest.mark.parametrize(
    ("name", "values", "wanted"),
    [
        ("image_size", ("640", 192.0, 0, -32, True), "an integer from 1 to 16384"),
        ("batch_size", (2.5, 0, None), "an integer of at least 1"),
        ("score_threshold", ("a", None, 2, -0.1, math.nan), "a number from 0 to 1"),
        ("iou_threshold", ("0.5", 1.5), "a number from 0 to 1"),
        ("classes", (3, ("cat",), "cat", (0.5,)), "indices of classes"),
        ("class_agnostic", ("no", 1, None), "True or False"),
        ("max_detections", (None, 0, 30001, 3.0), "an integer from 1 to 30000"),
    ],
)
def test_settings_of_another_type_or_range_are_refused(name, values, wanted):
    for value in values:
        with pytest.raises(ValueError, match=rf"^{name} \(=.*\) must be {wanted}[^;]*$"):
            DetectorConfig(**{name: value})


def test_settings_may_be_numbers_of_numpy_and_lists():
    labels = np.arange(2)
    config = DetectorConfig(np.int64(64), classes=labels, score_threshold=np.float32(0.5))
    assert config.classes == (0, 1)
    assert hash(config) == hash(DetectorConfig(64, classes=[0, 1], score_threshold=0.5))


def test_settings_that_are_none_are_refused(model):
    wanted = r"config \(=\{'image_size': 192\}\) must be a DetectorConfig"
    with pytest.raises(ValueError, match=wanted):
        Detector(model, NAMES, {"image_size": 192})
    with pytest.raises(ValueError, match=wanted):
        Detector.from_weights("nowhere.pt", {"image_size": 192})


@pytest.mark.parametrize("sizes", [(640, 480), [(0, 5)], [(5.0, 5)], ["ab"], [(1, 2, 3)]])
def test_warming_up_wants_pairs_of_sides(detector, sizes):
    with pytest.raises(ValueError, match=r"sizes \(=.*\) must be pairs of width and height"):
        detector.warm_up(sizes)


@pytest.mark.parametrize("batch_size", [0, 2.5, "2"])
def test_batch_sizes_are_counts(detector, batch_size):
    wanted = r"batch_size \(=.*\) must be an integer"
    with pytest.raises(ValueError, match=wanted):
        detector.warm_up([(5, 5)], batch_size)
    with pytest.raises(ValueError, match=wanted):
        next(detector.stream([], batch_size))


def test_a_stream_has_no_larger_batches_than_the_detector(detector):
    with pytest.raises(ValueError, match=r"batch_size \(=3\) must be an integer from 1 to 2"):
        next(detector.stream([], 3))


def test_wrong_settings_are_named_together(model):
    with pytest.raises(ValueError, match="batch_size") as fault:
        DetectorConfig(batch_size=0, score_threshold=2, max_detections=-1)
    for part in ("batch_size (=0)", "max_detections (=-1)", "score_threshold (=2)"):
        assert part in str(fault.value)
    with pytest.raises(ValueError, match="image_size") as fault:
        Detector(model, ("cat",), DetectorConfig(image_size=100, classes=(0, 7)))
    for part in (
        "image_size (=100) must be a multiple of 32",
        "classes [7] do not exist; there are 0 to 1",
        "names (1) must be as many as the classes (2)",
    ):
        assert part in str(fault.value)
