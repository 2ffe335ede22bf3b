"""Gaussian-process regression with the infinite-width kernel of a network, its variances sampled with priors.

The sampled hyperparameters are held against quadrature of the same posterior on a grid; the limit at the prior's median
shows what learning them is worth.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import fieldprob as fp

presets = {
    "small": {},
    "full": {"train": 400, "test": 200, "depth": 3, "draws": 4000, "chains": 16},
}

# Log-normal priors of the two hyperparameters: median and standard deviation of the logarithm.
WEIGHT_VARIANCE = (1.0, 0.7)
NOISE_VARIANCE = (0.3, 1.0)


def network(depth, activation, weight_variance):
    """The network whose infinite-width kernel is used; its width plays no part."""
    return fp.Mlp(1, depth, activation, weight_variance=weight_variance)


def gp_regression(task, depth=1, activation="erf"):
    """The model: hyperparameters from their priors, outputs integrated out, y ~ N(0, K + noise)."""
    weight_variance = numpyro.sample("weight_variance", dist.LogNormal(np.log(WEIGHT_VARIANCE[0]), WEIGHT_VARIANCE[1]))
    noise = numpyro.sample("noise_variance", dist.LogNormal(np.log(NOISE_VARIANCE[0]), NOISE_VARIANCE[1]))
    net = network(depth, activation, weight_variance)
    K = net.limit(jnp.concatenate([task.X, task.X_test]))
    P = task.points
    numpyro.sample("y", fp.gp.Marginal(K[:P, :P], noise, task.outputs), obs=task.y)

    posterior = fp.gp.condition(K[:P, :P], noise, task.y, K[:, :P], jnp.diagonal(K))
    numpyro.deterministic("f", posterior.mean[:P])
    numpyro.deterministic("f_test", posterior.mean[P:])
    variance = posterior.variance
    numpyro.deterministic("f_conditional_variance", variance[:P])
    numpyro.deterministic("f_test_conditional_variance", variance[P:])
    numpyro.deterministic("test_loss", jnp.mean((task.y_test - posterior.mean[P:]) ** 2) + jnp.mean(variance[P:]))


def hyperparameter_quadrature(prior, task, *, depth=1, activation="erf", nodes=48):
    """The same posterior by quadrature: the limit at every node of a grid, weighted by prior times evidence.

    A theory is any function (prior, task) -> fp.Prediction. This one takes its error from a grid with half the nodes.
    """
    fine = _quadrature(task, depth, activation, nodes)
    coarse = _quadrature(task, depth, activation, nodes // 2)
    return fp.Prediction(
        theory="quadrature",
        order="exact",
        source="Rasmussen & Williams (2006), eq. 5.3, on a grid",
        mean=fine["mean"],
        variance=fine["variance"],
        error={name: np.abs(fine["mean"][name] - coarse["mean"][name]) for name in fine["mean"]},
        dims={"weight_variance": (), "noise_variance": ()},
    )


def _quadrature(task, depth, activation, nodes):
    # Trapezoidal in standardised logarithms: spectrally accurate for a smooth density that vanishes at the ends.
    z = jnp.linspace(-6.0, 6.0, nodes)
    z_weight, z_noise = (g.ravel() for g in jnp.meshgrid(z, z))
    weight_variance = WEIGHT_VARIANCE[0] * jnp.exp(WEIGHT_VARIANCE[1] * z_weight)
    noise = NOISE_VARIANCE[0] * jnp.exp(NOISE_VARIANCE[1] * z_noise)

    @jax.jit
    def at(pair):
        prediction = fp.theory.limit(network(depth, activation, pair[0]), task.replace(noise_variance=pair[1]))
        mean = {name: prediction.mean[name] for name in ("f", "f_test", "test_loss")}
        return prediction.log_evidence, mean, {name: prediction.variance[name] for name in ("f", "f_test")}

    log_evidence, mean, variance = jax.lax.map(at, (weight_variance, noise), batch_size=nodes)
    log_weight = log_evidence - 0.5 * z_weight**2 - 0.5 * z_noise**2
    w = jax.nn.softmax(log_weight)
    average = partial(jnp.tensordot, w, axes=1)
    mean |= {"weight_variance": weight_variance, "noise_variance": noise}
    means = {name: average(value) for name, value in mean.items()}
    variances = {name: average(value + (mean[name] - means[name]) ** 2) for name, value in variance.items()}
    for name in ("weight_variance", "noise_variance"):
        variances[name] = average((mean[name] - means[name]) ** 2)
    return {"mean": means, "variance": variances}


def limit_at_median(prior, task, *, depth=1, activation="erf"):
    """The infinite-width limit with both hyperparameters at the median of their priors."""
    return fp.theory.limit(
        network(depth, activation, WEIGHT_VARIANCE[0]), task.replace(noise_variance=NOISE_VARIANCE[0])
    )


def study(
    data: Literal["digits", "breast_cancer", "diabetes"] = "diabetes",
    train: int = 60,
    test: int = 30,
    depth: int = 1,
    activation: str = "erf",
    hyperparameters: bool = True,
    draws: int = 1000,
    chains: int = 4,
    warmup: int = 300,
    seed: int = 0,
):
    """Regression with an infinitely wide network, hyperparameters learned.

    Args:
        data: a data set that scikit-learn ships.
        train: training points.
        test: test points.
        depth: hidden layers of the network whose kernel is used.
        activation: name of the activation function.
        hyperparameters: sample the weight and noise variance; if not, they stay at the median of their priors and the
            outputs themselves are sampled.
        draws: draws of each chain.
        chains: number of chains.
        warmup: adaptation steps of each chain, discarded.
        seed: of the data split and of the chains.
    """
    task = getattr(fp.tasks, data)(train=train, test=test, noise_variance=NOISE_VARIANCE[0], seed=seed)
    options = {"depth": depth, "activation": activation}
    sampling = {"draws": draws, "chains": chains, "warmup": warmup}
    if not hyperparameters:
        net = network(depth, activation, WEIGHT_VARIANCE[0])
        return fp.Study(net, task, [fp.theory.limit], {**sampling, "face": "limit"}, seed)
    theories = [partial(hyperparameter_quadrature, **options), partial(limit_at_median, **options)]
    return fp.Study(partial(gp_regression, **options), task, theories, sampling, seed)
