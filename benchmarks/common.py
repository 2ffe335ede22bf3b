"""What the benchmarks share: one core and one thread for every contestant, timers, and chains that can be advanced a
block at a time. Import this before anything that imports JAX."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import copy
import csv
import time
from pathlib import Path

import jax
import numpy as np
from numpyro.infer import HMC

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
    """Chains of one kernel, advanced a block at a time; only the deterministic sites named in `record` are computed.

    Args:
        sampler: a NumPyro kernel on a model.
        arguments: of the model.
        warmup: transitions before the first block, in which the kernel adapts; not counted.
        batched: advance all chains together, or one after the other: then none waits for another's longer trajectory.
        start: unconstrained positions (chains along the first axis), or where the kernel starts by itself.
        edit: a function of the first state (of all chains), for settings that are part of it.

    The clock is the CPU time of this process, which on a shared core counts only what we use of it; compilation and
    warm-up are not counted.
    """

    def __init__(
        self,
        sampler,
        arguments,
        *,
        chains,
        warmup,
        seed,
        record,
        batched=True,
        x64=True,
        start=None,
        edit=None,
        block=20,
    ):
        self.x64, self.block = x64, block
        self.seconds = 0.0
        self.draws, self.stats = [], []
        with jax.enable_x64(x64):
            keys = jax.random.split(jax.random.key(seed), chains)
            state = _init(sampler, keys, -(-warmup // block) * block, start, arguments)
            self.state = state if edit is None else edit(state)
            post = sampler.postprocess_fn(arguments, {})

            def advance(state):
                def step(state, _):
                    state = sampler.sample(state, arguments, {})
                    sites = post(state.z)
                    stats = {"num_steps": state.num_steps, "step_size": state.adapt_state.step_size}
                    stats["accept_prob"] = state.accept_prob
                    return state, ({k: sites[k] for k in record if k in sites}, stats)

                return jax.lax.scan(step, state, None, length=block)

            run = jax.vmap(advance) if batched else (lambda s: jax.lax.map(advance, s))
            self.advance = jax.jit(run).lower(self.state).compile()
            for _ in range(-(-warmup // block)):
                self.state, _ = jax.block_until_ready(self.advance(self.state))

    def step(self, seconds: float = 0.0) -> None:
        """Blocks of draws, at least one, until this much CPU time is spent."""
        spent = 0.0
        while not spent or spent < seconds:
            with jax.enable_x64(self.x64):
                cpu = time.process_time()
                self.state, (sites, stats) = jax.block_until_ready(self.advance(self.state))
                spent += time.process_time() - cpu
            self.draws.append({k: np.asarray(v, float) for k, v in sites.items()})
            self.stats.append({k: np.asarray(v, float) for k, v in stats.items()})
        self.seconds += spent

    def count(self) -> int:
        """Draws of one chain."""
        return self.block * len(self.draws)

    def sites(self) -> dict[str, np.ndarray]:
        """Recorded sites, each (chain, draw, ...)."""
        return {k: np.concatenate([d[k] for d in self.draws], axis=1) for k in self.draws[0]}

    def stat(self, name: str) -> np.ndarray:
        """num_steps, step_size or accept_prob, (chain, draw)."""
        return np.concatenate([s[name] for s in self.stats], axis=1)


def _init(sampler, keys, warmup, start, arguments):
    if isinstance(sampler, HMC):  # a batch of keys makes its `sample` a batched one: only that of a copy
        state = copy.copy(sampler).init(keys, warmup, start, arguments, {})
        sampler.init(keys[0], warmup, None, arguments, {})
        return state
    return sampler.init(keys, warmup, start, arguments, {})


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
