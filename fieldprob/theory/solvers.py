"""Roots and minima of the theories' self-consistency equations, with the derivatives of the implicit function.

Tolerances are relative to the largest entry of the unknown: the conjugate field of theory 02 is O(N) in mean-field
scaling. What does not converge is refused with a ValueError; under a JAX transformation it becomes NaN.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jax import Array
from jax.core import Tracer
from jaxtyping import Bool, Float

_ARMIJO = 1e-4
_HALVINGS = 60


class Derivatives(NamedTuple):
    """Value, gradient and Hessian of a function of a vector."""

    value: Float[Array, ""]
    gradient: Float[Array, " n"]
    hessian: Float[Array, "n n"]


def require_converged(what: str, converged, advice: str, value):
    """`value` where it converged, else NaN; raises unless it is traced.

    Raises:
        ValueError: not converged; the message is `what` did not converge: `advice`.
    """
    if not isinstance(converged, Tracer) and not np.all(converged):
        raise ValueError(f"{what} did not converge: {advice}")
    return jax.tree.map(lambda x: jnp.where(converged, x, jnp.nan), value)


def bracketed_root(function: Callable, lower, upper, args: Any = ()) -> Float[Array, ""]:
    """The root of a decreasing scalar function (x, args) between `lower` and `upper`, by bisection.

    >>> round(float(bracketed_root(lambda x, c: c - x**2, 0.0, 2.0, 2.0)), 12)
    1.414213562373
    """
    solution = optx.root_find(
        function,
        optx.Bisection(rtol=1e-15, atol=1e-15, flip=True),
        (lower + upper) / 2,
        args,
        options={"lower": lower - 1e-9, "upper": upper + 1e-9},
        max_steps=64,  # the interval shrinks to rounding error in 60, and the residual need not
        throw=False,
    )
    return solution.value


def root(function: Callable, start: Float[Array, " n"], args: Any = (), *, rtol: float = 1e-12):
    """The root of a vector function (x, args) near `start`, by Newton's method; and whether it converged.

    >>> x, converged = root(lambda x, c: x**2 - c, jnp.array([1.0]), 2.0)
    >>> round(float(x[0]), 12), bool(converged)
    (1.414213562373, True)
    """
    scale = jax.lax.stop_gradient(jnp.max(jnp.abs(start)))
    scale = jnp.where(scale > 0, scale, 1.0)
    solution = optx.root_find(
        lambda u, args: function(scale * u, args) / scale,
        optx.Newton(rtol=rtol, atol=rtol),
        start / scale,
        args,
        max_steps=60,
        throw=False,
    )
    return scale * solution.value, solution.result == optx.RESULTS.successful


def bisect(function: Callable, low: Float[Array, ""], high: Float[Array, ""], args: Any = ()) -> Float[Array, ""]:
    """The root of a function (x, args) of one number between two bounds, NaN where it has one sign at both.

    >>> print(f"{bisect(lambda x, c: x**2 - c, jnp.array(0.0), jnp.array(3.0), 2.0):.12f}")
    1.414213562373
    """
    ends = jax.lax.stop_gradient(jnp.stack([low, high]))  # the implicit function has the gradient
    signs = jnp.sign(function(ends[0], args)) * jnp.sign(function(ends[1], args))
    enclosed = jax.lax.stop_gradient(signs) <= 0
    ends = jnp.where(enclosed, ends, jnp.array([0.0, 1.0]))
    solution = optx.root_find(
        lambda x, args: jnp.where(enclosed, function(jnp.where(enclosed, x, low), args), x - 0.5),
        optx.Bisection(rtol=1e-15, atol=1e-15, flip="detect"),
        ends.mean(),
        args,
        options={"lower": ends[0], "upper": ends[1]},
        max_steps=200,
        throw=False,
    )
    return jnp.where(enclosed, solution.value, jnp.nan)


class NewtonBacktracking(optx.AbstractMinimiser):
    """Newton's method with backtracking, for functions that return their value and, as aux, `Derivatives`.

    Globally convergent for strictly convex functions; steps out of the domain (value NaN or infinite) are shortened.
    """

    rtol: float
    atol: float = 0.0
    norm: Callable = optx.max_norm

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        return jnp.array(False)

    def step(self, fn, y, args, options, state, tags):
        value, at = fn(y, args)
        direction = -jnp.linalg.solve(at.hessian, at.gradient)
        slope = at.gradient @ direction
        # the last digits of a large value are noise: accept what does not rise above it
        noise = 8 * jnp.finfo(y.dtype).eps * jnp.abs(value)

        def rejected(trial):
            size, halvings = trial
            accepted = fn(y + size * direction, args)[0] <= value + _ARMIJO * size * slope + noise
            return ~accepted & (halvings < _HALVINGS)

        size, _ = jax.lax.while_loop(rejected, lambda trial: (trial[0] / 2, trial[1] + 1), (jnp.ones_like(value), 0))
        y_new = y + size * direction
        return y_new, self.norm(y_new - y) <= self.atol + self.rtol * self.norm(y_new), at

    def terminate(self, fn, y, args, options, state, tags):
        return state, optx.RESULTS.successful

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {}


def minimise_convex(
    derivatives: Callable[[Array, Any], Derivatives], start: Float[Array, " n"], args: Any = (), *, rtol: float = 1e-11
) -> tuple[Float[Array, " n"], Bool[Array, ""]]:
    """The minimum of a convex function by Newton's method with backtracking; and whether it converged.

    Args:
        derivatives: (x, args) -> `Derivatives`.
        start: where it begins, in the domain.
        args: differentiable arguments.
        rtol: the last step, relative to the largest entry of x.

    >>> quartic = lambda x, c: Derivatives(jnp.sum(x**4 / 4 - c * x), x**3 - c, jnp.diag(3 * x**2))
    >>> x, converged = minimise_convex(quartic, jnp.array([5.0]), 8.0)
    >>> round(float(x[0]), 12), bool(converged)
    (2.0, True)
    """

    def function(x, args):
        at = derivatives(x, args)
        return at.value, at

    solution = optx.minimise(function, NewtonBacktracking(rtol), start, args, has_aux=True, max_steps=100, throw=False)
    return solution.value, solution.result == optx.RESULTS.successful


def minimise(function: Callable, start: Float[Array, " n"], args: Any = (), *, tol: float = 1e-10):
    """A minimum of a smooth function (x, args), by quasi-Newton steps from `start`; and whether it converged.

    >>> x, converged = minimise(lambda x, c: jnp.sum((x - c) ** 2), jnp.zeros(2), 3.0)
    >>> x.round(6).tolist()
    [3.0, 3.0]
    """
    solution = optx.minimise(function, optx.BFGS(rtol=tol, atol=tol), start, args, max_steps=1000, throw=False)
    return solution.value, solution.result == optx.RESULTS.successful
