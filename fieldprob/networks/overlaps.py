"""Overlaps of one neuron with polynomials of the teacher's direction, E_x[phi(w . x) p_k(z)], z = teacher . x.

Inputs are Gaussian, x ~ N(0, I), or uniform on the sphere |x|² = d. The p_k are orthonormal in z: Hermite polynomials
He_k / sqrt(k!), or those of Gegenbauer. With m = w . teacher and q = |w|², rotating w onto the teacher leaves an
integral over one direction (Mehler; Funk and Hecke):

    E[phi(w . x) p_k(z)] = P_k(m / sqrt q) alpha_k(q),   alpha_k(q) = E[phi(sqrt q z) p_k(z)],

with P_k(rho) = rho^k for Gaussian inputs and p_k(sqrt d rho) / p_k(sqrt d) on the sphere. The squares of alpha_k sum to
E[phi²]: alpha_k² is all that a neuron has in degree k, in every direction. The integral is a sum over panels on either
side of zero, so that a kink there costs nothing; erf with Gaussian inputs has a closed form in every degree.
"""

from collections.abc import Iterable
from functools import lru_cache
from math import factorial, sqrt
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fieldprob.activations import Activation, Erf
from fieldprob.kernels.spectra import gegenbauer
from fieldprob.tasks import Gaussian, HermiteTeacher, Sphere
from fieldprob.tasks.arguments import count

_PANELS, _NODES = 12, 20  # on either side of zero, and in each panel
_RANGE = 13.0  # standard deviations: a normal density falls to 1e-37 there
_CHUNK = 4096
_HIGHEST = 60  # degree: where the quadrature still has the orthogonality to rounding


class Direction(NamedTuple):
    """One direction z of the inputs, E[z²] = 1: a quadrature rule and its orthonormal polynomials.

    `norms` are those of the monic polynomials, E[Q_k²]^(1/2): sqrt(k!) for Gaussian inputs.
    """

    z: Float[np.ndarray, " nodes"]
    weights: Float[np.ndarray, " nodes"]
    polynomials: Float[np.ndarray, "degrees nodes"]
    norms: Float[np.ndarray, " degrees"]


def check_degrees(degrees: Any) -> tuple[int, ...]:
    """Degrees of polynomials as integers.

    Raises:
        TypeError: not several integers.
        ValueError: one is negative, or too high for the quadrature.

    >>> check_degrees([1, 3])
    (1, 3)
    """
    if isinstance(degrees, str) or not isinstance(degrees, Iterable):
        raise TypeError(f"degrees is {degrees!r}: give several integers, (1, 3).")
    found = tuple(count("degrees", k, minimum=0) for k in degrees)
    if max(found, default=0) > _HIGHEST:
        raise ValueError(f"degrees is {found}: give none above {_HIGHEST}.")
    return found


def check_direction(teacher: HermiteTeacher, inputs: int) -> None:
    """Raise a ValueError where the teacher's direction is not in the space of the inputs."""
    if teacher.direction is not None and len(teacher.direction) != inputs:
        raise ValueError(
            f"the teacher's direction has {len(teacher.direction)} entries, but there are {inputs} inputs: give "
            "one for each, or None for the first axis."
        )


def direction(measure: Gaussian | Sphere, degrees: int) -> Direction:
    """The rule of a measure, with its polynomials of degree below `degrees`.

    Raises:
        TypeError: another measure.
        ValueError: inputs whose square does not average to one in each direction; a sphere in fewer than 3 dimensions.

    >>> direction(Gaussian(5), 4).norms.round(6).tolist()
    [1.0, 1.0, 1.414214, 2.44949]
    """
    if isinstance(measure, Sphere):
        if not np.isclose(measure.radius, sqrt(measure.inputs)) or measure.inputs < 3:
            raise ValueError(
                f"the sphere has radius {measure.radius:g} in {measure.inputs} dimensions: give at least 3, and radius "
                "sqrt(inputs), for which a direction has unit variance."
            )
        return _sphere(measure.inputs, degrees)
    if not isinstance(measure, Gaussian):
        raise TypeError(f"measure is a {type(measure).__name__}: give tasks.Gaussian(inputs) or tasks.Sphere(inputs).")
    if not np.isclose(measure.variance, 1.0):
        raise ValueError(f"the inputs have variance {measure.variance:g}: give 1, and scale weight_variance instead.")
    return _gaussian(degrees)


