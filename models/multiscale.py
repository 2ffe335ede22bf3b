"""Multi-scale feature learning: a two-layer network from standard to mean-field scaling, and which theory holds where.

The task is the Ising task of arXiv:2502.03210. The network is sampled in any of four parametrisations, which have one
posterior of the outputs. For linear networks one theory is exact, and a sweep shows the errors of the others:

    fieldprob sweep multiscale --preset ising --chi 1,4,16,100,400
    fieldprob sweep multiscale --preset ladder --width 40,160,640 --chi 1,width
    fieldprob sweep multiscale --preset directional --width 20,40,80,160 --chi width
"""

import math
from dataclasses import replace
from functools import partial
from typing import Literal

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import fieldprob as fp
from fieldprob.networks.regression import default_kernel_points

presets = {
    "small": {},
    "full": {"points": 80, "test": 1000, "inputs": 200, "width": 100, "draws": 2000, "chains": 8},
    "ising": {
        "points": 80, "test": 1000, "inputs": 200, "width": 100, "parametrisation": "weight-marginal", "draws": 500,
    },
    "ladder": {
        "points": 4, "inputs": 20, "readout_variance": 2.0, "noise_variance": 0.5, "first_order": True,
        "parametrisation": "weight-marginal",
    },
    "directional": {
        "points": 8, "inputs": 30, "bias": 0.15, "weight_variance": 1.0, "readout_variance": 1.0, "noise_variance": 0.5,
        "seed": 9,
    },
}  # fmt: skip

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
    It takes the place of the `face` that `fp.sample` offers. Registers `f` and `discrepancy`, y - f, both also at test
    points; `kernel_1`, and its strength along and orthogonal to the targets relative to the limit's kernel
    (`alignment_parallel`, `alignment_orthogonal`); and `readout_norm`. Of what is integrated out these are means.
    """
    if jnp.ndim(task.noise_variance):
        raise ValueError("the model multiscale is for noise of one variance: give the task a number.")
    points = default_kernel_points(task) if kernel_points is None else kernel_points
    if parametrisation == "readout-marginal":
        readout_marginal(net, task, points, precision)
    elif parametrisation == "weight-marginal":
        weight_marginal(net, task, points)
    else:
        all_weights(net, task, points, centred=parametrisation == "centred")


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
    record(net, task, points, f, None, lambda rows: scales[1] * phi[rows] @ phi[rows].T, jnp.sum(a**2))


def readout_marginal(net, task, points, precision):
    """The hidden weights; recorded are means given these."""
    hide = numpyro.handlers.block(hide_fn=lambda site: site["type"] == "deterministic")
    with hide, numpyro.handlers.trace() as sites:
        fp.regression(net, task, face="collapsed", kernel_points=points, precision=precision)
    values = {name: site["value"] for name, site in sites.items()}
    f = jnp.concatenate([values[name] for name in ("f", "f_test") if name in values])
    variance = jnp.concatenate([values[f"{name}_conditional_variance"] for name in ("f", "f_test") if name in values])
    F = net.output_features(net.hidden(values, all_inputs(task))[0])
    seen = (task.y - f[: task.points]) * f[: task.points] - variance[: task.points, None]
    norm = net.readout_variance / net.chi * (1 + jnp.sum(seen) / net.effective_noise(task) / net.widths[0])
    record(net, task, points, f, variance, lambda rows: F[rows] @ F[rows].T, norm)


def weight_marginal(net, task, points):
    """One latent Q = |a|^2: f | Q ~ N(0, s K) with the limit's kernel K, s = Q / G; for linear networks. Recorded are
    means given Q."""
    N, G, noise, X = net.widths[0], net.readout_variance / net.chi, net.effective_noise(task), all_inputs(task)
    Q = numpyro.sample("Q", dist.Gamma(N / 2, N / (2 * G)))
    s = Q / G
    K = s * net.limit(task.X)
    numpyro.sample("y", fp.gp.Marginal(K, noise), obs=task.y)

    def kernel(rows):
        prior = net.limit(X[rows])
        f = fp.gp.condition(K, noise, task.y, s * net.limit(X[rows], task.X), s * prior)
        seen = f.mean @ f.mean.T + f.covariance  # pyright: ignore[reportOperatorIssue]
        return (1 - 1 / N) * prior + seen / (N * s)

    f = fp.gp.condition(K, noise, task.y, s * net.limit(X, task.X), s * net.limit_variance(X))
    record(net, task, points, f.mean, f.variance, kernel, Q)


def all_inputs(task):
    return task.X if not task.test_points else jnp.concatenate([task.X, task.X_test])


def record(net, task, points, f, conditional_variance, kernel_1, readout_norm):
    """The statistics that theories predict; with a conditional variance those given the latent variables."""
    parts = {"": (slice(None, task.points), task.y)}
    if task.test_points:
        parts["_test"] = (slice(task.points, None), task.y_test)
    for part, (rows, targets) in parts.items():
        for name, value in {"f": f[rows], "discrepancy": targets - f[rows]}.items():
            numpyro.deterministic(f"{name}{part}", value)
            if conditional_variance is not None:
                numpyro.deterministic(f"{name}{part}_conditional_variance", conditional_variance[rows])
    numpyro.deterministic("kernel_1", kernel_1(points))
    for name, value in alignments(net, task, kernel_1(np.arange(task.points))).items():
        numpyro.deterministic(name, value)
    numpyro.deterministic("readout_norm", readout_norm)


def alignments(net, task, kernel_1):
    """Strength of a kernel of the training points along and orthogonal to the targets, relative to the limit's."""
    arguments = kernel_1, net.limit(task.X), task.y[:, 0]
    return {
        "alignment_parallel": fp.statistics.alignment_parallel(*arguments),
        "alignment_orthogonal": fp.statistics.alignment_orthogonal(*arguments),
    }


