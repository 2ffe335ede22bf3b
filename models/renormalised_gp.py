"""A Gaussian process with its high modes integrated out: the kept ones sampled, under any of the running ridges.

The prior is a spectrum of which the first modes are kept. The others are noise for these: exactly, a covariance between
the data (`--ridge exact`), or approximately, one variance (`bare`, `leading`, `local`, `closed`, `matched`) or one for
each point (`first-cumulant`, `functional`, `input-dependent`). `--ridge all-modes` samples every mode instead. Whatever
is sampled is held against the exact posterior of the kept modes and against the chosen ridge in closed form:

    fieldprob run renormalised_gp --ridge exact            agrees with the whole process
    fieldprob run renormalised_gp --ridge first-cumulant   agrees within a few per cent
    fieldprob run renormalised_gp --ridge leading          does not: heavy-tailed features make the mean ridge too large
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import NUTS

import fieldprob as fp
from fieldprob.kernels import spectra
from fieldprob.theory import renormalisation

presets = {
    "small": {"draws": 500},
    "full": {"draws": 1500, "chains": 4, "warmup": 700},
    "circle": {"features": "circle", "points": 50, "modes": 400, "cutoff": 40, "noise_variance": 0.05},
    "hermite": {"features": "hermite", "points": 40, "modes": 80, "cutoff": 30, "noise_variance": 0.05},
    "sphere": {"features": "sphere", "points": 300, "cutoff": 44, "ridge": "matched"},
    "digits": {"features": "digits", "points": 150, "cutoff": 50, "noise_variance": 0.05},
}

SPREAD = 1.2  # standard deviation of the logarithm of the scale


class Population(NamedTuple):
    """A spectrum with the measure of its inputs; and the covariance function, where the spectrum lists only a part."""

    spectrum: spectra.Spectrum
    measure: Any
    kernel: Any = None


def gaussian(modes=600, exponent=2.0):
    """Independent Gaussian features, which are the inputs themselves; eigenvalues k^-exponent."""
    spectrum = fp.kernels.Spectrum(
        jnp.arange(1.0, modes + 1) ** -exponent, eigenfunctions=lambda X: X, name="power law"
    )
    return Population(spectrum, fp.tasks.Gaussian(modes))


def scale_mixture(modes=600, exponent=2.0, first=30):
    """Gaussian features, those from `first` on multiplied by a log-normal number that differs from point to point."""
    spectrum, measure, _ = gaussian(modes, exponent)

    def scaled(key, points):
        key, key_scale = jax.random.split(key)
        scale = jnp.exp(SPREAD * jax.random.normal(key_scale, (points, 1)) - SPREAD**2)  # of mean square one
        return measure(key, points) * jnp.where(jnp.arange(modes) < first, 1.0, scale)

    return Population(spectrum, scaled)


def circle(modes=400, exponent=2.0):
    """Cosines and sines of uniform angles, eigenvalues m^-exponent for m = 1, 2, ..., no constant."""
    wave = jnp.arange(modes // 2 + 1.0)
    every = spectra.complete(spectra.circle(jnp.where(wave == 0, 0.0, jnp.maximum(wave, 1.0) ** -exponent)))
    spectrum = fp.kernels.Spectrum(
        every.eigenvalues[1:], labels=every.labels[1:], eigenfunctions=lambda X: every.eigenfunctions(X)[:, 1:]
    )
    return Population(spectrum, fp.tasks.Circle())


def hermite(modes=80):
    """The Gaussian kernel of length 0.15 under standard normal inputs."""
    return Population(spectra.rbf_gaussian(0.15, 1.0, modes=modes), fp.tasks.Gaussian(1))


def network():
    """The network whose limit is the ReLU kernel, one on the diagonal where |x|^2 = inputs."""
    return fp.Mlp(width=1, activation="relu", weight_variance=2.0, readout_variance=1.0)


def sphere(inputs=8, degrees=3):
    """The ReLU network's limit on the sphere, the harmonics of the first degrees listed in full."""
    spectrum = spectra.sphere(network(), inputs, radius=inputs**0.5, modes=30)
    return Population(spectra.complete(spectrum, degrees), fp.tasks.Sphere(inputs), network().limit)


def digits():
    """The ReLU network's limit on scikit-learn's digits, each image scaled to |x|^2 = inputs."""
    task = fp.tasks.digits(classes=tuple(range(10)), train=1797, test=0, noise_variance=1.0, seed=0)
    X = task.X * jnp.sqrt(task.inputs / jnp.sum(task.X**2, axis=1, keepdims=True))
    return Population(spectra.empirical(network(), X), fp.tasks.Pool(X, task.y[:, 0]))


POPULATIONS = {
    "gaussian": gaussian, "scale-mixture": scale_mixture, "circle": circle, "hermite": hermite, "sphere": sphere,
    "digits": digits,
}  # fmt: skip


