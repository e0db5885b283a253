"""Time and memory of the whole training step of the application, optimiser and averages included.

    python -m benchmarks.train_step [--models yolov7-tiny yolov7 yolov7-w6] [--dtype bfloat16]
                                    [--size S] [--batch B] [--peak-tflops T] [--largest]

For every model, in a process of its own and at its native size unless one is given: images a
second; the operations of the convolutions, forward and twice that backward, and their share of
what the device could do (with `--peak-tflops`); the share of the step that the loss takes, which is
the difference to the same step with the mean of the squared outputs for a loss, both measured in
turns; the most memory used, where the device tells; and with `--largest`, the largest batch,
doubling, that there is memory for. The default batch is 8 on accelerators and 2 on a CPU.
"""

import argparse
import gc
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.model import make_targets
from yolov7_jax import LossConfig, LossTerms, assign_ota
from yolov7_jax import model as networks
from yolov7_jax.summary import summarize
from yolov7_jax.training import step as steps
from yolov7_jax.training.batch import Batch
from yolov7_jax.training.schedule import OptimConfig, Rates
from yolov7_jax.training.state import TrainState, create_state

CLASSES = 80
TURNS = 5
LARGEST = 2**12
RATES = Rates(1e-4, 1e-4, 1e-4, 0.9, 1)


def plain_loss(outputs, targets, head, config, *, assigner, axis_name):
    """Costs one read of the outputs, and one write of their gradients, but assigns nothing."""
    del targets, config, assigner, axis_name
    levels = (*outputs.lead, *outputs.auxiliary)
    total = sum(jnp.square(level.astype(jnp.float32)).mean() for level in levels)
    zero = jnp.zeros(())
    none = jnp.zeros(head.num_levels, jnp.int32)
    return total, LossTerms(zero, zero, zero, jnp.zeros(head.num_levels), none)


def make_step(model: networks.Yolov7, batch_size: int) -> Callable[..., Any]:
    """Returns the jitted training step."""
    graphdef, _, _ = networks.split(model)
    settings = (LossConfig(), OptimConfig())
    step = steps.make_train_step(
        graphdef, model.head, *settings, batch_size=batch_size, assigner=assign_ota
    )
    return jax.jit(step, donate_argnums=0)


def fresh_state(model: networks.Yolov7) -> TrainState:
    """Returns a state that shares no array with the model."""
    _, params, batch_stats = jax.tree.map(jnp.copy, networks.split(model))
    return create_state(params, batch_stats, OptimConfig())


def random_batch(batch_size: int, size: int) -> Batch:
    """Returns images of noise with ten objects each, on the device."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size, size, size, 3), np.uint8)
    return Batch(jax.device_put(images), make_targets(rng, batch_size, CLASSES))


def seconds(step: Callable[..., Any], state: TrainState, batch: Batch, count: int):
    """Returns the state after some steps, and the time of one."""
    start = time.perf_counter()
    for _ in range(count):
        state, _ = step(state, batch, RATES)
    jax.block_until_ready(state)
    return state, (time.perf_counter() - start) / count


def largest_batch(model: networks.Yolov7, size: int, first: int) -> int:
    """Returns the largest power of two times the first batch size that fits."""
    fitting, batch_size = 0, first
    while batch_size <= LARGEST:
        try:
            seconds(
                make_step(model, batch_size), fresh_state(model), random_batch(batch_size, size), 1
            )
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            break
        finally:
            gc.collect()
        fitting, batch_size = batch_size, 2 * batch_size
    return fitting


def measure(name: str, arguments: argparse.Namespace) -> None:
    """Prints the row of a model."""
    size = arguments.size or networks.ARCHITECTURES[name].image_size
    batch_size = arguments.batch or (2 if jax.default_backend() == "cpu" else 8)
    model = networks.create(name, CLASSES, dtype=jnp.dtype(arguments.dtype), remat=arguments.remat)
    batch = random_batch(batch_size, size)
    whole = make_step(model, batch_size)
    state = seconds(whole, fresh_state(model), batch, 2)[0]
    stats = jax.devices()[0].memory_stats()
    memory = f"{stats['peak_bytes_in_use'] / 2**30:.1f} GiB" if stats else "-"
    plain = make_step(model, batch_size)
    with mock.patch.object(steps, "detection_loss", plain_loss):
        state = seconds(plain, state, batch, 1)[0]  # traced here
    times: dict[str, list[float]] = {"whole": [], "plain": []}
    for _ in range(TURNS):
        for kind, step in (("whole", whole), ("plain", plain)):
            state, taken = seconds(step, state, batch, arguments.steps)
            times[kind].append(taken)
    least = {kind: min(values) for kind, values in times.items()}
    flops = summarize(networks.create_abstract(name, CLASSES), size).flops or 0
    rate = 3 * flops * batch_size / least["whole"] / 1e12
    used = f"{100 * rate / arguments.peak_tflops:.0f} %" if arguments.peak_tflops else "-"
    share = 1 - least["plain"] / least["whole"]
    del state, batch
    largest = largest_batch(model, size, batch_size) if arguments.largest else "-"
    print(
        f"| {name} | {size} | {batch_size} | {1000 * least['whole']:.1f} ms | "
        f"{batch_size / least['whole']:.1f} | {rate:.2f} | {used} | {100 * share:.1f} % | "
        f"{memory} | {largest} |",
        flush=True,
    )


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["yolov7-tiny", "yolov7", "yolov7-w6"])
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--size", type=int, help="side in pixels; the native one if not given")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--steps", type=int, default=3, help="of a turn")
    parser.add_argument("--peak-tflops", type=float, help="of the device, in that dtype")
    parser.add_argument("--remat", action="store_true")
    parser.add_argument("--largest", action="store_true", help="search the largest batch too")
    arguments = parser.parse_args()
    if len(arguments.models) == 1:
        measure(arguments.models[0], arguments)
        return
    print(f"{arguments.dtype}, {TURNS} turns, the fastest of each\n")
    print(
        "| model | size | batch | step | images/s | TFLOP/s | of peak | loss | memory | largest |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    first = sys.argv.index("--models") if "--models" in sys.argv else len(sys.argv)
    others = sys.argv[1:first] + sys.argv[first + 1 + len(arguments.models) :]
    for name in arguments.models:
        command = [sys.executable, "-m", "benchmarks.train_step", "--models", name, *others]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
