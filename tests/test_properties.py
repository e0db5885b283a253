"""What must not matter, and what must matter in a known way, for the loss and its matches."""

import chex
import jax
import numpy as np
from cases import P5, evaluator, garbage, match_list, random_case, relative_error
from hypothesis import given
from hypothesis import strategies as st

from yolov7_jax import LossConfig, Outputs, Targets, pad_targets

# 2 images of 16 x 16, 8 x 8 and 4 x 4 cells; with powers of two, mirrored and shifted boxes are
# exact, and no rounding decides about cells.
CONFIG = LossConfig(label_smoothing=0.1)
COARSEST = (4, 4)
MAX_OBJECTS = 6
seeds = st.integers(0, 2**32 - 1)
counts = st.tuples(st.integers(0, MAX_OBJECTS), st.integers(0, MAX_OBJECTS))


def make(seed, counts, *, inside=False):
    """Outputs and targets whose boxes stand on odd multiples of 1/1024.

    With `inside`, away from the image's border, so that they can be shifted.
    """
    case = random_case(seed, P5, CONFIG, coarsest=COARSEST, counts=counts)
    centre = case.rows[:, 2:4]
    if inside:
        centre = 0.375 + 0.25 * centre
    centre = (np.floor(centre * 512) * 2 + 1) / 1024
    size = np.maximum(np.round(case.rows[:, 4:] * 1024), 64) / 1024
    rows = np.concatenate([case.rows[:, :2], centre, size], axis=-1)
    return case.outputs, pad_targets(rows, len(counts), MAX_OBJECTS)


def run(outputs, targets):
    return evaluator(P5, CONFIG)(outputs, targets)


def matches(found):
    return sorted(match_list(found.assignments[0]))


def assert_same_loss(found, wanted):
    np.testing.assert_allclose(found.total, wanted.total, rtol=2e-6)
    np.testing.assert_allclose(found.terms.obj_per_level, wanted.terms.obj_per_level, rtol=2e-6)
    np.testing.assert_array_equal(found.terms.num_matched, wanted.terms.num_matched)


@given(seeds, counts, st.permutations(range(MAX_OBJECTS)))
def test_permuting_objects_permutes_their_matches_and_changes_no_loss(seed, counts, order):
    outputs, targets = make(seed, counts)
    order = np.array(order)
    shuffled = Targets(*(field[:, order] for field in targets))  # padding is shuffled in as well
    found, wanted = run(outputs, shuffled), run(outputs, targets)
    assert sorted(m._replace(object=int(order[m.object])) for m in matches(found)) == matches(
        wanted
    )
    assert_same_loss(found, wanted)
    assert relative_error(found.gradients, wanted.gradients) < 2e-6


@given(seeds, counts, st.integers(0, 2**32 - 1))
def test_padding_more_objects_changes_nothing(seed, counts, nonsense):
    outputs, targets = make(seed, counts)
    padded = Targets(
        *(np.pad(field, [(0, 0), (0, 5)] + [(0, 0)] * (field.ndim - 2)) for field in targets)
    )
    found, wanted = run(outputs, garbage(padded, nonsense)), run(outputs, targets)
    assert matches(found) == matches(wanted)
    assert_same_loss(found, wanted)
    assert relative_error(found.gradients, wanted.gradients) < 1e-6


@given(seeds, counts, st.sampled_from([0, 1]))
def test_mirroring_image_and_boxes_mirrors_matches_and_gradients(seed, counts, axis):
    """Axis 0 mirrors left and right, 1 up and down."""

    def mirror(level):
        level = np.array(np.flip(level, 2 - axis))  # [b, h, w, a, f]
        level[..., axis] *= -1  # 2 sigmoid(-t) - 0.5 = 1 - (2 sigmoid(t) - 0.5)
        return level

    outputs, targets = make(seed, counts)
    boxes = targets.boxes.copy()
    boxes[..., axis] = 1 - boxes[..., axis]
    found = run(jax.tree.map(mirror, outputs), targets._replace(boxes=boxes))
    wanted = run(outputs, targets)

    def mirrored(match):
        shape = outputs.lead[match.level].shape
        if axis == 0:
            return match._replace(column=shape[2] - 1 - match.column)
        return match._replace(row=shape[1] - 1 - match.row)

    assert sorted(mirrored(match) for match in matches(found)) == matches(wanted)
    assert_same_loss(found, wanted)
    assert relative_error(jax.tree.map(mirror, found.gradients), wanted.gradients) < 1e-5


@given(seeds, counts, st.sampled_from([(1, 0), (0, 1), (-1, 0), (0, -1), (1, -1)]))
def test_shifting_by_a_coarsest_cell_shifts_the_matches(seed, counts, shift):
    # Objects keep to the middle: neither before nor after does the image's border cut cells.
    outputs, targets = make(seed, counts, inside=True)
    right, down = shift

    def cells(level):
        return outputs.lead[level].shape[2] // 4

    moved = Outputs(
        tuple(
            np.roll(level, (down * cells(i), right * cells(i)), axis=(1, 2))
            for i, level in enumerate(outputs.lead)
        )
    )
    offset = np.array([right / 4, down / 4, 0, 0], np.float32)
    found = run(moved, targets._replace(boxes=targets.boxes + offset))
    wanted = run(outputs, targets)
    shifted = sorted(
        match._replace(
            row=match.row + down * cells(match.level),
            column=match.column + right * cells(match.level),
        )
        for match in matches(wanted)
    )
    assert matches(found) == shifted
    assert_same_loss(found, wanted)


@given(seeds, counts)
def test_swapping_images_swaps_matches_and_gradients(seed, counts):
    outputs, targets = make(seed, counts)
    swapped = jax.tree.map(lambda x: x[::-1], (outputs, targets))
    found, wanted = run(*swapped), run(outputs, targets)
    assert sorted(m._replace(image=1 - m.image) for m in matches(found)) == matches(wanted)
    assert_same_loss(found, wanted)
    ours = jax.tree.map(lambda x: x[::-1], found.gradients)
    assert relative_error(ours, wanted.gradients) < 2e-6


@given(seeds, counts)
def test_doubling_the_batch_doubles_the_total_and_keeps_the_means(seed, counts):
    outputs, targets = make(seed, counts)
    twice = jax.tree.map(lambda x: np.concatenate([x, x]), (outputs, targets))
    found, wanted = run(*twice), run(outputs, targets)
    np.testing.assert_allclose(found.total, 2 * wanted.total, rtol=2e-6)
    chex.assert_trees_all_close(found.terms[:4], wanted.terms[:4], rtol=5e-6)
    np.testing.assert_array_equal(found.terms.num_matched, 2 * wanted.terms.num_matched)
    first = jax.tree.map(lambda x: x[:2], found.gradients)
    assert relative_error(first, wanted.gradients) < 5e-6


@given(seeds, counts, st.integers(0, MAX_OBJECTS - 1))
def test_an_object_changes_nothing_in_the_other_image(seed, counts, which):
    outputs, targets = make(seed, counts)
    valid = targets.valid.copy()
    valid[0, which] = False
    found, wanted = run(outputs, targets._replace(valid=valid)), run(outputs, targets)
    assert [m for m in matches(found) if m.image == 1] == [
        m for m in matches(wanted) if m.image == 1
    ]
    assert not [m for m in matches(found) if m.image == 0 and m.object == which]
