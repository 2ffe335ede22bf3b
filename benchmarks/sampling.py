"""Information about the posterior of `f_test` per second of CPU time: `fp.sample`'s default against plain NumPyro NUTS.

Contestants, four chains each, one core, after compilation and warmup:

    collapsed   the kernel, face and precision that `fp.sample` takes by default, chains batched, and every statistic
                that `fp.sample` records computed at every draw
    plain32     NUTS with NumPyro's defaults on the textbook weight-space model (every weight and the readout a standard
                normal, scaled in the forward pass) in float32; chains one after the other, as NumPyro runs them on one
                device, so that no chain waits for another's deeper tree; only `f_test` computed at every draw
    plain64     the same in float64: the chains of plain32 continued from their warmed-up state for a few seconds, for
                the cost of a leapfrog step; its information per step is taken to be that of plain32

Three measures, each an effective number of independent draws of f_test, over test points by median and minimum:

    f   effective sample size of draws of f (`collapsed`: conditional mean plus a draw of the conditional Gaussian)
    m   Var f / MCSE(posterior mean)^2, `collapsed` by Rao-Blackwell
    v   2 (Var f)^2 / MCSE(posterior variance)^2, `collapsed` by Rao-Blackwell

100 points, 20 inputs, erf network at standard scaling, single-index tanh teacher. A cell (width, noise standard
deviation) and seed that the CSV holds is not run again. For example
`python -m benchmarks.sampling --cells 128:0.3 --seeds 0`.
"""

import argparse
from functools import partial

from benchmarks import common  # sets the environment: before JAX

import jax  # isort: skip
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import NUTS

import fieldprob as fp
from fieldprob.infer import driver
from fieldprob.networks.regression import default_kernel_points, regression

POINTS, TEST_POINTS, INPUTS, CHAINS = 100, 50, 20, 4
CELLS = ("128:0.3", "128:0.1", "128:0.03", "512:0.3", "512:0.1", "512:0.03")
TRUSTED_ESS = 50
MEASURES = ("f", "m", "v")


def textbook(width: int, X, y, X_test, noise_sd: float):
    """The weight-space model of one hidden layer as a textbook writes it."""
    W = numpyro.sample("W", dist.Normal(0.0, 1.0).expand([width, X.shape[1]]).to_event(2))
    a = numpyro.sample("a", dist.Normal(0.0, 1.0).expand([width]).to_event(1))

    def f(X):
        return jax.scipy.special.erf(X @ W.T / np.sqrt(X.shape[1])) @ a / np.sqrt(width)

    numpyro.sample("y", dist.Normal(f(X), noise_sd).to_event(1), obs=y)
    numpyro.deterministic("f_test", f(X_test))


def collapsed_chains(width: int, task, seed: int, warmup: int, block: int):
    """What `fp.sample(fp.Mlp(width=width), task)` runs."""
    with jax.enable_x64(True):
        net = fp.Mlp(width=width)
        face = driver.choose_face(net, task)
        points = default_kernel_points(task)
        model = partial(regression, net, face=face, precision="auto", kernel_points=points)
        kernel = driver.default_kernel(face)(model)
    record = ("f_test", "f_test_conditional_variance")
    return common.Chains(
        kernel, (task,), chains=CHAINS, warmup=warmup, block=block, seed=seed, record=record, vectorized=True
    )


def plain_chains(width: int, task, noise_sd: float, seed: int, warmup: int, block: int, *, x64: bool, like=None):
    with jax.enable_x64(x64):
        data = [jnp.asarray(np.asarray(a), float) for a in (task.X, task.y[:, 0], task.X_test)]
        kernel = NUTS(partial(textbook, width))
    return common.Chains(
        kernel,
        (*data, noise_sd),
        chains=CHAINS,
        warmup=warmup,
        block=block,
        seed=seed,
        record=("f_test",),
        vectorized=False,
        x64=x64,
        like=like,
    )


def information(sites: dict, seed: int) -> tuple[dict, tuple]:
    """{measure: equivalent independent draws, (test point,)}, and the posterior mean with its standard error."""
    f = mean = sites["f_test"].reshape(*sites["f_test"].shape[:2], -1)
    conditional = np.zeros_like(mean)
    if "f_test_conditional_variance" in sites:
        conditional = sites["f_test_conditional_variance"]
        f = mean + np.sqrt(conditional) * np.random.default_rng(seed).standard_normal(mean.shape)
    centre = mean.mean((0, 1))
    variance = conditional.mean((0, 1)) + mean.var((0, 1))
    square = conditional + (mean - centre) ** 2
    mcse = {k: x.var((0, 1)) / effective_sample_size(x) for k, x in (("m", mean), ("v", square))}
    result = {"f": effective_sample_size(f), "m": variance / mcse["m"], "v": 2 * variance**2 / mcse["v"]}
    # The smallest effective size behind the three: below `TRUSTED_ESS`, none of them is worth quoting.
    least = min(np.median(effective_sample_size(x)) for x in (f, mean, square))
    return result, (centre, np.sqrt(mcse["m"]), float(least), float(np.max(split_gelman_rubin(f))))


