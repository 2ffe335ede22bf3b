"""Langevin training and the Bayesian posterior that it samples: weight decay, temperature and loss against prior
variance and noise variance.

Training with noise, in the weights theta as people train them (theory 01, section 3B; 04, eq. 2.10),

    dtheta_j = -(gamma_j theta_j + d_j loss) dt + sqrt(2 T) dB_j                                                    (B1)

has the stationary density exp(-sum_j gamma_j theta_j^2 / 2T - loss / T) (B2). It is the posterior of the prior
theta_j ~ N(0, T / gamma_j) (B3) and of the likelihood y ~ N(f, noise), where (B4), with P points,

    loss               half_sum          sum           half_mean              mean
                  1/2 sum (y-f)^2    sum (y-f)^2    1/2P sum (y-f)^2     1/P sum (y-f)^2
    noise variance       T               T/2             P T                  P T / 2

The weights of a fieldprob network have prior variances s^2 = weight_variance / fan-in, divided by chi for the readout,
and its noise is the effective one, kappa^2 / chi. Hence B9, for the first loss: T = kappa^2 / chi and gamma = T / s^2.

The NumPyro sites of a network are whitened, z = theta / s. In them U = loss + 1/2 sum gamma theta^2 becomes T times the
potential energy E(z) of the NumPyro model, up to a constant, d/dtheta = (1/s) d/dz, and B1 reads

    dz = -(T / s^2) dE/dz dt + sqrt(2 T / s^2) dB:

Langevin dynamics of the model at temperature 1, without weight decay (the prior is in E), with *mobility gamma* at each
site. Both forms are the same process step by step, at any step size, since an Euler step commutes with a change of
scale. A single mobility for all whitened sites has the same stationary law, but is another training algorithm.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax.core import Tracer

from fieldprob.networks.mlp import Mlp
from fieldprob.networks.regression import check_values_only, regression

# loss = factor * sum (y - f)^2, divided by the number of points or not
_LOSSES = {"half_sum": (0.5, False), "sum": (1.0, False), "half_mean": (0.5, True), "mean": (1.0, True)}


class TrainingParameters(NamedTuple):
    """What makes Langevin training sample a posterior: see `training_parameters`.

    Attributes:
        temperature: T.
        weight_decay: gamma of each site (`weight_0`, `bias_0`, ..., `readout`) in the network's own weights; and the
            mobility of each site in the whitened ones.
        prior_variance: s^2 of each site, T / gamma.
    """

    temperature: Any
    weight_decay: dict[str, Any]
    prior_variance: dict[str, Any]


class TrainingPotential(NamedTuple):
    """The loss of a network as a function of its own weights: see `training_potential`.

    Attributes:
        loss: theta -> number, without weight decay; theta is a dictionary of sites.
        initial: key -> theta, a draw from the prior.
        statistics: theta -> dictionary of the statistics of `fieldprob.regression`: `f`, `f_test`, `kernel_l`, ...
    """

    loss: Callable[[dict], Any]
    initial: Callable[[Any], dict]
    statistics: Callable[[dict], dict]


def noise_variance(temperature, *, loss: str = "half_sum", points: int | None = None):
    """Noise variance of the likelihood that training at a temperature samples (B4).

    Args:
        temperature: T, positive.
        loss: "half_sum", "sum", "half_mean" or "mean". Several outputs are summed over.
        points: P; for the two means only. Where the loss is a mean over outputs too (PyTorch's `MSELoss`), give
            points times outputs.

    Raises:
        ValueError: an unknown loss, points missing or given where they do not matter, a number that is not positive.

    >>> noise_variance(0.02, loss="mean", points=50)
    0.5
    """
    return _positive("temperature", temperature) / (2 * _factor(loss, points))


def temperature(noise_variance, *, loss: str = "half_sum", points: int | None = None):
    """Temperature at which training samples the posterior of a noise variance (B4), the inverse of `noise_variance`.

    The effective one: in mean-field scaling kappa^2 / N. Arguments and errors as `noise_variance`.

    >>> temperature(0.5, loss="mean", points=50)
    0.02
    """
    return _positive("noise_variance", noise_variance) * (2 * _factor(loss, points))


def weight_decay(prior_variance, temperature):
    """Weight decay gamma = T / (prior variance) of a weight (B3): for weights per fan-in, T fan_in / weight_variance.

    Raises: ValueError: a number that is not positive.

    >>> weight_decay(0.5, temperature=0.1)
    0.2
    """
    return _positive("temperature", temperature) / _positive("prior_variance", prior_variance)


def prior_variance(weight_decay, temperature):
    """Prior variance T / gamma of a weight that is trained with weight decay gamma (B3), the inverse of `weight_decay`.

    Raises: ValueError: a number that is not positive.

    >>> prior_variance(0.2, temperature=0.1)
    0.5
    """
    return _positive("temperature", temperature) / _positive("weight_decay", weight_decay)


def training_parameters(net, task, loss: str = "half_sum") -> TrainingParameters:
    """Temperature and weight decays with which Langevin training of a network samples its posterior on a task (B9).

    For a network without biases and the loss 1/2 sum (y - f)^2: T = noise_variance / chi, gamma = T fan_in /
    weight_variance for hidden weights and noise_variance * N / readout_variance for the readout, whatever chi is.
    Differentiable in every variance of the network and in the noise.

    Args:
        net: a `fieldprob.Mlp`.
        task: a `Task` with one noise variance.
        loss: see `noise_variance`; means are over points, outputs are summed.

    Raises:
        TypeError: net is not an Mlp, task not a task.
        ValueError: an unknown loss; noise that differs between points, which no loss of this kind has.

    >>> import fieldprob as fp
    >>> task = fp.tasks.linear_teacher(10, inputs=4, noise_variance=0.5, seed=0)
    >>> T, gamma, _ = training_parameters(fp.Mlp(width=100, scaling="mean-field"), task)
    >>> f"{T:g}, {gamma['weight_0']:g}, {gamma['readout']:g}"
    '0.005, 0.02, 50'
    """
    _check(net, task)
    T = temperature(net.effective_noise(task), loss=loss, points=_points(task, loss))
    variances = _prior_variances(net, task.inputs)
    return TrainingParameters(T, {site: weight_decay(v, T) for site, v in variances.items()}, variances)


def training_potential(net, task, loss: str = "half_sum") -> TrainingPotential:
    """The loss of a network in its own weights, theta = s z, with which the papers train.

    Sites, shapes and order as the network's NumPyro sites: `weight_l` (N_{l+1}, N_l), `bias_l`, `readout`
    (N_L, outputs). Phases of random-phase activations, which have no variance to tune, stay standard normal. Arguments
    and errors as `training_parameters`.

    >>> import fieldprob as fp, jax
    >>> net, task = fp.Mlp(width=8), fp.tasks.linear_teacher(10, inputs=4, noise_variance=0.5, seed=0)
    >>> loss, initial, statistics = training_potential(net, task, "mean")
    >>> theta = initial(jax.random.key(0))
    >>> theta["weight_0"].shape, statistics(theta)["f"].shape
    ((8, 4), (10, 1))
    >>> bool(abs(loss(theta) - statistics(theta)["train_loss"]) < 1e-6)
    True
    """
    _check(net, task)
    factor = _factor(loss, _points(task, loss))
    variances = _prior_variances(net, task.inputs)
    scale = {site: jnp.sqrt(variance) for site, variance in variances.items()}

    def whiten(theta):
        if not isinstance(theta, dict) or set(theta) != set(scale):
            found = ", ".join(map(str, theta)) if isinstance(theta, dict) else type(theta).__name__
            raise ValueError(f"theta has {found}: give a dictionary of the sites {', '.join(scale)}.")
        return {site: x / scale[site].astype(x.dtype) for site, x in theta.items()}

    def potential(theta):
        z = whiten(theta)
        f = net.outputs(z, net.hidden(z, task.X)[-1])
        return factor * jnp.sum((task.y - f) ** 2)

    def initial(key):
        with numpyro.handlers.seed(rng_seed=key):
            z = net.sample_hidden(task.inputs) | net.sample_readout(task.outputs)
        return {site: x * scale[site].astype(x.dtype) for site, x in z.items()}

    def statistics(theta):
        model = numpyro.handlers.substitute(regression, data=whiten(theta))
        trace = numpyro.handlers.trace(model).get_trace(net, task, face="weights")
        return {name: site["value"] for name, site in trace.items() if site["type"] == "deterministic"}

    return TrainingPotential(potential, initial, statistics)


def _prior_variances(net: Mlp, inputs: int) -> dict[str, Any]:
    """Variance of each weight that is sampled, by site: per fan-in, and chi divides the prior of the whole readout."""
    variances = {}
    for layer, fan_in in enumerate((inputs, *net.widths[:-1])):
        variances[f"weight_{layer}"] = net.weight_variance[layer] / fan_in
        variances[f"bias_{layer}"] = net.bias_variance[layer]
        if net.activations[layer].random_phase:
            variances[f"phase_{layer}"] = 1.0
    variances["readout"] = net.readout_variance / net.chi / net.widths[-1]
    variances[f"bias_{net.depth}"] = net.bias_variance[-1] / net.chi
    # a bias of zero variance is no site, see `Mlp.sample_hidden`
    return {site: v for site, v in variances.items() if isinstance(v, Tracer) or float(v) > 0}


def _check(net, task) -> None:
    if not isinstance(net, Mlp):
        raise TypeError(f"net is a {type(net).__name__}: give a fieldprob.Mlp.")
    check_values_only(task, "a training loss")
    if jnp.ndim(task.noise_variance):
        raise ValueError(
            f"noise_variance of the task has shape {jnp.shape(task.noise_variance)}: a loss that sums squares has one "
            "noise variance. Give a number, or run Langevin dynamics on the NumPyro model fieldprob.regression."
        )


def _points(task, loss: str) -> int | None:
    return task.points if loss in _LOSSES and _LOSSES[loss][1] else None


def _factor(loss: str, points: int | None) -> float:
    """c in loss = c sum (y - f)^2."""
    if loss not in _LOSSES:
        raise ValueError(f"loss is {loss!r}: give one of {', '.join(map(repr, _LOSSES))}.")
    factor, mean = _LOSSES[loss]
    if not mean:
        if points is not None:
            raise ValueError(f"points is {points!r}, but the loss {loss!r} is a sum: leave it out.")
        return factor
    if isinstance(points, bool) or not isinstance(points, int | np.integer) or points < 1:
        raise ValueError(f"points is {points!r}: the loss {loss!r} is a mean, give the number of points (at least 1).")
    return factor / int(points)


def _positive(name: str, value):
    if isinstance(value, Tracer):
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "fiu" or not np.all((array > 0) & (array < math.inf)):
        raise ValueError(f"{name} is {value!r}: give a positive, finite number.")
    return value if isinstance(value, jax.Array) or array.ndim else float(array)
