"""The saddle point of a network's kernels and of the forces on them, all layers at once (theory 03, (12)-(23), (38)).

    kernel_l = dW_l/dT_l,   T_(l-1) = dW_l/dC_(l-1),   T_L = (K^-1 y y^T K^-1 - K^-1) / 2,   K = kernel_L + noise,

with C = kernel_(l-1) and W_l the log normaliser of layer l's tilted neurons (`kernel_tilts`). Solved at the training
points, where alone there are forces, by an accelerated fixed-point iteration that follows the widths from wide to
their own (03, 4.1); for Gaussian measures as the minimum (22), which exists where the iteration fails. One more forward
pass extends the kernels to the test points.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from fieldprob.activations import Linear
from fieldprob.theory.kernel_fluctuations import Layer, layers_of
from fieldprob.theory.kernel_tilts import Nodes, Tilted, exact, gaussian, leading
from fieldprob.theory.matrix_roots import positive_root
from fieldprob.theory.setting import Setting
from fieldprob.theory.solvers import fixed_point, minimise_large

_WIDER = (8.0, 4.0, 2.0, 2.0**0.5)  # the widths, relative to their own, on the way to these
_COARSE, _FINE = 1e-3, 1e-11


class Saddle(NamedTuple):
    """Kernels of layers 0..L over all points, forces on those of layers 1..L at the training points, the action there,
    whether it converged, and the least overlap of a tilt with its nodes."""

    kernels: list[Array]
    forces: list[Array]
    log_evidence: Float[Array, ""]
    converged: Bool[Array, ""]
    overlap: Float[Array, ""]


class Data(NamedTuple):
    """What the equations hold: layers, kernel_0, targets and noise of the training points, nodes."""

    layers: list[Layer]
    K_0: Float[Array, "points points"]
    y: Float[Array, " points"]
    noise: Float[Array, "points points"]
    nodes: Nodes | None


@eqx.filter_jit
def find_saddle(problem: Setting, nodes: Nodes | None, tilt: str) -> Saddle:
    """The saddle of a problem whose numbers are arrays.

    Args:
        problem: the network and the task.
        nodes: over all points; None where the tilt needs none.
        tilt: "leading", "gaussian" or "exact"; linear networks take the minimum for both of the latter.
    """
    P = problem.points
    K_0 = problem.kernel_0
    at_data = None if nodes is None else Nodes(nodes.z[:, :P], nodes.weights)
    data = Data(layers_of(problem), K_0[:P, :P], problem.y, problem.noise_covariance, at_data)
    closed = tilt == "gaussian" or (tilt == "exact" and all(isinstance(a, Linear) for a in problem.activations))
    if closed:
        kernels, forces, covariances, converged = _minimum(data)
    else:
        kernels, forces, converged = _iterate(data, tilt)
        covariances = forces  # of no use here
    every, log_evidence, overlap = [K_0], data_force(kernels[-1], data.y, data.noise)[1], jnp.ones(())
    for layer, T, S in zip(data.layers, forces, covariances, strict=True):
        C = every[-1]
        T_every = jnp.zeros_like(C).at[:P, :P].set(T)
        if closed:
            S = jax.scipy.linalg.block_diag(S, C[P:, P:])  # the force sees its block at the training points only
            tilted = gaussian(layer, C, T_every, S)[1]
        else:
            tilted = _tilted(tilt, layer, C, T_every, nodes, P)
        every.append(tilted.kernel)
        log_evidence += tilted.log_normaliser - jnp.sum(T * tilted.kernel[:P, :P])
        overlap = jnp.minimum(overlap, tilted.overlap)
    return Saddle(every, forces, log_evidence, converged, overlap)


def data_force(C: Float[Array, "points points"], y, noise) -> tuple[Float[Array, "points points"], Float[Array, ""]]:
    """The force of the data on the covariance C of the outputs, (K^-1 y y^T K^-1 - K^-1) / 2, K = C + noise; and
    log N(y; 0, K).

    >>> data_force(jnp.eye(1), jnp.array([2.0]), jnp.eye(1))[0].round(12).tolist()
    [[0.25]]
    """
    factor = jnp.linalg.cholesky(C + noise)
    inverse = jax.scipy.linalg.cho_solve((factor, True), jnp.eye(len(y)))
    z = inverse @ y
    determinant = 2 * jnp.sum(jnp.log(jnp.diagonal(factor)))
    force = (jnp.outer(z, z) - (inverse + inverse.T) / 2) / 2
    return force, -(y @ z + determinant + len(y) * jnp.log(2 * jnp.pi)) / 2


def _tilted(tilt: str, layer: Layer, C, T, nodes: Nodes | None, first: int) -> Tilted:
    if tilt == "leading":
        return leading(layer, C, T, nodes, first)
    if isinstance(layer.activation, Linear):
        return gaussian(layer, C, T, C)[1]
    assert nodes is not None
    return exact(layer, C, T, nodes, first)


# --- iteration --------------------------------------------------------------------------------------------------------


def _iterate(data: Data, tilt: str):
    """Kernels 1..L (after kernel_0) and forces at the training points by 03, 4.1."""
    P = len(data.y)
    limit = [data.K_0]
    for layer in data.layers:
        limit.append(layer(limit[-1]))
    scales = jax.lax.stop_gradient(jnp.stack([jnp.max(jnp.abs(K)) for K in limit[1:]]))

    def unpack(u, data):
        return [data.K_0, *(scales[:, None, None] * u.reshape(-1, P, P))]

    def improved(u, args):
        data, wider = args
        layers = [layer._replace(width=layer.width * wider) for layer in data.layers]
        tilted = backward(data._replace(layers=layers), unpack(u, data), tilt)
        return (jnp.stack([t.kernel for t in tilted]) / scales[:, None, None]).ravel()

    def stage(u, wider):
        u = fixed_point(improved, u, (jax.lax.stop_gradient(data), wider), rtol=_COARSE, max_steps=50)[0]
        return jax.lax.stop_gradient(u), None

    start = jax.lax.stop_gradient((jnp.stack(limit[1:]) / scales[:, None, None]).ravel())
    u, _ = jax.lax.scan(stage, start, jnp.asarray(_WIDER))
    u, converged, _ = fixed_point(improved, u, (data, jnp.ones(())), rtol=_FINE)
    kernels = unpack(u, data)
    tilted = backward(data, kernels, tilt)
    forces = [t.force for t in tilted[1:]] + [data_force(kernels[-1], data.y, data.noise)[0]]
    return kernels, forces, converged


def backward(data: Data, kernels, tilt: str) -> list[Tilted]:
    """All layers under the forces that the kernels imply, from the last to the first."""
    T = data_force(kernels[-1], data.y, data.noise)[0]
    found = []
    for layer, C in zip(reversed(data.layers), reversed(kernels[:-1]), strict=True):
        found.append(_tilted(tilt, layer, C, T, data.nodes, len(data.y)))
        T = found[-1].force
    return found[::-1]


# --- minimum ----------------------------------------------------------------------------------------------------------


def identity_factors(layers: int, points: int) -> Float[Array, " n"]:
    """Where the minimisation starts: every layer has its prior's covariance."""
    return jnp.zeros(layers * points * (points + 1) // 2)


def energy(factors: Float[Array, " n"], data: Data) -> Float[Array, ""]:
    """What (22) minimises: N KL of the layers' Gaussian measures from their priors, minus the log density of the data.

    Args:
        factors: of the covariances of all layers, whitened by the kernel before: rows of lower triangles, with
            logarithms on the diagonal.
        data: of the training points.
    """
    kernels, _, divergence = _unfold(factors, data)
    return divergence - data_force(kernels[-1], data.y, data.noise)[1]


def _unfold(factors, data: Data):
    """Kernels of layers 0..L, covariances of the measures, and the sum of their divergences times the widths."""
    P = len(data.y)
    kernels, covariances, divergence = [data.K_0], [], jnp.zeros(())
    for layer, entries in zip(data.layers, factors.reshape(len(data.layers), -1), strict=True):
        L = jnp.zeros((P, P)).at[np.tril_indices(P)].set(entries)
        logs = jnp.diagonal(L)
        L = L + jnp.diag(jnp.exp(logs) - logs)
        divergence += layer.width * ((jnp.sum(L**2) - P) / 2 - jnp.sum(logs))
        factor = positive_root(kernels[-1]) @ L
        covariances.append(factor @ factor.T)
        kernels.append(layer(covariances[-1]))
    return kernels, covariances, divergence


def _minimum(data: Data):
    """Kernels, forces and covariances of the Gaussian measures of all layers, by (22)."""
    scale = jax.lax.stop_gradient(jnp.max(jnp.stack([jnp.asarray(layer.width) for layer in data.layers])))
    start = identity_factors(len(data.layers), len(data.y))
    factors, converged = minimise_large(lambda x, args: energy(x, args[0]) / args[1], start, (data, scale))
    kernels, covariances, _ = _unfold(factors, data)
    T, forces = data_force(kernels[-1], data.y, data.noise)[0], []
    for layer, C, S in zip(reversed(data.layers), reversed(kernels[:-1]), reversed(covariances), strict=True):
        forces.append(T)
        T = gaussian(layer, C, T, S)[1].force
    return kernels, forces[::-1], covariances, converged