def run_cell(width: int, noise_sd: float, seed: int, options) -> list[dict]:
    with jax.enable_x64(True):
        task = fp.tasks.single_index_teacher(
            POINTS,
            INPUTS,
            "tanh",
            test=TEST_POINTS,
            noise_variance=noise_sd**2,
            label_noise_variance=noise_sd**2,
            seed=seed,
        )
    chains = {
        "collapsed": collapsed_chains(width, task, seed, options.warmup, 50),
        "plain32": plain_chains(width, task, noise_sd, seed, options.warmup, 5, x64=False),
    }
    while any(c.seconds < options.seconds for c in chains.values()):
        for c in chains.values():
            if c.seconds < options.seconds:
                c.step()
    like = chains["plain32"].state
    double = plain_chains(width, task, noise_sd, seed, 0, 1, x64=True, like=like)
    while double.seconds < options.seconds / 4:
        double.step()

    rows, summary = [], {}
    for name, c in chains.items():
        measures, summary[name] = information(c.sites(), seed)
        *_, least, rhat = summary[name]
        rows.append(_row(width, noise_sd, seed, name, c, measures, c.seconds, least, rhat))
    slower = double.seconds_per_step() / chains["plain32"].seconds_per_step()
    row = rows[1] | {k: v / slower for k, v in rows[1].items() if k.endswith("_per_s")}
    rows.append(row | {"contestant": "plain64", "ms_per_step": 1e3 * double.seconds_per_step()})
    (a, da, *_), (b, db, *_) = summary.values()
    z = float(np.sqrt(np.mean((a - b) ** 2 / (da**2 + db**2))))
    return [{k: f"{v:.4g}" if isinstance(v, float) else v for k, v in (row | {"rms_z": z}).items()} for row in rows]


def _row(width, noise_sd, seed, name, c, measures, seconds, least, rhat) -> dict:
    row = {"width": width, "noise_sd": noise_sd, "seed": seed, "contestant": name, "draws_per_chain": c.count()}
    for measure in MEASURES:
        row[f"{measure}_median_per_s"] = float(np.median(measures[measure])) / seconds
        row[f"{measure}_minimum_per_s"] = float(np.min(measures[measure])) / seconds
    return row | {
        "smallest_ess": least,
        "trusted": int(least >= TRUSTED_ESS),
        "rhat": rhat,
        "steps_per_draw": c.mean_steps(),
        "step_size": c.step_size,
        "ms_per_step": 1e3 * c.seconds_per_step(),
        "cpu_s": seconds,
        "load": common.load(),
    }


def report(path) -> None:
    """Ratios of collapsed to plain, median and range over seeds, and where collapsed does not win."""
    rows = common.rows(path)
    key = ("width", "noise_sd", "seed", "contestant")
    table = {tuple(row[k] for k in key): row for row in rows}
    cells = sorted({(r["width"], r["noise_sd"]) for r in rows}, key=lambda c: (int(c[0]), -float(c[1])))
    print(
        "collapsed / plain per second of CPU time: f, m, v by the median test point (by the worst), geometric mean of"
    )
    print("seeds; ? : fewer than 50 effective draws in one of them, not to be trusted")
    losses = []
    for width, noise in cells:
        seeds = sorted({r["seed"] for r in rows if (r["width"], r["noise_sd"]) == (width, noise)})
        for rival in ("plain32", "plain64"):
            parts = []
            for measure in MEASURES:
                values = {}
                for kind in ("median", "minimum"):
                    column = f"{measure}_{kind}_per_s"
                    pairs = [[table[width, noise, s, c] for c in ("collapsed", rival)] for s in seeds]
                    ratios = [float(a[column]) / float(b[column]) for a, b in pairs]
                    values[kind] = float(np.exp(np.mean(np.log(ratios))))
                    if min(ratios) < 1:
                        losses.append(
                            f"width {width}, noise {noise}, {rival}: {measure} by the {kind} {min(ratios):.2f}"
                        )
                parts.append(f"{measure} {values['median']:6.1f} ({values['minimum']:6.1f})")
            runs = [table[width, noise, s, c] for s in seeds for c in ("collapsed", rival)]
            doubt = "" if all(int(r["trusted"]) for r in runs) else " ?"
            print(f"width {width:>3} noise {noise:>4} {rival} {len(seeds)} seeds | {'  '.join(parts)}{doubt}")
    print("collapsed does not win: " + ("; ".join(losses) if losses else "nowhere in these cells"))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="*", default=CELLS, help="width:noise_sd; none: only the table")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1))
    parser.add_argument("--seconds", type=float, default=20.0, help="CPU time of sampling per contestant")
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--out", default=common.HERE / "sampling.csv", type=common.Path)
    options = parser.parse_args(arguments)
    common.pin()
    done = {(int(r["width"]), float(r["noise_sd"]), int(r["seed"])) for r in common.rows(options.out)}
    for seed in options.seeds:
        for cell in options.cells:
            width, noise_sd = int(cell.split(":")[0]), float(cell.split(":")[1])
            if (width, noise_sd, seed) in done:
                continue
            for row in run_cell(width, noise_sd, seed, options):
                common.append(options.out, row)
                print(" ".join(f"{k}={v}" for k, v in row.items()), flush=True)
            jax.clear_caches()
    if common.rows(options.out):
        report(options.out)


if __name__ == "__main__":
    main()
