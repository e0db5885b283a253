"""Time of the networks, against plain ones, and where it goes.

    python -m benchmarks.model [--models yolov7 ...] [--size 320] [--batch 2] [--quick]

For every model: evaluation, training step (forward in training mode, OTA loss, gradients; without
the optimiser, which is the same for all), the step in times of the plain network's, and the rate at
which the step's multiplications and additions are done. The plain network computes the same with
XLA's convolution for 1x1 and 3x3, XLA's max-pool, and the gradients of both and of the norm as JAX
derives them. Both are measured in turns in one run: on a noisy machine the ratios alone mean
something. Milliseconds are the least of all turns; float32, on whatever device JAX finds.

Below it, for each kind of work, the sum over the model's real shapes of pieces timed by themselves,
here and in the plain network. In the whole step XLA fuses some of them and joins maps besides, so
the sums are not the step. `--quick` leaves the pieces out, and all models but yolov7-tiny unless
some are named.
"""

import argparse
import collections
import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from yolov7_jax import LossConfig, Outputs, detection_loss, pad_targets
from yolov7_jax import model as networks
from yolov7_jax.nn import blocks, convolution, norm, pooling, rep, tiny

Call = Callable[[], Any]
OBJECTS = 10  # in every image


class Piece(NamedTuple):
    """One layer's shape.

    Attributes:
      kind: "convolution", "norm" or "max-pool".
      shape: of the input, `[b, h, w, c]`.
      kernel: shape of a convolution's kernel, or a pool's size.
      stride: of a convolution or a pool; 1 for a norm.
    """

    kind: str
    shape: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: int = 1

    @property
    def operations(self) -> int:
        """Multiplications and additions of the forward pass; of convolutions alone."""
        if self.kind != "convolution":
            return 0
        return 2 * int(np.prod(self.shape[:3]) * np.prod(self.kernel)) // self.stride**2


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


def collect_pieces(loss: Callable, *arguments) -> collections.Counter[Piece]:
    """Counts the shapes of all layers of a training step, without computing anything."""
    pieces = collections.Counter()

    def convolve(x, kernel, stride):
        pieces[Piece("convolution", x.shape, kernel.shape, stride)] += 1
        return convolution.convolution(x, kernel, stride)

    def pool(x, size, stride):
        pieces[Piece("max-pool", x.shape, (size,), stride)] += 1
        return pooling.max_pool(x, size, stride)

    def normalise(x, *others):
        pieces[Piece("norm", x.shape)] += 1
        return OURS[2](x, *others)

    with replaced(convolve, pool, normalise):
        jax.eval_shape(loss, *arguments)
    return pieces


def least_times(calls: Mapping[Any, Call], repeats: int) -> dict[Any, float]:
    """Milliseconds of each call, taken in turns so that all meet the same noise."""
    for call in calls.values():
        jax.block_until_ready(call())
    times = collections.defaultdict(list)
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - start)
    return {name: 1e3 * min(taken) for name, taken in times.items()}


def piece_calls(piece: Piece, functions, activation) -> dict[str, Call]:
    """Returns what a training step computes for one layer, by kind of work."""
    convolve, pool, normalise = functions
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal(piece.shape, np.float32))
    if piece.kind == "convolution":
        kernel = jnp.asarray(rng.standard_normal(piece.kernel, np.float32))
        function = functools.partial(convolve, stride=piece.stride)
        gradient = jnp.ones(jax.eval_shape(function, x, kernel).shape)
        name = f"{piece.kernel[0]}x{piece.kernel[0]}"

        def gradient_of(which):
            return jax.jit(lambda x, kernel, y: jax.vjp(function, x, kernel)[1](y)[which])

        forward, to_input, to_kernel = jax.jit(function), gradient_of(0), gradient_of(1)
        calls = {
            f"{name} forward": lambda: forward(x, kernel),
            f"{name} kernel gradient": lambda: to_kernel(x, kernel, gradient),
        }
        if piece.shape[3] > 3:  # nobody asks for the gradient of the images
            calls[f"{name} input gradient"] = lambda: to_input(x, kernel, gradient)
        return calls
    if piece.kind == "max-pool":
        function = functools.partial(pool, size=piece.kernel[0], stride=piece.stride)
        both = jax.jit(lambda x: jax.vjp(function, x)[1](function(x)))
        return {"max-pool, both": lambda: both(x)}
    vector = jnp.ones(piece.shape[3])
    count = int(np.prod(piece.shape[:3]))

    def activated(x, scale, bias):
        return normalise(x, scale, bias, activation, None, count)[0]

    both = jax.jit(lambda *inputs: (lambda y, back: (y, back(y)))(*jax.vjp(activated, *inputs)))
    return {"norm and activation, both": lambda: both(x, vector, vector)}


