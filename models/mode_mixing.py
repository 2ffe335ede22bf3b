"""Integrated modes whose strength depends on the input: the kept ones mix, and only an input-dependent ridge knows.

Five Hermite polynomials of a standard normal input are kept. Many integrated modes have features g(x) times Gaussian
noise, with g small on the left and large on the right, so that data on the left weigh more. Sampled is the mean
predictor of the whole process over random data sets; predicted are its averages with the input-dependent ridge
(theory document 05, (21) with (22)), with its first cumulant (18), and with the uniform leading ridge (7).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import fieldprob as fp
from fieldprob.kernels.spectra.gegenbauer import three_terms
from fieldprob.theory import renormalisation

presets = {"small": {}, "many": {"points": 160}, "full": {"datasets": 20_000}}

EIGENVALUES = jnp.array([0.05, 0.05, 0.02, 0.02, 0.01])
TARGET = jnp.array([1.0, -0.7, 0.5, 0.4, -0.3])
SHELL, TRACE = 300, 2.0  # integrated modes, of equal variance, and their trace


def hermite(x):
    """Normalised Hermite polynomials of degree 0 ... 4, (points, modes)."""
    n = np.arange(4.0)
    steps = np.stack([1 / np.sqrt(n + 1), np.sqrt(n / (n + 1))], axis=1)
    return three_terms(jnp.ones_like(x), lambda p, q, c: c[0] * x * p - c[1] * q, steps)


def strength(x):
    """E[phi^2 | x] of the integrated modes, one on average."""
    return 2 * jax.nn.sigmoid(3 * x)


def learn(key, points, noise):
    """The mean predictor's coefficients along the kept modes, the whole process learned from one data set."""
    key_input, key_shell = jax.random.split(key)
    x = jax.random.normal(key_input, (points,))
    phi = hermite(x)
    shell = jnp.sqrt(TRACE / SHELL * strength(x))[:, None] * jax.random.normal(key_shell, (points, SHELL))
    S = (phi * EIGENVALUES) @ phi.T + shell @ shell.T + noise * jnp.eye(points)
    return EIGENVALUES * (phi.T @ jnp.linalg.solve(S, phi @ TARGET))


def sample(prior, task, *, datasets, points, noise, seed, progress):
    """Independent data sets."""
    keys = jax.random.split(jax.random.key(seed), datasets)
    values = jax.jit(lambda keys: jax.lax.map(partial(learn, points=points, noise=noise), keys))(keys)
    variables = {"mean_coefficient": (("dataset", "mode"), np.asarray(values))}
    coords = {"dataset": np.arange(datasets), "mode": np.arange(5)}
    return xr.DataTree.from_dict({"posterior": xr.Dataset(variables, coords)})


def prediction(prior, task, *, ridge, points, noise, nodes=400):
    """The average predictor under one of three ridges."""
    x = jnp.linspace(-9.0, 9.0, nodes)
    weights = jnp.exp(-(x**2) / 2) / jnp.sum(jnp.exp(-(x**2) / 2))
    moments = strength(x)[:, None]
    shell = renormalisation.ShellMoments(jnp.array([TRACE / SHELL]), jnp.array([float(SHELL)]), moments)
    kept: tuple[Any, Any, Any, Any] = (EIGENVALUES, hermite(x), weights, points)
    if ridge == "input-dependent":
        averages = renormalisation.input_dependent_average(*kept, noise, shell)
    else:
        s = noise + (shell.variance if ridge == "first cumulant" else TRACE)
        averages = renormalisation.mode_mixing(*kept, s)
    return fp.Prediction(
        theory=f"{ridge} ridge",
        order="mean field",
        source="theory document 05, (18), (21), (22)",
        mean={"mean_coefficient": averages.response @ TARGET},
        dims={"mean_coefficient": ("mode",)},
    )


def study(points: int = 40, noise_variance: float = 0.1, datasets: int = 1500, seed: int = 0):
    """The average predictor where the integrated modes' strength depends on the input.

    Args:
        points: size of the data sets.
        noise_variance: of the likelihood; the labels have no noise.
        datasets: how many.
        seed: of the data sets.
    """
    common = {"points": points, "noise": noise_variance}
    ridges = ("input-dependent", "first cumulant", "uniform")
    return fp.Study(
        None,
        None,
        theories=[partial(prediction, ridge=ridge, **common) for ridge in ridges],
        sampling={"datasets": datasets, **common},
        sampler=sample,
        seed=seed,
    )
