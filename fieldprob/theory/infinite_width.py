"""The infinite-width limit: the kernels stop fluctuating and the network is a Gaussian process.

With K = kernel_L the limit of the output covariance, S = K + effective noise and delta = S^-1 y:

    mean f_* = K_* delta,   cov f_* = K_** - K_* S^-1 K_*^T,   log p(y) = -1/2 y^T delta - 1/2 log det S - P/2 log 2 pi,

and the leave-one-out residual y_i - f_{-i} = delta_i / (S^-1)_ii (Neal 1996; Lee et al., arXiv:1711.00165; Rasmussen &
Williams 2006, eqs. 2.23-2.24, 2.30, 5.12).
"""

import jax.numpy as jnp

from fieldprob import statistics
from fieldprob.gp import condition, cross_covariance, observe
from fieldprob.networks.regression import check_task
from fieldprob.prediction import Prediction
from fieldprob.theory.precision import require_float64


def limit(net, task) -> Prediction:
    """What the infinite-width limit predicts for the posterior of a network.

    Args:
        net: a network with `limit_kernels` and `effective_noise` (a `fieldprob.Mlp` or `Sequential`).
        task: a `fieldprob.Task`; its observations may include linear operators.

    Returns:
        A `Prediction`: mean, variance and covariance of `f` (points, outputs) and `f_test`; `kernel_0`..`kernel_L` over
        training then test points and `alignment_1`..`alignment_L`, which do not fluctuate; the posterior expectation
        of `train_loss` and `test_loss`; `leave_one_out` residuals (points, outputs) of the values at points; and the
        log evidence. Differentiable in every variance of the network, the noise and the inputs.

    Raises:
        ValueError: JAX, or the task, is not in float64; the noise is too small to invert the covariance of the data.

    >>> import fieldprob as fp
    >>> net = fp.Mlp(width=100, activation="relu")
    >>> task = fp.tasks.linear_teacher(6, inputs=3, noise_variance=0.1, seed=0)
    >>> fp.theory.limit(net, task).mean["f"].shape
    (6, 1)
    """
    check_task(task)
    if not hasattr(net, "limit_kernels"):
        raise TypeError(f"net is a {type(net).__name__}: theory 'limit' needs a network, e.g. fp.Mlp(width=100).")
    require_float64("limit", task)
    X = task.X if not task.test_points else jnp.concatenate([task.X, task.X_test])
    kernels = net.limit_kernels(X)
    P = task.points
    K = kernels[-1]
    if len(task.observations) == 1:
        posterior = condition(K[:P, :P], net.effective_noise(task), task.y, K[:, :P], K)
    else:
        observed = observe(task)
        K_cross = cross_covariance(net.limit, X, observed.operator)
        K_data = cross_covariance(net.limit, observed.operator)
        posterior = condition(K_data, net.effective_noise(observed), observed.y, K_cross, K)
    f, variance = posterior.mean, posterior.variance

    mean = {f"kernel_{layer}": kernel for layer, kernel in enumerate(kernels)}
    for layer, kernel in enumerate(kernels[1:], start=1):
        mean[f"alignment_{layer}"] = statistics.centred_kernel_alignment(kernel[:P, :P], task.y)
    parts = {"f": slice(None, P)} | ({"f_test": slice(P, None)} if task.test_points else {})
    output_variance, covariance = {}, {}
    for name, rows in parts.items():
        mean[name] = f[rows]
        output_variance[name] = jnp.broadcast_to(variance[rows][:, None], f[rows].shape)
        covariance[name] = posterior.covariance[rows, rows]  # pyright: ignore[reportOptionalSubscript]
    mean["train_loss"] = jnp.mean((task.y - f[:P]) ** 2) + jnp.mean(variance[:P])
    if task.y_test is not None:
        mean["test_loss"] = jnp.mean((task.y_test - f[P:]) ** 2) + jnp.mean(variance[P:])
    mean["leave_one_out"] = posterior.leave_one_out[:P]

    return Prediction(
        theory="limit",
        order="exact as width → ∞",
        source="Lee et al., arXiv:1711.00165, eqs. 7-8; Rasmussen & Williams (2006), eqs. 2.23-2.24",
        mean=mean,
        variance=output_variance,
        covariance=covariance,
        log_evidence=posterior.log_evidence,
        dims={"leave_one_out": ("train_point", "output")},
    )
