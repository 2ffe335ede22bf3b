"""Information about the posterior of `f_test` per second of CPU time and per gradient, for every sampler.

Posteriors and measures (f, m, v) are those of `benchmarks.posteriors`. Contestants, four chains each, one core and one
thread, interleaved, after compilation and warm-up; every one computes `f_test` (on the collapsed face with its
conditional variance) at every draw and nothing else:

    nuts plain   NUTS with NumPyro's defaults on the textbook weight-space model (every weight and the readout a
                 standard normal, scaled in the forward pass) in float32; chains one after the other, as NumPyro runs
                 them on one device, so that no chain waits for another's deeper tree
    hmc plain    HMC of fixed length on the same model in float32, likewise; no mass matrix, step adapted to an
                 acceptance of 0.8, length the best of `LENGTHS` (geometric mean of the three measures per gradient)
    all others   on the collapsed face, in the precision that `fp.sample` takes; chains batched. They start from draws
                 of the reference run, plain ones from where NumPyro starts them.

Unadjusted samplers are biased, the more the larger their step. Theirs is the largest of a grid at which the bias is
below the Monte Carlo error (where none passes, the one with the smallest z): in a run of its own the root-mean-square
z, over test points, of the posterior means against the reference, and that of the posterior variances, are at most
sqrt 2 (without bias z^2 is 1 on average, with a bias as large as the Monte Carlo error 2). The reference is a long run
of `HilbertHMC`. The same z are in the table for every sampler.

A posterior and seed that the CSV holds is not run again. `python -m benchmarks.samplers` runs all of them;
`--posteriors wide --seeds 0` one; `--posteriors` prints the table of what there is.
"""

import argparse
import math
import time
from functools import partial

from benchmarks import common  # sets the environment: before JAX

import jax  # isort: skip
import jax.numpy as jnp
import numpy as np
from numpyro.infer import HMC, NUTS, init_to_sample

from benchmarks.posteriors import (
    CHAINS,
    MEASURES,
    POSTERIORS,
    Estimate,
    collapsed,
    collapsed_chains,
    estimate,
    plain_chains,
    rms_z,
    score,
)
from fieldprob.infer import (
    GHMC,
    MALA,
    MCLMC,
    ULA,
    AdjustedMCLMC,
    HilbertHMC,
    LeimkuhlerMatthews,
    PreconditionedCrankNicolson,
    ReplicaExchange,
    Underdamped,
)

TRUSTED_ESS = 50
LENGTHS = (0.4, 0.7, 1.1, 1.6)

# --- tuning -----------------------------------------------------------------------------------------------------------


def with_settings(kernel, **settings):
    """A copy of an initialised kernel of ours with other, possibly traced, settings: its constructor would check them,
    and an ordinary copy would need `init` again."""
    new = object.__new__(type(kernel))
    new.__dict__.update(kernel.__dict__ | {f"_{name}": value for name, value in settings.items()})
    return new


class StepFromState:
    """An unadjusted kernel that takes the step size in its state, so that one compiled function runs all of a grid."""

    def __init__(self, kernel):
        self.kernel = kernel
        self.init, self.postprocess_fn = kernel.init, kernel.postprocess_fn

    def sample(self, state, arguments, keywords):
        return with_settings(self.kernel, step_size=state.adapt_state.step_size).sample(state, arguments, keywords)


