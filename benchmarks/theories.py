"""What the theories of finite width cost: seconds and memory at 100, 500 and 2000 points, against one symmetric
eigendecomposition of the same size in the same process.

CPU seconds on one core with one thread; the memory that a second call adds to the resident memory of the process, in
units of points^2 numbers of 8 bytes. Every row is a process of its own. Run as `python -m benchmarks.theories`; writes
theories.csv. The exponents are those of the seconds between the two largest sizes.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import common  # sets the environment: before JAX

import jax  # isort: skip
import numpy as np

SIZES = (100, 500, 2000)
LINEAR = ("limit", "exact", "rescaling", "rescaling tree", "rescaling quadrature", "adaptation", "one-loop")
ERF = ("limit", "rescaling", "closure", "importance", "perturbative")
LARGEST = {"closure": 500, "importance": 500, "perturbative": 500}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", nargs=3, metavar=("ACTIVATION", "THEORY", "POINTS"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(measure(options.child[0], options.child[1], int(options.child[2]))))
        return
    table = common.HERE / "theories.csv"
    table.unlink(missing_ok=True)
    print(f"# load {common.load()}")
    for activation, theories in (("linear", LINEAR), ("erf", ERF)):
        for theory in theories:
            for points in SIZES:
                if points <= LARGEST.get(theory, max(SIZES)):
                    row = run(activation, theory, points)
                    common.append(table, row)
                    print(" ".join(str(value) for value in row.values()), flush=True)


def run(activation: str, theory: str, points: int) -> dict:
    command = [sys.executable, "-m", "benchmarks.theories", "--child", activation, theory, str(points)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(activation: str, name: str, points: int) -> dict:
    """Median seconds of theory and eigendecomposition in turn, and the memory that one more call adds."""
    common.pin()
    jax.config.update("jax_enable_x64", True)
    import fieldprob as fp

    key = jax.random.key(0)
    theory = {
        "limit": fp.theory.limit,
        "exact": fp.theory.exact_linear,
        "rescaling": fp.theory.rescaling,
        "rescaling tree": lambda net, task: fp.theory.rescaling(net, task, order="tree"),
        "rescaling corrected": lambda net, task: fp.theory.rescaling(net, task, order="corrected"),
        "rescaling quadrature": lambda net, task: fp.theory.rescaling(net, task, order="quadrature"),
        "adaptation": fp.theory.adaptation,
        "one-loop": lambda net, task: fp.theory.adaptation(net, task, order="one-loop"),
        "self-consistent": lambda net, task: fp.theory.adaptation(net, task, order="self-consistent"),
        "closure": lambda net, task: fp.theory.adaptation(net, task, closure="gaussian"),
        "importance": lambda net, task: fp.theory.adaptation(net, task, average="importance", key=key),
        "perturbative": lambda net, task: fp.theory.perturbative(net, task, method="neurons", key=key),
    }[name]
    inputs = points // 2 if activation == "linear" else 8
    net = fp.Mlp(width=points, activation=activation, scaling="standard" if name == "perturbative" else "mean-field")
    task = fp.tasks.linear_teacher(points, inputs, noise_variance=0.5, seed=0)
    symmetric = np.asarray(net.limit(task.X))
    eigh = jax.jit(jax.numpy.linalg.eigh)

    def spent(function) -> float:
        start = time.process_time()
        jax.block_until_ready(function())
        return time.process_time() - start

    def predicted():
        return jax.tree.leaves(theory(net, task))

    seconds = {"theory": [], "eigh": []}
    spent(predicted), spent(lambda: eigh(symmetric))
    for _ in range(3 if points > 500 else 5):
        for kind, function in (("theory", predicted), ("eigh", lambda: eigh(symmetric))):
            seconds[kind].append(spent(function))
    return {
        "activation": activation,
        "theory": name,
        "points": points,
        "seconds": f"{np.median(seconds['theory']):.4f}",
        "eigh seconds": f"{np.median(seconds['eigh']):.4f}",
        "ratio": f"{np.median(np.array(seconds['theory']) / np.array(seconds['eigh'])):.2f}",
        "peak / points^2 numbers": f"{_memory(predicted) / (8 * points**2):.1f}",
    }


def _memory(function) -> float:
    """Bytes that a call adds at its peak: the high-water mark is reset before it, where Linux lets it be."""
    Path("/proc/self/clear_refs").write_text("5")
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    function()
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024 - before


if __name__ == "__main__":
    main()
