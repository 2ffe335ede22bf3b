"""Infinite-width kernels: NNGP and NTK of three hidden layers together, 784 inputs, erf and ReLU.

CPU seconds, as a ratio to the bare product X X' of the same process, and the memory added, at 2000 points at once and
at 10,000 in blocks. `--peer PYTHON` names an interpreter that has neural-tangents, which needs an old one:

    uv venv --python 3.11 peer
    uv pip install --python peer neural-tangents==0.6.5 jax==0.4.20 jaxlib==0.4.20 "numpy<2" "scipy<1.13"
    python -m benchmarks.kernels --peer peer/bin/python

Every measurement is a process of its own, on one core with one thread. The contestants' kernels must agree to 1e-12 of
their size in float64, or nothing is written. Writes kernels.csv.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys

import numpy as np

from benchmarks import common

CHILD = common.HERE / "kernels_child.py"
CASES = [(2000, None, "float64"), (2000, None, "float32"), (10_000, 2000, "float64")]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", metavar="PYTHON", help="an interpreter that has neural-tangents")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    interpreters = {"fieldprob": sys.executable} | ({"neural-tangents": options.peer} if options.peer else {})
    print(f"# load {common.load()}")
    rows = []
    for (points, block, dtype), activation in itertools.product(CASES, ("erf", "relu")):
        checks = {}
        for engine, python in interpreters.items():
            case = [engine, "--activation", activation, "--points", str(points), "--dtype", dtype]
            case += ["--block", str(block)] if block else []
            rounds = options.rounds if block is None else max(2, options.rounds // 3)
            timed = run(python, [*case, "--what", "time", "--rounds", str(rounds)])
            kernels, product = (np.array(timed["seconds"][name]) for name in ("kernels", "product"))
            ratio = np.quantile(kernels / product, (0.5, 0.25, 0.75))
            memory = run(python, [*case, "--what", "memory"])["peak"]
            checks[engine] = timed["check"]
            rows.append(
                {
                    "points": points,
                    "block": block or "",
                    "dtype": dtype,
                    "activation": activation,
                    "engine": engine,
                    "seconds": f"{np.median(kernels):.3f}",
                    "product seconds": f"{np.median(product):.3f}",
                    "ratio": f"{ratio[0]:.2f}",
                    "quartiles": f"{ratio[1]:.2f}-{ratio[2]:.2f}",
                    "peak MiB": f"{memory:.0f}",
                    "peak / output": f"{memory * 2**20 / (2 * points**2 * np.dtype(dtype).itemsize):.2f}",
                }
            )
            print(" ".join(str(value) for value in rows[-1].values()), flush=True)
        tolerance = 1e-12 if dtype == "float64" else 1e-5
        for engine, check in checks.items():
            np.testing.assert_allclose(check[:2], checks["fieldprob"][:2], rtol=tolerance, err_msg=engine)
    table = common.HERE / "kernels.csv"
    table.unlink(missing_ok=True)
    for row in rows:
        common.append(table, row)


def run(python: str, arguments: list[str]) -> dict:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([python, CHILD, *arguments], env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{python} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
