"""Wilsonian renormalisation on average over data sets: what each running ridge does to the kept modes.

Random data sets are learned exactly, and again with the modes above a cutoff replaced by a ridge. Sampled are, for
every ridge and cutoff, the kept modes' posterior variance and means against those of the whole process, and the log
evidence that the ridge loses; and the learnability of single modes and the log evidence, which the theory predicts for
Gaussian features. The figure shows where the leading flow fails and the matched ridge does not.

    fieldprob run renormalisation                          Gaussian features
    fieldprob run renormalisation --preset scale-mixture   heavy tails: only the input-dependent ridges hold
    fieldprob run renormalisation --preset circle          one-dimensional inputs, where averages differ from theory
    fieldprob run renormalisation --preset hermite
    fieldprob run renormalisation --preset sphere
    fieldprob run renormalisation --preset digits
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from renormalised_gp import POPULATIONS

import fieldprob as fp
from fieldprob.theory import renormalisation
from fieldprob.theory.learning_curves import effective_ridge

presets = {
    "small": {},
    "learnability": {"points": 50, "cutoffs": (40,), "recorded": (1, 2, 5, 10, 20, 30, 40), "datasets": 100},
    "scale-mixture": {"features": "scale-mixture", "cutoffs": (50,), "noise_variance": 0.01, "datasets": 30},
    "circle": {"features": "circle", "points": 50, "modes": 400, "cutoffs": (20, 40, 80)},
    "hermite": {"features": "hermite", "points": 40, "cutoffs": (10, 20, 30)},
    "sphere": {"features": "sphere", "points": 300, "cutoffs": (9, 44), "noise_variance": 0.01, "datasets": 20},
    "digits": {"features": "digits", "points": 150, "cutoffs": (50, 150), "datasets": 30},
    "full": {"points": 2000, "modes": 20000, "cutoffs": (100, 300, 1000, 3000), "datasets": 10},
}  # fmt: skip

UNIFORM = ("bare", "leading", "closed", "matched")
ON_DATA = {
    "first-cumulant": renormalisation.first_cumulant_ridge,
    "input-dependent": renormalisation.input_dependent_ridge,
}
AGAINST = ("variance_ratio", "variance_miss", "mean_error", "evidence_loss")
DIMS: dict[str, tuple[str, ...]] = dict.fromkeys(AGAINST, ("ridge", "cutoff"))
DIMS |= {"recorded_learnability": ("mode",), "log_evidence": ()}


def posterior(phi, eigenvalues, noise, y):
    """Means and variances of the coefficients, and the log evidence, for features of given prior variances."""
    S = (phi * eigenvalues) @ phi.T + (noise if jnp.ndim(noise) == 2 else jnp.diag(noise))
    factor = jnp.linalg.cholesky(S)
    a, b = (jax.scipy.linalg.solve_triangular(factor, x, lower=True) for x in (phi, y))
    log_density = jnp.sum(b**2) / 2 + jnp.sum(jnp.log(jnp.diagonal(factor))) + len(y) / 2 * jnp.log(2 * jnp.pi)
    return eigenvalues * (b @ a), eigenvalues - eigenvalues**2 * jnp.sum(a**2, axis=0), -log_density


def learn(key, *, population, points, noise, label_noise, cutoffs, ridges, recorded):
    """The statistics of one random data set, whose target is drawn from the prior."""
    spectrum = population.spectrum
    key, *keys = jax.random.split(key, 3)
    X = population.measure(keys[0], points)
    phi, eigenvalues, rest = spectrum.eigenfunctions(X), spectrum.eigenvalues, spectrum.tail * jnp.eye(points)
    if population.kernel is not None:  # only the listed modes are expanded in
        listed = int(np.sum(np.cumprod(np.asarray(spectrum.degeneracies) == 1)))
        phi, eigenvalues = phi[:, :listed], eigenvalues[:listed]
        rest = population.kernel(X, X) - (phi * eigenvalues) @ phi.T
    f = jnp.linalg.cholesky((phi * eigenvalues) @ phi.T + rest + 1e-10 * jnp.eye(points))
    y = f @ jax.random.normal(keys[1], (points,)) + jnp.sqrt(label_noise) * jax.random.normal(key, (points,))
    mean, variance, evidence = posterior(phi, eigenvalues, rest + noise * jnp.eye(points), y)

    def against(cutoff, uniform):
        kept = jnp.arange(eigenvalues.size) < cutoff
        found = {name: [] for name in AGAINST}
        for ridge in ridges:
            if ridge in ON_DATA:
                s = ON_DATA[ridge](eigenvalues, phi, noise + jnp.diagonal(rest), cutoff)
            else:
                s = jnp.full(points, uniform[UNIFORM.index(ridge)])
            m, v, log_density = posterior(phi, jnp.where(kept, eigenvalues, 0.0), s, y)
            ratio = jnp.where(kept & (eigenvalues > 0), v / jnp.where(eigenvalues > 0, variance, 1.0), 1.0)
            found["variance_ratio"].append(jnp.sum(v) / jnp.sum(variance * kept))
            found["variance_miss"].append(jnp.sum(jnp.abs(ratio - 1)) / jnp.sum(kept & (eigenvalues > 0)))
            found["mean_error"].append(jnp.sqrt(jnp.sum((m - mean * kept) ** 2) / jnp.sum((mean * kept) ** 2)))
            found["evidence_loss"].append(evidence - log_density)
        return {name: jnp.stack(values) for name, values in found.items()}

    flows = [renormalisation.uniform_ridge(spectrum, points, noise, ridge)[np.array(cutoffs)] for ridge in UNIFORM]
    found = jax.lax.map(lambda x: against(*x), (jnp.array(cutoffs), jnp.stack(flows, axis=1)))
    modes = np.array(recorded) - 1
    return {name: value.T for name, value in found.items()} | {
        "recorded_learnability": 1 - variance[modes] / eigenvalues[modes],
        "log_evidence": evidence,
    }


def sample(prior, task, *, datasets, seed, progress, one, coords):
    """A DataTree of independent data sets."""
    keys = jax.random.split(jax.random.key(seed), datasets)
    values = jax.jit(lambda keys: jax.lax.map(one, keys))(keys)
    variables = {name: (("dataset", *DIMS[name]), np.asarray(value)) for name, value in values.items()}
    return xr.DataTree.from_dict({"posterior": xr.Dataset(variables, coords | {"dataset": np.arange(datasets)})})


def averages(prior, task, *, spectrum, points, noise, label_noise, cutoffs, recorded):
    """What the renormalised ridge predicts for Gaussian features: ratios of variances, learnabilities, evidence."""
    r = effective_ridge(spectrum, points, noise)
    eigenvalues = spectrum.eigenvalues

    def variance(cutoff, r):
        return jnp.sum(eigenvalues[:cutoff] * r / (r + points * eigenvalues[:cutoff]))

    ratios = []
    for ridge in UNIFORM:
        flow = renormalisation.uniform_ridge(spectrum, points, noise, ridge)
        kept = [effective_ridge(renormalisation.kept_spectrum(spectrum, c), points, flow[c]) for c in cutoffs]
        ratios.append([variance(c, m) / variance(c, r) for c, m in zip(cutoffs, kept, strict=True)])
    typical = spectrum.with_target(coefficients=jnp.sqrt(spectrum.weights), tail=spectrum.tail)
    seen = eigenvalues[np.array(recorded) - 1]
    return fp.Prediction(
        theory="renormalised ridge",
        order="Gaussian features, many modes",
        source="theory document 05, (13), (14), (28)",
        mean={
            "variance_ratio": jnp.array(ratios),
            "recorded_learnability": points * seen / (r + points * seen),
            "log_evidence": renormalisation.average_log_evidence(typical, points, noise, label_noise),
        },
        dims={name: DIMS[name] for name in ("variance_ratio", "recorded_learnability", "log_evidence")},
        coords={"ridge": UNIFORM, "cutoff": cutoffs, "mode": recorded},
    )


def draw(result, *, cutoffs):
    """Ratios of variances against the cutoff, sampled points and predicted lines; the sampled error of the means."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    posterior = result.samples["posterior"]
    colours = {"bare": "0.55", "leading": "C3", "closed": "C1", "matched": "C0", "first-cumulant": "C2",
               "input-dependent": "C4"}  # fmt: skip
    (theory,) = result.predictions
    for ridge in posterior["ridge"].values:
        for ax, name in ((left, "variance_ratio"), (right, "mean_error")):
            values = posterior[name].sel(ridge=ridge)
            error = 2 * values.std("dataset", ddof=1) / np.sqrt(values.sizes["dataset"])
            ax.errorbar(
                cutoffs, values.mean("dataset"), error, color=colours[ridge], marker="o", markersize=4,
                linestyle="none" if name == "variance_ratio" else ":", capsize=2, label=f"{ridge}, sampled",
            )  # fmt: skip
        if ridge in UNIFORM:
            predicted = theory.mean["variance_ratio"][UNIFORM.index(ridge)]
            left.plot(cutoffs, predicted, color=colours[ridge], label=f"{ridge}, predicted")
    left.axhline(1.0, color="k", linewidth=0.6)
    left.set(ylabel="posterior variance of the kept modes\nrenormalised / whole process")
    right.set(ylabel="error of the kept modes' posterior means\nrelative, of one data set", yscale="log")
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
        ax.set(xlabel="cutoff: number of kept modes", xscale="log" if len(cutoffs) > 1 else "linear")
        ax.set_xticks(cutoffs, [str(c) for c in cutoffs], minor=False)
        ax.minorticks_off()
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center", frameon=False, title="ridge")
    return figure


