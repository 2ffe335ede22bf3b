"""The Gaussian closure: the best Gaussian measure of a neuron, w ~ N(0, Sigma) (theory 02 (46)-(48)).

Sigma = variance L L^T minimises

    E = 1/2 y^T (noise + C)^-1 y + N KL(N(0, Sigma) | prior),   C = G E[phi phi^T] over N(0, Sigma),

which holds no log determinant (theory 01 F9-F14 at leading order). It bounds the tree's action from above, and is the
tree for a linear network. Outputs and their covariance follow as at tree level, from the function of tau

    max over Sigma of G/2 tau . E[phi phi^T] tau - N KL

and its second derivatives.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from fieldprob.theory.adaptation.nonlinear import Data
from fieldprob.theory.solvers import minimise, require_converged
from fieldprob.theory.tilted import Neuron


class Closure(NamedTuple):
    """The factor L, by its parameters, and the conjugate field it comes with."""

    parameters: Float[Array, " entries"]
    tau: Float[Array, " points"]
    covariance: Float[Array, "directions directions"]


def gaussian_closure(neuron: Neuron, data: Data) -> Closure:
    """The Gaussian measure that minimises E, found from the prior by quasi-Newton steps.

    Raises:
        ValueError: the minimisation did not converge.
    """
    closure, converged = _minimise(neuron, data)
    advice = "start at a smaller chi, or raise noise_variance."
    return require_converged("the Gaussian closure", converged, advice, closure)


@jax.jit
def _minimise(neuron: Neuron, data: Data):
    size = neuron.directions * (neuron.directions + 1) // 2

    def energy(parameters, args):
        neuron, data = args
        S = data.noise + _kernel(parameters, neuron, data, neuron.points)
        return data.y @ jnp.linalg.solve(S, data.y) / (2 * data.N) + _divergence(parameters, neuron.directions)

    parameters, converged = minimise(energy, jnp.zeros(size), (neuron, data))
    tau = jnp.linalg.solve(data.noise + _kernel(parameters, neuron, data, neuron.points), data.y)
    L = _factor(parameters, neuron.directions)
    return Closure(parameters, tau, neuron.variance * L @ L.T), converged


@jax.jit
def predictions(neuron: Neuron, closure: Closure, data: Data) -> dict[str, Any]:
    """Means, covariance, kernel and weights of the closure, and its evidence to one loop."""
    parameters, tau = closure.parameters, closure.tau
    P, n = neuron.points, len(parameters)
    C = _kernel(parameters, neuron, data, len(neuron.coordinates))

    def gain(parameters):
        value = tau @ _kernel(parameters, neuron, data, P) @ tau / 2
        return value - data.N * _divergence(parameters, neuron.directions)

    def force(parameters):
        return _kernel(parameters, neuron, data, len(neuron.coordinates))[:, :P] @ tau

    def along(tangent):
        push = jax.jvp(force, (parameters,), (tangent,))[1]
        return push, jax.jvp(jax.grad(gain), (parameters,), (tangent,))[1]

    push, curvature = jax.lax.map(along, jnp.eye(n))  # one at a time: each holds several kernels
    H = C - push.T @ jnp.linalg.solve((curvature + curvature.T) / 2, push)
    M = data.noise + H[:P, :P]
    covariance = H - H[:, :P] @ jnp.linalg.solve(M, H[:P])
    action = gain(parameters) + tau @ (data.noise @ tau / 2 - data.y)
    return {
        "mean": C[:, :P] @ tau,
        "covariance": (covariance + covariance.T) / 2,
        "kernel": C,
        "weights": neuron.weight_covariance(closure.covariance),
        "log_evidence": action - jnp.linalg.slogdet(M)[1] / 2 - P / 2 * jnp.log(2 * jnp.pi),
    }


def _factor(parameters, directions: int):
    L = jnp.zeros((directions, directions)).at[jnp.tril_indices(directions)].set(parameters)
    return L + jnp.diag(jnp.expm1(jnp.diagonal(L)) + 1 - jnp.diagonal(L))


def _divergence(parameters, directions: int):
    """KL(N(0, L L^T) | N(0, 1))."""
    L = _factor(parameters, directions)
    return (jnp.sum(L**2) - directions) / 2 - jnp.sum(jnp.log(jnp.diagonal(L)))


def _kernel(parameters, neuron: Neuron, data: Data, points: int):
    """C at the first `points`."""
    h = jnp.sqrt(neuron.variance) * neuron.coordinates[:points] @ _factor(parameters, neuron.directions)
    gram = h @ h.T
    gram, variance = (gram + gram.T) / 2, jnp.sum(h**2, axis=1)
    return data.G * neuron.activation.dual(variance[:, None], gram, variance[None, :])
