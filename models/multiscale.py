"""Multi-scale feature learning: a two-layer network from standard to mean-field scaling, and which theory holds where.

The task is the Ising task of arXiv:2502.03210. The network is sampled in any of four parametrisations, which have one
posterior of the outputs; `ladder` sets the error of each theory against the exact answer for linear networks.
"""

import math
from functools import partial
from typing import Literal

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd

import fieldprob as fp
from fieldprob.networks.regression import default_kernel_points

presets = {
    "small": {},
    "full": {"points": 80, "test": 1000, "inputs": 200, "width": 100, "draws": 2000, "chains": 8},
}


RESCALING = (fp.theory.limit, fp.theory.rescaling, partial(fp.theory.rescaling, order="corrected"))
LINEAR = (
    *RESCALING,
    fp.theory.adaptation,
    partial(fp.theory.adaptation, order="one-loop"),
    partial(fp.theory.adaptation, order="self-consistent"),
)
# In many dimensions the measure of a non-linear neuron is averaged in its Gaussian closure.
NONLINEAR = (*RESCALING, partial(fp.theory.adaptation, closure="gaussian"))


def multiscale(net, task, *, parametrisation="readout-marginal", kernel_points=None, face=None, precision="auto"):
    """The model: a linear or non-linear network with one hidden layer and no bias, y ~ N(f, effective noise).

    `parametrisation` says what is latent: "centred" weights with their prior scales, "non-centred" standard normals,
    "readout-marginal" the hidden weights alone, "weight-marginal" the squared norm of the readout alone (linear only).
    It takes the place of the `face` that `fp.sample` offers. Registers `discrepancy`, y - f, beside the statistics of
    `fp.regression`.
    """
    points = default_kernel_points(task) if kernel_points is None else kernel_points
    if parametrisation == "readout-marginal":
        with numpyro.handlers.trace() as trace:
            fp.regression(net, task, face="collapsed", kernel_points=points, precision=precision)
        f, variance = trace["f"]["value"], trace["f_conditional_variance"]["value"]
    elif parametrisation == "weight-marginal":
        f, variance = weight_marginal(net, task, points)
    else:
        f, variance = all_weights(net, task, points, centred=parametrisation == "centred"), None
    numpyro.deterministic("discrepancy", task.y - f)
    if variance is not None:
        numpyro.deterministic("discrepancy_conditional_variance", variance)


def all_weights(net, task, points, *, centred):
    """Every weight, with its prior scale or as a standard normal times that scale."""
    scales = net.weight_variance[0] / task.inputs, net.readout_variance / net.chi / net.widths[0]

    def latent(name, shape, variance):
        scale = jnp.sqrt(variance)
        prior = dist.Normal(0.0, scale if centred else 1.0).expand(shape).to_event(len(shape))
        value = jnp.asarray(numpyro.sample(name, prior))
        return value if centred else scale * value

    W = latent("weight_0", (net.widths[0], task.inputs), scales[0])
    a = latent("readout", (net.widths[0], 1), scales[1])
    phi = net.activations[0].phi(jnp.matmul(all_inputs(task), W.T))
    f = phi @ a
    numpyro.sample("y", dist.Normal(f[: task.points], jnp.sqrt(net.effective_noise(task))).to_event(2), obs=task.y)
    record(task, f, None, scales[1] * phi[points] @ phi[points].T, jnp.sum(a**2))
    return f[: task.points]


def weight_marginal(net, task, points):
    """One latent Q = |a|^2: f | Q ~ N(0, Q K_0), for linear networks. Recorded are means given Q."""
    N, G, P = net.widths[0], net.readout_variance / net.chi, task.points
    K_0 = net.limit_kernels(all_inputs(task))[0]
    noise = net.effective_noise(task)
    Q = numpyro.sample("Q", dist.Gamma(N / 2, N / (2 * G)))
    numpyro.sample("y", fp.gp.Marginal(Q * K_0[:P, :P], noise), obs=task.y)
    posterior = fp.gp.condition(Q * K_0[:P, :P], noise, task.y, Q * K_0[:, :P], Q * K_0)
    seen = posterior.mean @ posterior.mean.T + posterior.covariance  # pyright: ignore[reportOperatorIssue]
    kernel = G * ((1 - 1 / N) * K_0 + seen / (N * Q))
    record(task, posterior.mean, posterior.variance, kernel[np.ix_(points, points)], Q)
    return posterior.mean[:P], posterior.variance[:P]


