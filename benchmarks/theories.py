"""What the theories of finite width cost: seconds and memory at 100, 500 and 2000 points, against one symmetric
eigendecomposition of the same size in the same process.

CPU seconds on one core with one thread, theory and eigendecomposition in turn; the memory that a second call adds to
the resident memory of the process, in units of points^2 numbers of 8 bytes, is measured in a process of its own whose
allocator returns what is freed. Run as `python -m benchmarks.theories`; writes theories.csv. The exponents are those of
the seconds between a size and the one before. `--vectorised` prints what `jax.vmap` over 20 values of chi takes,
relative to a loop over them.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from benchmarks import common  # sets the environment: before JAX

import jax  # isort: skip
import jax.numpy as jnp
import numpy as np

SIZES = (100, 500, 2000)
LINEAR = (
    "exact", "rescaling", "rescaling tree", "rescaling corrected", "rescaling quadrature", "adaptation", "one-loop",
    "self-consistent", "limit",
)  # fmt: skip
ERF = ("limit", "rescaling", "closure", "importance", "perturbative")
LARGEST = {"closure": 500, "importance": 500, "perturbative": 100}
CHI = np.geomspace(1.0, 100.0, 20)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--vectorised", action="store_true", help="vmap over 20 values of chi against a loop, 200 points"
    )
    parser.add_argument("--child", nargs=3, metavar=("WHAT", "ACTIVATION", "POINTS"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.vectorised:
        vectorised()
    elif options.child:
        what, activation, points = options.child
        for row in (timed if what == "seconds" else remembered)(activation, int(points)):
            print(json.dumps(row), flush=True)
    else:
        table()


def table():
    path = common.HERE / "theories.csv"
    path.unlink(missing_ok=True)
    print(f"# load {common.load()}")
    before = {}
    for points in SIZES:
        for activation in ("linear", "erf"):
            memory = {row["theory"]: row["memory"] for row in child("memory", activation, points)}
            for row in child("seconds", activation, points):
                key = activation, row["theory"]
                seconds = float(row["seconds"])
                exponent = ""
                if key in before:
                    size, earlier = before[key]
                    exponent = f"{np.log(seconds / earlier) / np.log(points / size):.1f}"
                before[key] = points, seconds
                row |= {"exponent": exponent, "peak / points^2 numbers": memory[row["theory"]]}
                common.append(path, row)
                print(" ".join(str(value) for value in row.values()), flush=True)


def child(what: str, activation: str, points: int) -> list[dict]:
    command = [sys.executable, "-m", "benchmarks.theories", "--child", what, activation, str(points)]
    # every block of 64 KiB and more is mapped, and unmapped when it is freed
    environment = os.environ | ({"MALLOC_MMAP_THRESHOLD_": "65536"} if what == "memory" else {})
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.strip().splitlines()]


def problems(activation: str, points: int):
    """Theories by name, each a function without arguments, and a matrix of the same size to diagonalise."""
    common.pin()
    jax.config.update("jax_enable_x64", True)
    import fieldprob as fp

    key = jax.random.key(0)
    theories = {
        "limit": fp.theory.limit,
        "exact": fp.theory.exact_linear,
        "rescaling": fp.theory.rescaling,
        "adaptation": fp.theory.adaptation,
        "closure": partial(fp.theory.adaptation, closure="gaussian"),
        "importance": partial(fp.theory.adaptation, average="importance", key=key),
        "perturbative": partial(fp.theory.perturbative, method="neurons", key=key, neurons=10_000),
    }
    theories |= {f"rescaling {o}": partial(fp.theory.rescaling, order=o) for o in ("tree", "corrected", "quadrature")}
    theories |= {order: partial(fp.theory.adaptation, order=order) for order in ("one-loop", "self-consistent")}
    inputs = points // 2 if activation == "linear" else 8
    task = fp.tasks.linear_teacher(points, inputs, noise_variance=0.5, seed=0)

    def predicted(name: str):
        net = fp.Mlp(
            width=points, activation=activation, scaling="standard" if name == "perturbative" else "mean-field"
        )
        return jax.block_until_ready(jax.tree.leaves(theories[name](net, task)))

    names = LINEAR if activation == "linear" else ERF
    named = {name: partial(predicted, name) for name in names if points <= LARGEST.get(name, max(SIZES))}
    return named, fp.Mlp(width=points, activation=activation).limit(task.X)


def timed(activation: str, points: int):
    """Median seconds of each theory and of the eigendecomposition, in turn."""
    theories, symmetric = problems(activation, points)
    eigh = jax.jit(jnp.linalg.eigh)

    def decomposed():
        return jax.block_until_ready(eigh(symmetric))

    for name, predicted in theories.items():
        seconds = {"theory": [], "eigh": []}
        spent(predicted), spent(decomposed)
        for _ in range(3 if points > 500 else 5):
            for kind, function in (("theory", predicted), ("eigh", decomposed)):
                seconds[kind].append(spent(function))
        yield {
            "activation": activation,
            "theory": name,
            "points": points,
            "seconds": f"{np.median(seconds['theory']):.4f}",
            "eigh seconds": f"{np.median(seconds['eigh']):.4f}",
            "ratio": f"{np.median(np.array(seconds['theory']) / np.array(seconds['eigh'])):.2f}",
        }


def spent(function) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def remembered(activation: str, points: int):
    """Numbers that one more call of each theory adds at its peak."""
    theories, _ = problems(activation, points)
    for name, predicted in theories.items():
        predicted()
        yield {"theory": name, "memory": f"{_memory(predicted) / (8 * points**2):.1f}"}


def _memory(function) -> float:
    """Bytes that a call adds at its peak: the high-water mark is reset before it, where Linux lets it be."""
    Path("/proc/self/clear_refs").write_text("5")
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    function()
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024 - before


def vectorised():
    """Seconds of one compiled `vmap` over chi in units of those of the compiled theory called for each chi."""
    common.pin()
    jax.config.update("jax_enable_x64", True)
    import fieldprob as fp

    task = fp.tasks.linear_teacher(200, 100, noise_variance=0.5, seed=0)
    theories = {"exact": fp.theory.exact_linear, "rescaling": fp.theory.rescaling, "adaptation": fp.theory.adaptation}
    for name, theory in theories.items():

        def at(chi, theory=theory):
            net = fp.Mlp(width=200, activation="linear", readout_variance=1 / chi)
            return jax.tree.leaves(theory(net, task.replace(noise_variance=0.5 / chi)))

        single, many = jax.jit(at), jax.jit(jax.vmap(at))
        contestants = {
            "loop": lambda single=single: [jax.block_until_ready(single(chi)) for chi in CHI],
            "vmap": lambda many=many: jax.block_until_ready(many(jnp.asarray(CHI))),
        }
        seconds = {kind: [] for kind in contestants}
        for _ in range(4):
            for kind, function in contestants.items():
                seconds[kind].append(spent(function))
        loop, vmap = (np.median(seconds[kind][1:]) for kind in ("loop", "vmap"))
        print(f"{name}: vmap {vmap:.3f} s, loop {loop:.3f} s, {vmap / loop:.2f}", flush=True)


if __name__ == "__main__":
    main()
