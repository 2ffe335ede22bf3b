"""Kernel adaptation of any activation, on a fixed set of neurons: saddle, fluctuations and loop.

With u = phi . tau and averages < > over the tilted measure, N ln E exp(G u^2 / 2N) = 𝒦(tau) has the derivatives

    G <phi u>,   H = G <phi phi^T> + G^2/N [<phi phi^T u^2> - <phi u><phi u>^T],   M = noise + H.

Extended to test points, whose conjugate field is a source set to zero, they give every output: the mean G <phi u>, the
covariance H - H M^-1 H^T, and the loop's t = gradient of ln det M, of which the mean changes by -(t - H M^-1 t) / 2.
The loop also changes the average of any observable of a neuron, by corrected probabilities (44). One loop so costs as
much as the tree, O(samples points^2).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from fieldprob.theory.solvers import Derivatives, minimise_convex, require_converged, root
from fieldprob.theory.tilted import BLOCKS, Neuron, Neurons, first_moment, over_neurons, second_moments, tilt


class Data(NamedTuple):
    """What is regressed: y (points,), noise (points, points), G the readout variance with its 1/chi, N the width."""

    y: Float[Array, " points"]
    noise: Float[Array, "points points"]
    G: Any
    N: Any


class Measure(NamedTuple):
    """A field `tau`, and the tilted measure there."""

    tau: Float[Array, " points"]
    probability: Float[Array, " samples"]
    u: Float[Array, " samples"]
    log_normaliser: Float[Array, ""]


class Loop(NamedTuple):
    """The gradient `t` of ln det M at all points, and the probabilities corrected by the loop."""

    t: Float[Array, " all_points"]
    probability: Float[Array, " samples"]


def measure_at(tau, neuron: Neuron, neurons: Neurons, data: Data) -> Measure:
    u = over_neurons(lambda phi: phi @ tau, neuron, neurons.w)
    measure = tilt(u[:, None], neurons, jnp.ones((1, 1)), jnp.asarray(data.G / data.N)[None])
    return Measure(tau, measure.probability, u, measure.log_normaliser)


def action(tau: Float[Array, " points"], args: tuple[Neuron, Neurons, Data]) -> Derivatives:
    """The convex function -tau . y + tau . noise tau / 2 + 𝒦(tau) that the saddle minimises, with its derivatives."""
    neuron, neurons, data = args
    at = measure_at(tau, neuron, neurons, data)
    g = first_moment(neuron.at_data, neurons.w, at.probability * at.u)
    curvature = at.probability * (data.G + data.G**2 / data.N * at.u**2)
    H = second_moments(neuron.at_data, neurons.w, curvature[:, None])[0]
    return Derivatives(
        value=tau @ (data.noise @ tau / 2 - data.y) + data.N * at.log_normaliser,
        gradient=data.noise @ tau - data.y + data.G * g,
        hessian=data.noise + H - data.G**2 / data.N * jnp.outer(g, g),
    )


@jax.jit
def saddle(neuron: Neuron, neurons: Neurons, data: Data, start: Float[Array, " points"]):
    """The field at the saddle, whether it was found, and the effective sample size of the measure there."""
    tau, converged = minimise_convex(action, start, (neuron, neurons, data))
    return tau, converged, 1 / jnp.sum(measure_at(tau, neuron, neurons, data).probability ** 2)


@jax.jit
def tree(neuron: Neuron, neurons: Neurons, data: Data, tau: Float[Array, " points"]) -> dict[str, Any]:
    """Means, covariance, kernel and weights at the saddle, and the evidence with its determinant (31)."""
    at = measure_at(tau, neuron, neurons, data)
    gram, H = grams(neuron, neurons, at, data)
    M, cross = _coupling(H, data)
    log_det = jnp.linalg.slogdet(M)[1]
    covariance = H - cross @ jnp.linalg.solve(M, cross.T)
    points = len(data.y)
    return {
        "mean": data.G * gram[:, :points] @ tau,
        "covariance": (covariance + covariance.T) / 2,
        "kernel": data.G * gram,
        "weights": _weights(neuron, neurons, at.probability),
        "log_evidence": tau @ (data.noise @ tau / 2 - data.y)
        + data.N * at.log_normaliser
        - log_det / 2
        - points / 2 * jnp.log(2 * jnp.pi),
    }


@jax.jit
def one_loop(neuron: Neuron, neurons: Neurons, data: Data, tau: Float[Array, " points"]) -> dict[str, Any]:
    """Mean, kernel and weights to one loop about the saddle, (32) and (44)."""
    at = measure_at(tau, neuron, neurons, data)
    gram, H = grams(neuron, neurons, at, data)
    M, cross = _coupling(H, data)
    loop = loop_correction(neuron, neurons, at, data, H, response=True)
    points = len(tau)
    mean = data.G * gram[:, :points] @ tau - (loop.t - cross @ jnp.linalg.solve(M, loop.t[:points])) / 2
    return {"mean": mean, **_observables(neuron, neurons, loop.probability, data)}


def self_consistent(neuron: Neuron, neurons: Neurons, data: Data, tau: Float[Array, " points"]) -> dict[str, Any]:
    """Mean, kernel and weights at the stationary point of the one-loop effective action (33).

    Raises:
        ValueError: no stationary point was found.
    """
    tau, converged, result = _self_consistent(neuron, neurons, data, tau)
    advice = "the loop correction is not small, use order='one-loop', or a wider network."
    return require_converged("the self-consistent loop", converged, advice, result)


@jax.jit
def _self_consistent(neuron, neurons, data, tau):
    points = len(tau)

    def defect(tau, args):
        """In units of tau, whatever the noise."""
        neuron, neurons, data, M = args
        at = measure_at(tau, neuron, neurons, data)
        gram, H = grams(neuron, neurons, at, data)
        loop = loop_correction(neuron, neurons, at, data, H, response=False)
        return jnp.linalg.solve(M, data.noise @ tau + data.G * gram @ tau - data.y - loop.t / 2)

    inside = (neuron.at_data, neurons, data)
    args = (*inside, jax.lax.stop_gradient(action(tau, inside).hessian))
    tau, converged = root(defect, tau - defect(tau, args), args)
    at = measure_at(tau, neuron, neurons, data)
    gram, H = grams(neuron, neurons, at, data)
    loop = loop_correction(neuron, neurons, at, data, H, response=False)
    mean = data.G * gram[:, :points] @ tau - loop.t / 2
    return tau, converged, {"mean": mean, **_observables(neuron, neurons, loop.probability, data)}


def _weights(neuron: Neuron, neurons: Neurons, probability):
    return neuron.weight_covariance((neurons.w * probability[:, None]).T @ neurons.w)


def _observables(neuron: Neuron, neurons: Neurons, probability, data: Data) -> dict[str, Any]:
    gram = second_moments(neuron, neurons.w, probability[:, None])[0]
    return {"kernel": data.G * gram, "weights": _weights(neuron, neurons, probability)}


def grams(neuron: Neuron, neurons: Neurons, at: Measure, data: Data):
    """<phi phi^T> and H, at all points."""
    curvature = data.G + data.G**2 / data.N * at.u**2
    gram, H = second_moments(neuron, neurons.w, jnp.stack([at.probability, at.probability * curvature], axis=1))
    g = gram[:, : len(at.tau)] @ at.tau
    return gram, H - data.G**2 / data.N * jnp.outer(g, g)


def _coupling(H, data: Data):
    """M of the training points, and H between all points and them."""
    points = len(data.y)
    return data.noise + H[:points, :points], H[:, :points]


def loop_correction(neuron: Neuron, neurons: Neurons, at: Measure, data: Data, H, *, response: bool) -> Loop:
    """The loop's forces; `response` says whether tau follows the saddle when an observable is added to the action."""
    G, N, p, u = data.G, data.N, at.probability, at.u
    M, cross = _coupling(H, data)
    M_inverse = jnp.linalg.inv(M)
    g = first_moment(neuron.at_data, neurons.w, p * u)
    Mg = M_inverse @ g
    q = over_neurons(lambda phi: jnp.sum((phi @ M_inverse) * phi, axis=1), neuron, neurons.w)

    def along(vector):
        return over_neurons(lambda phi: phi @ vector, neuron, neurons.w)

    curvature = (G + G**2 / N * u**2) * q
    mean_curvature = p @ curvature
    t = first_moment(neuron, neurons.w, p * u * (G / N * (curvature - mean_curvature) + 2 * G**2 / N * q))
    t = t - 2 * G / N * cross @ Mg
    change = (curvature - mean_curvature) / N - 2 * (G / N) ** 2 * (u * along(Mg) - g @ Mg)
    if response:
        Mt = M_inverse @ t[: len(g)]
        change = change - G / N * (u * along(Mt) - g @ Mt)
    return Loop(t, p * (1 - change / 2))