def _panels(end: float) -> tuple[np.ndarray, np.ndarray]:
    x, w = np.polynomial.legendre.leggauss(_NODES)
    step = end / _PANELS
    nodes = step * (np.arange(-_PANELS, _PANELS)[:, None] + (1 + x) / 2)
    return nodes.ravel(), np.tile(step * w / 2, 2 * _PANELS)


@lru_cache
def _gaussian(degrees: int) -> Direction:
    z, weights = _panels(_RANGE)
    weights = weights * np.exp(-(z**2) / 2)
    values = [np.ones_like(z), z]
    for k in range(1, degrees):
        values.append((z * values[k] - sqrt(k) * values[k - 1]) / sqrt(k + 1))
    norms = np.sqrt([float(factorial(k)) for k in range(degrees)])
    return Direction(z, weights / weights.sum(), np.stack(values[:degrees]), norms)


@lru_cache
def _sphere(inputs: int, degrees: int) -> Direction:
    # z = sqrt(d) sin(angle): the density of the angle is smooth, also at the ends
    angle, weights = _panels(min(np.pi / 2, _RANGE / sqrt(inputs)))
    weights = weights * np.exp((inputs - 2) * np.log(np.cos(angle)))
    values = gegenbauer.polynomials(np.sin(angle), inputs, degrees)
    norms = np.cumprod(np.append(1.0, sqrt(inputs) * gegenbauer.recurrence(inputs, degrees)))
    return Direction(sqrt(inputs) * np.sin(angle), weights / weights.sum(), values.T, norms)


class Features(NamedTuple):
    """A neuron's overlaps with zonal polynomials `overlap`; those `across`, with the functions p_k'(z) (e . x) of one
    direction e orthogonal to the teacher, if the neuron had all of its rest w - m teacher along e, for the degrees
    k > 0 of `degrees` and k = 1; and its mean square `power` (E[phi²])."""

    overlap: Float[Array, "degrees *neurons"]
    across: Float[Array, "degrees_across *neurons"]
    power: Float[Array, "*neurons"]


def features(
    activation: Activation,
    m: Float[Array, "*neurons"],
    q: Float[Array, "*neurons"],
    degrees: tuple[int, ...],
    measure: Gaussian | Sphere,
) -> Features:
    """Overlaps of neurons with w . teacher = m and |w|² = q > 0.

    Args:
        activation: of any kind without a random phase; differentiable in m and q where its derivative is.
        degrees: of the polynomials.
        measure: of the inputs, with unit variance in each direction.

    Source: theory 04, (3.1)-(3.8).

    >>> import fieldprob as fp
    >>> m, q = jnp.array(0.6), jnp.array(0.5)
    >>> found = features(fp.activations.Erf(), m, q, (1, 3), Gaussian(10))
    >>> print(found.overlap.round(6), f"{2 * m / jnp.sqrt(jnp.pi * (1 + 2 * q)):.6f}")  # (3.3)
    [ 0.478731 -0.070359] 0.478731
    """
    others = tuple(sorted({1, *degrees} - {0}))
    alpha, power = _alphas(activation, q, (*degrees, *others), measure)
    rho = m / jnp.sqrt(q)
    overlap = alpha[: len(degrees)] * zonal(rho, degrees, measure)
    return Features(overlap, alpha[len(degrees) :] * _zonal_across(rho, others, measure), power)


