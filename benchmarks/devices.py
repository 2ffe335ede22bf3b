"""Throughput of chains split over forced host devices, relative to one device.

Each number of devices is a process of its own (XLA fixes it at the start), one after the other, and repeated; every
process samples the same posterior once to compile and prints the wall-clock time of the blocks of draws. On one machine
with few cores one device uses several threads already: the ratio says what splitting gains beyond that. Run as
`python -m benchmarks.devices`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def measure(options) -> None:
    """Prints seconds per draw of all chains."""
    import jax
    from numpyro.infer import NUTS

    import fieldprob as fp
    from fieldprob.infer import run as loop

    task = fp.tasks.single_index_teacher(options.points, 20, "tanh", test=20, noise_variance=0.09, seed=0)
    kernel = partial(NUTS, adapt_mass_matrix=False, max_tree_depth=3)
    marks = []
    keep = loop.Run._keep

    def marked(self, block, carry):
        keep(self, block, carry)
        marks.append((time.perf_counter(), block.phase))

    loop.Run._keep = marked
    net = fp.Mlp(width=options.width)
    tree = fp.sample(net, task, draws=options.draws, chains=options.chains, warmup=100, kernel=kernel, progress=False)
    seconds = marks[-1][0] - next(t for t, phase in reversed(marks) if phase == "warmup")
    steps = int(tree["sample_stats"]["n_steps"].sum())
    layout = json.loads(tree.attrs["settings"])["layout"]
    print(json.dumps({"devices": layout["devices"], "steps_per_second": steps / seconds, "jax": jax.__version__}))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, nargs="+", default=(1, 2, 4))
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        measure(options)
        return
    words = [f"--{name}={getattr(options, name)}" for name in ("chains", "width", "points", "draws")]
    rates: dict[int, list[float]] = {n: [] for n in options.devices}
    for _ in range(options.rounds):
        for devices in options.devices:
            environment = {
                **os.environ,
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
                "JAX_PLATFORMS": "cpu",
                "JAX_ENABLE_X64": "1",
                "OPENBLAS_NUM_THREADS": "1",
            }
            command = [sys.executable, "-m", "benchmarks.devices", "--worker", *words]
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            if found["devices"] != devices:
                raise ValueError(f"{devices} devices were asked for, {found['devices']} were used: choose other chains")
            rates[devices].append(found["steps_per_second"])
    base = max(rates[options.devices[0]])
    load = " ".join(Path("/proc/loadavg").read_text().split()[:3])
    print(
        f"# {options.chains} chains, width {options.width}, {options.points} points; load {load}; "
        f"best of {options.rounds}"
    )
    for devices, found in rates.items():
        print(f"{devices} devices: {max(found):9.0f} leapfrog steps/s, {max(found) / base:.2f} of {options.devices[0]}")


if __name__ == "__main__":
    main()
