"""Kernel adaptation of a linear network: one scalar equation at tree level, three with the self-consistent loop.

All is found in the eigen-coordinates of the kernel, O(points) an iteration after one eigendecomposition; the covariance
of the outputs and the kernel are one product of matrices more.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from fieldprob import gp
from fieldprob.theory.scale_average import ScaleAverage, outputs
from fieldprob.theory.setting import Setting
from fieldprob.theory.solvers import bracketed_root, require_converged, root


class _State(NamedTuple):
    """A field `tau` at readout norm Q, and what of (34) follows, in eigen-coordinates: the `variance` of the data under
    A = noise + Q K_0, `v` K_0 tau, `b` A^-1 v, `rho` 1/(1 + 2 Q^2 v.b / N), `gain` G/N v.tau, which is 1 - G/Q at the
    saddle, and `slope` d ln det M / dQ at fixed tau."""

    Q: Float[Array, ""]
    variance: Float[Array, " points"]
    tau: Float[Array, " points"]
    v: Float[Array, " points"]
    b: Float[Array, " points"]
    rho: Float[Array, ""]
    gain: Float[Array, ""]
    slope: Float[Array, ""]


class _Problem(NamedTuple):
    """The data, K_0 diagonal, with G the readout variance with its 1/chi and N the width."""

    data: gp.Modes
    G: Float[Array, ""]
    N: Float[Array, ""]


def adaptation_linear(problem: Setting, order: str) -> dict:
    """Arguments of `predict` for a linear network at `order`.

    Raises:
        ValueError: the self-consistent loop has no solution near the tree.
    """
    X, K = problem.X, problem.kernel_0
    G, N = jnp.asarray(problem.readout, float), jnp.asarray(problem.widths[0], float)
    modes = gp.modes(K, problem.noise, problem.y, problem.rank)
    s = problem.weight_variance[0] / X.shape[1]
    found, converged = _predictions(_Problem(modes, G, N), K, X[: problem.points], s, order)
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
def _predictions(problem: _Problem, K, X, s, order: str):
    modes, G, N = problem
    eigenvalues, noise = modes.eigenvalues, modes.noise
    tree = _tree(problem)
    state, slope, response, converged = tree, 0.0, jnp.zeros_like(tree.tau), jnp.array(True)
    if order == "self-consistent":
        state, slope, converged = _loop(problem, tree)
    c = 2 * state.Q**2 / N
    mean = state.Q * state.tau
    if order == "one-loop":
        slope = state.slope
        force = c * (slope * state.v + 2 * state.rho * eigenvalues * state.b)
        response = force / state.variance - c * state.rho * (state.b @ force) * state.b  # M^-1 grad ln det M
        mean = mean + (state.Q * response + c * (state.v @ response) * state.tau) / 2
    if order != "tree":
        mean = mean - c * (slope * state.tau / 2 + state.rho * state.b)

    # fluctuations of tree level, (27) in its scalar form
    stiffness = N / (2 * tree.Q**2) + tree.v @ tree.b
    average = ScaleAverage(
        scale=tree.Q,
        coefficients=mean,
        spread=(noise * tree.tau / tree.variance / jnp.sqrt(stiffness))[None],
        kept=noise * tree.Q / tree.variance,
        explained=tree.Q**2 / tree.variance,
    )
    predicted = outputs(modes, K, average)

    def second_moment(prior, F):
        """prior + 2/N F D F^T, with D = d ln p(y) / dK_0 at tree level or with its loop, (14) and (28)."""
        tau, b, z = (F @ modes.kept(x) for x in (state.tau, state.b, response))
        source = state.Q / 2 * jnp.outer(tau, tau)
        if order != "tree":
            mixed = state.rho * c * jnp.outer(b, tau - state.Q / 2 * b) - state.Q / 2 * jnp.outer(z, tau)
            along = (slope - response @ state.v) * state.Q**2 / N * jnp.outer(tau, tau)
            resolvent = (F * modes.kept(1 / state.variance)) @ F.T
            source = source - (state.Q * resolvent + mixed + mixed.T + along) / 2
        return prior + 2 / N * source

    return {
        "mean": predicted.mean,
        "covariance": predicted.covariance,
        "kernel": G * second_moment(K, modes.cross),
        "log_evidence": _log_evidence(problem, tree),
        "weights": second_moment(s * jnp.eye(X.shape[1]), s * modes.project(X).T),
    }, converged


def _state(problem: _Problem, Q, tau) -> _State:
    (data, G, N), eigenvalues = problem, problem.data.eigenvalues
    variance = data.noise + Q * eigenvalues
    v = eigenvalues * tau
    b = v / variance
    rho = 1 / (1 + 2 * Q**2 / N * (v @ b))
    trace, bKb = jnp.sum(eigenvalues / variance), b @ (eigenvalues * b)
    slope = trace + rho * (4 * Q * (v @ b) - 2 * Q**2 * bKb) / N
    return _State(Q, variance, tau, v, b, rho, G / N * (v @ tau), slope)


def _tree(problem: _Problem) -> _State:
    """The saddle, by Q of (25): 1/Q + tau.K_0 tau / N = 1/G, between G and G (1 + y.y / 4 noise N)."""

    def at(log_ratio, problem):
        Q = problem.G * jnp.exp(log_ratio)
        return _state(problem, Q, problem.data.y / (problem.data.noise + Q * problem.data.eigenvalues))

    def defect(log_ratio, problem):
        return jnp.expm1(-log_ratio) + at(log_ratio, problem).gain

    upper = jnp.log1p(jnp.sum(problem.data.y**2) / (4 * problem.data.noise * problem.N))
    return at(bracketed_root(defect, jnp.zeros_like(upper), upper, problem), problem)


def _loop(problem: _Problem, tree: _State) -> tuple[_State, Float[Array, ""], Bool[Array, ""]]:
    """The stationary point of the one-loop effective action (33) near the saddle, the slope there, and whether it was
    found: the field is linear in y given Q, slope and rho."""
    units = jnp.stack([tree.Q, tree.slope, tree.rho])

    def at(x, problem):
        (data, _, N), (Q, slope, rho) = problem, units * jnp.stack([jnp.exp(x[0]), x[1], x[2]])
        c, lam = 2 * Q**2 / N, data.eigenvalues
        variance = data.noise + Q * lam
        tau = data.y / (variance - c * lam * (slope / 2 + rho * lam / variance))
        return _state(problem, Q, tau), slope, rho

    def defect(x, problem):
        state, slope, rho = at(x, problem)
        return jnp.stack([problem.G / state.Q - 1 + state.gain, (state.slope - slope) / units[1], state.rho - rho])

    x, converged = root(defect, jnp.array([0.0, 1.0, 1.0]), problem)
    state, slope, _ = at(x, problem)
    return state, slope, converged


def _log_evidence(problem: _Problem, tree: _State) -> Float[Array, ""]:
    """One loop, (31)."""
    data, G, N = problem
    action = tree.tau @ (data.noise * tree.tau / 2 - data.y) + N / 2 * jnp.log(tree.Q / G)
    log_det = jnp.sum(jnp.log(tree.variance)) + 2 * data.log_det - jnp.log(tree.rho)
    return action - log_det / 2 - len(data.y) / 2 * jnp.log(2 * jnp.pi)
