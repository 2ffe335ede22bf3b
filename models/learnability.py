"""What a kernel can learn from your data: the learnability of its modes, sampled, below bounds that hold for all data.

A kernel's modes are known on an idealised, symmetric measure; the data are what they are. The posterior of each mode's
coefficient is sampled in one of two exact models, one coefficient at a time or all modes together, and with it the
share of the mode that is learned, 1 - Var/λ. No data set takes it above the bounds. The heuristic estimate, which is
shown with them, is not one: data in few dimensions exceed it.

    fieldprob run learnability --data digits
    fieldprob run learnability --data points.csv --label-column --kernel erf
    fieldprob run learnability --preset circle
    fieldprob sweep learnability --points 50,100,200,400
"""

from collections.abc import Callable
from functools import partial
from math import factorial
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.linalg import solve_triangular

import fieldprob as fp
from fieldprob.kernels import Spectrum
from fieldprob.sweep import mean_and_error
from fieldprob.theory import learnability as bounds

presets = {
    "small": {},
    "circle": {"data": "circle", "model": "all-modes", "points": 25, "noise_variance": 0.3},
    "full": {"data": "digits", "points": 1200, "draws": 4000, "chains": 8},
}

LAWS = ("anisotropic", "sphere", "subspace", "cube", "clusters")
FREQUENCIES = 20  # of the circle, each with its cosine and its sine


class Whitened(NamedTuple):
    """Labels and modes in coordinates in which what is not sampled is unit noise."""

    eigenvalues: jnp.ndarray  # (modes,)
    features: jnp.ndarray  # (modes, points), or (points, modes) of all modes together
    y: jnp.ndarray  # (modes, points), or (points,)


# --- the models -------------------------------------------------------------------------------------------------------


def one_mode(task, *, data):
    """N1: y ~ N(c φ, K - λ φ φᵀ + δ) for one coefficient c ~ N(0, λ), every other mode integrated out exactly.

    For several modes at once as many independent models of the same labels: each has the exact posterior of its mode.
    """
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand(data.eigenvalues.shape).to_event(1))
    c = jnp.sqrt(data.eigenvalues) * w
    numpyro.sample("y", dist.Normal(c[:, None] * data.features, 1.0).to_event(2), obs=data.y)
    numpyro.deterministic("mode_coefficient", c)


def all_modes(task, *, data):
    """N2: f = Σ_t √λ_t w_t φ_t with w ~ N(0, 1), the rest of the kernel integrated out exactly."""
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand(data.eigenvalues.shape).to_event(1))
    c = jnp.sqrt(data.eigenvalues) * w
    numpyro.sample("y", dist.Normal(data.features @ c, 1.0).to_event(1), obs=data.y)
    numpyro.deterministic("mode_coefficient", c)


def whiten_each(prior, task):
    """The labels and each mode, whitened by the kernel of all others and the noise."""
    K, phi, noise, eigenvalues = on_data(prior, task)

    def one(eigenvalue, phi):
        root = jnp.linalg.cholesky(K - eigenvalue * jnp.outer(phi, phi) + noise)
        return solve_triangular(root, jnp.stack([phi, task.y[:, 0]], axis=1), lower=True).T

    features, y = jnp.stack([one(*mode) for mode in zip(eigenvalues, phi.T, strict=True)], axis=1)
    return Whitened(eigenvalues, features, y)


def whiten_all(prior, task):
    """The labels and all modes, whitened by the kernel of those that are not listed and the noise."""
    K, phi, noise, eigenvalues = on_data(prior, task)
    root = jnp.linalg.cholesky(K - (phi * eigenvalues) @ phi.T + noise)
    white = solve_triangular(root, jnp.concatenate([phi, task.y], axis=1), lower=True)
    return Whitened(eigenvalues, white[:, :-1], white[:, -1])


def on_data(prior, task):
    """Kernel matrix, modes, noise matrix and eigenvalues."""
    noise = task.noise_variance * jnp.eye(task.points)
    return prior.kernel(task.X, task.X), prior.spectrum.eigenfunctions(task.X), noise, prior.spectrum.eigenvalues


MODELS: dict[str, tuple[Callable, Callable]] = {
    "one-mode": (one_mode, whiten_each),
    "all-modes": (all_modes, whiten_all),
}


def sampled(prior, task, *, model, **options):
    """Draws of `mode_coefficient`, and what each says of `mode_learnability`."""
    program, whiten = MODELS[model]
    coords = {"mode": list(prior.spectrum.labels)}
    sites = partial(program, data=whiten(prior, task))
    tree = fp.sample(sites, task, coords=coords, **options)
    posterior = tree["posterior"].to_dataset()
    draws = posterior["mode_coefficient"].transpose("chain", "draw", "mode")
    values = fp.statistics.mode_learnability(draws.values, np.asarray(prior.spectrum.eigenvalues))
    tree["posterior"] = posterior.assign(mode_learnability=draws.copy(data=values))
    return tree


# --- kernels and data -------------------------------------------------------------------------------------------------


