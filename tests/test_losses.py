"""The loss against the oracle on random cases, and what no input may break."""

import functools
import math

import cases
import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from compiling import AS_USERS_DO

from yolov7_jax import (
    HeadConfig,
    LossConfig,
    Outputs,
    assign_anchor,
    detection_loss,
    pad_targets,
)

EVERY_OPTION = LossConfig(
    box_gain=0.1,
    obj_gain=0.5,
    cls_gain=0.7,
    anchor_threshold=3.0,
    label_smoothing=0.2,
    focal_gamma=1.5,
    cls_pos_weight=1.7,
    obj_pos_weight=0.6,
    iou_ratio=0.75,
)
FITS_ALL = HeadConfig(num_classes=1, strides=(8, 16, 32), anchors=[[(24.0, 24.0)] * 2] * 3)


def random_case(kind, seed):
    """Cases of one kind share a compilation."""
    head, config, coarsest, counts, on_lines = {
        "defaults": (cases.P5, LossConfig(), (2, 3), (4, 0, 6), (2, 3, 8)),
        "every option": (cases.P5, EVERY_OPTION, (3, 2), (5, 3), (3, 8)),
        "auxiliary heads": (cases.P6, LossConfig(), (1, 2), (5, 0), (2, 4)),
        "one class, equal anchors": (FITS_ALL, LossConfig(), (2, 2), (3, 5), ()),
    }[kind]
    return cases.random_case(
        seed,
        head,
        config,
        coarsest=coarsest,
        counts=counts,
        auxiliary=head is cases.P6,
        on_lines=on_lines,
    )


KINDS = ("defaults", "every option", "auxiliary heads", "one class, equal anchors")


def entries_of(case, fixed, rng):
    """Some logits to differentiate by: of matched cells, and objectness anywhere."""
    entries = []
    for number, of_head in enumerate(fixed):
        for level, matches in enumerate(of_head.matches):
            array = case.outputs[number][level]
            at = number * case.head.num_levels + level
            for match in [matches[n] for n in rng.permutation(len(matches))[:2]]:
                place = (match.image, match.row, match.column, match.anchor)
                fields = rng.permutation(case.head.num_fields)[:3]
                entries += [(at, *place, int(field)) for field in fields]
            entries.append((at, *(int(rng.integers(side)) for side in array.shape[:4]), 4))
    return entries


# No rounding decides these: costs and sums of IoUs are 0.005 or more from another assignment.
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_random_cases_are_as_the_oracle_computes_them(kind, seed):
    case = random_case(kind, seed)
    targets = pad_targets(case.rows, case.batch, 8)
    run = cases.evaluator(case.head, case.config, as_users_do=kind == "defaults")
    found = run(case.outputs, targets)

    lead, auxiliary = case.outputs
    fixed = oracle.fix(lead, case.rows, case.head, case.config, auxiliary=auxiliary)
    for assignment, of_head in zip(found.assignments, fixed, strict=True):
        matches = [match for level in of_head.matches for match in level]
        assert sorted(cases.match_list(assignment)) == sorted(matches)

    wanted = oracle.loss_of_fixed(
        lead, case.rows, case.head, case.config, fixed, auxiliary=auxiliary
    )
    np.testing.assert_allclose([found.total, *found.terms[:3]], wanted[:4], rtol=1e-5)
    np.testing.assert_allclose(found.terms.obj_per_level, wanted.obj_per_level, rtol=1e-5)
    np.testing.assert_array_equal(found.terms.num_matched, wanted.num_matched)

    entries = entries_of(case, fixed, np.random.default_rng(seed))
    slopes = oracle.gradient(
        lead, case.rows, case.head, case.config, entries, fixed, auxiliary=auxiliary
    )
    gradients = jax.tree.leaves(found.gradients)
    ours = [gradients[level][tuple(place)] for level, *place in entries]
    largest = max(np.abs(gradient).max() for gradient in gradients)
    np.testing.assert_allclose(ours, slopes, rtol=0, atol=1e-5 * largest)


# ------------------------------------------------------------------ what no input may break

