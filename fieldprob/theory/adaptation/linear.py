"""Kernel adaptation of a linear network: one scalar equation at tree level, three with the self-consistent loop.

The scalars are found in the eigen-coordinates of the whitened kernel, O(points) an iteration after one
eigendecomposition. Everything else follows from them by one Cholesky factor of A = noise + Q K_0, and derivatives from
the equations in matrix form, so that degenerate eigenvalues (more points than inputs) do no harm.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Bool, Float

from fieldprob.theory.setting import Setting
from fieldprob.theory.solvers import bracketed_root, implicit_root, require_converged, root


class _Data(NamedTuple):
    K: Float[Array, "points points"]
    noise: Float[Array, "points points"]
    y: Float[Array, " points"]
    G: Any
    N: Any


class _State(NamedTuple):
    """A field `tau` at readout norm Q, and what of (34) follows: the Cholesky factor of A, `v` K_0 tau, `b` A^-1 v,
    `rho` 1/(1 + 2 Q^2 v.b / N), and `gain` G/N v.tau, which is 1 - G/Q at the saddle."""

    Q: Float[Array, ""]
    factor: Float[Array, "points points"]
    tau: Float[Array, " points"]
    v: Float[Array, " points"]
    b: Float[Array, " points"]
    rho: Float[Array, ""]
    gain: Float[Array, ""]

    def solve(self, x):
        return cho_solve((self.factor, True), x)


def adaptation_linear(problem: Setting, order: str) -> dict:
    """Arguments of `predict` for a linear network at `order`.

    Raises:
        ValueError: the self-consistent loop has no solution near the tree.
    """
    P, X, K = problem.points, problem.X, problem.kernel_0
    G, N = jnp.asarray(problem.readout, float), jnp.asarray(problem.widths[0], float)
    data = _Data(K[:P, :P], problem.noise, problem.y, G, N)
    s = problem.weight_variance[0] / X.shape[1]
    found, converged = _predictions(data, problem.whitener(), K, X[:P], s, order)
    advice = "the loop correction is not small, use order='one-loop', or a wider network."
    found = require_converged("the self-consistent loop", converged, advice, found)
    return {
        "mean": found["mean"],
        "covariance": found["covariance"],
        "kernels": {0: K, 1: found["kernel"]},
        "log_evidence": found["log_evidence"],
        "mean_of": {"weight_covariance": found["weights"]},
    }


@partial(jax.jit, static_argnames="order")
def _predictions(data: _Data, whitener, K, X, s, order: str):
    P, N, G = len(data.y), data.N, data.G
    modes = jax.lax.stop_gradient(_modes(data, whitener))
    Q_tree = _tree_root(modes)
    tree = _tree(implicit_root(_tree_defect, Q_tree, data), data)

    # fluctuations of tree level, (27) in its scalar form
    cross = K[:, :P]
    half = solve_triangular(tree.factor, cross.T, lower=True)
    m = half.T @ solve_triangular(tree.factor, data.noise @ tree.tau, lower=True)
    stiffness = N / (2 * tree.Q**2) + tree.v @ tree.b
    covariance = tree.Q * K - tree.Q**2 * half.T @ half + jnp.outer(m, m) / stiffness

    state, slope, response, converged = tree, 0.0, jnp.zeros_like(tree.tau), jnp.array(True)
    if order == "self-consistent":
        found, converged = _loop_root(modes, Q_tree)
        scalars = implicit_root(_loop_defect, found, data)
        state, slope = _loop_state(scalars, data), scalars[1]
    mean = state.Q * cross @ state.tau
    c = 2 * state.Q**2 / N
    if order == "one-loop":
        slope = _slope(state, data)
        force = c * (slope * state.v + 2 * state.rho * data.K @ state.b)
        response = state.solve(force) - c * state.rho * (state.b @ force) * state.b  # M^-1 grad ln det M
        mean = mean + (state.Q * cross @ response + c * (state.v @ response) * (cross @ state.tau)) / 2
    if order != "tree":
        mean = mean - c * (cross @ (slope * state.tau / 2 + state.rho * state.b))

    def second_moment(prior, F):
        """prior + 2/N F D F^T, with D = d ln p(y) / dK_0 at tree level or with its loop, (14) and (28)."""
        tau, b, z = F @ state.tau, F @ state.b, F @ response
        source = state.Q / 2 * jnp.outer(tau, tau)
        if order != "tree":
            whitened = solve_triangular(state.factor, F.T, lower=True)
            mixed = state.rho * c * jnp.outer(b, tau - state.Q / 2 * b) - state.Q / 2 * jnp.outer(z, tau)
            along = (slope - response @ state.v) * state.Q**2 / N * jnp.outer(tau, tau)
            source = source - (state.Q * whitened.T @ whitened + mixed + mixed.T + along) / 2
        return prior + 2 / N * source

    return {
        "mean": mean,
        "covariance": (covariance + covariance.T) / 2,
        "kernel": G * second_moment(K, cross),
        "log_evidence": _log_evidence(tree, data),
        "weights": second_moment(s * jnp.eye(X.shape[1]), s * X.T),
    }, converged


def _state(Q, factor, tau, data: _Data) -> _State:
    v = data.K @ tau
    b = cho_solve((factor, True), v)
    rho = 1 / (1 + 2 * Q**2 / data.N * (v @ b))
    return _State(Q, factor, tau, v, b, rho, data.G / data.N * (v @ tau))


def _tree(Q, data: _Data) -> _State:
    factor = jnp.linalg.cholesky(data.noise + Q * data.K)
    return _state(Q, factor, cho_solve((factor, True), data.y), data)


def _tree_defect(Q, data: _Data):
    return data.G / Q - 1 + _tree(Q, data).gain


def _slope(state: _State, data: _Data):
    """d ln det M / dQ at fixed tau."""
    trace = jnp.trace(state.solve(data.K))
    r, bKb = state.v @ state.b, state.b @ data.K @ state.b
    return trace + state.rho * (4 * state.Q * r - 2 * state.Q**2 * bKb) / data.N


def _loop_state(scalars, data: _Data) -> _State:
    """The field of (33), linear in y given Q, slope and rho."""
    Q, slope, rho = scalars
    factor = jnp.linalg.cholesky(data.noise + Q * data.K)
    whitened = solve_triangular(factor, data.K, lower=True)
    c = 2 * Q**2 / data.N
    tau = jnp.linalg.solve(data.noise + (Q - c * slope / 2) * data.K - c * rho * whitened.T @ whitened, data.y)
    return _state(Q, factor, tau, data)


def _loop_defect(scalars, data: _Data):
    state = _loop_state(scalars, data)
    return jnp.stack([data.G / state.Q - 1 + state.gain, _slope(state, data) - scalars[1], state.rho - scalars[2]])


def _log_evidence(tree: _State, data: _Data) -> Float[Array, ""]:
    """One loop, (31)."""
    tau = tree.tau
    action = tau @ (data.noise @ tau / 2 - data.y) + data.N / 2 * jnp.log(tree.Q / data.G)
    log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(tree.factor))) - jnp.log(tree.rho)
    return action - log_det / 2 - len(tau) / 2 * jnp.log(2 * jnp.pi)


# --- the scalars, in eigen-coordinates --------------------------------------------------------------------------------


class _Modes(NamedTuple):
    """The whitened problem, in which the noise is one and K_0 diagonal."""

    eigenvalues: Float[Array, " modes"]
    y: Float[Array, " modes"]
    G: Any
    N: Any


def _modes(data: _Data, R) -> _Modes:
    K = R @ data.K @ R.T
    eigenvalues, U = jnp.linalg.eigh((K + K.T) / 2)
    return _Modes(jnp.maximum(eigenvalues, 0.0), U.T @ (R @ data.y), data.G, data.N)


def _tree_root(modes: _Modes) -> Float[Array, ""]:
    """Q of (25): 1/Q + sum of lambda y^2 / (1 + Q lambda)^2 / N = 1/G, between G and G (1 + |y|^2 / 4N)."""

    def defect(log_ratio, modes):
        Q = modes.G * jnp.exp(log_ratio)
        target = jnp.sum(modes.eigenvalues * (modes.y / (1 + Q * modes.eigenvalues)) ** 2)
        return jnp.exp(-log_ratio) + modes.G * target / modes.N - 1

    upper = jnp.log1p(jnp.sum(modes.y**2) / (4 * modes.N))
    return modes.G * jnp.exp(bracketed_root(defect, jnp.zeros_like(upper), upper, modes))


def _loop_root(modes: _Modes, Q_tree) -> tuple[Float[Array, " scalars"], Bool[Array, ""]]:
    """Q, slope and rho of `_loop_defect`, near their values at tree level; and whether they were found."""

    def measured(Q, tau):
        b = modes.eigenvalues * tau / (1 + Q * modes.eigenvalues)
        r, bKb = jnp.sum(modes.eigenvalues * tau * b), jnp.sum(modes.eigenvalues * b**2)
        rho = 1 / (1 + 2 * Q**2 * r / modes.N)
        trace = jnp.sum(modes.eigenvalues / (1 + Q * modes.eigenvalues))
        return trace + rho * (4 * Q * r - 2 * Q**2 * bKb) / modes.N, rho

    slope_tree, rho_tree = measured(Q_tree, modes.y / (1 + Q_tree * modes.eigenvalues))

    def scalars(x):
        return Q_tree * jnp.exp(x[0]), slope_tree * x[1], x[2]

    def defect(x, modes):
        (Q, slope, rho), lam = scalars(x), modes.eigenvalues
        c = 2 * Q**2 / modes.N
        tau = modes.y / (1 + Q * lam - c * lam * (slope / 2 + rho * lam / (1 + Q * lam)))
        slope_there, rho_there = measured(Q, tau)
        gain = modes.G / modes.N * jnp.sum(lam * tau**2)
        return jnp.stack([modes.G / Q - 1 + gain, slope_there / slope_tree - x[1], rho_there - rho])

    x, converged = root(defect, jnp.stack([jnp.zeros_like(Q_tree), jnp.ones_like(Q_tree), rho_tree]), modes)
    return jnp.stack(scalars(x)), converged
