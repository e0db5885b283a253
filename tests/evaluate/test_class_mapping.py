import pytest

from yolov7_jax.errors import UserError
from yolov7_jax.evaluate.class_mapping import map_classes

WANTED = ("a", "b")


@pytest.mark.parametrize(
    ("names", "wanted", "classes"),
    [
        (("a", "b"), WANTED, [0, 1]),
        (("b", "a"), WANTED, [1, 0]),
        (None, WANTED, [0, 1]),
        (("c", "b", "d", "a", "d"), WANTED, [3, 1]),  # others are passed over
        (("a", "a"), ("a", "a"), [0, 1]),  # repeated, but in the same order
    ],
)
def test_classes_are_found_by_their_names(names, wanted, classes):
    assert map_classes(names, 2 if names is None else len(names), wanted) == classes


@pytest.mark.parametrize(
    ("names", "count", "message"),
    [
        (("a", "c"), 2, "do not know 1 of the data's 2 classes: 'b'; they know 'c' instead$"),
        (("a",), 1, "do not know 1 of the data's 2 classes: 'b'$"),
        (("a", "b", "b"), 3, "names that stand for several classes: 'b'"),
        (None, 80, "the weights have 80 classes without names, the data 2: 'a', 'b'"),
        ([f"class {label}" for label in range(80)], 80, "2 classes: 'a', 'b'; .* and 72 more inst"),
    ],
)
def test_other_classes_are_refused_by_name(names, count, message):
    with pytest.raises(UserError, match=message):
        map_classes(names, count, WANTED)
