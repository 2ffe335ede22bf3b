"""Kernel rescaling: a finite network is the Gaussian process of its limit kernel times one number a layer.

One hidden layer, K = kernel_1 of the limit, f | s ~ N(0, s K) with s ~ chi^2_N / N: exact for linear networks, and for
others the prior that keeps the trace of the fourth cumulant only. In z = log s the posterior is exp(-S(z)),

    S = N/2 (s - log s) + 1/2 log det(s K + noise) + 1/2 y^T (s K + noise)^-1 y,

whose saddle point, fluctuation and first correction are theory 02, (18)-(23); without the determinant it is the saddle
point of the conjugate field, (25)-(27) (Li & Sompolinsky, arXiv:2012.04030; Pacelli et al., arXiv:2209.04882).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln

from fieldprob import gp
from fieldprob.gp.scales import log_density, posterior_nodes
from fieldprob.prediction import Prediction
from fieldprob.theory.layer_rescaling import rescale_layers
from fieldprob.theory.scale_average import ScaleAverage, outputs
from fieldprob.theory.setting import predict, setting
from fieldprob.theory.solvers import bracketed_root

ORDERS = {
    "tree": "leading order in 1/N at chi = N",
    "saddle": "leading order in 1/N, P/N fixed",
    "corrected": "first order in 1/N, P/N fixed",
    "quadrature": "all orders in 1/N of a scalar rescaling",
}


def rescaling(net, task, order: str = "saddle") -> Prediction:
    """What scalar rescaling of the limit kernel predicts.

    Args:
        net: a `fieldprob.Mlp` of any activation and depth.
        task: a `fieldprob.Task` of one output; any noise.
        order: "saddle"; "tree" without its log determinant; "corrected" to the next order in 1/N; "quadrature" averages
            over the scale exactly. Deeper networks have "saddle" and "tree", one factor a layer.

    Returns:
        A `Prediction` named 'rescaling' (with the order, unless it is the saddle point): mean, variance and covariance
        of `f` and `f_test`; `rescaling_1`..`rescaling_L` and `readout_norm` with their variances; `kernel_0`..
        `kernel_L`, which this theory holds to be multiples of the limit's (they are not: its factor shows in the
        readout norm); the expected losses; the log evidence (not at tree level). Differentiable in every variance.

    Raises:
        TypeError, ValueError: the network is not an `Mlp`, it has a readout bias, the task has several outputs or
            operators, the noise is not positive definite, JAX is not in float64; an unknown order, or one that this
            depth does not have.

    >>> import fieldprob as fp
    >>> net = fp.Mlp(width=20, activation="erf")
    >>> task = fp.tasks.linear_teacher(6, inputs=4, noise_variance=0.1, seed=0)
    >>> fp.theory.rescaling(net, task).mean["rescaling_1"].shape
    ()
    """
    if order not in ORDERS:
        raise ValueError(f"order is {order!r}: give one of {', '.join(map(repr, ORDERS))}.")
    theory = "rescaling" if order == "saddle" else f"rescaling ({order})"
    problem = setting(theory, net, task)
    if net.depth > 1:
        if order not in ("tree", "saddle"):
            raise ValueError(
                f"order {order!r} is for one hidden layer, and net has {net.depth}: give 'tree' or 'saddle'."
            )
        moments = rescale_layers(problem, tree=order == "tree")
        source = "theory 01, F8; theory 02, (60); Pacelli et al., arXiv:2209.04882"
    else:
        K_0, K = net.limit_kernels(problem.X)
        modes = gp.modes(K, problem.noise, problem.y, problem.rank)
        moments = _moments(K, modes, problem.readout, problem.widths[0], order)
        moments["kernels"] = {0: K_0, 1: moments["kernels"]}
        source = "theory 02, (18)-(27); Li & Sompolinsky, arXiv:2012.04030; Pacelli et al., arXiv:2209.04882"
    return predict(theory, problem, order=ORDERS[order], source=source, **moments)


@partial(jax.jit, static_argnames="order")
def _moments(K, modes, readout, width, order):
    average = _quadrature if order == "quadrature" else partial(_saddle, order=order)
    averages, variance, log_evidence = average(modes, width)
    mean, covariance = outputs(modes, K, averages)
    return {
        "mean": mean,
        "covariance": covariance,
        "kernels": averages.scale * K,
        "log_evidence": log_evidence,
        "mean_of": {"rescaling_1": averages.scale, "readout_norm": readout * averages.scale},
        "variance_of": {"rescaling_1": variance, "readout_norm": readout**2 * variance},
    }


def _at_scale(modes, z):
    """What is averaged over z = log s: s, coefficients of the mean, and of the variance kept and explained."""
    s = jnp.exp(z)[..., None]
    gain = s / (modes.noise + s * modes.eigenvalues)
    return s[..., 0], gain * modes.y, modes.noise * gain, s * gain


def _quadrature(modes, width):
    nodes = posterior_nodes(modes, (width,))
    log_weight = nodes.log_weight + log_density(nodes, (width,)) + modes.log_likelihood(jnp.exp(nodes.z))
    log_evidence = jax.nn.logsumexp(log_weight)
    w = jnp.exp(log_weight - log_evidence)
    s, coefficients, kept, explained = _at_scale(modes, nodes.z)
    scale, centre = w @ s, w @ coefficients
    spread = jnp.sqrt(w)[:, None] * (coefficients - centre)
    average = ScaleAverage(scale, centre, spread, w @ kept, w @ explained)
    return average, w @ (s - scale) ** 2, log_evidence


def action(data: gp.Diagonal, width, z, *, tree: bool):
    """S(z) of the log scale z, up to a constant; without the log determinant at tree level."""
    s, n = jnp.exp(z), width / 2
    variance = data.noise + s * data.eigenvalues
    log_det = 0.0 if tree else jnp.sum(jnp.log(variance))
    return n * (s - z) + 0.5 * jnp.sum(data.y**2 / variance) + 0.5 * log_det


def saddle_point(data: gp.Diagonal, width, *, tree: bool):
    """The log scale at the saddle point of `action`, by bisection between bounds on the force of the data.

    In units of noise that force is at least -s tr K / 2 and at most |y|^2 / 8.
    """

    def force(z, data):  # towards larger z
        return -jax.grad(partial(action, data, width, tree=tree))(z) / (width / 2 * jnp.exp(z))

    lower = -jnp.log1p(jnp.sum(data.eigenvalues) / (width * data.noise)) - 0.1
    upper = jnp.log1p(jnp.sum(data.y**2) / (4 * width * data.noise)) + 0.1
    return bracketed_root(force, lower, upper, data)


def _saddle(modes, width, order):
    tree, n = order == "tree", width / 2
    z = saddle_point(modes, width, tree=tree)
    S = partial(action, modes, width, tree=tree)
    second = jax.grad(jax.grad(S))
    S_2 = second(z)
    averaged = partial(_at_scale, modes)
    value, slope = averaged(z), jax.jacfwd(averaged)(z)
    log_evidence = None
    if not tree:
        normalisation = n * jnp.log(n) - gammaln(n) - 0.5 * len(modes.y) * jnp.log(2 * jnp.pi) - modes.log_det
        log_evidence = normalisation - S(z) + 0.5 * jnp.log(2 * jnp.pi / S_2)
    if order == "corrected":
        S_3, S_4 = jax.grad(second)(z), jax.grad(jax.grad(second))(z)
        curvature = jax.jacfwd(jax.jacfwd(averaged))(z)
        value = jax.tree.map(lambda g, g_1, g_2: g + (g_2 - g_1 * S_3 / S_2) / (2 * S_2), value, slope, curvature)
        log_evidence = log_evidence - S_4 / (8 * S_2**2) + 5 * S_3**2 / (24 * S_2**3)
    scale, coefficients, kept, explained = value
    spread = slope[1][None] / jnp.sqrt(S_2)
    return ScaleAverage(scale, coefficients, spread, kept, explained), slope[0] ** 2 / S_2, log_evidence
