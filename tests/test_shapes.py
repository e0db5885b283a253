"""Shapes and types of the mathematics' functions, private ones too, are what they say."""

import subprocess
import sys

# In a process of its own: the checks have to be there when the modules are first imported.
PROGRAM = """
import jax
from jaxtyping import install_import_hook

MODULES = ("boxes", "candidates", "gather", "cost_matrix", "assign", "decode", "losses", "nms")
with install_import_hook([f"yolov7_jax.{name}" for name in MODULES], "beartype.beartype"):
    from yolov7_jax import LossConfig, assign_anchor, assign_ota, decode, detection_loss, nms
    from yolov7_jax import pad_targets
    from yolov7_jax.boxes import pairwise_iou
import cases

for head, auxiliary in ((cases.P5, False), (cases.P6, True)):
    case = cases.random_case(
        0, head, LossConfig(), coarsest=(1, 2), counts=(3, 5), auxiliary=auxiliary
    )
    outputs, targets = jax.tree.map(jax.numpy.asarray, (case.outputs, pad_targets(case.rows, 2, 5)))
    for assigner in (assign_ota, assign_anchor):
        def loss(outputs):
            return detection_loss(outputs, targets, head, case.config, assigner=assigner)
        jax.eval_shape(jax.grad(loss, has_aux=True), outputs)
predictions = decode(outputs.lead, head)
jax.eval_shape(lambda given: nms(given, score_threshold=0.1, iou_threshold=0.5), predictions)
print("traced")
try:
    pairwise_iou(jax.numpy.zeros((2, 4)), jax.numpy.zeros((2, 5)))
except Exception as error:
    print("refused:", type(error).__name__)
"""


def test_every_array_has_the_shape_that_its_annotation_says():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd="tests", check=False
    )
    assert done.stdout.splitlines() == ["traced", "refused: TypeCheckError"], done.stderr[-3000:]