def data_set(population, points, noise_variance, seed):
    """A data set with a target drawn from the prior and noise of the model's variance."""
    key_inputs, key_target, key_noise = jax.random.split(jax.random.key(seed), 3)
    X = population.measure(key_inputs, points)
    if population.kernel is None:
        phi = population.spectrum.eigenfunctions(X)
        K = (phi * population.spectrum.eigenvalues) @ phi.T + population.spectrum.tail * jnp.eye(points)
    else:
        K = population.kernel(X, X)
    root = jnp.linalg.cholesky(K + 1e-10 * jnp.eye(points))
    y = root @ jax.random.normal(key_target, (points,))
    return fp.Task(X, y + jnp.sqrt(noise_variance) * jax.random.normal(key_noise, (points,)), noise_variance)


def renormalised_gp(task, *, cut, kept, noise):
    """The model: standard normal w, coefficients w sqrt(eigenvalue), y ~ N(features . coefficients, noise).

    `noise` is one variance, one for each point, or the covariance (points, points). Coefficients of the first `kept`
    modes are registered.
    """
    eigenvalues, features = cut.eigenvalues, cut.kept
    w = jnp.asarray(numpyro.sample("w", dist.Normal(0.0, 1.0).expand(eigenvalues.shape).to_event(1)))
    coefficients = w * jnp.sqrt(eigenvalues)
    numpyro.deterministic("mode_coefficient", coefficients[:kept])
    f = features @ coefficients
    if jnp.ndim(noise) == 2:
        likelihood = dist.MultivariateNormal(f, scale_tril=jnp.linalg.cholesky(noise))
    else:
        likelihood = dist.Normal(f, jnp.sqrt(jnp.broadcast_to(noise, f.shape))).to_event(1)
    numpyro.sample("y", likelihood, obs=task.y[:, 0])


def sample(prior, task, *, eigenvalues, **options):
    """`fp.sample`, with the learnability of each mode added to the draws."""
    tree = fp.sample(prior, task, **options)
    posterior = tree["posterior"].to_dataset()
    draws = posterior["mode_coefficient"].transpose("chain", "draw", "mode")
    learned = fp.statistics.mode_learnability(draws.values, np.asarray(eigenvalues))
    tree["posterior"] = posterior.assign(mode_learnability=draws.copy(data=learned))
    return tree


def study(
    features: Literal["gaussian", "scale-mixture", "circle", "hermite", "sphere", "digits"] = "scale-mixture",
    ridge: str = "exact",
    points: int = 100,
    cutoff: int = 30,
    noise_variance: float = 0.01,
    modes: int | None = None,
    draws: int = 1000,
    chains: int = 2,
    warmup: int = 500,
    seed: int = 0,
):
    """The kept modes of a Gaussian process on one data set, its other modes replaced by a ridge.

    Args:
        features: independent Gaussian features; the same with a random scale for the high ones; cosines and sines; the
            Gaussian kernel on the line; a ReLU network's limit on the sphere or on digits.
        ridge: what becomes of the modes above the cutoff: exact, bare, leading, local, closed, matched,
            first-cumulant, functional or input-dependent; or all-modes, which samples them too.
        points: size of the data set.
        cutoff: how many modes are kept.
        noise_variance: of the data.
        modes: listed in all, 600 (gaussian, scale-mixture), 400 (circle) or 80 (hermite) unless given.
        draws: draws of each chain.
        chains: number of chains.
        warmup: adaptation steps of each chain, discarded.
        seed: of the data and the chains.
    """
    options = {} if modes is None else {"modes": modes}
    if features == "scale-mixture":
        options["first"] = cutoff
    population = POPULATIONS[features](**options)
    task = data_set(population, points, noise_variance, seed)
    everything = ridge == "all-modes"
    cut = renormalisation.split(
        population.spectrum,
        task.X,
        population.spectrum.modes if everything else cutoff,
        kernel=None if everything else population.kernel,
    )
    # where every mode is sampled, what is not listed is noise
    noise = noise_variance + population.spectrum.tail if everything else cut.noise(noise_variance, ridge)
    theory = partial(renormalisation.kept, cutoff=cutoff, kernel=population.kernel)
    ridges = dict.fromkeys(["exact", "leading", "matched", "exact" if everything else ridge])
    return fp.Study(
        partial(renormalised_gp, cut=cut, kept=cutoff, noise=noise),
        task,
        theories=[lambda _, task, r=r: theory(population.spectrum, task, ridge=r) for r in ridges],
        sampling={
            "draws": draws,
            "chains": chains,
            "warmup": warmup,
            "eigenvalues": population.spectrum.eigenvalues[:cutoff],
            "kernel": partial(NUTS, dense_mass=True),
        },
        sampler=sample,
        seed=seed,
        chosen={"modes": population.spectrum.modes},
    )