def circle():
    """k(x, x') = Σ_m m⁻² cos m(x - x') on angles, with the cosine and the sine of each frequency as modes."""
    m = jnp.arange(1.0, FREQUENCIES + 1)

    def kernel(X1, X2):
        angle = jnp.mod(X1 - X2.T, 2 * jnp.pi)
        return jnp.pi**2 / 6 - jnp.pi * angle / 2 + angle**2 / 4

    def waves(X):
        pairs = jnp.stack([jnp.cos(X * m), jnp.sin(X * m)], axis=2)
        return jnp.sqrt(2.0) * pairs.reshape(X.shape[0], -1)

    labels = [f"{phase} {n}" for n in range(1, FREQUENCIES + 1) for phase in ("cos", "sin")]
    spectrum = Spectrum(jnp.repeat(1 / (2 * m**2), 2), labels=labels, eigenfunctions=waves, name="modes of the circle")
    return bounds.KernelSpectrum(kernel, spectrum)


def sphere(kernel, directions, count):
    """A kernel on the sphere with linear, quadratic and cubic modes along the given directions, the learnable ones.

    `kernel` is "exponential", e^(t - 1) of the cosine t, or the activation of a network, whose limit is taken. Modes
    that the kernel does not have, the even ones of an odd network, are left out: they are never learned.
    """
    inputs = directions.shape[1]
    targets, labels = [], []
    for i in range(min(count, inputs)):
        targets.append(bounds.Harmonic(directions[i : i + 1]))
        labels.append(f"u{i + 1}")
    targets += [bounds.Harmonic(directions[:2]), bounds.Harmonic(directions[:3])]
    labels += ["u1 u2", "u1 u2 u3"]
    if kernel == "exponential":
        build = partial(bounds.on_sphere, lambda t: jnp.exp(t - 1), inputs)
    else:
        net = fp.Mlp(width=1, activation=kernel, readout_variance=1.0)
        build = partial(bounds.on_sphere, net, inputs, radius=np.sqrt(inputs))
    prior = build(targets, labels=labels)
    kept = np.flatnonzero(np.asarray(prior.spectrum.eigenvalues) > 0)
    return build([targets[i] for i in kept], labels=[labels[i] for i in kept])


def estimate(prior, task):
    """What the heuristic ridge gives, for kernels on the sphere: the Taylor coefficients beyond each mode's degree."""
    targets = prior.spectrum.eigenfunctions.targets
    x, orthogonal = jnp.eye(2, targets[0].directions.shape[1])[:, None]

    def kappa(t):
        return prior.kernel(x, t * x + jnp.sqrt(1 - t**2) * orthogonal)[0, 0]

    @jax.jit
    def coefficients(t):
        derivatives = [kappa]
        for _ in range(max(target.degree for target in targets)):
            derivatives.append(jax.grad(derivatives[-1]))
        return jnp.stack([derivative(t) / factorial(n) for n, derivative in enumerate(derivatives)])

    upto = jnp.cumsum(coefficients(0.0))[np.array([target.degree for target in targets])]
    return bounds.predictions.heuristic(prior, task, added_ridge=prior.kernel(x, x)[0, 0] - upto)


