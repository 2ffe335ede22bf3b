"""Learning curves: the error of a Gaussian process averaged over random data sets, against theories in P.

The sampled side learns from thousands of random data sets, exactly; the predicted side knows only the spectrum of the
kernel. All features run the renormalised ridge and the equivalent kernel, the sphere and the circle also the corrected
equivalent kernel, Gaussian features also the process of the learnable modes alone. With Gaussian features and the
default noise, 4000 data sets of 10, 40 and 100 points differ from the renormalised ridge by 0.5 % in the test error,
0.7 % in the learnability and 1.1 % in the posterior variance (root mean square; of the last 1.9 % at 10 points, 0.14 %
at 100); its predictor agrees within the 1 to 3 % to which they determine it. On the circle, whose features are anything
but independent, it fails at small noise.

    fieldprob run learning_curve --preset exponents        how fast the error falls, without noise
    fieldprob run learning_curve --preset exponents --noise-variance 1 --label-noise-variance 1
"""

from functools import partial
from typing import Literal

import jax.numpy as jnp
import numpy as np

import fieldprob as fp
from fieldprob.kernels import spectra

presets = {
    "small": {"points": (10, 40, 100), "datasets": 400},
    "full": {"points": (10, 20, 50, 100, 200, 500), "datasets": 10000},
    "exponents": {
        "features": "gaussian", "exponent": 2.0, "modes": 3000, "points": (50, 100, 200, 400, 800), "datasets": 40,
        "noise_variance": 1e-4, "label_noise_variance": 0.0,
    },
}  # fmt: skip

# The options that each kind of features uses, with their defaults.
OPTIONS = {
    "gaussian": {"label_noise_variance": 0.05, "exponent": 1.3, "modes": 400},
    "sphere": {
        "label_noise_variance": 0.05, "test_points": 200, "inputs": 10, "activation": "erf", "weight_variance": 1.5
    },
    "circle": {"label_noise_variance": 0.05, "test_points": 200},
    "digits": {"test_points": 200, "activation": "erf", "weight_variance": 1.5},
}  # fmt: skip


def chosen(features, **given):
    """The options that the features use, those that were not given (None) at their defaults."""
    options = OPTIONS[features]
    unused = [f"{name}={value}" for name, value in given.items() if value is not None and name not in options]
    if unused:
        raise ValueError(f"features={features!r} do not use {', '.join(unused)}, only {', '.join(options)}.")
    return {name: default if given[name] is None else given[name] for name, default in options.items()}


def network(activation, weight_variance):
    """The network whose infinite-width kernel is used."""
    return fp.Mlp(width=1, activation=activation, weight_variance=weight_variance, readout_variance=1.0)


def gaussian(seed, exponent, modes):
    """Independent Gaussian features, λ_k = k^-exponent, and a target drawn from the prior."""
    spectrum = fp.kernels.Spectrum(np.arange(1.0, modes + 1) ** -exponent, name="power law")
    target = np.random.default_rng(seed).normal(size=modes) * np.sqrt(spectrum.eigenvalues)
    spectrum = spectrum.with_target(coefficients=target)
    return spectrum, spectrum, {}


def sphere(inputs, **options):
    """A network's limit on the sphere |x|² = inputs; a target with a linear and a cubic part along one direction."""
    net = network(**options)
    spectrum = spectra.sphere(net, inputs, radius=np.sqrt(inputs), modes=12)

    def target(X):
        t = X[:, 0] / np.sqrt(inputs)
        cubic = ((inputs + 2) * t**3 - 3 * t) / (inputs - 1)  # the Gegenbauer polynomial, 1 at t = 1
        return np.sqrt(inputs) * t + 0.6 * np.sqrt(spectra.degeneracy(inputs, 3)) * cubic

    return net, spectrum.with_target(target), {"measure": fp.tasks.Sphere(inputs), "target": target}


def circle():
    """The kernel with eigenvalues 1/n² on the circle, and a target of two frequencies."""

    def profile(angle):  # 2 Σ cos(n·angle)/n²
        u = jnp.mod(angle, 2 * jnp.pi)
        return jnp.pi**2 / 3 - jnp.pi * u + u**2 / 2

    def target(X):
        return jnp.sqrt(2.0) * (jnp.cos(X[:, 0]) + 0.5 * jnp.cos(5 * X[:, 0]))

    spectrum = spectra.circle(profile, modes=200, nodes=2**14).with_target(target)
    return lambda X1, X2: profile(X1 - X2.T), spectrum, {"measure": fp.tasks.Circle(), "target": target}


def digits(**options):
    """Data sets drawn from scikit-learn's digits, the first five classes against the others."""
    net = network(**options)
    task = fp.tasks.digits(classes=tuple(range(10)), train=1700, test=0, noise_variance=1.0, seed=0)
    y = jnp.sign(task.y[:, :5].max(axis=1) - task.y[:, 5:].max(axis=1))
    return net, spectra.empirical(net, task.X, y=y), {"measure": fp.tasks.Pool(task.X, y)}


