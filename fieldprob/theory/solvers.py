"""Roots and minima of the theories' self-consistency equations, with the derivatives of the implicit function.

Tolerances are relative to the largest entry of the unknown: the conjugate field of theory 02 is O(N) in mean-field
scaling. What does not converge is refused with a ValueError; under a JAX transformation it becomes NaN.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
from jax import Array
from jax.core import Tracer
from jaxtyping import Bool, Float

_ARMIJO = 1e-4
_HALVINGS = 60
_DENSE = 1024  # unknowns up to which the implicit derivative is a dense solve


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


def minimise_large(function: Callable, start: Float[Array, " n"], args: Any = (), *, memory: int = 20):
    """A minimum of a smooth function (x, args) of many numbers of order one; and whether it converged.

    Quasi-Newton steps that keep memory * n numbers (L-BFGS), which the rounding of the function stops half the digits
    short; then Newton's method on the gradient, by conjugate gradients. Differentiable in `args`.

    >>> x, converged = minimise_large(lambda x, c: jnp.sum(jnp.cosh(x - c)), jnp.zeros(2), 3.0)
    >>> x.round(12).tolist(), bool(converged)
    ([3.0, 3.0], True)
    """
    frozen = jax.lax.stop_gradient(args)
    solver = optx.LBFGS(rtol=1e-6, atol=1e-6, history_length=memory)
    near = optx.minimise(function, solver, start, frozen, max_steps=1000, throw=False).value
    solution = optx.root_find(
        jax.grad(function),
        optx.Newton(rtol=1e-9, atol=1e-9, linear_solver=lx.CG(rtol=1e-6, atol=1e-12, max_steps=2000)),
        jax.lax.stop_gradient(near),
        args,
        max_steps=20,
        adjoint=_implicit(start.size),
        tags=frozenset({lx.positive_semidefinite_tag}),
        throw=False,
    )
    return solution.value, solution.result == optx.RESULTS.successful


class _History(NamedTuple):
    """Past unknowns and their residuals, how many, the best of them, the damping after failures, the last residual."""

    unknowns: Float[Array, "memory n"]
    residuals: Float[Array, "memory n"]
    count: Any
    best: Float[Array, " n"]
    best_residual: Float[Array, " n"]
    damping: Any
    error: Any


class Anderson(optx.AbstractFixedPointSolver):
    """Fixed-point iteration with Anderson's acceleration (Walker & Ni, SIAM J. Numer. Anal. 49, 1715 (2011)).

    A step that leads out of the domain (NaN or infinity), or to a residual ten times that of the best point so far, is
    taken back: the iteration starts again from there with half the damping.
    """

    rtol: float
    atol: float = 0.0
    norm: Callable = optx.max_norm
    memory: int = 6

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        past, infinite = jnp.zeros((self.memory, y.size)), jnp.array(jnp.inf)
        return _History(past, past, jnp.array(0), y, jnp.zeros_like(y), jnp.array(1.0), infinite)

    def step(self, fn, y, args, options, state, tags):
        value, aux = fn(y, args)
        residual = value - y
        size, best_size = self.norm(residual), self.norm(state.best_residual)
        first = ~jnp.isfinite(state.error)
        accepted = jnp.isfinite(size) & (first | (size < 10 * best_size))

        def forward(state):
            slot = state.count % self.memory
            unknowns, residuals = state.unknowns.at[slot].set(y), state.residuals.at[slot].set(residual)
            known = (jnp.arange(self.memory) <= state.count) & (jnp.arange(self.memory) != slot)
            dy, dr = (jnp.where(known[:, None], past - now, 0) for past, now in ((unknowns, y), (residuals, residual)))
            orthogonal, triangle = jnp.linalg.qr(dr.T)
            mixed = jnp.linalg.lstsq(triangle, -orthogonal.T @ residual, rcond=1e-10)[0]
            y_new = y + mixed @ dy + state.damping * (residual + mixed @ dr)
            better = first | (size < best_size)
            best = jnp.where(better, y, state.best), jnp.where(better, residual, state.best_residual)
            return y_new, _History(unknowns, residuals, state.count + 1, *best, state.damping, size)

        def back(state):
            damping = state.damping / 2
            y_new = state.best + damping * state.best_residual
            return y_new, state._replace(count=jnp.array(0), damping=damping)

        y_new, state = jax.lax.cond(accepted, forward, back, state)
        return y_new, state, aux

    def terminate(self, fn, y, args, options, state, tags):
        return state.error <= self.atol + self.rtol * self.norm(y), optx.RESULTS.successful

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {"residual": state.error}


def fixed_point(
    function: Callable,
    start: Float[Array, " n"],
    args: Any = (),
    *,
    rtol: float = 1e-11,
    memory: int = 6,
    max_steps: int = 200,
):
    """The x with function(x, args) = x near `start`, by Anderson's iteration; whether it converged; and the steps.

    Converged means a residual below rtol times the largest entry of x. Differentiable in `args`.

    >>> x, converged, steps = fixed_point(lambda x, c: c * jnp.cos(x), jnp.array([1.0]), 1.0)
    >>> round(float(x[0]), 12), bool(converged), int(steps) < 12
    (0.739085133215, True, True)
    """
    solution = optx.fixed_point(
        function,
        Anderson(rtol, memory=memory),
        start,
        args,
        max_steps=max_steps,
        adjoint=_implicit(start.size),
        throw=False,
    )
    return solution.value, solution.result == optx.RESULTS.successful, solution.stats["num_steps"]


def _implicit(unknowns: int) -> optx.ImplicitAdjoint:
    dense = lx.AutoLinearSolver(well_posed=None)
    return optx.ImplicitAdjoint(dense if unknowns <= _DENSE else lx.GMRES(rtol=1e-9, atol=1e-11, restart=40))
