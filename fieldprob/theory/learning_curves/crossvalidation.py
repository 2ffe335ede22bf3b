"""The learning curve's next point from one data set: generalised cross-validation.

With S = K + k2 the covariance of P noisy data and d = S^-1 y, the effective ridge of the renormalised-ridge theory is
estimated by m = P / tr S^-1, since on average tr S^-1 = P/m for Gaussian features, and its test error against noisy
labels by that on the data, E = (m/k2)^2 (1/P) |k2 d|^2 = P |d|^2 / (tr S^-1)^2: generalised cross-validation (Golub,
Heath & Wahba 1979; Jacot et al., arXiv:2006.09796; Wei, Hu & Steinhardt, arXiv:2203.06176). The exact leave-one-out
residuals d_i / (S^-1)_ii stand beside it; where (S^-1)_ii depends little on i the two agree.
"""

from typing import Any

import jax.numpy as jnp

from fieldprob.gp import condition
from fieldprob.networks.regression import check_values_only
from fieldprob.prediction import Prediction
from fieldprob.theory.precision import require_float64


def gcv(prior: Any, task: Any) -> Prediction:
    """Test error and effective ridge of kernel regression, estimated from the training data alone.

    Args:
        prior: a network with `limit` and `effective_noise` (any `fp.Mlp`), or a covariance function kernel(X1, X2),
            such as tinygp's.
        task: a `fieldprob.Task` with one noise variance for all points.

    Returns:
        A `Prediction` named 'generalised cross-validation', along `points` (of size one): `noisy_test_error`,
        `effective_ridge`, `posterior_variance`, `train_error` of the mean predictor, and `leave_one_out_error`. Errors
        are averages over outputs. The estimates hold for features that are nearly Gaussian: on the circle at a small
        ridge they fail.

    Raises:
        TypeError: task is a population or has other observations than values at points; prior is neither a network nor
            a function.
        ValueError: float32; noise that differs between points, or zero; a kernel that is not symmetric and positive
            semidefinite.

    >>> import fieldprob as fp
    >>> net, task = fp.Mlp(width=100), fp.tasks.linear_teacher(20, inputs=3, noise_variance=0.1, seed=0)
    >>> error = gcv(net, task).mean
    >>> 0 < error["train_error"][0] < error["noisy_test_error"][0]
    Array(True, dtype=bool)
    """
    if not hasattr(task, "X") or not hasattr(task, "y"):
        raise TypeError(
            f"task is a {type(task).__name__}: gcv learns from one data set and needs a fp.Task. For a population use "
            "theory.learning_curves.renormalised_ridge."
        )
    check_values_only(task, "theory 'generalised cross-validation'")
    require_float64("generalised cross-validation", task)
    K, ridge = _kernel(prior, task)
    ridge = jnp.asarray(ridge)
    if ridge.ndim:
        raise ValueError(f"noise_variance has shape {ridge.shape}: gcv needs one number, the same for every point.")
    posterior = condition(K, ridge, task.y, K, jnp.diagonal(K))
    delta = posterior.normalised_discrepancy
    m = 1 / jnp.mean(1 / posterior.leave_one_out_variance)
    mean_square = jnp.mean(delta**2)
    return Prediction(
        theory="generalised cross-validation",
        order="Gaussian features, many points",
        source="Golub, Heath & Wahba (1979); Jacot et al., arXiv:2006.09796",
        mean={
            "noisy_test_error": (m**2 * mean_square)[None],
            "train_error": (ridge**2 * mean_square)[None],
            "effective_ridge": m[None],
            "posterior_variance": (m - ridge)[None],
            "leave_one_out_error": jnp.mean(posterior.leave_one_out**2)[None],
        },
        coords={"points": (task.points,)},
    )


def _kernel(prior, task):
    if hasattr(prior, "limit"):
        return prior.limit(task.X), prior.effective_noise(task)
    if not callable(prior):
        raise TypeError(f"prior is a {type(prior).__name__}: gcv needs a network or a function kernel(X1, X2).")
    K = jnp.asarray(prior(task.X, task.X))
    if K.shape != (task.points, task.points):
        raise ValueError(f"prior gave a matrix of shape {K.shape} for {task.points} points: give kernel(X1, X2).")
    return K, task.noise_variance
