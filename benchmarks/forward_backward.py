"""What the forward-backward theory costs: seconds of a step of its solver, in units of one Cholesky decomposition of
the same size in the same process, and the memory that a call adds, in units of points^2 numbers of 8 bytes.

Four hidden layers of erf. A step is one pass back and forward through all layers ("leading", "exact"), or one gradient
of the energy ("gaussian"), compiled on its own; a solve is the whole theory without fluctuations, after compilation,
and takes some 30 to 60 steps. CPU seconds on one core with one thread. Run as `python -m benchmarks.forward_backward`;
writes forward_backward.csv.
"""

import argparse
import json
import os
import subprocess
import sys
import time

from benchmarks import common  # sets the environment: before JAX
from benchmarks.theories import _memory

import jax  # isort: skip
import jax.numpy as jnp
import numpy as np

SIZES = {"leading": (12, 30, 60, 100, 500), "gaussian": (12, 30, 60, 100, 500), "exact": (12, 30)}
SAMPLES = 4096


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", nargs=2, metavar=("TILT", "POINTS"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        tilt, points = options.child
        print(json.dumps(measured(tilt, int(points))), flush=True)
        return
    path = common.HERE / "forward_backward.csv"
    path.unlink(missing_ok=True)
    print(f"# load {common.load()}")
    for tilt, sizes in SIZES.items():
        for points in sizes:
            command = [sys.executable, "-m", "benchmarks.forward_backward", "--child", tilt, str(points)]
            # every block of 64 KiB and more is mapped, and unmapped when it is freed
            environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode != 0:
                raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
            row = json.loads(done.stdout.strip().splitlines()[-1])
            common.append(path, row)
            print(" ".join(str(value) for value in row.values()), flush=True)


def measured(tilt: str, points: int) -> dict:
    common.pin()
    jax.config.update("jax_enable_x64", True)
    import fieldprob as fp

    task = fp.tasks.linear_teacher(points, inputs=20, noise_variance=0.1, seed=0)
    net = fp.Mlp(4 * points, 4, "erf", weight_variance=1.3, bias_variance=(0.0, 0.05, 0.05, 0.05, 0.0))
    options = {"fluctuations": False, "samples": SAMPLES, "key": jax.random.key(0)}

    def solved():
        return jax.block_until_ready(fp.theory.forward_backward(net, task, tilt, **options).mean)

    K = net.limit(task.X) + 0.1 * jnp.eye(points)
    step, cholesky = one_step(net, task, tilt), jax.jit(jnp.linalg.cholesky)
    solved(), step()
    cholesky(K).block_until_ready()
    repeats = max(1, 2_000_000 // points**3)

    def decomposed():
        for _ in range(repeats):
            cholesky(K).block_until_ready()

    seconds = {
        "solve": np.median([spent(solved) for _ in range(3)]),
        "step": np.median([spent(step) for _ in range(5)]),
        "cholesky": np.median([spent(decomposed) for _ in range(5)]) / repeats,
    }
    return {
        "tilt": tilt,
        "points": points,
        "solve seconds": f"{seconds['solve']:.3g}",
        "step seconds": f"{seconds['step']:.3g}",
        "cholesky seconds": f"{seconds['cholesky']:.3g}",
        "step / cholesky": f"{seconds['step'] / seconds['cholesky']:.0f}",
        "peak / points^2 numbers": f"{_memory(solved) / (8 * points**2):.0f}",
        "peak / (nodes points) numbers": f"{_memory(solved) / (8 * points * SAMPLES):.1f}",
    }


def one_step(net, task, tilt: str):
    """One application of the map that is iterated, or one gradient of the energy that is minimised."""
    from fieldprob.theory import kernel_saddle
    from fieldprob.theory.forward_backward import _nodes
    from fieldprob.theory.kernel_fluctuations import layers_of
    from fieldprob.theory.setting import setting

    problem = setting("benchmark", net, task)
    nodes = _nodes("benchmark", problem, tilt, SAMPLES, jax.random.key(0), 1.0)
    data = kernel_saddle.Data(layers_of(problem), problem.kernel_0, problem.y, problem.noise_covariance, nodes)
    if tilt == "gaussian":
        start = kernel_saddle.identity_factors(len(data.layers), problem.points)
        numbers = data._replace(layers=[layer._replace(width=float(layer.width)) for layer in data.layers])
        gradient = jax.jit(lambda x: jax.grad(kernel_saddle.energy)(x, numbers))
        return lambda: jax.block_until_ready(gradient(start))
    kernels = net.limit_kernels(task.X)
    back = jax.jit(lambda kernels: kernel_saddle.backward(data, kernels, tilt))
    return lambda: jax.block_until_ready(back(kernels))


def spent(function) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


if __name__ == "__main__":
    main()
