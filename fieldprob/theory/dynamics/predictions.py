"""What a wide network, or a linear model, does while it is trained: gradient flow and Langevin dynamics as theories.

Time is that of the loss 1/2 sum (y - f)^2 and of standard normal (NTK) parameters: with `fp.infer.trajectories` on the
whitened potential of a network the mobility is the effective noise variance, on its training potential with the loss
"half_sum" that of each weight its prior variance. Formulas: `fieldprob.theory.dynamics.linear`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from fieldprob.gp.checks import check_covariance
from fieldprob.networks.regression import check_values_only
from fieldprob.prediction import Prediction
from fieldprob.theory.dynamics.linear import LinearDynamics
from fieldprob.theory.precision import require_float64


def gradient_flow(prior, task, *, times, tangent=None, covariance: bool = False) -> Prediction:
    """The ensemble of wide networks under gradient flow: the NTK ensemble (G6).

    Every network starts from a draw of the prior, f_0 ~ GP(0, K), and all of its weights follow the gradient of
    1/2 sum (y - f)^2, without weight decay and without noise. As time grows the data are interpolated; this is not the
    posterior of a Gaussian process unless the tangent kernel is proportional to K. The task's noise plays no part.

    Args:
        prior: a network with `limit` and `limit_tangent`, or a covariance function (X1, X2) -> K.
        task: the data.
        times: when, a sequence, zero or positive; statistics have the dimension `time` first. Or one number: then they
            have none.
        tangent: the tangent kernel as a function (X1, X2) -> Theta, for a prior that is a function; the prior itself,
            a linear model, unless given.
        covariance: give the covariance between all times, points and outputs, (times points outputs)^2 numbers.

    Returns:
        A `Prediction` of mean and variance over the ensemble of `f` (time, points, outputs) and `f_test`, and the mean
        of `train_loss` and `test_loss` (time,). Differentiable in the parameters of the kernels, data and times.

    Raises:
        ValueError: float32, times that are negative or not finite, a tangent kernel that is not positive semidefinite.
        TypeError: a prior that has no kernels, a task with other observations than values at points.

    Source: Lee et al. (2019), Wide neural networks of any depth evolve as linear models, arXiv:1902.06720, eqs. 14-16.

    >>> import jax.numpy as jnp, fieldprob as fp
    >>> task = fp.tasks.linear_teacher(6, inputs=3, noise_variance=0.1, seed=0)
    >>> kernel = lambda X1, X2: jnp.exp(-((X1[:, None] - X2[None]) ** 2).sum(-1) / 2)
    >>> flow = fp.theory.gradient_flow(kernel, task, times=[0, 1, 10])
    >>> flow.mean["f"].shape
    (3, 6, 1)
    """
    _check(task, "gradient_flow")
    K = _kernel(prior, "limit", "gradient_flow")
    Theta = _kernel(prior, "limit_tangent", "gradient_flow") if tangent is None else tangent
    linear = Theta is K
    kernels = _at_points(K, task)
    model = LinearDynamics(
        *(kernels if linear else _at_points(Theta, task)), task.y, initial=None if linear else kernels
    )
    return _predict(
        model,
        task,
        times,
        covariance,
        theory="gradient_flow",
        order="exact as width → ∞ at standard scaling",
        source="Lee et al. (2019), arXiv:1902.06720, eqs. 14-16",
    )


def langevin(
    prior,
    task,
    *,
    times,
    temperature=None,
    weight_decay=None,
    initial_variance=1.0,
    reference_time=None,
    covariance: bool = False,
) -> Prediction:
    """Langevin training of a model that is linear in its parameters, from independent Gaussian parameters (G1-G4).

    For a network this is training of the readout alone (weights and bias), the hidden weights staying where the prior
    put them: the kernel is that of infinite width. In standard normal parameters,

        d theta = -(g theta + d/dtheta 1/2 sum (y - f)^2) dt + sqrt(2 T) dB,   theta(0) ~ N(0, s_0).

    It ends in the posterior of the kernel (T / g) K with noise variance T (G3): with the defaults, that of `prior`.

    Args:
        prior: a network, whose `limit` is the kernel, or a covariance function (X1, X2) -> K.
        task: the data.
        times: when, a sequence, zero or positive; statistics have the dimension `time` first. Or one number: then they
            have none.
        temperature: T; the task's (effective) noise variance unless given.
        weight_decay: g; T unless given, so that the prior is stationary without data.
        initial_variance: s_0; zero starts all particles at f = 0.
        reference_time: predict covariance with, and response to a field at, this time too.
        covariance: give the covariance between all times, points and outputs, (times points outputs)^2 numbers.

    Returns:
        A `Prediction` of mean and variance over particles of `f` (time, points, outputs) and `f_test`, and the mean of
        `train_loss` and `test_loss` (time,). With a reference time also `f_autocovariance` and `f_response`, of each
        output with itself (`fieldprob.infer.trajectories` streams the former under that name), and the same of
        `f_test`. Differentiable in all numbers.

    Raises:
        ValueError: float32, noise that differs between points, numbers out of range, a kernel that is not positive
            semidefinite.
        TypeError: a prior that has no kernel, a task with other observations than values at points.

    >>> import fieldprob as fp
    >>> task = fp.tasks.linear_teacher(6, inputs=3, noise_variance=0.1, seed=0)
    >>> fp.theory.langevin(fp.Mlp(width=100), task, times=[0, 1, 10]).variance["f"].shape
    (3, 6, 1)
    """
    _check(task, "langevin")
    if temperature is None:
        temperature = prior.effective_noise(task) if hasattr(prior, "effective_noise") else task.noise_variance
        if jnp.ndim(temperature):
            raise ValueError(
                f"noise_variance of the task has shape {jnp.shape(temperature)}: dynamics at one temperature have one "
                "noise variance. Give a number, or a temperature."
            )
    weight_decay = temperature if weight_decay is None else weight_decay
    numbers = {"temperature": temperature, "weight_decay": weight_decay, "initial_variance": initial_variance}
    for name, value in numbers.items():
        _number(name, value)
    kernels = _at_points(_kernel(prior, "limit", "langevin"), task)
    model = LinearDynamics(*kernels, task.y, weight_decay, temperature, initial_variance)
    if reference_time is not None:
        _number("reference_time", reference_time)
    return _predict(
        model,
        task,
        times,
        covariance,
        reference_time,
        theory="langevin",
        order="exact for a linear model",
        source="theory 01, G1-G4; linear Langevin dynamics: Risken (1989), The Fokker-Planck equation, sec. 3.2",
    )


# --- arguments --------------------------------------------------------------------------------------------------------


def _check(task, theory: str) -> None:
    check_values_only(task, f"theory {theory!r}")
    require_float64(theory, task)


def _kernel(prior, name: str, theory: str):
    kernel = getattr(prior, name, None)
    if kernel is not None:
        return kernel
    if callable(prior) and not hasattr(prior, "faces"):
        return prior
    missing = f"has no {name}" if hasattr(prior, "faces") else "is neither a network nor a function"
    raise TypeError(
        f"prior ({type(prior).__name__}) {missing}: theory {theory!r} needs a network with it, e.g. fp.Mlp(width=100), "
        "or a covariance function (X1, X2) -> K."
    )


def _at_points(kernel, task):
    """The kernel at the data (P, P), between all points and the data, and at all points: training, then test."""
    X = task.X if not task.test_points else jnp.concatenate([task.X, task.X_test])
    K, P = jnp.asarray(kernel(X, X)), task.points
    if K.shape != (len(X), len(X)):
        raise ValueError(f"the kernel of {len(X)} points has shape {K.shape}: it must return ({len(X)}, {len(X)}).")
    check_covariance(f"the kernel of {len(X)} points", K)
    K = 0.5 * (K + K.T)
    return K[:P, :P], K[:, :P], K


def _number(name: str, value) -> None:
    if isinstance(value, Tracer):
        return
    if np.ndim(value) or not 0 <= float(value) < np.inf:
        raise ValueError(f"{name} is {value!r}: give a number, zero or positive.")


def _times(times):
    traced = isinstance(times, Tracer)
    values = times if traced else np.asarray(times, float)
    if values.ndim > 1 or not values.size or not (traced or np.all((values >= 0) & (values < np.inf))):
        raise ValueError(f"times is {times!r}: give a number or a sequence of numbers, finite and zero or positive.")
    return values


# --- the prediction ---------------------------------------------------------------------------------------------------


def _predict(model: LinearDynamics, task, times, covariance, reference_time=None, **labels) -> Prediction:
    times = _times(times)
    scalar, t = times.ndim == 0, jnp.atleast_1d(jnp.asarray(times))
    P, outputs = task.points, task.outputs
    f, variance = model.mean(t), model.variance(t)
    arrays: dict[str, dict[str, Any]] = {"mean": {}, "variance": {}, "covariance": {}}
    parts = {"f": (slice(None, P), "train_point", task.y, "train_loss")}
    if task.test_points:
        parts["f_test"] = (slice(P, None), "test_point", task.y_test, "test_loss")
    lagged = None
    if reference_time is not None:
        origin = jnp.full_like(t, reference_time)
        lagged = {"autocovariance": model.autocovariance(t, origin), "response": model.self_response(t, origin)}
    two_times = jax.vmap(jax.vmap(model.covariance, (None, 0)), (0, None))(t, t) if covariance else None

    dims = {}
    for name, (rows, point, target, loss) in parts.items():
        mean = f[:, rows]
        arrays["mean"][name] = mean
        arrays["variance"][name] = _each_output(jnp.maximum(variance[:, rows], 0.0), outputs)
        dims[name] = ("time", point, "output")
        for end, values in (lagged or {}).items():
            arrays["mean"][f"{name}_{end}"] = _each_output(values[:, rows], outputs)
            dims[f"{name}_{end}"] = ("time", point, "output")
        if two_times is not None:
            block = two_times[:, :, rows, rows]
            full = jnp.einsum("stpq,cd->spctqd", block, jnp.eye(outputs))
            arrays["covariance"][name] = full[0, :, :, 0] if scalar else full
        if target is not None:
            error = jnp.mean((target - mean) ** 2, axis=(1, 2)) + jnp.mean(variance[:, rows], axis=1)
            arrays["mean"][loss] = error
            dims[loss] = ("time",)
    if scalar:
        dims = {name: known[1:] for name, known in dims.items()}
        for moment in ("mean", "variance"):
            arrays[moment] = {name: value[0] for name, value in arrays[moment].items()}
    coords = {} if scalar or isinstance(times, Tracer) else {"time": times}
    return Prediction(**arrays, dims=dims, coords=coords, **labels)


def _each_output(values, outputs: int):
    return jnp.broadcast_to(values[..., None], (*values.shape, outputs))