def tune_unadjusted(kernel, steps, task, start, reference: Estimate, *, seed, draws) -> tuple[float, str]:
    """The largest step whose bias is below the Monte Carlo error (see the module), and what the grid gave."""
    sizes = np.repeat(steps, CHAINS)

    def edit(state):
        return state._replace(adapt_state=state.adapt_state._replace(step_size=jnp.asarray(sizes)))

    start = jax.tree.map(lambda x: jnp.tile(x[:CHAINS], (len(steps), *[1] * (x.ndim - 1))), start)
    run = collapsed_chains(StepFromState(kernel), task, chains=len(sizes), seed=seed, warmup=60, start=start, edit=edit)
    while run.count() < draws:
        run.step()
    passed, tried, zs = None, [], []
    for n, step in enumerate(steps):
        sites = {k: v[n * CHAINS : (n + 1) * CHAINS] for k, v in run.sites().items()}
        finite = all(np.all(np.isfinite(v)) for v in sites.values())
        z = rms_z(estimate(sites, seed), reference) if finite else (math.inf, math.inf)
        tried.append(f"{step:.3g}: {z[0]:.2f} {z[1]:.2f}")
        zs.append(max(z))
        if max(z) <= math.sqrt(2):
            passed = step
    text = "; ".join(tried)
    if passed is None:
        return float(steps[int(np.argmin(zs))]), text + " (none passes: the smallest z)"
    return float(passed), text


def tune_plain_hmc(factory, posterior, task, *, seed, warmup, draws) -> tuple[float, str]:
    """The best of `LENGTHS` for fixed-length HMC on the textbook model; two chains each."""
    lengths = np.repeat(LENGTHS, 2)

    def edit(state):
        return state._replace(trajectory_length=jnp.asarray(lengths, state.trajectory_length.dtype))

    run = plain_chains(factory, posterior, task, chains=len(lengths), seed=seed, warmup=warmup, edit=edit)
    while run.count() < draws:
        run.step()
    scores = []
    for n in range(len(LENGTHS)):
        own = slice(2 * n, 2 * n + 2)
        sites = {k: v[own] for k, v in run.sites().items()}
        scores.append(score(estimate(sites, seed), float(run.stat("num_steps")[own].sum())))
    text = "; ".join(f"{length}: {1e3 * s:.3g}" for length, s in zip(LENGTHS, scores, strict=True))
    return LENGTHS[int(np.argmax(scores))], text


# --- contestants ------------------------------------------------------------------------------------------------------

_collapsed_nuts = partial(NUTS, adapt_mass_matrix=False, init_strategy=init_to_sample)

# name -> model -> kernel, on the collapsed face; those that need no tuning of ours
ADJUSTED = {
    "HilbertHMC": HilbertHMC,
    "NUTS depth 3": partial(_collapsed_nuts, max_tree_depth=3),
    "NUTS": partial(NUTS, init_strategy=init_to_sample),
    "HMC 1.2": partial(HMC, trajectory_length=1.2, adapt_mass_matrix=False, init_strategy=init_to_sample),
    "MALA": partial(MALA, num_steps=10),
    "GHMC": GHMC,
    "AdjustedMCLMC": partial(AdjustedMCLMC, diagonal_preconditioning=False),
    "pCN": partial(PreconditionedCrankNicolson, num_steps=10),
    "ReplicaExchange": lambda model: ReplicaExchange(HilbertHMC(model), (1.0, 1.5, 2.5)),
}
# those whose step sets the bias: (step -> model -> kernel, grid in units of a leapfrog step, power of that step)
UNADJUSTED = {
    "ULA": (lambda step: partial(ULA, step_size=step, num_steps=10), (0.1, 0.2, 0.4, 0.7), 2),
    "LeimkuhlerMatthews": (
        lambda step: partial(LeimkuhlerMatthews, step_size=step, num_steps=10), (0.4, 0.7, 1.0, 1.4), 2,
    ),
    "Underdamped": (lambda step: partial(Underdamped, step_size=step), (1.0, 1.4, 1.8, 2.3), 1),
    "MCLMC": (
        lambda step: partial(MCLMC, step_size=step, adapt=False, diagonal_preconditioning=False),
        (1.4, 2.0, 2.8, 4.0), 1,
    ),
}  # fmt: skip
BRIEF = ("HilbertHMC", "nuts plain", "hmc plain")