def points_of_law(law, points, inputs, rng):
    """Inputs (points, inputs) of one of the artificial laws; they are taken to the sphere later."""
    z = rng.normal(size=(points, inputs))
    if law == "anisotropic":
        return z / np.arange(1, inputs + 1)
    if law == "subspace":
        return z * (np.arange(inputs) < max(3, inputs // 5))
    if law == "cube":
        return np.sign(z)
    if law == "clusters":
        return rng.normal(size=(3, inputs))[rng.integers(3, size=points)] + 0.3 * z
    return z


def inputs_and_labels(data, points, inputs, label_column, rng):
    """Inputs of the data, centred where they are real, and their labels if a file holds them."""
    if data in LAWS:
        return points_of_law(data, points, inputs, rng), None
    if data == "digits":
        from sklearn.datasets import load_digits

        X, y = load_digits(return_X_y=True)[0], None
        X = np.asarray(X)[:, np.std(X, axis=0) > 0]
    else:
        X, y = read(data), None
        if label_column:
            X, y = X[:, :-1], X[:, -1]
    if len(X) < points:
        raise ValueError(f"points={points}, but {data} has {len(X)}: ask for fewer.")
    rows = rng.permutation(len(X))[:points]
    return (X - X.mean(axis=0))[rows], None if y is None else y[rows]


def read(path):
    """The numbers of a .npy file, or of a .csv one with or without a header, (points, columns)."""
    if not Path(path).is_file():
        raise ValueError(f"data={path!r} is no file, and none of {', '.join((*LAWS, 'circle', 'digits'))}.")
    if Path(path).suffix == ".npy":
        X = np.load(path)
    else:
        X = np.genfromtxt(path, delimiter=",")
        X = X[1:] if np.isnan(X[0]).all() else X
    if X.ndim != 2 or not np.isfinite(X).all():
        raise ValueError(f"{path} holds an array of shape {X.shape}, or entries that are no numbers: give a table.")
    return X


# --- figure -----------------------------------------------------------------------------------------------------------


def draw_learnability(result, title):
    """Every mode's learnability: sampled with two standard errors, exact, and the bounds that it stays below."""
    from matplotlib.figure import Figure

    sampled = result.samples["posterior"]["mode_learnability"]
    mean, error = mean_and_error(sampled)
    labels = sampled["mode"].values
    place = np.arange(len(labels))
    figure = Figure(figsize=(max(6.4, 0.22 * len(labels)), 4.4), layout="constrained")
    ax = figure.subplots()
    ax.spines[["top", "right"]].set_visible(False)
    colours = {
        "linear bound": "#E69F00", "saturated bound": "#D55E00", "effective-ridge bound": "#009E73",
        "exact overlap": "#0072B2", "heuristic estimate, not a bound": "0.6",
    }  # fmt: skip
    for prediction in result.predictions:
        value = np.asarray(prediction.mean["mode_learnability"])
        label = "exact" if prediction.theory == "exact overlap" else prediction.theory
        style = "-" if prediction.exact or prediction.kind else ":"
        colour = colours[prediction.theory]
        ax.hlines(value, place - 0.4, place + 0.4, color=colour, linewidth=2, linestyle=style, label=label)
    ax.errorbar(place, mean, 2 * error, fmt="ko", markersize=4, label="sampled, ±2 standard errors")
    ax.set(ylim=(-0.02, 1.25), ylabel="learnability 1 − Var/λ", xlabel="mode of the idealised measure")
    ax.set_xticks(place, labels, rotation=90 if len(labels) > 8 else 0, fontsize=8)
    ax.set_title(title, fontsize=10)
    figure.legend(frameon=False, fontsize=8, ncols=3, loc="outside lower center")
    return figure


def study(
    data: str = "anisotropic",
    kernel: str = "exponential",
    points: int = 60,
    inputs: int = 12,
    noise_variance: float = 0.1,
    label_column: bool = False,
    linear_modes: int = 3,
    model: Literal["one-mode", "all-modes"] = "one-mode",
    draws: int = 2000,
    chains: int = 4,
    warmup: int = 300,
    seed: int = 0,
):
    """The learnability of a kernel's modes on any data, sampled, below the bounds that hold for all data.

    Args:
        data: anisotropic, sphere, subspace, cube or clusters (random points), digits, circle (clustered angles), or a
            .csv or .npy file of points, one a row.
        kernel: exponential, or the activation of an infinitely wide network (not for the circle).
        points: in the data set.
        inputs: dimension of random points.
        noise_variance: of the labels and of the model, the ridge.
        label_column: whether the last column of the file holds labels; if not, labels are the sum of the modes, with
            noise.
        linear_modes: how many principal directions of the data, at most their dimension, are linear modes; the first
            two and three make a quadratic and a cubic one.
        model: one coefficient at a time, every other mode integrated out; or all listed modes together.
        draws: draws of each chain.
        chains: number of chains.
        warmup: adaptation steps of each chain, discarded.
        seed: of the data and of the chains.
    """
    rng = np.random.default_rng(seed)
    y = None
    if data == "circle":
        if kernel != "exponential":
            raise ValueError(
                f"kernel={kernel!r} is not for data='circle', which has a kernel of its own: leave it out."
            )
        X, prior = (rng.uniform(0, 2 * np.pi) + 0.7 * rng.normal(size=points))[:, None], circle()
    else:
        X, y = inputs_and_labels(data, points, inputs, label_column, rng)
        if X.shape[1] < 3:
            raise ValueError(f"the data have {X.shape[1]} inputs: a sphere needs at least 3; use data='circle' for 2.")
        lengths = np.linalg.norm(X, axis=1, keepdims=True)
        if not np.all(lengths > 0):
            raise ValueError("a point of the data is at their mean, which has no place on a sphere: drop such points.")
        if linear_modes < 0:
            raise ValueError(f"linear_modes={linear_modes}: give how many directions are modes, zero or more.")
        X = X / lengths
        directions = np.linalg.svd(X)[2]
        prior = sphere(kernel, jnp.asarray(directions), linear_modes)
    if y is None:
        y = np.asarray(prior.spectrum.eigenfunctions(jnp.asarray(X))).sum(axis=1)
        y = y + np.sqrt(noise_variance) * rng.normal(size=points)
    found = bounds.predictions
    title = f"{points} points, {data if len(data) < 20 else Path(data).name}, noise variance {noise_variance:g}"
    return fp.Study(
        prior,
        fp.Task(X, y, noise_variance, name=data),
        theories=[found.exact_overlap, found.effective_ridge, found.saturated, found.linear]
        + ([] if data == "circle" else [estimate]),
        sampling={"model": model, "draws": draws, "chains": chains, "warmup": warmup},
        sampler=sampled,
        seed=seed,
        figures={"learnability": partial(draw_learnability, title=title)},
    )