def kept_modes(prior, task):
    """The renormalised process: the modes of learnability .1 and more, the others as the leading ridge."""
    renormalisation = fp.theory.renormalisation
    kept = [int(renormalisation.cutoff(prior, P, task.noise_variance, 0.1).kept) for P in task.points]
    return renormalisation.learning_curve(prior, task, cutoff=np.maximum(kept, 1), ridge="leading")


def local_exponents(points, errors):
    """Minus the slope of log error over log points, between neighbouring sizes; sizes are the last axis."""
    return -np.diff(np.log(errors), axis=-1) / np.diff(np.log(points))


def draw_exponents(result, exponent):
    """How fast the error falls between neighbouring sizes, sampled and predicted, and the two limits of a power law.

    For eigenvalues k^-(1 + α) and a target of the prior they are α / (1 + α), where noise dominates the effective
    ridge, and α without noise (theory document 05, (27)).
    """
    from matplotlib.figure import Figure

    errors = result.samples["posterior"]["test_error"].transpose(..., "points")
    points, values = errors["points"].values, errors.values.reshape(-1, errors.sizes["points"])
    places = np.sqrt(points[1:] * points[:-1])
    mean, relative = values.mean(axis=0), values.std(axis=0, ddof=1) / values.mean(axis=0) / len(values) ** 0.5
    spread = 2 * np.hypot(relative[1:], relative[:-1]) / np.diff(np.log(points))
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    ax = figure.subplots()
    ax.errorbar(places, local_exponents(points, mean), spread, fmt="ko", capsize=2, label="sampled, ±2 standard errors")
    for prediction, style in zip(result.predictions, ("-", ":", "--"), strict=True):
        slopes = local_exponents(points, np.asarray(prediction.mean["test_error"]))
        ax.plot(places, slopes, style, label=prediction.theory)
    alpha = exponent - 1
    for limit, label in ((alpha / exponent, "limit with noise"), (alpha, "limit without noise")):
        ax.axhline(limit, color="0.5", linestyle=":")
        ax.annotate(
            label, (points[-1], limit), xytext=(0, 3), textcoords="offset points", ha="right", fontsize=8, color="0.4"
        )
    ax.set(xscale="log", xlabel="points", ylabel="exponent: -d log test error / d log points")
    ax.set_xticks(points, [str(P) for P in points])
    ax.minorticks_off()
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8)
    return figure


def study(
    features: Literal["gaussian", "sphere", "circle", "digits"] = "sphere",
    points: tuple[int, ...] = (10, 20, 50, 100, 200),
    noise_variance: float = 0.1,
    label_noise_variance: float | None = None,
    datasets: int = 1000,
    test_points: int | None = None,
    inputs: int | None = None,
    activation: str | None = None,
    weight_variance: float | None = None,
    exponent: float | None = None,
    modes: int | None = None,
    seed: int = 0,
):
    """The error of a Gaussian process as a function of the number of points, averaged over random data sets.

    Args:
        features: independent Gaussian features; a network's limit on a sphere; a kernel on the circle; a network's
            limit on digits. Options that they do not use are refused.
        points: sizes of the data sets.
        noise_variance: of the model, its ridge.
        label_noise_variance: of the labels, 0.05 unless given (not for digits, which have none).
        datasets: random data sets of each size.
        test_points: fresh test points of each data set, 200 unless given (not for Gaussian features, whose error is
            a sum over modes).
        inputs: dimension of the sphere, 10 unless given.
        activation: of the network (sphere and digits), erf unless given.
        weight_variance: per fan-in, of the network's first layer (sphere and digits), 1.5 unless given.
        exponent: of the eigenvalues of the Gaussian features, 1.3 unless given.
        modes: number of Gaussian features, 400 unless given.
        seed: of the data sets and of the target of the Gaussian features.
    """
    options = chosen(
        features,
        label_noise_variance=label_noise_variance,
        test_points=test_points,
        inputs=inputs,
        activation=activation,
        weight_variance=weight_variance,
        exponent=exponent,
        modes=modes,
    )
    build = {"gaussian": partial(gaussian, seed), "sphere": sphere, "circle": circle, "digits": digits}[features]
    common = ("label_noise_variance", "test_points")
    prior, spectrum, data = build(**{name: value for name, value in options.items() if name not in common})
    population = fp.tasks.Population(points, noise_variance, options.get("label_noise_variance", 0.0), **data)
    theories = [fp.theory.learning_curves.renormalised_ridge, fp.theory.learning_curves.equivalent_kernel]
    sampling = {"datasets": datasets, "spectrum": spectrum}
    if "test_points" in options:
        sampling["test_points"] = options["test_points"]
    if features in ("sphere", "circle"):
        theories.append(fp.theory.learning_curves.equivalent_kernel_corrected)
    if features == "gaussian":
        theories.append(kept_modes)
    figures = {}
    if features == "gaussian" and len(points) > 1:
        figures["exponents"] = partial(draw_exponents, exponent=options["exponent"])
    return fp.Study(
        prior,
        population,
        figures=figures,
        theories=[lambda prior, population, theory=theory: theory(spectrum, population) for theory in theories],
        sampling=sampling,
        sampler=fp.infer.data_average,
        seed=seed,
        chosen=options,
    )
