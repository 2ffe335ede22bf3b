"""Resident memory of a long run with streaming: 10^5 draws in all, kernels of 400 x 400 and f at 400 points.

One hidden layer of 16 neurons, so that the draws are cheap; 4 chains of 25000 draws, the kernel of all 400 points and f
as 50 block means a chain, into a directory. Kept draw by draw they would take 128 GB. Resident memory is read by a
thread ten times a second. Run as `python -m benchmarks.memory`; `--draws 1000` is a short version.
"""

import argparse
import os
import tempfile
import threading
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

from benchmarks import common  # sets the environment: before JAX

import jax  # isort: skip
import numpy as np
from numpyro.infer import HMC

import fieldprob as fp
from fieldprob.infer import run as loop
from fieldprob.infer.stream import streamed_moments


def resident() -> float:
    """MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=25_000, help="per chain")
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--points", type=int, default=400)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--means", type=int, default=50, help="block means a chain")
    options = parser.parse_args(arguments)
    seen: list[tuple[float, float]] = []
    marks: list[float] = []
    stop = threading.Event()

    def watch():
        while not stop.wait(0.1):
            seen.append((time.perf_counter(), resident()))

    keep = loop.Run._keep

    def marked(self, *rest):
        keep(self, *rest)
        marks.append(time.perf_counter())

    loop.Run._keep = marked
    threading.Thread(target=watch, daemon=True).start()
    with jax.enable_x64(True), tempfile.TemporaryDirectory() as directory:
        task = fp.tasks.single_index_teacher(options.points, 20, "tanh", noise_variance=0.3, seed=0)
        kernel = partial(HMC, num_steps=2, trajectory_length=None, adapt_mass_matrix=False)
        start = time.perf_counter()
        tree = fp.sample(
            fp.Mlp(width=options.width),
            task,
            draws=options.draws,
            chains=options.chains,
            warmup=min(200, options.draws),
            kernel=kernel,
            kernel_points=np.arange(options.points),
            stream=("f", "kernel_0", "kernel_1", "f_conditional_variance"),
            draws_per_block=max(1, options.draws // options.means),
            directory=directory,
            progress=False,
        )
        sampled = time.perf_counter()
        moments = streamed_moments(tree, "f")
        stop.set()
        tree.close()
        blocks = len(marks)
        memory = np.array(seen)
        print(f"# {options}")
        print(f"# load {common.load()}; {sampled - start:.0f} s, {blocks} blocks; ESS {float(moments.ess.min()):.0f}")
        edges = np.quantile(marks, np.linspace(0.1, 1, 10))
        for low, high in pairwise(edges):
            part = memory[(memory[:, 0] >= low) & (memory[:, 0] < high), 1]
            if len(part):
                print(f"{low - start:7.0f} s: {part.min():7.0f} to {part.max():7.0f} MiB")
        after = memory[memory[:, 0] >= marks[-1], 1]
        print(f"merging and moments: at most {after.max():.0f} MiB")


if __name__ == "__main__":
    main()
