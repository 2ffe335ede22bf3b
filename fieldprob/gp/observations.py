"""Operators meet a Gaussian process: the covariance of what they give, all observations of a task as one operator with
its targets and noise, and regression on them.

`observe` needs of a task only its list of observations, each with targets and noise, and either an operator or points.
A face then meets the operator once: `cross_covariance(net.limit, observed.operator)` for a covariance function,
`observed.operator.apply(features)` for features of one input.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.linalg import block_diag
from jaxtyping import Array, Float

from fieldprob.gp.operators import Operator, Stack, Values
from fieldprob.gp.regression import Posterior, condition


def cross_covariance(kernel: Callable, left, right=None) -> Float[Array, "rows rows_"]:
    """Cov[L f, M f] of a Gaussian process f ~ GP(0, kernel).

    Args:
        kernel: a covariance function (X1, X2) -> K, such as `net.limit` or a tinygp kernel, differentiable in both
            inputs as often as the operators ask.
        left, right: operators, or points X for `Values(X)`; right is left unless given, the result then symmetric.

    Raises:
        ValueError: a result that is not finite or, with right left out, not symmetric and positive semidefinite: the
            process has no such derivative, or none by automatic differentiation. Traced kernels are not checked.

    >>> import fieldprob as fp, jax.numpy as jnp
    >>> rbf = lambda X1, X2: jnp.exp(-((X1[:, None] - X2[None]) ** 2).sum(-1) / 2)
    >>> cross_covariance(rbf, fp.gp.Derivative([[0.3]])).item()     # -k''(0)
    1.0
    """
    left = left if isinstance(left, Operator) else Values(left)
    symmetric = right is None
    right = left if right is None else right if isinstance(right, Operator) else Values(right)
    K = _compiled(kernel, left, right)
    if not isinstance(K, Tracer):
        _check(np.asarray(K), f"the covariance of {type(left).__name__} with {type(right).__name__}", symmetric)
    return 0.5 * (K + K.T) if symmetric else K


@eqx.filter_jit
def _compiled(kernel, left, right):
    return _blocks(kernel, left, right)


def _check(K, what: str, symmetric: bool) -> None:
    remedy = (
        "these derivatives of the process do not exist, as those of ReLU at coincident points, or the kernel is no "
        "covariance function. Use a smoother kernel or activation, or lower derivatives."
    )
    if bad := int(np.sum(~np.isfinite(K))):
        raise ValueError(f"{what} has {bad} of {K.size} entries that are NaN or infinite: {remedy}")
    if symmetric:
        # scaled to unit diagonal, so that rows of very different size are judged alike
        scale = np.sqrt(np.maximum(np.diagonal(K), np.finfo(K.dtype).tiny))
        correlations = K / np.outer(scale, scale)
        if (asymmetry := np.max(np.abs(correlations - correlations.T))) > np.finfo(K.dtype).eps ** 0.5:
            raise ValueError(f"{what} is not symmetric (correlations differ by {asymmetry:.2g}): {remedy}")
        smallest = np.linalg.eigvalsh(0.5 * (correlations + correlations.T))[0]
        if smallest < -1e4 * len(K) * np.finfo(K.dtype).eps:
            raise ValueError(
                f"{what} is not positive semidefinite (eigenvalue {smallest:.2g} of correlations): {remedy}"
            )


def _blocks(kernel, left, right):
    if isinstance(left, Stack):
        return jnp.concatenate([_blocks(kernel, part, right) for part in left.operators], axis=0)
    if isinstance(right, Stack):
        return jnp.concatenate([_blocks(kernel, left, part) for part in right.operators], axis=1)
    if isinstance(left, Values) and isinstance(right, Values):
        return kernel(left.X, right.X)

    def at(x, x_):
        return kernel(x[None], x_[None])[0, 0]

    return left.apply(lambda x: right.apply(lambda x_: at(x, x_)))


class Observed(NamedTuple):
    """y = L f + noise.

    Attributes:
        operator: L, the rows of all observations, one after the other.
        y: targets (rows, outputs).
        noise_variance: one number where all observations share it, else (rows,), or (rows, rows) if one is a matrix.
    """

    operator: Operator
    y: Float[Array, "rows outputs"]
    noise_variance: Any


def observe(task) -> Observed:
    """The observations of a task, stacked.

    >>> import fieldprob as fp
    >>> slope = fp.tasks.Observation(fp.gp.Derivative([[0.0]]), [1.0], noise_variance=0.01)
    >>> observed = observe(fp.Task([[0.0], [1.0]], [0.0, 0.8], 0.1, observations=[slope]))
    >>> observed.y.shape, observed.noise_variance.tolist()
    ((3, 1), [0.1, 0.1, 0.01])
    """
    operators, y, noise = [], [], []
    for observation in task.observations:
        operator = getattr(observation, "operator", None)
        operators.append(Values(observation.X) if operator is None else operator)
        y.append(observation.y)
        noise.append(jnp.asarray(observation.noise_variance))
    if len(operators) == 1:
        return Observed(operators[0], y[0], noise[0])
    rows = [operator.rows for operator in operators]
    if any(n.ndim == 2 for n in noise):
        full = [n if n.ndim == 2 else n * jnp.eye(size) for n, size in zip(noise, rows, strict=True)]
        variance = block_diag(*full)
    else:
        variance = jnp.concatenate([jnp.broadcast_to(n, (size,)) for n, size in zip(noise, rows, strict=True)])
    return Observed(Stack(tuple(operators)), jnp.concatenate(y), variance)


def regress(kernel: Any, task, query=None, *, jitter=0.0) -> Posterior:
    """Posterior of a Gaussian process given all observations of a task, at points or under any operator.

    Args:
        kernel: a covariance function (X1, X2) -> K, such as `net.limit`.
        task: its noise variances are taken as they are.
        query: points (queries, inputs), or an `Operator` to be predicted; the task's test points unless given.
        jitter: as for `condition`.

    Raises: ValueError: `kernel` is no function, such as a network; no query; as `cross_covariance` and `condition`.

    >>> import fieldprob as fp, jax.numpy as jnp
    >>> rbf = lambda X1, X2: jnp.exp(-((X1[:, None] - X2[None]) ** 2).sum(-1) / 2)
    >>> task = fp.Task([[-1e-3], [1e-3]], [-1e-3, 1e-3], noise_variance=1e-9)
    >>> round(regress(rbf, task, fp.gp.Derivative([[0.0]])).mean.item(), 2)     # what two values say of the slope
    1.0
    """
    if not callable(kernel):
        raise ValueError(f"kernel is a {type(kernel).__name__}: give a function (X1, X2) -> K, net.limit of a network.")
    if query is None and not task.test_points:
        raise ValueError("query is missing and the task has no test points: give points (queries, inputs).")
    operator, y, noise = observe(task)
    query = query if isinstance(query, Operator) else Values(task.X_test if query is None else query)
    K = cross_covariance(kernel, operator)
    return condition(
        K, noise, y, cross_covariance(kernel, query, operator), cross_covariance(kernel, query), jitter=jitter
    )