def overlaps(
    activation: Activation,
    m: Float[Array, "*neurons"],
    q: Float[Array, "*neurons"],
    degrees: tuple[int, ...] = (1, 3),
    measure: Gaussian | Sphere | None = None,
) -> Float[Array, "degrees *neurons"]:
    """E[phi(w . x) p_k(z)], p_k orthonormal: theory 04's h_k. Arguments as in `features`; Gaussian inputs by default.

    >>> import fieldprob as fp
    >>> relu = fp.activations.ReLU()
    >>> overlaps(relu, jnp.array(0.3), jnp.array(0.5), (0, 1)).round(6).tolist()  # relu(z) = (z + |z|) / 2
    [0.282095, 0.15]
    """
    return features(activation, m, q, degrees, measure or Gaussian(1)).overlap


def zonal(rho: Float[Array, "*neurons"], degrees: tuple[int, ...], measure) -> Float[Array, "degrees *neurons"]:
    """P_k(rho), the share of a neuron's degree k that lies along the teacher; P_k(1) = 1.

    >>> zonal(jnp.array(0.5), (1, 3), Gaussian(10)).tolist()
    [0.5, 0.125]
    """
    if not isinstance(measure, Sphere):
        return jnp.stack([rho**k for k in degrees])
    terms = max(degrees) + 1
    values = gegenbauer.polynomials(rho.reshape(-1), measure.inputs, terms).T.reshape(terms, *rho.shape)
    ends = gegenbauer.polynomials(np.ones(1), measure.inputs, terms)[0]
    return jnp.stack([values[k] / ends[k] for k in degrees])


def _zonal_across(rho, degrees: tuple[int, ...], measure):
    """The same for the functions linear in all other directions together: sqrt(c_k (1 - rho²)) P_k'(rho), with
    c_k = 1 / k, or (d - 1) / (k (k + d - 2)) on the sphere."""
    slope = jax.jvp(lambda rho: zonal(rho, degrees, measure), (rho,), (jnp.ones_like(rho),))[1]
    k, d = np.array(degrees, float), measure.inputs
    norm = jnp.sqrt((d - 1) / (k * (k + d - 2)) if isinstance(measure, Sphere) else 1 / k)
    return norm.reshape(-1, *[1] * rho.ndim) * slope * jnp.sqrt(jnp.clip(1 - rho**2, 0.0))


def _alphas(activation, q, degrees, measure):
    """alpha_k(q), (degrees, *neurons), and E[phi²]."""
    rule = direction(measure, max(degrees) + 1)
    if isinstance(activation, Erf) and isinstance(measure, Gaussian):
        return _erf(activation, q, degrees), activation.dual(q, q, q)
    weights = rule.weights * np.stack([rule.polynomials[k] for k in degrees])
    z, weights, density = (jnp.asarray(x) for x in (rule.z, weights, rule.weights))

    def average(root):
        phi = activation.phi(root * z)
        return jnp.append(weights @ phi, density @ phi**2)

    roots = jnp.sqrt(q).reshape(-1)
    values = jax.lax.map(jax.checkpoint(average), roots, batch_size=min(_CHUNK, max(1, len(roots))))
    values = values.T.reshape(len(degrees) + 1, *q.shape)
    return values[:-1], values[-1]


def _erf(activation: Erf, q, degrees):
    """(3.1)-(3.2) in every odd degree k = 2j + 1: derivatives of erf are Hermite functions, whose Gaussian averages are
    E[He_k(z) erf(sqrt q z)] = (2/sqrt pi) (2j)!/j! (-1)^j (q / (1 + 2q))^(k/2)."""
    q = activation.scale**2 * q
    t = q / (1 + 2 * q)

    def coefficient(k):
        j = k // 2
        return 2 / sqrt(np.pi) * factorial(2 * j) / factorial(j) * (-1) ** j / sqrt(factorial(k))

    return jnp.stack([coefficient(k) * t ** (k / 2) if k % 2 else jnp.zeros_like(q) for k in degrees])


def target_coefficients(link, measure: Gaussian | Sphere, degrees: int) -> Float[Array, " degrees"]:
    """E[link(z) p_k(z)] of a function of one direction, k below `degrees`; theory 04 (3.6) on the sphere."""
    rule = direction(measure, degrees)
    return jnp.asarray(rule.polynomials) @ (rule.weights * link(jnp.asarray(rule.z)))
