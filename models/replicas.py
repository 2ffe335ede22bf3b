"""Replicated partition functions: random data sets by brute force against the action averaged over them.

Z is the evidence of a Poisson number of noiseless labels without its normalisation, E_prior exp(-sum (f - y)^2 / 2 k2).
Its powers averaged over data sets with Gaussian features are those of theory document 05, (6), which turns the average
over data into a determinant between copies of the outputs.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import fieldprob as fp
from fieldprob.theory import renormalisation

presets = {"small": {}, "full": {"datasets": 200_000, "draws": 1_000_000}}

EIGENVALUES, TARGET = np.array([1.0, 0.3]), np.array([0.8, -0.5])


def partition_function(key, noise, points, largest):
    """Z of one random data set, the Gaussian integral over the coefficients done exactly."""
    key_size, key_features = jax.random.split(key)
    here = jnp.arange(largest) < jax.random.poisson(key_size, points)
    phi = jnp.where(here[:, None], jax.random.normal(key_features, (largest, EIGENVALUES.size)), 0.0)
    y = phi @ TARGET
    S = noise * jnp.eye(largest) + (phi * EIGENVALUES) @ phi.T
    # N(y; 0, S) over that of the noise alone at zero: points that are absent cancel
    return jnp.exp(-0.5 * (y @ jnp.linalg.solve(S, y) + jnp.linalg.slogdet(S / noise)[1]))


def sample(prior, task, *, datasets, noise, points, replicas, seed, progress):
    """Powers of Z for independent data sets."""
    largest = int(points + 10 * points**0.5 + 20)  # a Poisson number exceeds it with probability below 1e-12
    keys = jax.random.split(jax.random.key(seed), datasets)
    one = partial(partition_function, noise=noise, points=points, largest=largest)
    Z = np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=1000))(keys))
    powers = Z[:, None] ** np.arange(1, replicas + 1)
    coords = {"dataset": np.arange(datasets), "replica": np.arange(1, replicas + 1)}
    variables = {"partition_function": (("dataset", "replica"), powers)}
    return xr.DataTree.from_dict({"posterior": xr.Dataset(variables, coords)})


def averaged(prior, task, *, noise, points, replicas, draws, seed):
    """The averages of Z^M from the determinant action."""
    found = [
        renormalisation.replicated_partition_function(
            jnp.asarray(TARGET), jnp.asarray(EIGENVALUES), noise, points, M, draws=draws, key=jax.random.key(seed + M)
        )
        for M in range(1, replicas + 1)
    ]
    return fp.Prediction(
        theory="determinant action",
        order="exact for Gaussian features",
        source="theory document 05, (6)",
        mean={"partition_function": jnp.stack([estimate.value for estimate in found])},
        error={"partition_function": jnp.stack([estimate.error for estimate in found])},
        dims={"partition_function": ("replica",)},
        coords={"replica": tuple(range(1, replicas + 1))},
    )


def study(
    points: float = 2.5,
    noise_variance: float = 0.5,
    replicas: int = 3,
    datasets: int = 100_000,
    draws: int = 200_000,
    seed: int = 0,
):
    """Averages of Z, Z^2, Z^3, ... over random data sets of two Gaussian features.

    Args:
        points: mean number of data.
        noise_variance: of the likelihood.
        replicas: the highest power.
        datasets: how many.
        draws: of the prior, for the theory's own average over the outputs.
        seed: of both.
    """
    if not noise_variance > 0 or not points >= 0 or replicas < 1 or datasets < 2:
        raise ValueError(
            f"noise_variance={noise_variance:g}, points={points:g}, replicas={replicas}, datasets={datasets}: give a "
            "positive noise, points of zero or more, one replica and two data sets at least."
        )
    common = {"noise": noise_variance, "points": points, "replicas": replicas}
    return fp.Study(
        None,
        None,
        theories=[partial(averaged, draws=draws, seed=seed, **common)],
        sampling={"datasets": datasets, **common},
        sampler=sample,
        seed=seed,
    )
