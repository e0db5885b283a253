"""Forty steps of three runs against stored measurements of the public implementation."""

import json
import pathlib
import zlib

import jax
import numpy as np
import pytest
from compiling import AS_USERS_DO
from flax import nnx

from yolov7_jax import LossConfig, assign_anchor, assign_ota, pad_targets
from yolov7_jax import model as networks
from yolov7_jax.training.schedule import OptimConfig, Schedule
from yolov7_jax.training.state import create_state
from yolov7_jax.training.step import Batch, make_train_step
from yolov7_jax.weights.convert import load_official, to_official

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "trajectory"
ASSIGNERS = {"ComputeLoss": assign_anchor, "ComputeLossOTA": assign_ota}
# From the second update on, in step 16, the measured float32 run itself leaves the same run in
# float64. With SGD and OTA by up to 20 %, because single objects change their candidates; there the
# optimised program of a later JAX does so in the first steps.
FIRST, FIRST_TOLERANCE = 10, 1e-3
TOLERANCE = {"tiny_anchor_sgd": 0.02, "tiny_ota_adam": 0.02, "tiny_ota_sgd": 0.3}


def official_tensors(model: networks.Yolov7) -> dict[str, np.ndarray]:
    """The weights that the measured runs start from: a rule, so that none need be stored."""
    tensors = {}
    for key, tensor in to_official(model).items():
        if "anchor" in key or key.endswith("num_batches_tracked"):
            tensors[key] = tensor
            continue
        r = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(tensor.shape)
        r = r.astype(np.float32)
        if key.endswith("running_mean"):
            r = 0.1 * r
        elif key.endswith("running_var"):
            r = 1 + 0.1 * np.abs(r)
        elif ".ia." in key:
            r = 0.1 * r
        elif r.ndim == 4 and not key.endswith("implicit"):
            r = r * np.sqrt(1.5 / np.prod(r.shape[1:]))
        elif key.endswith(".bias"):
            r = 0.1 * r
        else:
            r = 1 + 0.1 * r
        tensors[key] = r.astype(np.float32)
    return tensors


def measured_batch(meta: dict, iteration: int) -> Batch:
    batch, size = meta["batch"], meta["image_size"]
    r = np.random.RandomState(meta["data_seed"] * 100000 + iteration)
    images = r.rand(batch, 3, size, size).astype(np.float32).transpose(0, 2, 3, 1)
    rows = []
    for image in range(batch):
        for _ in range(r.randint(0, 6)):
            w, h = r.uniform(0.1, 0.6, 2)
            cx, cy = r.uniform(w / 2, 1 - w / 2), r.uniform(h / 2, 1 - h / 2)
            rows.append((image, r.randint(meta["num_classes"]), cx, cy, w, h))
    return Batch(images, pad_targets(np.array(rows, np.float32).reshape(-1, 6), batch, 8))


def norms(graphdef, params, batch_stats) -> dict[str, float]:
    tensors = to_official(nnx.merge(graphdef, params, batch_stats))
    return {key: float(np.linalg.norm(np.float64(tensor))) for key, tensor in tensors.items()}


@pytest.mark.parametrize("name", list(TOLERANCE))
def test_losses_updates_and_final_norms_are_those_measured(name):
    stored = np.load(GOLDEN / f"{name}.npz")
    meta = json.loads(bytes(stored["meta"]))
    hyper = meta["hyp_scaled"]
    model = networks.create("yolov7-tiny", meta["num_classes"])
    model = load_official(model, official_tensors(model))
    graphdef, params, batch_stats = networks.split(model)
    config = OptimConfig(
        optimizer=meta["optimizer"],
        lr0=hyper["lr0"],
        lrf=hyper["lrf"],
        warmup_bias_lr=hyper["warmup_bias_lr"],
    )
    loss = LossConfig(box_gain=hyper["box"], obj_gain=hyper["obj"], cls_gain=hyper["cls"])
    step = jax.jit(
        make_train_step(
            graphdef,
            model.head,
            loss,
            config,
            batch_size=meta["batch"],
            assigner=ASSIGNERS[meta["loss"]],
        ),
        donate_argnums=0,
        compiler_options=AS_USERS_DO if name == "tiny_anchor_sgd" else None,
    )
    num_images = meta["batch"] * meta["batches_per_epoch"]
    schedule = Schedule(
        config, meta["epochs"], meta["batch"], num_images, meta["warmup_iterations"]
    )
    state = create_state(params, batch_stats, config)
    log = dict(zip(stored["columns"].tolist(), stored["log"].T, strict=True))
    for iteration in range(len(stored["log"])):
        updates = int(state.updates)
        batch = measured_batch(meta, iteration)
        state, metrics = step(state, batch, schedule.rates(iteration))
        assert int(state.updates) - updates == log["stepped"][iteration]
        tolerance = FIRST_TOLERANCE if iteration < FIRST else TOLERANCE[name]
        np.testing.assert_allclose(metrics.total, log["loss"][iteration], rtol=tolerance)
        for part in ("box", "obj", "cls"):
            got = getattr(metrics, part)
            np.testing.assert_allclose(got, log[part][iteration], rtol=3 * tolerance)
    ends = {
        "param_norm": norms(graphdef, state.params, state.batch_stats),
        "ema_norm": norms(graphdef, state.ema_params, state.ema_batch_stats),
    }
    for column, got in ends.items():
        for key, wanted in zip(stored["names"].tolist(), stored[column], strict=True):
            # Running statistics forget all but the last batches.
            rtol = 2e-3 if "running" in key else 1e-3
            np.testing.assert_allclose(got[key], wanted, rtol=rtol, err_msg=f"{column} of {key}")
