"""Kernel rescaling of deep networks: one factor for the covariance that leaves each hidden layer.

With K^(l) = bias_l + Q_l variance_l E[phi phi] at pre-activations of covariance K^(l-1), the factors minimise

    S = 1/2 sum_l N_l (Q_l - log Q_l) + 1/2 log det(K^(L) + noise) + 1/2 y^T (K^(L) + noise)^-1 y

(theory 01, F8; Pacelli et al., arXiv:2209.04882), without the determinant at tree level. For linear networks its
stationary points are those of theory 02, (60). The minimum is sought from the best of several starts.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln

from fieldprob.gp import condition, inverse_and_log_determinant
from fieldprob.theory.solvers import minimise, require_converged

_STARTS = np.concatenate([[-0.5], [0.0], np.logspace(-2, 0, 12)])


def rescale_layers(problem, *, tree: bool) -> dict:
    """Moments of a deep network, as `predict` takes them; `problem` is a `Setting`."""
    net = (problem.activations, (*problem.weight_variance, problem.readout), (*problem.bias_variance, 0.0))
    moments, converged = _moments(net, problem.kernel_0, problem.noise, problem.y, problem.widths, tree)
    advice = "the covariance of the data is too close to singular, raise noise_variance."
    return require_converged("the minimum over the layers' factors", converged, advice, moments)


@partial(jax.jit, static_argnames="tree")
def _moments(net, K_0, noise, y, widths, tree):
    P, N = y.shape[0], jnp.asarray(widths, float)
    noise_matrix = noise if noise.ndim == 2 else noise * jnp.eye(P)

    def action(x, data):
        net, K_0, noise_matrix, y = data
        inverse, log_det = inverse_and_log_determinant(_kernels(net, K_0, x)[-1] + noise_matrix)
        return 0.5 * (N @ (jnp.exp(x) - x) + y @ inverse @ y + (0.0 if tree else log_det))

    data = (net, K_0[:P, :P], noise_matrix, y)
    x, hessian, converged = _minimum(action, N, data)

    def posterior(x):
        K = _kernels(net, K_0, x)[-1]
        return condition(K[:P, :P], noise, y[:, None], K[:, :P], K)

    at = posterior(x)
    slopes = jax.jacfwd(lambda x: posterior(x).mean[:, 0])(x)
    spread = jnp.linalg.inv(hessian)
    factors, variances = jnp.exp(x), jnp.exp(2 * x) * jnp.diagonal(spread)
    readout = net[1][-1]
    log_evidence = None
    if not tree:
        prior = jnp.sum(N / 2 * jnp.log(N / 2) - gammaln(N / 2))
        laplace = 0.5 * len(widths) * jnp.log(2 * jnp.pi) - 0.5 * jnp.linalg.slogdet(hessian)[1]
        log_evidence = prior + laplace - action(x, data) - 0.5 * P * jnp.log(2 * jnp.pi)
    names = [f"rescaling_{layer}" for layer in range(1, len(widths) + 1)]
    return {
        "mean": at.mean[:, 0],
        "covariance": at.covariance + slopes @ spread @ slopes.T,
        "kernels": dict(enumerate(_kernels(net, K_0, x))),
        "log_evidence": log_evidence,
        "mean_of": {**dict(zip(names, factors, strict=True)), "readout_norm": readout * factors[-1]},
        "variance_of": {**dict(zip(names, variances, strict=True)), "readout_norm": readout**2 * variances[-1]},
    }, converged


def _kernels(net, K_0, x):
    """[kernel_0, ..., kernel_L] with the covariance leaving layer l multiplied by exp(x_l)."""
    kernels = [K_0]
    activations, variances, biases = net
    for phi, variance, bias, factor in zip(activations, variances[1:], biases[1:], jnp.exp(x), strict=True):
        q = jnp.diagonal(kernels[-1])
        kernels.append(bias + factor * variance * phi.dual(q[:, None], kernels[-1], q))
    return kernels


def _minimum(action, N, data):
    """Minimum over log factors, its Hessian, and whether it was found.

    Quasi-Newton steps from the best of several starts, then Newton's.

    For a linear network the factors at a stationary point are 1 + force / N_l, with force at most y^T noise^-1 y / 4:
    the starts lie on this curve.
    """
    frozen = jax.lax.stop_gradient(data)
    _, _, noise, y = frozen
    largest = y @ jnp.linalg.solve(noise, y) / 4
    force = jnp.where(_STARTS < 0, _STARTS * jnp.min(N), _STARTS * largest)
    starts = jnp.log1p(force[:, None] / N)
    # NaN where a covariance so large is singular in floating point
    start = starts[jnp.nanargmin(jax.lax.map(lambda x: action(x, frozen), starts))]
    found, converged = minimise(action, start, frozen, tol=1e-9)

    def newton(x, _):
        hessian = jax.hessian(action)(x, data)
        step = jnp.linalg.solve(jax.lax.stop_gradient(hessian), jax.grad(action)(x, data))
        return x - step, hessian

    # the first step carries the derivatives of the implicit function, the second those of the Hessian
    x, hessians = jax.lax.scan(newton, jax.lax.stop_gradient(found), length=2)
    return x, hessians[-1], converged & jnp.all(jnp.isfinite(x))