def print_pieces(pieces: collections.Counter[Piece], activation, repeats: int):
    """Prints the sums over all layers of every kind of work, here and plain."""
    sums = collections.defaultdict(lambda: [0.0, 0.0, 0.0])
    for piece, count in pieces.items():
        calls = {
            (name, which): call
            for which, functions in enumerate((OURS, PLAIN))
            for name, call in piece_calls(piece, functions, activation).items()
        }
        for (name, which), taken in least_times(calls, repeats).items():
            sums[name][which] += count * taken
            sums[name][2] += count * piece.operations * (which == 0) / 1e9
    for name, (ours, plain, operations) in sorted(sums.items()):
        rate = f"{1e3 * operations / ours:6.0f} GFLOP/s" if operations else ""
        print(f"    {name:28}{ours:8.0f} ms  plain{plain:8.0f} ms  {rate}", flush=True)


def measure(name: str, size: int, batch: int, repeats: int, quick: bool):
    """Prints one model's row, and unless `quick` where its time goes."""
    rng = np.random.default_rng(0)
    model = networks.create(name)
    targets = make_targets(rng, batch, model.head.num_classes)
    images = jnp.asarray(rng.random((batch, size, size, 3), np.float32))
    arguments = (*networks.split(model)[1:], images)
    evaluate, loss = make_step(model, targets)
    pieces = collect_pieces(loss, *arguments)

    calls, memory = {}, {}
    for which, functions in (("", OURS), ("plain ", PLAIN)):
        with replaced(*functions):
            # Wrapped anew, or JAX would remember what it traced with the other functions.
            forward, gradients = (lambda *a: evaluate(*a)), (lambda *a: loss(*a))
            compiled = jax.jit(forward).lower(*arguments).compile()
            calls[f"{which}forward"] = functools.partial(compiled, *arguments)
            compiled = (
                jax.jit(jax.value_and_grad(gradients, has_aux=True)).lower(*arguments).compile()
            )
            calls[f"{which}step"] = functools.partial(compiled, *arguments)
            analysis = compiled.memory_analysis()
            memory[which] = analysis.temp_size_in_bytes / 2**20 if analysis else 0

    def total(outputs):
        return detection_loss(outputs, targets, model.head, LossConfig())[0]

    graphdef, _, _ = networks.split(model)
    outputs: Outputs = jax.jit(
        lambda params, stats, images: networks.apply(graphdef, params, stats, images, train=True)[0]
    )(*arguments)
    calls["loss"] = functools.partial(jax.jit(jax.value_and_grad(total)), outputs)
    taken = least_times(calls, repeats)

    operations = 3 * sum(count * piece.operations for piece, count in pieces.items()) / 1e9
    print(
        f"{name:12}{taken['forward']:8.0f} ms{taken['step']:8.0f} ms{taken['plain step']:8.0f} ms"
        f"{taken['plain step'] / taken['step']:7.2f}{1e3 * operations / taken['step']:10.0f}"
        f"{memory['']:10.0f}{memory['plain ']:8.0f} MiB",
        flush=True,
    )
    if not quick:
        print_pieces(pieces, networks.ARCHITECTURES[name].activation, repeats)
        print(f"    {'loss, both':28}{taken['loss']:8.0f} ms")


def main():
    """Measures the models that the command line names."""
    parser = argparse.ArgumentParser(description="Times the networks, and what they consist of.")
    parser.add_argument("--models", nargs="+", choices=networks.ARCHITECTURES, help="all if absent")
    parser.add_argument("--size", type=int, default=320, help="side of the images, in pixels")
    parser.add_argument("--batch", type=int, default=2, help="number of images")
    parser.add_argument("--repeats", type=int, default=3, help="turns that the least is taken of")
    parser.add_argument("--quick", action="store_true", help="without the pieces")
    arguments = parser.parse_args()
    names = arguments.models or (["yolov7-tiny"] if arguments.quick else networks.ARCHITECTURES)

    print(
        f"{jax.devices()[0].device_kind}, jax {jax.__version__}; batch {arguments.batch}, "
        f"{arguments.size} pixels; least of {arguments.repeats} turns"
    )
    print("model         forward       step      plain  ratio   GFLOP/s    step's memory, plain")
    for name in names:
        measure(name, arguments.size, arguments.batch, arguments.repeats, arguments.quick)


if __name__ == "__main__":
    main()
