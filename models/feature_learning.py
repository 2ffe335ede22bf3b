"""Feature learning: a network of erf neurons learns a target that is linear plus cubic in one direction.

At mean-field scaling the hidden weights grow along the direction of the target, and the cubic part is learned from few
data. The infinite-width limit, whose kernel is that of isotropic weights, needs a number of points of order inputs^3
(arXiv:2502.03210). At standard scaling hardly anything of this is left.
"""

import math
from dataclasses import replace
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpyro

import fieldprob as fp

presets = {
    "small": {},
    "full": {"points": 1000, "inputs": 50, "test": 500, "width": 200, "average": "particles", "chains": 8},
}


def feature_learning(net, task, **options):
    """The model: noisy outputs of a network, and what its features have become.

    Beside the statistics of `fp.regression`, whose `options` these are: `weight_spike`, the mean square first-layer
    weight along the first input, `weight_bulk`, that along the others, and `hermite_coefficient`, those of the learned
    function of the first input, degrees 0 to 3.
    """
    with numpyro.handlers.trace() as sites:
        fp.regression(net, task, **options)
    statistics = {"hermite_coefficient": hermite_weights(task) @ sites["f_test"]["value"][:, 0]}
    if "weight_0" in sites:
        W = sites["weight_0"]["value"]
        statistics |= spike(W.T @ W * (net.weight_variance[0] / W.size))
    for name, value in statistics.items():
        numpyro.deterministic(name, value)


def hermite_weights(task):
    """Of each test point in the average of f He_k / k!, with He_k of the first input: (degrees, test points)."""
    z = task.X_test[:, 0]
    return fp.statistics.hermite_coefficient(jnp.eye(len(z)), z, degrees=4).T


def spike(weight_covariance):
    """The mean square weight along the first input, and along the others."""
    along = jnp.diagonal(weight_covariance)
    return {"weight_spike": along[0], "weight_bulk": jnp.mean(along[1:])}


def with_features(theory, net, task, **options):
    """The prediction of a theory, and the statistics of the model; where no weights adapt they keep their prior."""
    prediction = theory(net, task, **options)
    weights = hermite_weights(task)
    prior = net.weight_variance[0] / task.inputs * jnp.eye(task.inputs)
    mean = {"hermite_coefficient": weights @ prediction.mean["f_test"][:, 0]}
    mean |= spike(prediction.mean.get("weight_covariance", prior))
    error = {}
    if "f_test" in prediction.error:  # of sums, bounds: as if all errors had one cause
        error = {"hermite_coefficient": jnp.abs(weights) @ prediction.error["f_test"][:, 0]}
        error |= spike(prediction.error["weight_covariance"])
    return replace(prediction, mean=prediction.mean | mean, error=prediction.error | error)


def study(
    points: int = 100,
    inputs: int = 8,
    test: int = 200,
    cubic: float = -0.3,
    width: int = 24,
    scaling: Literal["standard", "mean-field"] | float = "mean-field",
    weight_variance: float = 1.0,
    readout_variance: float = 2.0,
    noise_variance: float = 4.0,
    average: Literal["auto", "importance", "particles"] = "auto",
    samples: int = 48_000,
    draws: int = 1000,
    chains: int = 4,
    warmup: int = 300,
    seed: int = 0,
):
    """The posterior of a network of erf neurons on y = z + cubic (z^3 - 3 z), z the first input, against its theories.

    Args:
        points: training points.
        inputs: dimension of the inputs.
        test: test points.
        cubic: coefficient of the third Hermite polynomial of the target; that of the first is 1.
        width: hidden neurons.
        scaling: standard, mean-field, or an exponent gamma of at least 1.
        weight_variance: variance per fan-in of the first layer.
        readout_variance: variance per fan-in of the readout, before it is divided by chi.
        noise_variance: likelihood variance, before it is divided by chi.
        average: how the adapted measure of a neuron is averaged; importance sampling is for some ten inputs.
        samples: neurons drawn for that average.
        draws: draws of each chain.
        chains: number of chains.
        warmup: adaptation steps of each chain, discarded.
        seed: of the data, the chains and the average.
    """
    net = fp.Mlp(width, 1, "erf", weight_variance, 0.0, readout_variance, scaling)
    task = fp.tasks.cubic_teacher(
        points, inputs, cubic=cubic * math.sqrt(6.0), test=test, noise_variance=noise_variance, seed=seed
    )
    tree = {"average": average, "samples": samples, "key": jax.random.key(seed)}
    theories = (
        fp.theory.limit,
        fp.theory.rescaling,
        partial(fp.theory.adaptation, **tree),
        partial(fp.theory.adaptation, order="one-loop", **tree),
        partial(fp.theory.adaptation, closure="gaussian"),
    )
    return fp.Study(
        net,
        task,
        theories=[partial(with_features, theory) for theory in theories],
        sampling={"model": feature_learning, "draws": draws, "chains": chains, "warmup": warmup},
        seed=seed,
    )
