"""Our kernels against bare BlackJAX: CPU time of a transition in a compiled loop, same algorithm, settings and target.

Ours is `kernel.sample` on a potential, with all that the state carries (mean acceptance, adaptation that has ended,
counters); bare is BlackJAX's kernel on minus the same potential, its key split once a transition. Both in float64, one
chain, no draw collected. `num_steps`: BlackJAX transitions between two draws, in an inner loop for both. Targets: a
correlated Gaussian of 20 dimensions, the collapsed posterior of `benchmarks.posteriors` at width 128 and noise 0.1.
`python -m benchmarks.overhead` writes overhead.csv and prints the table.
"""

import argparse
from functools import partial
from typing import Any

from benchmarks import common  # sets the environment: before JAX

import jax  # isort: skip
import jax.numpy as jnp
import numpy as np
from blackjax.mcmc import adjusted_mclmc_dynamic, ghmc, mala, mclmc

from benchmarks import posteriors
from fieldprob.infer import GHMC, MALA, MCLMC, AdjustedMCLMC, HilbertHMC

MEAN_STEPS = 5  # of a trajectory of AdjustedMCLMC


def gaussian():
    """(potential, position, step of a leapfrog)"""
    root = np.random.default_rng(0).standard_normal((20, 20)) / np.sqrt(20) + np.eye(20)
    precision = jnp.asarray(np.linalg.inv(root @ root.T))
    return (lambda z: 0.5 * z @ precision @ z), jnp.zeros(20), 0.1


def network():
    posterior = posteriors.POSTERIORS["target-128"]
    task = posterior.task(0)
    kernel = HilbertHMC(posteriors.collapsed(posterior.net(), task))
    state = kernel.init(jax.random.key(0), 0, None, (task,), {})
    return kernel.get_potential_fn((task,), {}), state.z, 0.03


def pairs(potential, z, step: float) -> dict:
    """{(kernel, num_steps): (ours, state and transition of the bare one)}"""

    def log_density(z):
        return -potential(z)

    size = sum(x.size for x in jax.tree.leaves(z))
    radius = float(np.sqrt(size))
    unit: Any = jnp.ones(size)
    one = jax.tree.map(jnp.ones_like, z)
    alpha = -float(np.expm1(-2 * step))
    target = {"potential_fn": potential}
    key = jax.random.key(1)

    bare_mala = partial(mala.build_kernel(), logdensity_fn=log_density, step_size=0.5 * step**2)
    bare_ghmc = partial(
        ghmc.build_kernel(), logdensity_fn=log_density, step_size=step, momentum_inverse_scale=one, alpha=alpha,
        delta=0.5 * alpha,
    )  # fmt: skip
    bare_mclmc = partial(
        mclmc.build_kernel(), logdensity_fn=log_density, inverse_mass_matrix=unit, L=radius,
        step_size=step * radius,
    )  # fmt: skip
    dynamic = adjusted_mclmc_dynamic.build_kernel(
        integration_steps_fn=adjusted_mclmc_dynamic.trajectory_length, next_random_arg_fn=lambda i: i + 1
    )
    bare_adjusted = partial(
        dynamic, logdensity_fn=log_density, step_size=step * radius, inverse_mass_matrix=unit,
        integration_steps_params=(float(MEAN_STEPS),),
    )  # fmt: skip
    fixed = {"step_size": step * radius, "adapt": False}
    result = {}
    for n in (1, 10):
        result["MALA", n] = (
            MALA(**target, step_size=0.5 * step**2, num_steps=n), mala.init(z, log_density), bare_mala,
        )  # fmt: skip
        result["GHMC", n] = (
            GHMC(**target, step_size=step, num_steps=n), ghmc.init(z, log_density, key), bare_ghmc,
        )  # fmt: skip
        result["MCLMC", n] = (
            MCLMC(**target, **fixed, L=radius, num_steps=n), mclmc.init(z, log_density, key), bare_mclmc,
        )  # fmt: skip
    result["AdjustedMCLMC", 1] = (
        AdjustedMCLMC(**target, **fixed, L=MEAN_STEPS * step * radius),
        adjusted_mclmc_dynamic.init(z, log_density, jnp.asarray(1)),
        bare_adjusted,
    )
    return result


def loops(kernel, state, transition, z, num_steps) -> dict:
    """{"ours", "bare"}: functions of a number of draws."""
    ours = kernel.init(jax.random.key(0), 0, z, (), {})

    @jax.jit
    def run_ours(n, state):
        return jax.lax.fori_loop(0, n, lambda _, s: kernel.sample(s, (), {}), state)

    @jax.jit
    def run_bare(n, carry):
        def draw(_, carry):
            state, key = carry
            key, sub = jax.random.split(key)
            if num_steps == 1:
                return transition(sub, state)[0], key
            keys = jax.random.split(sub, num_steps)
            return jax.lax.scan(lambda s, k: (transition(k, s)[0], None), state, keys)[0], key

        return jax.lax.fori_loop(0, n, draw, carry)

    bare = (state, jax.random.key(0))
    return {
        "ours": lambda n: jax.block_until_ready(run_ours(n, ours)),
        "bare": lambda n: jax.block_until_ready(run_bare(n, bare)),
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.1, help="CPU time of one timing")
    parser.add_argument("--out", default=common.HERE / "overhead.csv", type=common.Path)
    parser.add_argument("--cpu", type=int, help="the core to stay on; the last unless given")
    options = parser.parse_args(arguments)
    common.pin(options.cpu)
    options.out.unlink(missing_ok=True)
    print("| target | kernel | num_steps | ours, µs | bare, µs | ours/bare | quartiles |\n" + "|---" * 7 + "|")
    with jax.enable_x64(True):
        for name, make in (("Gaussian, 20-d", gaussian), ("collapsed network", network)):
            potential, z, step = make()
            for (kernel, n), (ours, state, bare) in pairs(potential, z, step).items():
                times = common.per_step(loops(ours, state, bare, z, n), rounds=options.rounds, seconds=options.seconds)
                ratio = np.quantile(times["ours"] / times["bare"], (0.25, 0.5, 0.75))
                per = {k: f"{1e6 * np.median(v) / n:.3g}" for k, v in times.items()}
                row = {"target": name, "kernel": kernel, "num_steps": n}
                row |= {"ours_us": per["ours"], "bare_us": per["bare"], "ours/bare": f"{ratio[1]:.3f}"}
                row["quartiles"] = f"{ratio[0]:.3f}-{ratio[2]:.3f}"
                common.append(options.out, row | {"load": common.load()})
                print("| " + " | ".join(str(v) for v in row.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