def measured(theory, net, task):
    """The statistics of the model, as a theory predicts them from its outputs and its kernel."""
    prediction, points = theory(net, task), default_kernel_points(task)
    mean, variance = {}, {}
    for part, targets in {"": task.y, "_test": task.y_test}.items():
        if f"f{part}" in prediction.mean:
            mean[f"discrepancy{part}"] = targets - prediction.mean[f"f{part}"]
        if f"f{part}" in prediction.variance:
            variance[f"discrepancy{part}"] = prediction.variance[f"f{part}"]
    kernel = prediction.mean["kernel_1"]
    mean |= {"kernel_1": kernel[np.ix_(points, points)]} | alignments(net, task, kernel[: task.points, : task.points])
    mean |= {name: value for name, value in prediction.mean.items() if name == "readout_norm"}
    return replace(prediction, mean=mean, variance=variance, covariance={}, dims={}, coords={"point": points})


def network(width, chi, activation, weight_variance, readout_variance):
    """chi is a number, or "width": the mean-field scaling."""
    chi = float(width) if chi == "width" else float(chi)
    if not 1 <= chi < math.inf:
        raise ValueError(f"chi is {chi:g}: give a number of at least 1, or 'width'")
    scaling = 1 + math.log(chi) / math.log(width) if width > 1 else 1.0
    return fp.Mlp(width, 1, activation, weight_variance, 0.0, readout_variance, scaling)


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
    first_order: bool = False,
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
        first_order: whether the first order in 1/width is one of the theories; for at most 24 points, test included.
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
    if first_order:
        theories = (partial(fp.theory.perturbative, method="tensor"), *theories)
    model = partial(multiscale, parametrisation=parametrisation)
    return fp.Study(
        net,
        task,
        theories=[partial(measured, theory) for theory in theories],
        sampling={"model": model, "draws": draws, "chains": chains, "warmup": warmup},
        seed=seed,
    )
