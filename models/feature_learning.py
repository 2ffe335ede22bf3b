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
import numpy as np
import numpyro

import fieldprob as fp

presets = {
    "small": {},
    "full": {"points": 1000, "inputs": 50, "test": 500, "width": 200, "average": "particles", "chains": 8},
}


# Colours and lines of the theories of the study, in their order.
STYLES = [
    ("#0072B2", "-"),
    ("#D55E00", "--"),
    ("#009E73", "-"),
    ("#CC79A7", "--"),
    ("#E69F00", "-."),
]


def feature_learning(net, task, **options):
    """The model: noisy outputs of a network, and what its features have become.

    Beside the statistics of `fp.regression`, whose `options` these are: `weight_covariance` of the first layer,
    `weight_spike`, the mean square weight along the first input, `weight_bulk`, that along the others, and
    `hermite_coefficient`, those of the learned function of the first input, degrees 0 to 3.
    """
    with numpyro.handlers.trace() as sites:
        fp.regression(net, task, **options)
    statistics = {"hermite_coefficient": hermite_weights(task) @ sites["f_test"]["value"][:, 0]}
    if "weight_0" in sites:
        W = fp.statistics.weight_covariance(sites["weight_0"]["value"], net.weight_variance[0])
        statistics |= {"weight_covariance": W, **spike(W)}
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
    W = prediction.mean.get("weight_covariance", prior)
    mean = {"hermite_coefficient": weights @ prediction.mean["f_test"][:, 0], "weight_covariance": W, **spike(W)}
    error = {}
    if "f_test" in prediction.error:  # of sums, bounds: as if all errors had one cause
        error = {"hermite_coefficient": jnp.abs(weights) @ prediction.error["f_test"][:, 0]}
        error |= spike(prediction.error["weight_covariance"])
    return replace(prediction, mean=prediction.mean | mean, error=prediction.error | error)


def draw_function(result, task, points=15):
    """The learned function of the first input: averages over test points that are neighbours in it, and the target."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    ax = figure.subplots()
    ax.spines[["top", "right"]].set_visible(False)
    ax.set(xlabel="first input z", ylabel="f, averaged over neighbouring test points")
    z = np.asarray(task.X_test[:, 0])
    order = np.argsort(z)

    def averaged(f):
        return np.array([np.mean(part) for part in np.array_split(np.asarray(f)[order], points)])

    sampled, centre = result.samples["posterior"]["f_test"].mean(("chain", "draw"))[:, 0], averaged(z)
    shown = order[(z[order] >= centre[0]) & (z[order] <= centre[-1])]
    ax.plot(z[shown], np.asarray(task.y_test)[shown, 0], color="0.5", linewidth=1.2, linestyle=":", label="target")
    ax.plot(centre, averaged(sampled), "o", color="k", markersize=5, label="sampled", zorder=3)
    for prediction, (color, line) in zip(result.predictions, STYLES, strict=True):
        ax.plot(centre, averaged(prediction.mean["f_test"][:, 0]), color=color, linestyle=line, label=prediction.theory)
    figure.legend(loc="outside right center", frameon=False)
    return figure


def draw_weights(result):
    """Eigenvalues of the mean weight covariance, sampled with two standard errors (between chains), and predicted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    ax = figure.subplots()
    ax.spines[["top", "right"]].set_visible(False)
    ax.set(xlabel="rank of the eigenvalue", ylabel="eigenvalue of the weight covariance")
    chains = np.asarray(result.samples["posterior"]["weight_covariance"].mean("draw"))
    eigenvalues, vectors = np.linalg.eigh(chains.mean(axis=0))
    error = np.std(np.einsum("ik,cij,jk->ck", vectors, chains, vectors), axis=0, ddof=1) / np.sqrt(len(chains))
    rank = np.arange(1, len(eigenvalues) + 1)
    ax.bar(rank, eigenvalues[::-1], yerr=2 * error[::-1], width=0.7, color="0.82", capsize=2, label="sampled")
    for prediction, (color, line) in zip(result.predictions, STYLES, strict=True):
        found = np.linalg.eigvalsh(prediction.mean["weight_covariance"])
        ax.plot(rank, found[::-1], color=color, linestyle=line, marker=".", label=prediction.theory)
    figure.legend(loc="outside right center", frameon=False)
    return figure


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
        figures={"function": partial(draw_function, task=task), "weights": draw_weights},
    )
