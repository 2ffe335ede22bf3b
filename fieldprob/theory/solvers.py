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
        max_steps=200,
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


def minimise_convex(
    derivatives: Callable[[Array, Any], Derivatives],
    start: Float[Array, " n"],
    args: Any = (),
    *,
    rtol: float = 1e-11,
    max_steps: int = 100,
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
    frozen = jax.lax.stop_gradient(args)

    def backtrack(x, at, step):
        slope = at.gradient @ step

        def rejected(state):
            size, halvings = state
            trial = derivatives(x + size * step, frozen).value
            # the last digits of a large value are noise: accept what does not rise above it
            noise = 8 * jnp.finfo(x.dtype).eps * jnp.abs(at.value)
            return ~(trial <= at.value + _ARMIJO * size * slope + noise) & (halvings < _HALVINGS)

        size, _ = jax.lax.while_loop(rejected, lambda s: (s[0] / 2, s[1] + 1), (jnp.ones_like(slope), 0))
        return x + size * step

    def improve(state):
        x, _, steps = state
        at = derivatives(x, frozen)
        step = -jnp.linalg.solve(at.hessian, at.gradient)
        x_new = backtrack(x, at, step)
        small = jnp.max(jnp.abs(x_new - x)) <= rtol * jnp.max(jnp.abs(x_new))
        return x_new, small, steps + 1

    x, converged, _ = jax.lax.while_loop(
        lambda s: ~s[1] & (s[2] < max_steps), improve, (jax.lax.stop_gradient(start), jnp.array(False), 0)
    )
    return _implicit(lambda x, args: derivatives(x, args).gradient, x, args), converged & jnp.all(jnp.isfinite(x))


def minimise(function: Callable, start: Float[Array, " n"], args: Any = (), *, tol: float = 1e-10):
    """A minimum of a smooth function (x, args), by quasi-Newton steps from `start`; and whether it converged.

    >>> x, converged = minimise(lambda x, c: jnp.sum((x - c) ** 2), jnp.zeros(2), 3.0)
    >>> x.round(6).tolist()
    [3.0, 3.0]
    """
    frozen = jax.lax.stop_gradient(args)
    solution = optx.minimise(
        function, optx.BFGS(rtol=tol, atol=tol), jax.lax.stop_gradient(start), frozen, max_steps=1000, throw=False
    )
    x = jax.lax.stop_gradient(solution.value)
    return _implicit(jax.grad(function), x, args), solution.result == optx.RESULTS.successful


def _implicit(gradient: Callable, x, args):
    """One Newton step at a root, which carries the derivatives of the implicit function."""
    solution = optx.root_find(gradient, optx.Newton(rtol=1e-6, atol=1e-6), x, args, max_steps=1, throw=False)
    return solution.value