@jax.enable_x64(True)
def run_posterior(name: str, seed: int, options) -> list[dict]:
    posterior = POSTERIORS[name]
    task, net = posterior.task(seed), posterior.net()
    model = collapsed(net, task)
    names = options.contestants or (BRIEF if name.startswith("target") else (*ADJUSTED, *UNADJUSTED, *BRIEF[1:]))
    names = [n for n in names if n not in options.without]
    long = collapsed_chains(HilbertHMC(model), task, seed=1000 + seed, warmup=options.warmup)
    while long.count() < options.reference_draws:
        long.step()
    reference, start = estimate(long.sites(), seed), long.state.z
    _say(f"{name} {seed}: reference, ESS {reference.smallest_ess:.0f}, R-hat {reference.rhat:.3f}")

    runs, settings, key = {}, {}, 10 * seed
    for contestant in names:
        key += 1000
        common_options = {"seed": key, "warmup": options.warmup}
        if contestant in ADJUSTED:
            kernel = ADJUSTED[contestant](model)
            runs[contestant] = collapsed_chains(kernel, task, start=start, **common_options)
        elif contestant in UNADJUSTED:
            make, grid, power = UNADJUSTED[contestant]
            unit = _leapfrog_step(runs, model, task, start, common_options)
            scale = 0.5 * unit**2 if power == 2 else unit
            if contestant == "MCLMC":  # its speed is 1, where that of the others is about the root of the dimension
                scale = unit * math.sqrt(sum(x[0].size for x in jax.tree.leaves(start)))
            steps = [c * scale for c in grid]
            kernel = make(steps[0])(model)
            step, text = tune_unadjusted(kernel, steps, task, start, reference, seed=key, draws=options.tuning_draws)
            settings[contestant] = text
            runs[contestant] = collapsed_chains(make(step)(model), task, start=start, seed=key + 1, warmup=60)
        elif contestant == "nuts plain":
            runs[contestant] = plain_chains(NUTS, posterior, task, **common_options)
        elif contestant == "hmc plain":
            hmc = partial(HMC, adapt_mass_matrix=False)
            length, text = tune_plain_hmc(
                partial(hmc, trajectory_length=1.0), posterior, task, draws=options.tuning_draws, **common_options
            )
            settings[contestant] = f"length {length} ({text})"
            factory = partial(hmc, trajectory_length=length)
            runs[contestant] = plain_chains(factory, posterior, task, **common_options)
        else:
            raise SystemExit(f"no contestant {contestant!r}")
        _say(f"  {contestant} {settings.get(contestant, '')}")

    while any(r.seconds < options.seconds for r in runs.values()):
        for r in runs.values():
            if r.seconds < options.seconds:
                r.step(min(0.5, options.seconds / 4))
    estimates = {c: estimate(r.sites(), seed) for c, r in runs.items()}
    shared = {"posterior": name, "width": posterior.width, "noise_sd": posterior.noise_sd, "seed": seed}
    return [
        shared | _row(c, r, estimates, reference) | {"setting": settings.get(c, "")} | {"load": common.load()}
        for c, r in runs.items()
    ]


def _say(text: str) -> None:
    print(f"{text} ({time.process_time():.0f} s; load {common.load()})", flush=True)


def _leapfrog_step(runs, model, task, start, options) -> float:
    """The step size to which HMC adapts on this posterior."""
    hmc = runs.get("HMC 1.2") or collapsed_chains(ADJUSTED["HMC 1.2"](model), task, start=start, **options)
    return float(np.median(hmc.state.adapt_state.step_size))


def _row(contestant, run, estimates, reference) -> dict:
    e = estimates[contestant]
    gradients = float(run.stat("num_steps").sum())
    row = {"contestant": contestant, "draws_per_chain": run.count(), "gradients": gradients, "cpu_s": run.seconds}
    for measure in MEASURES:
        x = e.information[measure]
        row[f"{measure}_median_per_s"] = float(np.median(x)) / run.seconds
        row[f"{measure}_minimum_per_s"] = float(np.min(x)) / run.seconds
        row[f"{measure}_median_per_1000_gradients"] = 1e3 * float(np.median(x)) / gradients
    z_mean, z_variance = rms_z(e, reference)
    trusted = [o for c, o in estimates.items() if c != contestant and o.smallest_ess >= TRUSTED_ESS]
    pair = max((rms_z(e, o)[0] for o in trusted), default=math.nan)
    row |= {
        "smallest_ess": e.smallest_ess,
        "trusted": int(e.smallest_ess >= TRUSTED_ESS),
        "rhat": e.rhat,
        "rms_z": z_mean,
        "rms_z_variance": z_variance,
        "largest_rms_z_to_another": pair,
        "gradients_per_draw": float(run.stat("num_steps").mean()),
        "step_size": float(np.median(run.stat("step_size"))),
        "accept_prob": float(run.stat("accept_prob").mean()),
        "ms_per_gradient": 1e3 * run.seconds / gradients,
    }
    return {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()}


