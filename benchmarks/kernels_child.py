"""One contestant of `benchmarks.kernels`, in a process of its own: prints one line of JSON.

Runs with any JAX: a peer that needs an old one has its own interpreter. The package measured is imported last.
"""

import argparse
import gc
import json
import os
import resource
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)

DEPTH = 3
VARIANCE = {"erf": (1.5, 0.1), "relu": (2.0, 0.1)}  # weights (per fan-in), biases, in every layer


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=("fieldprob", "neural-tangents"))
    parser.add_argument("--activation", choices=tuple(VARIANCE), required=True)
    parser.add_argument("--points", type=int, required=True)
    parser.add_argument("--inputs", type=int, default=784)
    parser.add_argument("--dtype", choices=("float32", "float64"), required=True)
    parser.add_argument("--block", type=int, help="points of a block; without it the kernel is made at once")
    parser.add_argument("--what", choices=("time", "memory"), required=True)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    X = np.random.default_rng(0).standard_normal((options.points, options.inputs)).astype(options.dtype)
    engine = {"fieldprob": fieldprob, "neural-tangents": neural_tangents}[options.engine]
    compute = engine(options.activation, options.block)
    result = timed(compute, X, options) if options.what == "time" else peak(compute, X)
    print(json.dumps(result))


def fieldprob(activation: str, block: int | None):
    from fieldprob import kernels

    weight, bias = VARIANCE[activation]
    net = {
        "activations": [activation] * DEPTH,
        "weight_variance": [weight] * (DEPTH + 1),
        "bias_variance": [bias] * (DEPTH + 1),
    }
    if block is None:
        return lambda X: [part[-1] for part in kernels.nngp_and_ntk(X, every_layer=False, **net)]

    def compute(X):
        K, T = (np.empty((len(X), len(X)), X.dtype) for _ in range(2))
        kernels.write(kernels.blocks(X, size=block, **net), nngp=K, ntk=T)
        return K, T

    return compute


def neural_tangents(activation: str, block: int | None):
    import neural_tangents as nt
    from neural_tangents import stax

    weight, bias = VARIANCE[activation]
    hidden = [
        layer
        for _ in range(DEPTH)
        for layer in (
            stax.Dense(1, W_std=weight**0.5, b_std=bias**0.5),
            stax.Erf() if activation == "erf" else stax.Relu(),
        )
    ]
    kernel = stax.serial(*hidden, stax.Dense(1, W_std=weight**0.5, b_std=bias**0.5))[2]
    if block is not None:
        kernel = nt.batch(kernel, device_count=0, batch_size=block)
        return lambda X: kernel(X, None, ("nngp", "ntk"))
    return jax.jit(lambda X: kernel(X, None, ("nngp", "ntk")))


def timed(compute, X, options) -> dict:
    """CPU seconds of the kernels and of X X', in turn; the products of blocks are those of the lower triangle."""
    bare = jax.jit(lambda A, B: jnp.matmul(A, B.T, precision="highest"))
    size = options.block or options.points

    def product(X):
        for i in range(0, options.points, size):
            for j in range(0, i + 1, size):
                jax.block_until_ready(bare(X[i : i + size], X[j : j + size]))

    def kernels(X):
        return jax.block_until_ready(compute(X))

    placed = jnp.asarray(X) if options.block is None else X
    seconds: dict[str, list[float]] = {"kernels": [], "product": []}
    pair = [np.asarray(k) for k in kernels(placed)]
    check = [float(k[0, 1]) for k in pair] + [float(k[-1, -1]) for k in pair]
    del pair
    product(placed)
    for _ in range(options.rounds):
        for name, function in (("product", product), ("kernels", kernels)):
            gc.collect()
            start = time.process_time()
            function(placed)
            seconds[name].append(time.process_time() - start)
    return {"seconds": seconds, "check": check}


def peak(compute, X) -> dict:
    """MiB that the kernels add to the resident memory of a process that has compiled and run a small case."""
    size = min(len(X), 64)
    jax.block_until_ready(compute(X[:size]))
    gc.collect()
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    jax.block_until_ready(compute(X))
    return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10 - before}


if __name__ == "__main__":
    main()
