"""The driver of `fp.sample` against a bare `lax.scan` of the same kernel that collects the same statistics.

Contestants, all of the same chains from the same warmed-up state, compilation excluded:

    scan        jax.lax.scan of `kernel.sample` and of the statistics, a compiled call a block, draws brought to memory
    driver      the block function of the driver, and the same to memory
    directory   the same, and each block written into a checked, synced file with the state of the sampler

CPU time of the process on one core; contestants are interleaved, the ratio is the median over rounds of the ratio
within a round. Run as `python -m benchmarks.driver`.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks import common  # sets the environment: before JAX

import jax  # isort: skip
import numpy as np

import fieldprob as fp
from fieldprob.infer import blocks, driver
from fieldprob.infer import run as loop
from fieldprob.infer.storage import Block, BlockStore, pack_state
from fieldprob.networks.regression import regression


def contestants(width: int, points: int, chains: int, block: int, directory: str) -> dict:
    """{name: function that makes one block of draws}."""
    task = fp.tasks.single_index_teacher(points, 20, "tanh", test=points // 2, noise_variance=0.09, seed=0)
    net = fp.Mlp(width=width)
    sampler = driver.default_kernel("collapsed")(partial(regression, net))
    state = sampler.init(jax.random.split(jax.random.key(0), chains), 200, None, (task,), {})
    hidden = tuple(state.z)
    recorder = blocks.Recorder(sampler, (task,), hidden)
    shapes = recorder.shapes(state)
    carry = blocks.initial_carry(state, shapes)
    advance = blocks.compile_block(recorder, carry, block, (jax.devices()[0],))
    carry, _ = advance(carry, 1, 200, False, 0)

    def step(state, _):
        state = sampler.sample(state, (task,), {})
        return state, (recorder.sites(state)[0], recorder.fields(state))

    scan = jax.jit(lambda state: jax.lax.scan(step, state, None, length=block)).lower(carry.state).compile()
    now = {"scan": carry.state, "driver": carry, "directory": carry}
    store = BlockStore(directory, {})
    store.start({"format": 1, "identity": {}, "block": block, "draws_per_block": 1})

    def by_scan():
        now["scan"], output = jax.block_until_ready(scan(now["scan"]))
        return jax.tree.map(lambda x: np.ascontiguousarray(np.asarray(x).swapaxes(0, 1)), output)

    def by_driver(name="driver"):
        now[name], output = jax.block_until_ready(advance(now[name], block, 1, True, 0))
        return loop._host(output, block, 0)

    def by_directory():
        groups = by_driver("directory")
        store.append(Block("draws", 0, block, groups | {"state": pack_state(now["directory"])}))

    return {"scan": by_scan, "driver": by_driver, "directory": by_directory}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--block", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args(arguments)
    common.pin()
    with jax.enable_x64(True), tempfile.TemporaryDirectory() as directory:
        found = contestants(options.width, options.points, options.chains, options.block, str(Path(directory) / "run"))
        times: dict[str, list] = {name: [] for name in found}
        for _ in range(options.rounds):
            for name, function in found.items():
                start = time.process_time()
                function()
                times[name].append(time.process_time() - start)
    milliseconds = {name: 1e3 * float(np.median(t)) / options.block for name, t in times.items()}
    print(f"# {options}; load {common.load()}; ms a draw of all chains: {milliseconds}")
    for name in ("driver", "directory"):
        low, middle, high = np.quantile(np.array(times[name]) / np.array(times["scan"]), (0.25, 0.5, 0.75))
        print(f"{name} / scan: {middle:.3f} [{low:.3f}-{high:.3f}]")


if __name__ == "__main__":
    main()
