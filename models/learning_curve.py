"""Learning curves: the error of a Gaussian process averaged over random data sets, against three theories in P.

The sampled side learns from thousands of random data sets, exactly; the predicted side knows only the spectrum of the
kernel. With Gaussian features the renormalised ridge is right to a fraction of a per cent; on the circle, whose
features are anything but independent, it fails at small noise.
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np

import fieldprob as fp
from fieldprob.kernels import spectra

presets = {
    "small": {"points": (10, 40, 100), "datasets": 400},
    "full": {"points": (10, 20, 50, 100, 200, 500), "datasets": 10000, "test_points": 500},
}


def gaussian(exponent, modes, seed):
    """Independent Gaussian features, λ_k = k^-exponent, and a target drawn from the prior."""
    spectrum = spectra.power_law(exponent, modes=modes)
    target = np.random.default_rng(seed).normal(size=modes) * np.sqrt(spectrum.eigenvalues)
    return None, spectrum.with_target(coefficients=target), {}


def sphere(net, inputs):
    """A network's limit on the sphere |x|² = inputs; a target with a linear and a cubic part along one direction."""
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


def digits(net):
    """Data sets drawn from scikit-learn's digits, the first five classes against the others."""
    task = fp.tasks.digits(classes=tuple(range(10)), train=1700, test=0, noise_variance=1.0, seed=0)
    y = jnp.sign(task.y[:, :5].max(axis=1) - task.y[:, 5:].max(axis=1))
    return net, spectra.empirical(net, task.X, y=y), {"measure": fp.tasks.Pool(task.X, y)}


def study(
    features: Literal["gaussian", "sphere", "circle", "digits"] = "sphere",
    points: tuple[int, ...] = (10, 20, 50, 100, 200),
    noise_variance: float = 0.1,
    label_noise_variance: float = 0.05,
    datasets: int = 1000,
    test_points: int = 200,
    inputs: int = 10,
    activation: str = "erf",
    weight_variance: float = 1.5,
    exponent: float = 1.3,
    modes: int = 400,
    seed: int = 0,
):
    """The error of a Gaussian process as a function of the number of points, averaged over random data sets.

    Args:
        features: independent Gaussian features; a network's limit on a sphere; a kernel on the circle; a network's
            limit on digits.
        points: sizes of the data sets.
        noise_variance: of the model, its ridge.
        label_noise_variance: of the labels (digits have none).
        datasets: random data sets of each size.
        test_points: fresh test points of each data set.
        inputs: dimension of the sphere.
        activation: of the network.
        weight_variance: per fan-in, of the network's first layer.
        exponent: of the eigenvalues of the Gaussian features.
        modes: number of Gaussian features.
        seed: of the data sets and of the target of the Gaussian features.
    """
    net = fp.Mlp(width=1, activation=activation, weight_variance=weight_variance, readout_variance=1.0)
    prior, spectrum, data = {
        "gaussian": lambda: gaussian(exponent, modes, seed),
        "sphere": lambda: sphere(net, inputs),
        "circle": circle,
        "digits": lambda: digits(net),
    }[features]()
    label_noise_variance = 0.0 if features == "digits" else label_noise_variance
    population = fp.tasks.Population(points, noise_variance, label_noise_variance, **data)
    theories = [fp.theory.learning_curves.renormalised_ridge, fp.theory.learning_curves.equivalent_kernel]
    if features in ("sphere", "circle"):
        theories.append(fp.theory.learning_curves.equivalent_kernel_corrected)
    sampling = {"datasets": datasets, "test_points": test_points}
    return fp.Study(
        spectrum if features == "gaussian" else prior,
        population,
        theories=[lambda prior, population, theory=theory: theory(spectrum, population) for theory in theories],
        sampling=sampling if features == "gaussian" else {**sampling, "spectrum": spectrum},
        sampler=fp.infer.data_average,
        seed=seed,
    )
