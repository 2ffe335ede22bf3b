"""What both benchmarks share: one core and one thread for every contestant, timers, and chains that can be advanced a
block at a time. Import this before anything that imports JAX."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import csv
import time
from pathlib import Path

import jax
import numpy as np

HERE = Path(__file__).resolve().parent


def pin(cpu: int | None = None) -> int:
    """Keep every thread of this process on one core, so that its CPU time is what one core needs."""
    allowed = os.sched_getaffinity(0)
    cpu = max(allowed) if cpu is None else cpu
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), {cpu})
    return cpu


def load() -> str:
    """The load averages: with more runnable processes than cores, only ratios of interleaved timings mean anything."""
    return " ".join(Path("/proc/loadavg").read_text().split()[:3])


def per_step(loops: dict, *, rounds: int, seconds: float) -> dict[str, np.ndarray]:
    """CPU seconds per step of compiled loops (functions of the number of steps), {name: (rounds,)}.

    Each round visits the loops in turn, so that a ratio within a round saw the same conditions; loops are long enough
    (`seconds`) for the dispatch not to count.
    """
    steps = {}
    for name, loop in loops.items():
        loop(2)
        n = 2
        while (spent := _cpu(loop, n)) < 0.25 * seconds:
            n *= 2
        steps[name] = max(1, round(n * seconds / spent))
    times = {name: np.empty(rounds) for name in loops}
    for index in range(rounds):
        for name, loop in loops.items():
            times[name][index] = _cpu(loop, steps[name]) / steps[name]
    return times


def _cpu(loop, n: int) -> float:
    start = time.process_time()
    loop(n)
    return time.process_time() - start


class Chains:
    """Chains of one NumPyro kernel, advanced a block at a time; keeps the deterministic sites named in `record`.

    `like` is the state of chains of the same model in another precision, continued instead of starting afresh.
    Every deterministic site of the model is computed at every draw, as `MCMC.run` does. The clock is the CPU time of
    this process, which on a shared core counts only what we use of it.
    """

    def __init__(
        self, sampler, arguments, *, chains, warmup, block, seed, record, vectorized=True, x64=True, like=None
    ):
        self.x64, self.record, self.block = x64, record, block
        self.seconds = self.wall = self.gradients = 0.0
        self.draws, self.steps = [], []
        with jax.enable_x64(x64):
            states = [
                sampler.init(k, warmup, None, arguments, {}) for k in jax.random.split(jax.random.key(seed), chains)
            ]
            self.state = jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *states)
            if like is not None:
                self.state = jax.tree.map(_cast, like, self.state)
            post = sampler.postprocess_fn(arguments, {})

            def advance(state):
                def step(state, _):
                    state = sampler.sample(state, arguments, {})
                    sites = post(state.z)
                    kept = {k: v for k, v in sites.items() if k not in state.z}
                    return state, (kept, state.num_steps, state.adapt_state.step_size)

                return jax.lax.scan(step, state, None, length=block)

            batched = jax.vmap(advance) if vectorized else (lambda s: jax.lax.map(advance, s))
            self.advance = jax.jit(batched).lower(self.state).compile()
            for _ in range(-(-warmup // block)):
                self.state, _ = jax.block_until_ready(self.advance(self.state))

    def step(self) -> None:
        """One block of draws."""
        with jax.enable_x64(self.x64):
            cpu, wall = time.process_time(), time.perf_counter()
            self.state, (sites, steps, size) = jax.block_until_ready(self.advance(self.state))
            self.seconds += time.process_time() - cpu
            self.wall += time.perf_counter() - wall
        self.draws.append({k: np.asarray(sites[k], float) for k in self.record if k in sites})
        self.steps.append(np.asarray(steps))
        self.step_size = float(np.median(size))

    def count(self) -> int:
        return self.block * len(self.draws)

    def sites(self) -> dict[str, np.ndarray]:
        """Recorded sites, each (chain, draw, ...)."""
        return {k: np.concatenate([d[k] for d in self.draws], axis=1) for k in self.draws[0]}

    def seconds_per_step(self) -> float:
        """CPU seconds per leapfrog step of one chain, whatever else a draw costs included."""
        return self.seconds / float(np.sum(np.concatenate(self.steps, axis=1)))

    def mean_steps(self) -> float:
        return float(np.mean(np.concatenate(self.steps, axis=1)))


def _cast(value, like):
    if jax.numpy.issubdtype(like.dtype, jax.dtypes.prng_key):
        return value
    return jax.numpy.asarray(np.asarray(value), like.dtype)


def append(path: Path, row: dict) -> None:
    """Append one row to a CSV, with a header if the file is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def rows(path: Path) -> list[dict]:
    """The rows of a CSV, none if it does not exist."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
