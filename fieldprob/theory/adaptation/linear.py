"""Kernel adaptation of a linear network, in the eigen-coordinates of the whitened kernel.

In the coordinates of `_Modes` the noise is one and K_0 is diagonal: the saddle (25) is one scalar equation, the
self-consistent loop (33) three, and every prediction costs two products of (all points, points) matrices.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from fieldprob.theory.setting import Setting
from fieldprob.theory.solvers import bracketed_root, require_converged, root


class _Modes(NamedTuple):
    """`transform` (points, modes) takes coordinates of a mode to the conjugate field, its transpose data to modes."""

    N: int
    G: Float[Array, ""] | float
    eigenvalues: Float[Array, " modes"]
    y: Float[Array, " modes"]
    transform: Float[Array, "points modes"]
    log_volume: Float[Array, ""]


class _State(NamedTuple):
    """The field `tau` in modes, the readout norm Q (25), and what (34) makes of the determinant of M.

    `inverse` is diag A^-1, `rho` 1/(1 + 2 Q^2 r / N), `slope` d ln det M / dQ at fixed tau, and `b` A^-1 K_0 tau.
    """

    Q: Float[Array, ""]
    tau: Float[Array, " modes"]
    inverse: Float[Array, " modes"]
    b: Float[Array, " modes"]
    rho: Float[Array, ""]
    slope: Float[Array, ""]


def adaptation_linear(problem: Setting, order: str) -> dict:
    """Arguments of `predict` for a linear network at `order`."""
    P, K = problem.points, problem.kernel_0
    modes = _modes(problem)
    tree = _tree(modes)
    N, G, lam = modes.N, modes.G, modes.eigenvalues
    B = K[:, :P] @ modes.transform

    # fluctuations of the tree level, (27) in its scalar form
    Q = tree.Q
    m = B @ (tree.tau * tree.inverse)
    stiffness = N / (2 * Q**2) + jnp.sum(lam**2 * tree.tau**2 * tree.inverse)
    covariance = Q * K - Q**2 * (B * tree.inverse) @ B.T + jnp.outer(m, m) / stiffness

    state = _self_consistent(modes, tree) if order == "self-consistent" else tree
    mean = state.Q * (B @ state.tau)
    response = jnp.zeros_like(state.tau)  # z = M^-1 grad ln det M
    if order != "tree":
        c = 2 * state.Q**2 / N
        force = _force(modes, state)
        mean = mean - (c * state.slope * (B @ state.tau) + 2 * c * state.rho * (B @ state.b)) / 2
        if order == "one-loop":
            response = state.inverse * force - c * state.rho * (state.b @ force) * state.b
            shift = state.Q * (B @ response) + c * (B @ state.tau) * (lam * state.tau @ response)
            mean = mean + shift / 2

    def second_moment(prior, F):
        return prior + 2 / N * _source(modes, state, response, F, loop=order != "tree")

    X = problem.X[:P]
    s = problem.weight_variance[0] / X.shape[1]
    return {
        "mean": mean,
        "covariance": (covariance + covariance.T) / 2,
        "kernels": {0: K, 1: G * second_moment(K, B)},
        "log_evidence": _log_evidence(modes, tree),
        "mean_of": {"weight_covariance": second_moment(s * jnp.eye(X.shape[1]), s * X.T @ modes.transform)},
    }


def _modes(problem: Setting) -> _Modes:
    P = problem.points
    R = problem.whitener()
    K = R @ problem.kernel_0[:P, :P] @ R.T
    eigenvalues, U = jnp.linalg.eigh((K + K.T) / 2)
    return _Modes(
        N=problem.widths[0],
        G=problem.readout,
        eigenvalues=jnp.maximum(eigenvalues, 0.0),
        y=U.T @ (R @ problem.y),
        transform=R.T @ U,
        log_volume=jnp.sum(jnp.log(jnp.diagonal(R))),
    )


def _state(modes: _Modes, Q, tau) -> _State:
    lam, N = modes.eigenvalues, modes.N
    inverse = 1 / (1 + Q * lam)
    b = lam * tau * inverse
    r = jnp.sum(lam * tau * b)
    rho = 1 / (1 + 2 * Q**2 * r / N)
    slope = jnp.sum(lam * inverse) + rho * (4 * Q * r / N - 2 * Q**2 / N * jnp.sum(lam * b**2))
    return _State(Q, tau, inverse, b, rho, slope)


def _tree(modes: _Modes) -> _State:
    """The saddle (25): 1/Q + sum of lambda y^2 / (1 + Q lambda)^2 / N = 1/G, with Q in [G, G (1 + |y|^2 / 4N)]."""

    def defect(log_ratio, modes):
        Q = modes.G * jnp.exp(log_ratio)
        target = jnp.sum(modes.eigenvalues * (modes.y / (1 + Q * modes.eigenvalues)) ** 2)
        return jnp.exp(-log_ratio) + modes.G * target / modes.N - 1

    upper = jnp.log1p(jnp.sum(modes.y**2) / (4 * modes.N))
    Q = modes.G * jnp.exp(bracketed_root(defect, jnp.zeros_like(upper), upper, modes))
    return _state(modes, Q, modes.y / (1 + Q * modes.eigenvalues))


def _force(modes: _Modes, state: _State) -> Float[Array, " modes"]:
    """Gradient of ln det M with respect to tau, (34)."""
    c = 2 * state.Q**2 / modes.N
    return c * modes.eigenvalues * (state.slope * state.tau + 2 * state.rho * state.b)


def _self_consistent(modes: _Modes, tree: _State) -> _State:
    """The stationary point (33) of the one-loop effective action: each mode is explicit given Q, rho and slope."""

    def solve(x, modes):
        Q, slope, rho = tree_Q * jnp.exp(x[0]), tree_slope * x[1], x[2]
        lam, c = modes.eigenvalues, 2 * Q**2 / modes.N
        tau = modes.y / (1 + Q * lam - c * lam * (slope / 2 + rho * lam / (1 + Q * lam)))
        return _state(modes, Q, tau)

    def defect(x, modes):
        state = solve(x, modes)
        gain = 1 - modes.G / modes.N * jnp.sum(modes.eigenvalues * state.tau**2)
        return jnp.stack([modes.G / state.Q - gain, state.slope / tree_slope - x[1], state.rho - x[2]])

    tree_Q, tree_slope = tree.Q, tree.slope
    start = jnp.stack([jnp.zeros_like(tree.Q), jnp.ones_like(tree.Q), tree.rho])
    x, converged = root(defect, start, modes)
    advice = "the loop correction is not small, use order='one-loop', or a wider network."
    return solve(require_converged("the self-consistent loop", converged, advice, x), modes)


def _source(modes: _Modes, state: _State, response, F, *, loop: bool):
    """F D F^T, with D the derivative of ln p(y) by the kernel of the data, of which (14) and (28) are made."""
    Q, rho, N = state.Q, state.rho, modes.N
    tau, b, z = F @ state.tau, F @ state.b, F @ response
    if not loop:
        return Q / 2 * jnp.outer(tau, tau)
    c = 2 * Q**2 / N
    along = state.slope - response @ (modes.eigenvalues * state.tau)
    determinant = (
        Q * (F * state.inverse) @ F.T
        + rho * c * (jnp.outer(b, tau) + jnp.outer(tau, b) - Q * jnp.outer(b, b))
        + along * Q**2 / N * jnp.outer(tau, tau)
        - Q / 2 * (jnp.outer(z, tau) + jnp.outer(tau, z))
    )
    determinant = (determinant + determinant.T) / 2
    return Q / 2 * jnp.outer(tau, tau) - determinant / 2


def _log_evidence(modes: _Modes, tree: _State) -> Float[Array, ""]:
    """One loop, (31)."""
    action = -tree.tau @ modes.y + tree.tau @ tree.tau / 2 + modes.N / 2 * jnp.log(tree.Q / modes.G)
    log_det = jnp.sum(jnp.log1p(tree.Q * modes.eigenvalues)) - jnp.log(tree.rho)
    return action - log_det / 2 - len(modes.y) / 2 * jnp.log(2 * jnp.pi) + modes.log_volume
