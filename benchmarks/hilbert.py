"""Settings of `HilbertHMC` on the posteriors of `benchmarks.posteriors`: trajectory length, target acceptance, jitter.

All settings run through one compiled function (four chains batched, as `fp.sample` runs them), interleaved, each with
its own warm-up, from draws of a common first run. Scores: the geometric mean of the three measures of
`benchmarks.posteriors` per second of CPU time, as a percentage of that of the default. `python -m benchmarks.hilbert`
appends to hilbert.csv; `--posteriors` prints the table.
"""

import argparse
import itertools
import math
import time

from benchmarks import common  # sets the environment: before JAX

import jax  # isort: skip
import jax.numpy as jnp
import numpy as np

from benchmarks import posteriors
from benchmarks.samplers import with_settings
from fieldprob.infer import HilbertHMC

DEFAULT = (1.1, 0.7, 0.2)
SETTINGS = (
    *itertools.product((0.8, 1.1, 1.4, math.pi / 2), (0.6, 0.7, 0.8), (0.2,)),
    (1.1, 0.7, 0.0), (1.1, 0.7, 0.4), (math.pi / 2, 0.7, 0.4),
)  # fmt: skip
RECORD = ("f_test", "f_test_conditional_variance")


@jax.enable_x64(True)
def run_posterior(name: str, seed: int, options) -> list[dict]:
    posterior = posteriors.POSTERIORS[name]
    task = posterior.task(seed)
    kernel = HilbertHMC(posteriors.collapsed(posterior.net(), task))
    warmup = -(-options.warmup // options.block) * options.block
    state = kernel.init(jax.random.split(jax.random.key(seed), posteriors.CHAINS), warmup, None, (task,), {})
    post = jax.vmap(kernel.postprocess_fn((task,), {}))

    def advance(state, values):
        length, target, jitter = values
        setting = with_settings(kernel, trajectory_length=length, target_accept_prob=target, jitter=jitter)

        def step(state, _):
            state = setting.sample(state, (task,), {})
            sites = post(state.z)
            return state, ({k: sites[k] for k in RECORD}, (state.num_steps, state.accept_prob))

        return jax.lax.scan(step, state, None, length=options.block)

    compiled = jax.jit(advance).lower(state, jnp.asarray(DEFAULT)).compile()

    def block(state, setting):
        cpu = time.process_time()
        state, out = jax.block_until_ready(compiled(state, jnp.asarray(setting)))
        return state, jax.tree.map(np.asarray, out), time.process_time() - cpu

    first = state
    for _ in range(warmup // options.block):
        first, *_ = block(first, DEFAULT)
    # Everything adapts afresh from positions of this run.
    begin = state._replace(z=first.z, z_grad=first.z_grad, potential_energy=first.potential_energy)
    states = dict.fromkeys(SETTINGS, begin)
    for _ in range(warmup // options.block):
        states = {s: block(x, s)[0] for s, x in states.items()}
    seconds, outs = dict.fromkeys(SETTINGS, 0.0), {s: [] for s in SETTINGS}
    while min(seconds.values()) < options.seconds:
        for s in SETTINGS:
            if seconds[s] < options.seconds:
                states[s], out, spent = block(states[s], s)
                seconds[s] += spent
                outs[s].append(out)

    rows = []
    for s in SETTINGS:
        sites, (steps, accept) = jax.tree.map(lambda *x: np.swapaxes(np.concatenate(x), 0, 1), *outs[s])
        e = posteriors.estimate(sites, seed)
        row = dict(zip(("trajectory_length", "target_accept_prob", "jitter"), s, strict=True))
        row |= {f"{k}_median_per_s": float(np.median(e.information[k])) / seconds[s] for k in posteriors.MEASURES}
        row |= {
            "score_per_s": posteriors.score(e, seconds[s]),
            "score_per_1000_gradients": 1e3 * posteriors.score(e, float(steps.sum())),
            "smallest_ess": e.smallest_ess,
            "rhat": e.rhat,
            "gradients_per_draw": float(steps.mean()),
            "accept_prob": float(accept.mean()),
            "ms_per_draw": 1e3 * seconds[s] / steps.size,
            "cpu_s": seconds[s],
        }
        row = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()}
        rows.append({"posterior": name, "seed": seed} | row | {"load": common.load()})
    return rows


def report(path) -> None:
    rows = common.rows(path)
    cells = list(dict.fromkeys((r["posterior"], r["seed"]) for r in rows))
    keys = ("trajectory_length", "target_accept_prob", "jitter")
    table = {(r["posterior"], r["seed"], *(r[k] for k in keys)): r for r in rows}
    default = tuple(f"{x:.4g}" for x in DEFAULT)
    print("score per second (per gradient) in % of the default's; gradients a draw\n")
    print("| length | acceptance | jitter | " + " | ".join(f"{n}, seed {s}" for n, s in cells) + " | mean |")
    print("|---" * (4 + len(cells)) + "|")
    for setting in dict.fromkeys(tuple(r[k] for k in keys) for r in rows):
        parts, logs = [], []
        for cell in cells:
            mine, base = table[(*cell, *setting)], table[(*cell, *default)]
            per = [float(mine[k]) / float(base[k]) for k in ("score_per_s", "score_per_1000_gradients")]
            logs.append(np.log(per))
            parts.append(f"{100 * per[0]:.0f} ({100 * per[1]:.0f}); {float(mine['gradients_per_draw']):.1f}")
        mean = 100 * np.exp(np.mean(logs, axis=0))
        print(f"| {' | '.join(setting)} | {' | '.join(parts)} | {mean[0]:.0f} ({mean[1]:.0f}) |")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posteriors", nargs="*", default=("wide", "sharp", "mean-field"))
    parser.add_argument("--seeds", type=int, nargs="+", default=(0,))
    parser.add_argument("--seconds", type=float, default=3.0, help="CPU time of sampling for each setting")
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--block", type=int, default=20)
    parser.add_argument("--out", default=common.HERE / "hilbert.csv", type=common.Path)
    parser.add_argument("--cpu", type=int, help="the core to stay on; the last unless given")
    options = parser.parse_args(arguments)
    common.pin(options.cpu)
    done = {(r["posterior"], int(r["seed"])) for r in common.rows(options.out)}
    for seed in options.seeds:
        for name in options.posteriors:
            if (name, seed) not in done:
                for row in run_posterior(name, seed, options):
                    common.append(options.out, row)
    if common.rows(options.out):
        report(options.out)


if __name__ == "__main__":
    main()