def all_inputs(task):
    return task.X if not task.test_points else jnp.concatenate([task.X, task.X_test])


def record(task, f, conditional_variance, kernel_1, readout_norm):
    """The statistics that theories predict; with a conditional variance those given the latent variables."""
    for name, rows in {"f": slice(None, task.points), "f_test": slice(task.points, None)}.items():
        if len(f[rows]):
            numpyro.deterministic(name, f[rows])
            if conditional_variance is not None:
                numpyro.deterministic(f"{name}_conditional_variance", conditional_variance[rows])
    numpyro.deterministic("kernel_1", kernel_1)
    numpyro.deterministic("readout_norm", readout_norm)


def with_discrepancy(theory, net, task):
    """A theory that also predicts the discrepancy y - f, whose relative error the ladder shows."""
    prediction = theory(net, task)
    statistics = prediction.mean | {"discrepancy": task.y - prediction.mean["f"]}
    return fp.Prediction(**{**vars(prediction), "mean": statistics})


def network(width, chi, activation, weight_variance, readout_variance):
    """chi from 1 to the width, or "width": the mean-field scaling."""
    chi = float(width) if chi == "width" else float(chi)
    scaling = 1 + math.log(chi) / math.log(width) if width > 1 else 1.0
    return fp.Mlp(width, 1, activation, weight_variance, 0.0, readout_variance, scaling)


def ladder(task, widths, chis, weight_variance=0.5, readout_variance=0.2, theories=LINEAR) -> pd.DataFrame:
    """Errors of the mean training discrepancy of linear networks, relative to its exact size: one row a network.

    The columns are `width`, `chi`, `discrepancy` (its exact root mean square) and the theories' names.
    """
    rows = []
    for width in widths:
        for chi in chis:
            net = network(width, chi, "linear", weight_variance, readout_variance)
            exact = task.y - fp.theory.exact_linear(net, task).mean["f"]
            row = {"width": width, "chi": net.chi, "discrepancy": float(jnp.sqrt(jnp.mean(exact**2)))}
            for theory in theories:
                prediction = theory(net, task)
                error = jnp.linalg.norm(task.y - prediction.mean["f"] - exact) / jnp.linalg.norm(exact)
                row[prediction.theory] = float(error)
            rows.append(row)
    return pd.DataFrame(rows)


def study(
    points: int = 16,
    test: int = 20,
    inputs: int = 40,
    bias: float = 0.1,
    width: int = 20,
    chi: float | Literal["width"] = 1.0,
    activation: str = "linear",
    weight_variance: float = 0.5,
    readout_variance: float = 0.2,
    noise_variance: float = 1.0,
    parametrisation: Literal["centred", "non-centred", "readout-marginal", "weight-marginal"] = "readout-marginal",
    draws: int = 1000,
    chains: int = 4,
    warmup: int = 300,
    seed: int = 0,
):
    """A two-layer network on the Ising task, anywhere between standard and mean-field scaling.

    Args:
        points: training points, even.
        test: test points, even.
        inputs: input dimension.
        bias: of the inputs towards their label; 0 carries no signal.
        width: neurons of the hidden layer.
        chi: divides readout variance and noise; 1 is standard, width is mean-field scaling.
        activation: name of the activation function; linear networks have exact predictions.
        weight_variance: variance per fan-in of the hidden weights.
        readout_variance: variance per fan-in of the readout, before it is divided by chi.
        noise_variance: likelihood variance, before it is divided by chi.
        parametrisation: what is sampled: all weights (with their scales, or standard normal), the hidden weights, or
            the readout's norm (linear networks only).
        draws: draws of each chain.
        chains: number of chains.
        warmup: adaptation steps of each chain, discarded.
        seed: of the data and of the chains.
    """
    if parametrisation == "weight-marginal" and activation != "linear":
        raise ValueError(f"parametrisation 'weight-marginal' is for activation 'linear', not {activation!r}.")
    net = network(width, chi, activation, weight_variance, readout_variance)
    task = fp.tasks.ising(points, inputs, bias, test=test, noise_variance=noise_variance, seed=seed)
    theories = (*LINEAR, fp.theory.exact_linear) if activation == "linear" else NONLINEAR
    model = partial(multiscale, parametrisation=parametrisation)
    return fp.Study(
        net,
        task,
        theories=[partial(with_discrepancy, theory) for theory in theories],
        sampling={"model": model, "draws": draws, "chains": chains, "warmup": warmup},
        seed=seed,
    )
