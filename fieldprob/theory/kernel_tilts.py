"""The tilted measure of one layer's neurons, in function space: what a force on a layer's kernel does to the layer.

Given the kernel C before it, the pre-activations of each of a layer's N neurons are N(0, C); a force T on the kernel
that they form, weighted exp tr(T kernel), tilts their measure to (theory 03, (14))

    P(h) ~ N(h; 0, C) exp(g/N phi^T T phi),   W(T | C) = N log E exp(g/N phi^T T phi) + tr(T bias).

The layer's kernel is dW/dT and the force on the kernel before it dW/dC (03, (15) and (18)). Forces are symmetric, with
dW = tr(T dC) over ordered pairs.

Averages run over fixed standard normal nodes z with h = C^(1/2) z, and only over what closed forms leave: the Gaussian
averages at C and their first-order response to the part of phi^T T phi that is quadratic in h are taken out exactly.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Float
from scipy.stats import norm, qmc

from fieldprob.activations.four_point import unit_covariance
from fieldprob.theory.kernel_fluctuations import Layer, along
from fieldprob.theory.matrix_roots import positive_root
from fieldprob.theory.tilted import growing_part, largest_on_sphere, slopes

TILTS = ("leading", "gaussian", "exact")
# Gauss-Hermite nodes of each dimension, by the number of points: least and most; and what a unit of variance needs
_GRID = {1: (128, 256), 2: (90, 200), 3: (40, 48), 4: (20, 24)}
_NODES_PER_VARIANCE = 28.0  # for some five digits of what a tilt changes
_CUTOFF = 1e-7  # of the largest eigenvalue of a root: below it are directions that the covariance does not have


class Nodes(NamedTuple):
    """Fixed standard normal nodes, weights of sum one."""

    z: Float[Array, "samples points"]
    weights: Float[Array, " samples"]


class Tilted(NamedTuple):
    """A layer under a force: its `kernel` dW/dT, the `force` dW/dC on the kernel before it, W, and the overlap
    (E e^x)^2 / E e^2x of the tilt e^x with the nodes, 1 where these do not matter."""

    kernel: Float[Array, "points points"]
    force: Float[Array, "points points"]
    log_normaliser: Float[Array, ""]
    overlap: Float[Array, ""]


def nodes_for(points: int, samples: int, smooth: bool, key, variance=1.0) -> Nodes:
    """A Gauss-Hermite grid at up to four points of a smooth activation, if it resolves it, else scrambled Sobol nodes.

    Args:
        points: the dimension.
        samples: Sobol nodes, rounded up to a power of two; the grid has as many as it needs.
        smooth: whether the activations are.
        key: seeds the scrambling; not needed for the grid.
        variance: the largest of a pre-activation; a traced one is taken to be resolved.

    Raises:
        ValueError: Sobol nodes without a key, or with a traced one.

    >>> nodes = nodes_for(2, 0, True, None)
    >>> round(float(nodes.weights @ nodes.z[:, 0] ** 4), 10)
    3.0
    """
    if smooth and points in _GRID:
        least, most = _GRID[points]
        needed = least if isinstance(variance, Tracer) else int(np.ceil(_NODES_PER_VARIANCE * float(variance)))
        if needed <= most:
            return _grid(points, max(least, needed))
    if key is None:
        raise ValueError(
            f"{points} points are averaged over quasi-random nodes (a kink, more than four points, or pre-activations "
            "too large for a grid): give key=jax.random.key(0) to scramble them."
        )
    if isinstance(key, Tracer):
        raise ValueError("key is traced: the scrambling is drawn outside of JAX, give a key from outside the function.")
    with jax.ensure_compile_time_eval():
        seed = np.asarray(jax.random.key_data(jax.random.key(key) if isinstance(key, int) else key)).astype(np.uint32)
    power = int(np.ceil(np.log2(max(samples, 2))))
    sobol = qmc.Sobol(points, rng=np.random.default_rng(seed)).random_base2(power)
    z = norm.ppf(np.clip(sobol, 1e-15, 1 - 1e-15))
    return Nodes(jnp.asarray(z), jnp.full(len(z), 1.0 / len(z)))


def _grid(points: int, each: int) -> Nodes:
    x, w = np.polynomial.hermite_e.hermegauss(each)
    grid = np.stack(np.meshgrid(*[x] * points, indexing="ij"), axis=-1).reshape(-1, points)
    weights = np.prod(np.stack(np.meshgrid(*[w / w.sum()] * points, indexing="ij")).reshape(points, -1), axis=0)
    kept = weights > 1e-18
    return Nodes(jnp.asarray(grid[kept]), jnp.asarray(weights[kept] / weights[kept].sum()))


def block_root(C: Float[Array, "points points"], first: int) -> Float[Array, "points points"]:
    """R with C = R R^T, whose first rows are the symmetric root of their block and zero beyond it."""
    S = positive_root(C[:first, :first])
    if first == C.shape[0]:
        return S
    B = C[first:, :first] @ jnp.linalg.pinv(S, rtol=_CUTOFF, hermitian=True)
    rest = positive_root(C[first:, first:] - B @ B.T)
    return jnp.block([[S, jnp.zeros((first, C.shape[0] - first))], [B, rest]])


def leading(layer: Layer, C, T, nodes: Nodes | None, first: int) -> Tilted:
    """First order in the force (theory 03, (19)): without nodes, by the four-point functions of all points."""
    base, pull = jax.vjp(layer, C)
    force = _even(pull(T)[0])
    if nodes is None:
        V = unit_covariance(layer.activation, C)
        shift = layer.weight**2 / layer.width * jnp.einsum("abcd,cd->ab", V, T)
    else:
        part = _nodes_of(layer, C, T, force, nodes, first)
        shift = part.quadratic + layer.weight * part.moment(nodes.weights * (part.x - part.y))
    return Tilted(base + shift, force, jnp.sum(T * base) + jnp.sum(T * shift) / 2, jnp.ones(()))


def exact(layer: Layer, C, T, nodes: Nodes, first: int) -> Tilted:
    """The tilted measure itself (theory 03, (15), (18)).

    For an activation with a kink, whose phi'' is a distribution, the force is the same average after one integration
    by parts, E_P[g phi' (T phi) h^T] C^-1, which needs C to be invertible.
    """
    g, N, w = layer.weight, layer.width, nodes.weights
    base, pull = jax.vjp(layer, C)
    first_force = _even(pull(T)[0])
    part = _nodes_of(layer, C, T, first_force, nodes, first)
    tilt = w * jnp.exp(part.x - jnp.max(part.x))
    total = jnp.sum(tilt)
    p = tilt / total
    kernel = base + part.quadratic + g * part.moment(p - w - w * part.y)
    slope = _derivative(layer.activation.phi)
    u = slope(part.h) * part.driven
    if layer.activation.smooth:
        slopes, bend = slope(part.h), _derivative(slope)(part.h)
        force = g * T * (slopes.T @ ((p - w)[:, None] * slopes)) + g * jnp.diag((p - w) @ (bend * part.driven))
        force = first_force + force + 2 * g**2 / N * (u.T @ (p[:, None] * u))
    else:
        force = first_force + g * (u.T @ ((p - w)[:, None] * nodes.z)) @ jnp.linalg.pinv(part.root, rtol=_CUTOFF)
    log_tilt = jnp.log(total) + jnp.max(part.x)
    control = 2 * jnp.sum((first_force @ C) * (first_force @ C).T) / N**2 - w @ (2 * part.x * part.y - part.y**2)
    log_normaliser = jnp.sum(T * base) + N * (log_tilt + control / 2)
    return Tilted(kernel, _even(force), log_normaliser, total**2 / (jnp.sum(tilt**2 / w)))


def gaussian(layer: Layer, C, T, S) -> tuple[Float[Array, "points points"], Tilted]:
    """The step (21) of the best Gaussian measure, from N(0, S): its new covariance, and the layer there.

    For a linear layer S does not matter and the result is the exact tilt (theory 03, (23)). No inverse of C is taken.
    """
    force = _even(jax.vjp(layer, S)[1](T)[0])
    eye, strength = jnp.eye(C.shape[0]), 2 / layer.width
    M = jnp.linalg.inv(eye - strength * C @ force)
    covariance = _even(M @ C)
    kernel = layer(covariance)
    divergence = (jnp.trace(M) - C.shape[0] - jnp.linalg.slogdet(M)[1]) / 2
    log_normaliser = jnp.sum(T * kernel) - layer.width * divergence
    return covariance, Tilted(kernel, _even(force @ M), log_normaliser, jnp.ones(()))


def require_bounded_growth(theory: str, layers: list[Layer], kernels: list, forces: list) -> None:
    """Raise a ValueError where a tilt cannot be normalised: where 2g/N phi^T T phi outgrows h^T C^-1 h in a direction
    of an activation that grows linearly (theory 03, 3.2). Traced tilts are not checked.

    Args:
        theory: its name, for the error.
        layers: 1..L.
        kernels: 0..L, training points first.
        forces: on the kernels 1..L, at the training points.
    """
    for index, (layer, C, T) in enumerate(zip(layers, kernels, forces, strict=False), start=1):
        if isinstance(T, Tracer) or not any(slopes(layer.activation)):
            continue
        P = len(T)
        growth = float(_growth(layer, C[:P, :P], T))
        if not growth < 1:
            raise ValueError(
                f"theory {theory!r}: the tilt of layer {index} cannot be normalised (growth {growth:.3g} of activation "
                f"{layer.activation.name!r}, it exists below 1): raise noise_variance or the widths, or lower chi."
            )


@eqx.filter_jit
def _growth(layer: Layer, C, T):
    root, rising = positive_root(C), growing_part(layer.activation)

    def growth(n):
        far = rising(n @ root)
        return 2 * layer.weight / layer.width * jnp.sum((far @ T) * far, axis=-1)

    starts = np.concatenate([np.eye(len(T)), -np.eye(len(T)), np.random.default_rng(0).normal(size=(512, len(T)))])
    return largest_on_sphere(growth, jnp.asarray(starts))


class _Part(NamedTuple):
    """The nodes in a layer: pre-activations, activations, T phi, the root; the exponent x = g/N phi^T T phi and its
    quadratic part y, both about their means, and what y does to the kernel to first order, exactly."""

    h: Array
    phi: Array
    driven: Array
    root: Array
    x: Array
    y: Array
    quadratic: Array

    def moment(self, weights):
        return self.phi.T @ (weights[:, None] * self.phi)


def _nodes_of(layer: Layer, C, T, force, nodes: Nodes, first: int) -> _Part:
    root = block_root(C, first)
    h = nodes.z @ root.T
    phi = layer.activation.phi(h)
    driven = phi @ T
    x = layer.weight / layer.width * jnp.sum(driven * phi, axis=1)
    y = jnp.sum((h @ force) * h, axis=1) / layer.width
    quadratic = along(layer, C, 2 / layer.width * C @ force @ C)
    return _Part(h, phi, driven, root, x - nodes.weights @ x, y - nodes.weights @ y, quadratic)


def _derivative(phi):
    return lambda h: jax.jvp(phi, (h,), (jnp.ones_like(h),))[1]


def _even(V):
    return (V + V.T) / 2