@jax.jit
def standard_errors(neuron: Neuron, neurons: Neurons, data: Data, tau: Float[Array, " points"]) -> dict[str, Any]:
    """Standard errors of the field, mean, kernel and weights of the tree, from independent blocks of the neurons."""

    def observe(neurons: Neurons, at: Measure):
        found = _observables(neuron, neurons, at.probability, data)
        mean = found["kernel"][:, : len(tau)] @ at.tau
        at_data = data.y - data.noise @ at.tau  # the same at a saddle, and exact to first order for a block
        return {"tau": at.tau, "mean": mean.at[: len(tau)].set(at_data), **found}

    return block_errors(observe, neuron, neurons, data, tau)


@partial(jax.jit, static_argnames="observe")
def influence_errors(
    observe, neuron: Neuron, neurons: Neurons, data: Data, tau: Float[Array, " points"]
) -> dict[str, Any]:
    """Standard errors of the few numbers that `observe` makes of independent neurons and their measure.

    The root of the sum over neurons of the square of what a number changes by if that neuron's weight does, the field
    following (the delta method). Blocks need a field each, so that where few neurons share the weight what is of second
    order in their differences is all that they show.
    """

    def replaced(log_weights):
        return Neurons(neurons.w, log_weights)

    def observed(tau, log_weights):
        changed = replaced(log_weights)
        return ravel_pytree(observe(changed, measure_at(tau, neuron, changed, data)))[0]

    found, pull = jax.vjp(observed, tau, neurons.log_weights)
    _, pull_field = jax.vjp(lambda x: action(tau, (neuron, replaced(x), data)).gradient, neurons.log_weights)
    M = action(tau, (neuron, neurons, data)).hessian

    def error(unit):
        by_field, by_weight = pull(unit)
        return jnp.linalg.norm(by_weight - pull_field(jnp.linalg.solve(M, by_field))[0])

    errors = jax.lax.map(error, jnp.eye(len(found)))
    return ravel_pytree(observe(neurons, measure_at(tau, neuron, neurons, data)))[1](errors)


def block_errors(observe, neuron: Neuron, neurons: Neurons, data: Data, tau: Float[Array, " points"]) -> dict[str, Any]:
    """Standard errors of what `observe` makes of a set of neurons and its measure, from independent blocks of them.

    Each block moves the field by one Newton step, whose matrix is that of all neurons.
    """
    M = action(tau, (neuron, neurons, data)).hessian

    def block(neurons):
        tau_block = tau - jnp.linalg.solve(M, action(tau, (neuron, neurons, data)).gradient)
        return observe(neurons, measure_at(tau_block, neuron, neurons, data))

    # neighbours come from one part of a mixture: every block takes a neuron of each neighbourhood
    blocks = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, BLOCKS, *x.shape[1:]), 0, 1), neurons)
    spread = jax.lax.map(block, blocks)
    return jax.tree.map(lambda x: jnp.std(x, axis=0, ddof=1) / jnp.sqrt(BLOCKS), spread)