def draw_features(result, *, population, samples=4000):
    """How Gaussian the features are: joint densities of two modes against independent Gaussians, and the kurtosis of
    each mode."""
    from matplotlib.figure import Figure

    spectrum = population.spectrum
    pool = getattr(population.measure, "X", None)
    X = population.measure(jax.random.key(0), samples) if pool is None else pool
    phi = np.asarray(spectrum.eigenfunctions(X))
    positive = np.flatnonzero(np.asarray(spectrum.eigenvalues[: phi.shape[1]]) > 1e-12 * float(spectrum.trace))
    kurtosis = np.asarray(renormalisation.feature_moments(jnp.asarray(phi)).excess_kurtosis)[positive]
    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    low, high = positive[1], positive[len(positive) // 2]
    for ax, pair in zip(axes, ((low, positive[2]), (low, high)), strict=False):
        histogram = renormalisation.joint_histogram(jnp.asarray(phi), (int(pair[0]), int(pair[1])))
        edges = np.asarray(histogram.edges)
        centres = (edges[1:] + edges[:-1]) / 2
        image = ax.pcolormesh(edges, edges, np.asarray(histogram.density).T, cmap="Blues", vmin=0, vmax=0.2)
        ax.contour(centres, centres, np.asarray(histogram.gaussian).T, [0.005, 0.03, 0.1], colors="C3", linewidths=1)
        ax.set(xlabel=f"mode {pair[0] + 1}", ylabel=f"mode {pair[1] + 1}", aspect="equal")
    figure.colorbar(image, ax=axes[1], label="density (red: Gaussian)")
    axes[2].axhline(0.0, color="C3", linewidth=1, label="Gaussian")
    axes[2].plot(positive + 1, kurtosis, ".", markersize=3, color="k", label="features")
    axes[2].set(xscale="log", xlabel="mode", ylabel="excess kurtosis", ylim=(-2.2, np.quantile(kurtosis, 0.9) + 1))
    axes[2].spines[["top", "right"]].set_visible(False)
    axes[2].legend(frameon=False)
    return figure


def study(
    features: Literal["gaussian", "scale-mixture", "circle", "hermite", "sphere", "digits"] = "gaussian",
    points: int = 100,
    cutoffs: tuple[int, ...] = (10, 20, 40, 80, 160, 320),
    noise_variance: float = 0.05,
    label_noise_variance: float | None = None,
    recorded: tuple[int, ...] = (1, 2, 5, 10, 20),
    datasets: int = 50,
    modes: int | None = None,
    seed: int = 0,
):
    """Kept modes under every ridge, averaged over random data sets whose targets are drawn from the prior.

    Args:
        features: as in the study renormalised_gp.
        points: size of the data sets.
        cutoffs: numbers of kept modes.
        noise_variance: ridge of the model.
        label_noise_variance: of the labels, that of the model unless given.
        recorded: modes whose learnability is recorded, 1 the first.
        datasets: how many.
        modes: listed in all, unless given 600 (gaussian, scale-mixture), 400 (circle) or 80 (hermite).
        seed: of the data sets.
    """
    options = {} if modes is None else {"modes": modes}
    if features == "scale-mixture":
        options["first"] = min(cutoffs)
    population = POPULATIONS[features](**options)
    label_noise = noise_variance if label_noise_variance is None else label_noise_variance
    listed = population.spectrum.modes
    if not recorded or not 1 <= min(recorded) <= max(recorded) <= listed:
        raise ValueError(f"recorded={recorded}: give modes of 1 ... {listed}, 1 the first.")
    if not cutoffs or not 1 <= min(cutoffs) <= max(cutoffs) <= listed:
        raise ValueError(f"cutoffs={cutoffs}: give numbers of kept modes, 1 ... {listed}.")
    if not (noise_variance > 0 and label_noise >= 0):
        raise ValueError(
            f"noise_variance={noise_variance:g}, label_noise_variance={label_noise:g}: give a positive ridge, and a "
            "noise of the labels that is zero or positive."
        )
    ridges = (*UNIFORM, *(ON_DATA if population.kernel is None else ["first-cumulant"]))
    common = {"points": points, "noise": noise_variance, "cutoffs": cutoffs}
    one = partial(learn, population=population, label_noise=label_noise, ridges=ridges, recorded=recorded, **common)
    coords = {"ridge": list(ridges), "cutoff": list(cutoffs), "mode": list(recorded)}
    theory = partial(averages, spectrum=population.spectrum, label_noise=label_noise, recorded=recorded, **common)
    return fp.Study(
        None,
        None,
        theories=[theory],
        sampling={"datasets": datasets, "one": one, "coords": coords},
        sampler=sample,
        seed=seed,
        figures={"cutoffs": partial(draw, cutoffs=cutoffs)}
        | ({"features": partial(draw_features, population=population)} if population.kernel is None else {}),
        chosen={"modes": population.spectrum.modes, "label_noise_variance": label_noise},
    )
