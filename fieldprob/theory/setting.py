"""What the theories of finite width start from, and what they end in: a regression problem of one output with a
fully connected network, and a `Prediction` of its function-space statistics."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Float

from fieldprob import statistics
from fieldprob.activations import Activation, Linear
from fieldprob.networks import Mlp
from fieldprob.networks.regression import check_task
from fieldprob.prediction import Prediction
from fieldprob.theory.precision import require_float64


class Setting(NamedTuple):
    """A fully connected network and one output to learn; `readout_bias` is zero for most theories.

    `X` holds the `points` training points, then the test points. `noise` is the effective noise variance of the
    training points: a scalar, (points,), or a covariance. `readout` is the readout variance per fan-in with its 1/chi
    (theory 02's G); `weight_variance` and `bias_variance` are those of the layers before it, per fan-in;
    `readout_bias` the variance of the readout's bias, with its 1/chi.
    """

    X: Float[Array, "all_points inputs"]
    y: Float[Array, " points"]
    y_test: Float[Array, " test_points"] | None
    points: int
    noise: Float[Array, "..."]
    widths: tuple[int, ...]
    chi: float
    readout: Any
    weight_variance: tuple
    bias_variance: tuple
    activations: tuple[Activation, ...]
    readout_bias: Any = 0.0

    @property
    def kernel_0(self) -> Float[Array, "all_points all_points"]:
        """Covariance of the first layer's pre-activations (theory 02's K_0)."""
        return _kernel_0(self.X, self.weight_variance[0], self.bias_variance[0])

    @property
    def noise_covariance(self) -> Float[Array, "points points"]:
        """The effective noise of the training points as a matrix."""
        return self.noise if self.noise.ndim == 2 else jnp.diag(jnp.broadcast_to(self.noise, (self.points,)))

    @property
    def rank(self) -> int:
        """A bound on the rank of every kernel: a linear network spans its inputs and a constant."""
        linear = all(isinstance(phi, Linear) for phi in self.activations)
        return min(self.points, self.X.shape[1] + 1) if linear else self.points


def setting(
    theory: str, net, task, *, linear: bool = False, depth: int | None = None, readout_bias: bool = False
) -> Setting:
    """Check a network and a task for a theory of finite width.

    Args:
        theory: its name, for the errors.
        linear: whether activations must be linear and hidden biases zero.
        depth: the only number of hidden layers that the theory is for.
        readout_bias: whether the readout may have a bias.

    Raises:
        TypeError: the network is not an `Mlp`, or the task not a `Task`.
        ValueError: JAX or the task is not in float64; several outputs; observations that are not values at points;
            a readout bias; the wrong depth or activation; noise that is not positive definite.
    """
    check_task(task)
    if not isinstance(net, Mlp):
        raise TypeError(f"net is a {type(net).__name__}: theory {theory!r} is for fully connected networks, fp.Mlp.")
    require_float64(theory, task)
    if task.outputs != 1:
        raise ValueError(f"the task has {task.outputs} outputs: theory {theory!r} is for one.")
    if len(task.observations) != 1:
        raise ValueError(f"the task observes linear operators: theory {theory!r} is for values at points.")
    if not readout_bias and not _zero(net.bias_variance[-1]):
        raise ValueError(f"bias_variance[{net.depth}] is not zero: theory {theory!r} has no bias at the readout.")
    if depth is not None and net.depth != depth:
        raise ValueError(f"net has depth {net.depth}: theory {theory!r} is for depth {depth}.")
    if linear and not all(isinstance(phi, Linear) for phi in net.activations):
        raise ValueError(f"theory {theory!r} is for linear networks: give activation='linear'.")
    if linear and not all(_zero(b) for b in net.bias_variance[1:]):
        raise ValueError(f"theory {theory!r} is for linear networks without bias after the first layer.")
    noise = jnp.asarray(net.effective_noise(task), dtype=float)
    if not isinstance(noise, Tracer):
        _require_positive_definite(theory, noise)
    X = task.X if not task.test_points else jnp.concatenate([task.X, task.X_test])
    return Setting(
        X=X,
        y=task.y[:, 0],
        y_test=None if task.y_test is None else task.y_test[:, 0],
        points=task.points,
        noise=noise,
        widths=net.widths,
        chi=net.chi,
        readout=net.readout_variance / net.chi,
        weight_variance=net.weight_variance,
        bias_variance=net.bias_variance[:-1],
        activations=net.activations,
        readout_bias=net.bias_variance[-1] / net.chi,
    )


def predict(
    theory: str,
    problem: Setting,
    *,
    order: str,
    source: str,
    mean: Float[Array, " all_points"],
    covariance: Float[Array, "all_points all_points"] | None = None,
    variance: Float[Array, " all_points"] | None = None,
    kernels: dict[int, Float[Array, "all_points all_points"]] | None = None,
    log_evidence=None,
    alignments: bool = True,
    mean_of: dict[str, Any] | None = None,
    variance_of: dict[str, Any] | None = None,
    covariance_of: dict[str, Any] | None = None,
    **others,
) -> Prediction:
    """The `Prediction` of outputs (training points, then test points) and layer kernels.

    `train_loss` and `test_loss` are posterior expectations, and need a covariance or a variance. `alignment_l` is that
    of the mean kernel, to leading order the mean alignment; `alignments` says whether it is predicted. `mean_of`,
    `variance_of` and `covariance_of` hold further statistics; other arguments go to `Prediction` as they are (`dims`,
    `error`, ...).
    """
    P = problem.points
    means: dict[str, Any] = {}
    variances: dict[str, Any] = {}
    covariances: dict[str, Any] = {}
    if covariance is not None:
        variance = jnp.diagonal(covariance)
    parts = {"f": slice(None, P)} | ({"f_test": slice(P, None)} if problem.X.shape[0] > P else {})
    for name, rows in parts.items():
        means[name] = mean[rows, None]
        if variance is not None:
            variances[name] = variance[rows, None]
        if covariance is not None:
            covariances[name] = covariance[rows, rows]
    for layer, kernel in (kernels or {}).items():
        means[f"kernel_{layer}"] = kernel
        if alignments and layer > 0:
            means[f"alignment_{layer}"] = _alignment(kernel[:P, :P], problem.y[:, None])
    if variance is not None:
        means["train_loss"] = jnp.mean((problem.y - mean[:P]) ** 2) + jnp.mean(variance[:P])
        if problem.y_test is not None:
            means["test_loss"] = jnp.mean((problem.y_test - mean[P:]) ** 2) + jnp.mean(variance[P:])
    return Prediction(
        theory=theory,
        order=order,
        source=source,
        mean=means | (mean_of or {}),
        variance=variances | (variance_of or {}),
        covariance=covariances | (covariance_of or {}),
        log_evidence=log_evidence,
        **others,
    )


_alignment = jax.jit(statistics.centred_kernel_alignment)


@jax.jit
def _kernel_0(X, weight_variance, bias_variance):
    gram = X @ X.T / X.shape[1]
    return bias_variance + weight_variance * (gram + gram.T) / 2


def _zero(value) -> bool:
    return not isinstance(value, Tracer) and not np.any(np.asarray(value))


def _require_positive_definite(theory: str, noise) -> None:
    positive = np.isfinite(jnp.linalg.cholesky(noise)) if noise.ndim == 2 else (noise > 0) & np.isfinite(noise)
    if not np.all(positive):
        raise ValueError(f"theory {theory!r}: the noise covariance is not positive definite, raise noise_variance.")
