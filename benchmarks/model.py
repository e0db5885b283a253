"""Time of the networks, against plain ones.

    python -m benchmarks.model [--models yolov7 ...] [--size 320] [--batch 2]

For every model: evaluation, training step (forward in training mode, OTA loss, gradients; without
the optimiser, which is the same for all), the step in times of the plain network's, and the rate at
which the step's multiplications and additions are done. The plain network computes the same with
XLA's convolution for 1x1 and 3x3, XLA's max-pool, and the gradients of both and of the norm as JAX
derives them. Both are measured in turns in one run: on a noisy machine the ratios alone mean
something. Milliseconds are the least of all turns; float32, on whatever device JAX finds.
"""

import argparse
import contextlib
import functools
from collections.abc import Callable, Iterator
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import machine, times_in_turns
from yolov7_jax import LossConfig, detection_loss, pad_targets
from yolov7_jax import model as networks
from yolov7_jax.nn import blocks, convolution, norm, pooling, rep, tiny
from yolov7_jax.summary import summarize

OBJECTS = 10  # in every image


def plain_convolution(x, kernel, stride):
    """XLA's convolution, for 1x1 too."""
    pad = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def plain_max_pool(x, size, stride):
    """XLA's reduction over windows."""
    pad = size // 2 if stride == 1 else 0
    return jax.lax.reduce_window(
        x,
        -jnp.inf,
        jax.lax.max,
        (1, size, size, 1),
        (1, stride, stride, 1),
        ((0, 0), (pad, pad), (pad, pad), (0, 0)),
    )


def plain_normalise(x, scale, bias, activation, axis_name, count):
    """The norm as one would write it first; `axis_name` is None here."""
    del axis_name, count
    values = x.astype(jnp.float32)
    mean = values.mean((0, 1, 2))
    variance = jnp.square(values - mean).mean((0, 1, 2))
    gain = jax.lax.rsqrt(variance + norm.EPSILON) * scale
    return activation((values - mean) * gain + bias).astype(x.dtype), mean, variance


@contextlib.contextmanager
def replaced(convolve: Callable, pool: Callable, normalise: Callable) -> Iterator[None]:
    """Makes the networks that are traced inside use other functions."""
    with contextlib.ExitStack() as stack:
        for module in (blocks, rep):
            stack.enter_context(mock.patch.object(module, "convolution", convolve))
        for module in (blocks, tiny):
            stack.enter_context(mock.patch.object(module, "max_pool", pool))
        stack.enter_context(mock.patch.object(norm, "_normalise", normalise))
        yield


OURS = (convolution.convolution, pooling.max_pool, norm._normalise)
PLAIN = (plain_convolution, plain_max_pool, plain_normalise)


def make_step(model: networks.Yolov7, targets) -> tuple[Callable, Callable]:
    """Returns evaluation and loss as functions of (params, batch_stats, images)."""
    graphdef, _, _ = networks.split(model)

    def evaluate(params, batch_stats, images):
        return networks.apply(graphdef, params, batch_stats, images, train=False)[0]

    def loss(params, batch_stats, images):
        outputs, stats = networks.apply(graphdef, params, batch_stats, images, train=True)
        return detection_loss(outputs, targets, model.head, LossConfig())[0], stats

    return evaluate, loss


def make_targets(rng: np.random.Generator, batch: int, num_classes: int):
    """Objects of all sizes, as many in every image."""
    count = batch * OBJECTS
    images = np.repeat(np.arange(batch), OBJECTS)[:, None]
    labels = rng.integers(0, num_classes, (count, 1))
    centres, sizes = rng.uniform(0.3, 0.7, (count, 2)), rng.uniform(0.03, 0.5, (count, 2))
    rows = np.concatenate([images, labels, centres, sizes], axis=1)
    return jax.device_put(pad_targets(rows, batch, OBJECTS))


def measure(name: str, size: int, batch: int, repeats: int):
    """Prints one model's row."""
    rng = np.random.default_rng(0)
    model = networks.create(name)
    targets = make_targets(rng, batch, model.head.num_classes)
    images = jnp.asarray(rng.random((batch, size, size, 3), np.float32))
    arguments = (*networks.split(model)[1:], images)
    evaluate, loss = make_step(model, targets)

    calls, memory = {}, {}
    for which, functions in (("", OURS), ("plain ", PLAIN)):
        with replaced(*functions):
            # Wrapped anew, or JAX would remember what it traced with the other functions.
            forward = jax.jit(lambda *a: evaluate(*a))
            step = jax.jit(jax.value_and_grad(lambda *a: loss(*a), has_aux=True))
            for kind, function in (("forward", forward), ("step", step)):
                compiled = function.lower(*arguments).compile()
                calls[which + kind] = functools.partial(compiled, *arguments)
            analysis = compiled.memory_analysis()
            memory[which] = analysis.temp_size_in_bytes / 2**20 if analysis else 0
    taken = times_in_turns(calls, repeats, min)

    operations = 3 * batch * (summarize(model, size).flops or 0) / 1e9
    print(
        f"{name:12}{taken['forward']:8.0f} ms{taken['step']:8.0f} ms{taken['plain step']:8.0f} ms"
        f"{taken['plain step'] / taken['step']:7.2f}{1e3 * operations / taken['step']:10.0f}"
        f"{memory['']:10.0f}{memory['plain ']:8.0f} MiB",
        flush=True,
    )


def main():
    """Measures the models that the command line names."""
    parser = argparse.ArgumentParser(description="Times the networks.")
    every = list(networks.ARCHITECTURES)
    parser.add_argument("--models", nargs="+", choices=every, default=every)
    parser.add_argument("--size", type=int, default=320, help="side of the images, in pixels")
    parser.add_argument("--batch", type=int, default=2, help="number of images")
    parser.add_argument("--repeats", type=int, default=3, help="turns that the least is taken of")
    arguments = parser.parse_args()

    print(
        f"{machine()}; batch {arguments.batch}, {arguments.size} pixels; "
        f"least of {arguments.repeats} turns"
    )
    print("model         forward       step      plain  ratio   GFLOP/s    step's memory, plain")
    for name in arguments.models:
        measure(name, arguments.size, arguments.batch, arguments.repeats)


if __name__ == "__main__":
    main()
