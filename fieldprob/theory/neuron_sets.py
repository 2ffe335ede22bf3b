"""Sets of neurons over which a tilted measure is averaged: the nodes of a quadrature, importance samples, particles."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from fieldprob.theory.solvers import minimise
from fieldprob.theory.tilted import BLOCKS, Neuron, Neurons, ascend_on_sphere

_RADIAL_NODES = 64
_ANGLES = 256
_ARC_NODES = 12
_WIDE = 1.7
_WIDENED = 1.3
_LENGTHS = np.array([1.0, 4.0, 8.0, 16.0])  # of neurons, in prior standard deviations of a weight
_WELLS = 4  # of one length and sign
_SAME = 0.8
_FARTHEST = 1e3
_BATCH = 256  # draws whose factors are held at once
_STEPS = 800
_ACCEPTANCE = 0.57


# --- quadrature -------------------------------------------------------------------------------------------------------


def quadrature(neuron: Neuron) -> Neurons:
    """Nodes and weights for one or two directions, in polar coordinates.

    The radius is mapped to the whole half-line (Gauss-Legendre), so that heavy tilts are met. Angles are equidistant
    for a smooth activation, as many as its steepest pre-activation needs (256 where that is traced); for one with a
    kink at zero, Gauss-Legendre between the kinks of all points.

    Raises:
        ValueError: the points span more than two directions.
    """
    if neuron.directions > 2:
        raise ValueError(
            f"average='quadrature' is for points that span one or two directions, and these span {neuron.directions}: "
            "use average='importance'."
        )
    x, gauss = np.polynomial.legendre.leggauss(_RADIAL_NODES)
    scale = 4 * jnp.sqrt(jax.lax.stop_gradient(neuron.variance))
    radius = scale * (1 + x) / (1 - x)
    log_radius = jnp.log(2 * scale * gauss / (1 - x) ** 2)
    if neuron.directions == 1:
        unit, arc = jnp.array([[1.0], [-1.0]]), jnp.ones(2)
    else:
        angle, arc = _angles(neuron)
        unit = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
        log_radius = log_radius + jnp.log(radius)
    w = (radius[:, None, None] * unit).reshape(-1, neuron.directions)
    return Neurons(w, _log_normal(w, neuron.variance) + (log_radius[:, None] + jnp.log(arc)).reshape(-1))


def _angles(neuron: Neuron) -> tuple[Float[Array, " nodes"], Float[Array, " nodes"]]:
    X = jax.lax.stop_gradient(neuron.coordinates)
    if neuron.activation.smooth:
        angles = _ANGLES
        if not isinstance(X, Tracer) and not isinstance(neuron.variance, Tracer):
            steepest = float(jnp.sqrt(neuron.variance * jnp.max(jnp.sum(X**2, axis=1))))
            angles = _ANGLES * int(np.clip(steepest / 5, 1, 100))
        return jnp.arange(angles) * (2 * jnp.pi / angles), jnp.full(angles, 2 * jnp.pi / angles)
    normal = jnp.arctan2(X[:, 1], X[:, 0]) + jnp.pi / 2
    kinks = jnp.sort(jnp.concatenate([normal, normal + jnp.pi, jnp.arange(8) * jnp.pi / 4]) % (2 * jnp.pi))
    ends = jnp.append(kinks[1:], kinks[0] + 2 * jnp.pi)
    x, gauss = np.polynomial.legendre.leggauss(_ARC_NODES)
    half = (ends - kinks)[:, None] / 2
    return (kinks[:, None] + half * (1 + x)).ravel(), (half * gauss).ravel()


# --- importance samples -----------------------------------------------------------------------------------------------


def importance(
    neuron: Neuron,
    covariance: Float[Array, "directions directions"],
    samples: int,
    key,
    found: "Wells | None" = None,
) -> Neurons:
    """Draws from a mixture, in equal parts, of the prior, N(0, covariance), N(0, 1.7 covariance) and what is about the
    wells, if any are given."""
    variance = jax.lax.stop_gradient(neuron.variance)
    L = jnp.linalg.cholesky(jax.lax.stop_gradient(covariance))
    parts = 3 if found is None else 4
    n = -(-samples // parts)
    key, key_wells = (key, key) if found is None else jax.random.split(key)
    z = jax.random.normal(key, (3, n, neuron.directions))
    scaled = z[1:] @ L.T
    w = jnp.concatenate([jnp.sqrt(variance) * z[0], scaled[0], jnp.sqrt(_WIDE) * scaled[1]])
    if found is not None:
        w = jnp.concatenate([w, about_wells(neuron, found, n, key_wells)])
    log_density = [_log_normal(w, variance)]
    whitened = jax.scipy.linalg.solve_triangular(L, w.T, lower=True).T
    log_det = jnp.sum(jnp.log(jnp.diagonal(L)))
    log_density += [_log_normal(whitened, c) - log_det for c in (1.0, _WIDE)]
    if found is not None:
        log_density.append(log_density_about_wells(found, w))
    return Neurons(w, _log_normal(w, neuron.variance) - logsumexp(jnp.stack(log_density), axis=0) - jnp.log(n))


class Wells(NamedTuple):
    """Normal laws about maxima of the tilted density: their means, and factors L of their covariances L L^T."""

    modes: Float[Array, "wells directions"]
    factors: Float[Array, "wells directions directions"]


def wells(neuron: Neuron, tau: Float[Array, " points"], coupling, starts: Float[Array, "wells directions"]) -> Wells:
    """Laplace's approximation of the measure tilted by coupling tau tau^T, about the maximum uphill of each start.

    A Gaussian about all neurons is broad where one well of several is narrow, and hardly ever meets the neurons that
    have most of the weight; these do. Covariances are widened, and limited to that of the prior where the maximum is
    flat: a proposal need not be precise.
    """
    variance = jax.lax.stop_gradient(neuron.variance)

    def energy(z, args):
        neuron, tau, coupling = args
        u = neuron.features(jnp.sqrt(variance) * z) @ tau
        return jnp.sum(z**2) / 2 - coupling * u**2 / 2

    args = jax.lax.stop_gradient((neuron, tau, coupling))

    def about(start):
        start = start / jnp.sqrt(variance)
        z, _ = minimise(energy, start, args, tol=1e-4)
        # a tilt that cannot be normalised has no maximum
        z = jnp.where(jnp.max(jnp.abs(z)) < _FARTHEST, z, start)
        curvature, axes = jnp.linalg.eigh(jax.hessian(energy)(z, args))
        # symmetric: signs of the axes, and their rotations among equals, are arbitrary
        return jnp.sqrt(variance) * z, (jnp.sqrt(_WIDENED * variance / jnp.clip(curvature, 1.0)) * axes) @ axes.T

    return Wells(*jax.lax.map(about, starts))


@jax.jit
def strongest_wells(
    neuron: Neuron, tau: Float[Array, " points"], coupling, w: Float[Array, "samples directions"]
) -> Wells:
    """The wells uphill of those neurons that respond most to the field, of either sign and of several lengths.

    The tilt grows with u = phi . tau and the prior with the length of a neuron only, so that a well has neurons of its
    length with a locally largest |u| nearby; they are sought by ascent on spheres from the directions of `w`, which
    need not have met a well themselves, and had better not: those that met one well would all lead to it. Of one length
    and sign the largest four in distinct directions are kept, fewer if fewer are met: the same is then kept again, as
    are equal wells of other lengths, and has more of the draws.
    """
    frozen, tau, w = jax.lax.stop_gradient((neuron, tau, w))

    def strongest(at):
        length, sign = at
        units, values = ascend_on_sphere(lambda n: sign * frozen.features(length * n) @ tau, w)

        def next_one(values, _):
            best = units[jnp.argmax(values)]
            return jnp.where(units @ best > _SAME, -jnp.inf, values), length * best

        return jax.lax.scan(next_one, values, None, _WELLS)[1]

    lengths, signs = jnp.meshgrid(jnp.sqrt(frozen.variance) * _LENGTHS, jnp.array([1.0, -1.0]))
    starts = jax.lax.map(strongest, (lengths.ravel(), signs.ravel()))
    return wells(frozen, tau, coupling, starts.reshape(-1, frozen.directions))


def about_wells(neuron: Neuron, found: Wells, samples: int, key) -> Float[Array, "samples directions"]:
    """Draws from the wells in turn, so that each of the blocks that standard errors come from has all of them."""
    z = jax.random.normal(key, (samples, neuron.directions))
    i = jnp.arange(samples)
    which = (i + i // BLOCKS) % len(found.modes)
    return jax.lax.map(lambda at: found.modes[at[0]] + found.factors[at[0]] @ at[1], (which, z), batch_size=_BATCH)


def log_density_about_wells(found: Wells, w: Float[Array, "samples directions"]) -> Float[Array, " samples"]:
    """Log density of their equal mixture, at any neurons."""

    def one(well):
        mode, factor = well
        z = jnp.linalg.solve(factor, (w - mode).T).T
        return _log_normal(z, 1.0) - jnp.linalg.slogdet(factor)[1]

    return logsumexp(jax.lax.map(one, tuple(found)), axis=0) - jnp.log(len(found.modes))


def _log_normal(w, variance):
    return -jnp.sum(w**2, axis=1) / (2 * variance) - w.shape[1] / 2 * jnp.log(2 * jnp.pi * variance)


# --- particles --------------------------------------------------------------------------------------------------------


@partial(jax.jit, static_argnames="samples")
def particles(
    neuron: Neuron,
    y: Float[Array, " points"],
    noise: Float[Array, "points points"],
    readout,
    width,
    start: Float[Array, " points"],
    samples: int,
    key,
) -> Neurons:
    """Neurons drawn by mean-field Langevin from the measure tilted by M = readout/width tau tau^T.

    The field tau = (noise + readout <phi phi^T>)^-1 y is that of all particles, refreshed at every step of the first
    half, then frozen, so that the particles become independent draws. Steps are Metropolis-adjusted, their size adapted
    in the first half. Their weights make averages over the prior of the draws, up to the normaliser, which particles do
    not know. Not differentiable through accept and reject, only through these weights.

    Source: theory 02, section 4.3.
    """
    frozen, y, noise, readout, width, start = jax.lax.stop_gradient((neuron, y, noise, readout, width, start))
    coupling, variance = readout / width, frozen.variance

    def log_density(w, tau):
        return coupling * (frozen.features(w) @ tau) ** 2 / 2 - jnp.sum(w**2, axis=-1) / (2 * variance)

    density_and_gradient = jax.vmap(jax.value_and_grad(log_density), (0, None))

    def step(state, inputs):
        w, tau, log_size = state
        key, adapt = inputs
        key_z, key_u = jax.random.split(key)
        size = variance * jnp.exp(log_size)
        density, gradient = density_and_gradient(w, tau)
        z = jax.random.normal(key_z, w.shape)
        proposal = w + size * gradient + jnp.sqrt(2 * size) * z
        density_there, gradient_there = density_and_gradient(proposal, tau)
        back = w - proposal - size * gradient_there
        log_ratio = density_there - density + jnp.sum(z**2, axis=1) / 2 - jnp.sum(back**2, axis=1) / (4 * size)
        accept = jnp.log(jax.random.uniform(key_u, density.shape)) < log_ratio
        w = jnp.where(accept[:, None], proposal, w)
        phi = frozen.features(w)
        field = jnp.linalg.solve(noise + readout * phi.T @ phi / samples, y)
        tau = jnp.where(adapt, field, tau)
        log_size = log_size + jnp.where(adapt, 0.1 * (jnp.mean(accept) - _ACCEPTANCE), 0.0)
        return (w, tau, log_size), None

    key_w, key_steps = jax.random.split(key)
    w = jnp.sqrt(variance) * jax.random.normal(key_w, (samples, frozen.directions))
    schedule = (jax.random.split(key_steps, _STEPS), jnp.arange(_STEPS) < _STEPS // 2)
    (w, tau, _), _ = jax.lax.scan(step, (w, start, jnp.log(0.1)), schedule)
    log_prior = -jnp.sum(w**2, axis=1) / (2 * neuron.variance) - neuron.directions / 2 * jnp.log(neuron.variance)
    return Neurons(w, log_prior - log_density(w, tau) - jnp.log(samples))
