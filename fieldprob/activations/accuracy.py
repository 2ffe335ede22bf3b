"""Whether the Gaussian averages of an activation are as accurate as kernels need at given variances."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jaxtyping import Float

from fieldprob.activations.base import Activation

TOLERANCE = 1e-4


def is_numerical(phi: Activation) -> bool:
    """Whether the averages are an expansion or a quadrature, with an error estimate; else they are closed forms.

    >>> from fieldprob.activations import get
    >>> is_numerical(get("tanh")), is_numerical(get("erf"))
    (True, False)
    """
    return type(phi)._dual_error is not Activation._dual_error


def warn_if_inaccurate(phi: Activation, variance: Float[Array, "..."], *, slope: bool) -> None:
    """Warn if E[phi^2], or with `slope` E[phi'^2], has an estimated relative error above 1e-4 at the largest variance.

    The estimates are `dual_error` and `dual_derivative_error`. Nothing is said of closed forms, nor inside compiled
    functions.
    """
    if isinstance(variance, Tracer) or not is_numerical(phi) or not variance.size:
        return
    with jax.ensure_compile_time_eval():
        largest = jnp.max(jnp.where(jnp.isfinite(variance), variance, 0.0))
        error = float(_relative_error(phi, largest, slope))
    if error > TOLERANCE:
        what = "E[phi'^2]" if slope else "E[phi^2]"
        warnings.warn(
            f"activation {phi.name!r} at variance {float(largest):.3g}: {what} is known to a relative error of "
            f"{error:.1g} only, and the kernels with it. Take smaller variances, a closed form such as 'erf', or more "
            "terms and nodes, activations.Smooth(fn, terms=..., nodes=...).",
            stacklevel=2,
        )


@partial(jax.jit, static_argnames="slope")
def _relative_error(phi: Activation, q: Array, slope: bool) -> Array:
    average, error = (phi.dual_derivative, phi.dual_derivative_error) if slope else (phi.dual, phi.dual_error)
    size = jnp.abs(average(q, q, q))
    return error(q, q, q) / jnp.where(size > 0, size, 1.0)