# --- the table --------------------------------------------------------------------------------------------------------


def report(path) -> None:
    """A markdown table for each posterior: ratios to both plain samplers, geometric mean over seeds."""
    rows = common.rows(path)
    for name in dict.fromkeys(r["posterior"] for r in rows):
        own = [r for r in rows if r["posterior"] == name]
        seeds = sorted({r["seed"] for r in own})
        cell = {(r["seed"], r["contestant"]): r for r in own}
        print(f"\n{name}: width {own[0]['width']}, noise {own[0]['noise_sd']}, seeds {', '.join(seeds)}\n")
        print(
            "| sampler | per second / nuts plain | per second / hmc plain | per gradient / nuts plain "
            "| per gradient / hmc plain | gradients a draw | R-hat | rms z: mean, variance |\n" + "|---" * 8 + "|"
        )
        for contestant in dict.fromkeys(r["contestant"] for r in own):
            mine = [cell[s, contestant] for s in seeds if (s, contestant) in cell]
            columns = []
            for unit in ("per_s", "per_1000_gradients"):
                for rival in ("nuts plain", "hmc plain"):
                    ratios = []
                    for measure in MEASURES:
                        key = f"{measure}_median_{unit}"
                        pairs = [(float(r[key]), cell.get((r["seed"], rival))) for r in mine]
                        logs = [math.log(x / float(other[key])) for x, other in pairs if other]
                        ratios.append(f"{math.exp(np.mean(logs)):.2g}" if logs else "")
                    columns.append(" / ".join(ratios))
            doubt = "" if all(int(r["trusted"]) for r in mine) else " ?"
            z = ", ".join(f"{max(float(r[k]) for r in mine):.2g}" for k in ("rms_z", "rms_z_variance"))
            draws = f"{np.mean([float(r['gradients_per_draw']) for r in mine]):.3g}"
            rhat = f"{max(float(r['rhat']) for r in mine):.3f}"
            print(f"| {contestant}{doubt} | {' | '.join(columns)} | {draws} | {rhat} | {z} |")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posteriors", nargs="*", default=tuple(POSTERIORS), choices=(*POSTERIORS, []))
    parser.add_argument("--seeds", type=int, nargs="+", default=(0,))
    parser.add_argument("--contestants", nargs="*", help="only these")
    parser.add_argument("--without", nargs="*", default=(), help="but not these")
    parser.add_argument("--seconds", type=float, default=5.0, help="CPU time of sampling per contestant")
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--reference-draws", type=int, default=1500, help="per chain, of the reference run")
    parser.add_argument("--tuning-draws", type=int, default=100, help="per chain, of each run of a grid")
    parser.add_argument("--out", default=common.HERE / "samplers.csv", type=common.Path)
    parser.add_argument("--cpu", type=int, help="the core to stay on; the last unless given")
    options = parser.parse_args(arguments)
    common.pin(options.cpu)
    done = {(r["posterior"], int(r["seed"])) for r in common.rows(options.out)}
    for seed in options.seeds:
        for name in options.posteriors:
            if (name, seed) in done:
                continue
            for row in run_posterior(name, seed, options):
                common.append(options.out, row)
                print(" ".join(f"{k}={v}" for k, v in row.items()), flush=True)
            jax.clear_caches()
    if common.rows(options.out):
        report(options.out)


if __name__ == "__main__":
    main()
