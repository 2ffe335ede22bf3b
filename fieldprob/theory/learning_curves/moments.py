"""Averages over the measure of products of four eigenfunctions, as the first correction needs them.

v(x, x) = sum of v_k phi_k(x)^2 over the functions of all eigenspaces, Delta(x) = sum of Delta_k phi_k(x). Three sorts
of features: those of a spectrum with quadrature; of a homogeneous space, where the squares of an eigenspace sum to its
degeneracy at every x; and independent Gaussians, by Wick's theorem. Power outside the listed modes counts as noise that
is independent of them, the tail of the trace as evenly spread.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from fieldprob.kernels import Spectrum


class Moments(NamedTuple):
    mean: Float[Array, ""]  # E v(x, x)
    largest: Float[Array, ""]  # the largest v(x, x); its mean for Gaussian features, where there is none
    pull: Float[Array, " modes"]  # E phi_k v(x, x) Delta
    variance: Float[Array, " modes"]  # E phi_k^2 v(x, x)
    square: Float[Array, " modes"]  # E phi_k^2 Delta^2
    weighted: Float[Array, ""]  # E v(x, x) Delta^2
    spread: Float[Array, ""]  # E w(x), w(x) = sum of v_k^2 phi_k(x)^2
    scatter: Float[Array, ""]  # E w(x) Delta^2
    covariance: Float[Array, "modes modes"]  # E phi_k phi_l Delta^2


def moments(spectrum: Spectrum, v: Float[Array, " modes"], delta: Float[Array, " modes"]) -> Moments:
    """The averages for posterior variances `v` of the modes and differences `delta`."""
    degeneracies, tail, outside = spectrum.degeneracies, spectrum.tail, spectrum.target_tail
    mean, spread = jnp.sum(degeneracies * v) + tail, jnp.sum(degeneracies * v**2)
    power = jnp.sum(delta**2) + outside
    identity = jnp.eye(spectrum.modes)
    if spectrum.eigenfunctions is None or spectrum.quadrature is None:
        covariance = power * identity + 2 * delta[:, None] * delta
        return Moments(
            mean=mean,
            largest=mean,
            pull=(mean + 2 * v) * delta,
            variance=mean + 2 * v,
            square=jnp.diagonal(covariance),
            weighted=mean * power + 2 * jnp.sum(v * delta**2),
            spread=spread,
            scatter=spread * power + 2 * jnp.sum(v**2 * delta**2),
            covariance=covariance,
        )
    nodes, weights = spectrum.quadrature
    phi = spectrum.eigenfunctions(nodes)
    difference = phi @ delta
    covariance = (phi * (weights * difference**2)[:, None]).T @ phi + outside * identity
    if spectrum.homogeneous:
        return Moments(
            mean=mean,
            largest=mean,
            pull=mean * delta,
            variance=jnp.full_like(v, mean),
            square=jnp.diagonal(covariance),
            weighted=mean * power,
            spread=spread,
            scatter=spread * power,
            covariance=covariance,
        )
    local, local_spread = phi**2 @ v + tail, phi**2 @ v**2
    return Moments(
        mean=mean,
        largest=jnp.max(local),
        pull=(weights * local * difference) @ phi,
        variance=(weights * local) @ phi**2,
        square=jnp.diagonal(covariance),
        weighted=weights @ (local * difference**2) + mean * outside,
        spread=spread,
        scatter=weights @ (local_spread * difference**2) + spread * outside,
        covariance=covariance,
    )


def check_features(spectrum: Spectrum) -> None:
    """Raises ValueError if the averages cannot be taken with what the spectrum holds."""
    if spectrum.eigenfunctions is None:
        return
    if spectrum.quadrature is None:
        raise ValueError(
            f"the {spectrum.name} has eigenfunctions but no quadrature: give quadrature=(nodes, weights), "
            "or leave the eigenfunctions out for Gaussian features."
        )
    one_each = isinstance(spectrum.degeneracies, Tracer) or bool(jnp.all(spectrum.degeneracies == 1))
    if not spectrum.homogeneous and not one_each:
        raise ValueError(
            f"the {spectrum.name} lists one function of a degenerate eigenspace, and its measure is not homogeneous: "
            "list every function as a mode of its own, with degeneracy 1."
        )