DEFAULTS = LossConfig()
LARGE_LOGITS = (80.0, -80.0, 1000.0, -1000.0)


def plain_case(seed=0):
    """Shares its compilation with the random case of the same settings."""
    return random_case("defaults", seed)


def with_logits(case, value):
    return case._replace(outputs=jax.tree.map(lambda x: np.full_like(x, value), case.outputs))


def with_alternating_logits(case, value):
    def alternate(x):
        return (value * (-1.0) ** np.arange(x.size)).reshape(x.shape).astype(np.float32)

    return case._replace(outputs=jax.tree.map(alternate, case.outputs))


def with_boxes(case, *boxes):
    rows = [(image, 1, *box) for image in range(2) for box in boxes]
    return case._replace(rows=np.array(rows, np.float32).reshape(-1, 6))


odd_cases = {
    "no objects": lambda: with_boxes(plain_case()),
    "an image without objects": plain_case,
    "boxes without area": lambda: with_boxes(
        plain_case(), (0.5, 0.5, 0, 0), (0.5, 0.5, 0.3, 0), (0, 0, 0, 0.3), (1, 1, 1e-9, 1e-9)
    ),
    "boxes far outside": lambda: with_boxes(
        plain_case(), (-5, 9, 0.3, 0.3), (1e9, -1e9, 0.3, 0.3), (3, 3, 1e9, 1e9)
    ),
    "boxes just outside": lambda: with_boxes(
        plain_case(), (-0.1, 0.5, 0.3, 0.3), (1.05, 1.05, 0.4, 0.4), (1, 1, 0.3, 0.2)
    ),
    "identical boxes": lambda: with_boxes(plain_case(), *[(0.4, 0.6, 0.3, 0.2)] * 8),
    "a box as large as the image": lambda: with_boxes(plain_case(), (0.5, 0.5, 1, 1)),
    "predictions exactly on their objects": lambda: with_boxes(
        # Zero logits predict the anchor at the cell's centre: here 20 x 14 of 96 x 64 pixels.
        with_logits(plain_case(), 0.0),
        ((3.5 * 8) / 96, (2.5 * 8) / 64, 20 / 96, 14 / 64),
    ),
    **{f"logits of {v:g}": functools.partial(with_logits, plain_case(), v) for v in LARGE_LOGITS},
    **{
        f"logits of +-{v:g}": functools.partial(with_alternating_logits, plain_case(), v)
        for v in LARGE_LOGITS[::2]
    },
}


@pytest.mark.parametrize("name", odd_cases)
def test_loss_and_gradients_are_finite_for(name):
    case = odd_cases[name]()
    targets = pad_targets(case.rows, 3, 8)
    run = cases.evaluator(case.head, case.config)
    found = run(case.outputs, targets)
    chex.assert_tree_all_finite((found.total, found.terms, found.gradients))
    # Whatever stands in the padding, nothing of it is seen.
    again = run(case.outputs, cases.garbage(targets))
    chex.assert_trees_all_equal(
        (found.total, found.terms, found.gradients), (again.total, again.terms, again.gradients)
    )


@pytest.mark.parametrize("logit", LARGE_LOGITS)
@pytest.mark.parametrize("kind", ["every option", "one class, equal anchors"])
def test_saturated_logits_have_finite_gradients(kind, logit):
    case = with_logits(random_case(kind, 0), logit)
    found = cases.evaluator(case.head, case.config)(case.outputs, pad_targets(case.rows, 2, 8))
    chex.assert_tree_all_finite((found.total, found.terms, found.gradients))
    assert found.terms.num_matched.sum() > 0
    assert (found.terms.cls == 0) == (case.head.num_classes == 1)


def test_images_without_objects_only_push_objectness_down():
    case = with_boxes(plain_case())
    found = cases.evaluator(case.head, case.config)(case.outputs, pad_targets(case.rows, 3, 8))
    assert found.terms.box == found.terms.cls == found.terms.num_matched.sum() == 0
    for gradient in found.gradients.lead:
        assert np.all(gradient[..., 4] > 0)
        assert not np.any(np.delete(gradient, 4, axis=-1))


def test_bf16_outputs_give_the_loss_of_the_same_values_in_float32():
    case = plain_case()
    targets = pad_targets(case.rows, 3, 8)
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), case.outputs)
    same = jax.tree.map(lambda x: np.asarray(x, np.float32), half)
    run = cases.evaluator(case.head, case.config)
    found, wanted = run(half, targets), run(same, targets)
    assert found.total.dtype == jnp.float32
    chex.assert_trees_all_close((found.total, found.terms), (wanted.total, wanted.terms), rtol=1e-6)
    chex.assert_trees_all_equal(found.assignments, wanted.assignments)
    for ours, exact in zip(found.gradients.lead, wanted.gradients.lead, strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(
            np.asarray(ours, np.float32), exact, rtol=2**-7, atol=1e-6 * np.abs(exact).max()
        )


def test_no_gradient_flows_through_the_assignment():
    case = plain_case(1)
    targets = pad_targets(case.rows, 3, 8)
    free = cases.evaluator(case.head, case.config, as_users_do=True)(case.outputs, targets)

    @functools.partial(jax.jit, compiler_options=AS_USERS_DO)
    def loss_of_fixed(outputs, targets, assignment):
        return jax.grad(
            lambda outputs: detection_loss(
                outputs, targets, case.head, case.config, assigner=lambda *_, **__: assignment
            )[0]
        )(outputs)

    fixed = loss_of_fixed(case.outputs, targets, free.assignments[0])
    chex.assert_trees_all_close(free.gradients, fixed, rtol=1e-6)


def test_an_assigner_of_ones_own_serves_auxiliary_heads_and_is_told_what_yolov7_uses():
    told = []

    def first_object_only(lead, targets, head, config, *, center_radius, top_k):
        told.append((center_radius, top_k))
        first = targets._replace(valid=targets.valid & (np.arange(8) == 0))
        return assign_anchor(lead, first, head, config, center_radius=center_radius)

    for kind, wanted in (("auxiliary heads", [(0.5, 20), (1.0, 20)]), ("defaults", [(0.5, 10)])):
        case = random_case(kind, 0)
        targets = pad_targets(case.rows, case.batch, 8)
        told.clear()
        shapes = jax.eval_shape(
            lambda case=case, targets=targets: detection_loss(
                case.outputs, targets, case.head, case.config, assigner=first_object_only
            )
        )
        assert shapes[0].shape == ()
        assert told == wanted


# ------------------------------------------------------------------ size and compilation


def largest_array(jaxpr):
    """The number of elements of the largest array in a jaxpr and in all that it calls."""
    sizes = [0]
    for equation in jaxpr.eqns:
        sizes += [math.prod(v.aval.shape) for v in equation.outvars if hasattr(v.aval, "shape")]
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                sizes.append(largest_array(inner))
    return max(sizes)


def many_classes(num_classes, grid, num_objects):
    head = HeadConfig(num_classes, (8, 16, 32), cases.P5.anchors)
    rng = np.random.default_rng(0)
    rows = cases.random_rows(rng, num_classes, [num_objects])
    return head, rows, cases.random_levels(rng, head, grid, 1)


def test_no_array_has_objects_times_candidates_times_classes():
    num_objects = 16
    head, rows, lead = many_classes(10_000, (1, 1), num_objects)
    targets = pad_targets(rows, 1, num_objects)
    jaxpr = jax.make_jaxpr(
        jax.value_and_grad(lambda lead: detection_loss(Outputs(lead), targets, head, DEFAULTS)[0])
    )(lead)
    candidates = 3 * 5 * 3 * num_objects
    assert largest_array(jaxpr.jaxpr) >= 10 * num_objects * head.num_classes  # the walk sees inside
    assert largest_array(jaxpr.jaxpr) <= candidates * head.num_fields


def test_ten_thousand_classes_are_as_the_oracle_computes_them():
    head, rows, lead = many_classes(10_000, (1, 1), 2)
    found = jax.jit(lambda lead, targets: detection_loss(Outputs(lead), targets, head, DEFAULTS))(
        lead, pad_targets(rows, 1, 2)
    )
    wanted = oracle.loss(lead, rows, head, DEFAULTS)
    np.testing.assert_array_equal(found[1].num_matched, wanted.num_matched)
    np.testing.assert_allclose([found[0], *found[1][:3]], wanted[:4], rtol=1e-5)


def test_one_compilation_serves_any_number_of_objects():
    head = HeadConfig(2, (16,), (((20.0, 30.0),),))

    @jax.jit
    @chex.assert_max_traces(n=1)
    def loss(lead, targets):
        return detection_loss(Outputs(lead), targets, head, DEFAULTS, balance=(1.0,))

    rng = np.random.default_rng(0)
    lead = cases.random_levels(rng, head, (4, 4), 2)
    matched = []
    for count in range(6):
        rows = cases.random_rows(rng, 2, (count, 0))
        matched.append(int(loss(lead, pad_targets(rows, 2, 5))[1].num_matched.sum()))
    assert matched[0] == 0
    assert min(matched[1:]) > 0


# ------------------------------------------------------------------ wrong use


def test_wrong_shapes_are_named_with_what_was_wanted():
    case = plain_case()
    targets = pad_targets(case.rows, 3, 8)
    lead = case.outputs.lead

    def check(message, outputs=case.outputs, targets=targets, **options):
        with pytest.raises(ValueError, match=message):
            detection_loss(outputs, targets, case.head, DEFAULTS, **options)

    check(r"outputs.lead has 2 levels; the head has 3", Outputs(lead[:2]))
    check(r"outputs.auxiliary has 1 levels; the head has 3", Outputs(lead, lead[:1]))
    check(
        r"lead\[1\] has shape \(3, 4, 6, 3, 7\); \[batch, height, width, 3, 8\]",
        Outputs((lead[0], lead[1][..., :7], lead[2])),
    )
    check(
        r"lead\[2\] covers 3 images of \(64, 64\) pixels.*of \(64, 96\)",
        Outputs((*lead[:2], lead[2][:, :, :2])),
    )
    check(
        r"lead\[1\] covers 2 images of .*lead\[0\] 3 of",
        Outputs((lead[0], lead[1][:2], lead[2])),
    )
    check(
        r"targets .* shapes \(\(3, 8, 4\), \(3, 7\), \(3, 8\)\); .* was wanted",
        targets=targets._replace(labels=targets.labels[:, :7]),
    )
    check(
        r"targets .* shapes \(\(2, 8, 4\), \(2, 8\), \(2, 8\)\); \(\(3, 8, 4\)",
        targets=jax.tree.map(lambda field: field[:2], targets),
    )
    check(
        r"'float32', 'int32', 'float32'.*booleans were wanted",
        targets=targets._replace(valid=targets.valid.astype(np.float32)),
    )
    check(r"balance has shape \(2,\); one weight for each of 3 levels", balance=(1.0, 2.0))


def test_many_identical_objects_in_bfloat16_add_up_like_in_float32():
    case = cases.random_case(0, cases.P5, LossConfig(), coarsest=(2, 3), counts=(1,))
    targets = pad_targets(np.repeat(case.rows, 300, axis=0), 1, 300)
    rounded = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), case.outputs)

    def gradient(outputs):
        def loss(outputs):
            return detection_loss(outputs, targets, cases.P5, LossConfig(), assigner=assign_anchor)[
                0
            ]

        return jax.tree.map(lambda x: x.astype(jnp.float32), jax.jit(jax.grad(loss))(outputs))

    exact = gradient(jax.tree.map(lambda x: x.astype(jnp.float32), rounded))
    assert cases.relative_error(gradient(rounded), exact) < 2**-8


def test_levels_may_be_given_as_lists():
    case = plain_case()
    targets = pad_targets(case.rows, 3, 8)

    def loss(lead):
        return detection_loss(Outputs(lead), targets, case.head, case.config)[0]

    lead = [jnp.asarray(level) for level in case.outputs.lead]
    total, gradient = jax.eval_shape(jax.value_and_grad(loss), lead)
    assert total.shape == ()
    assert [level.shape for level in gradient] == [level.shape for level in lead]
