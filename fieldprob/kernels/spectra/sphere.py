"""Spectrum of a rotation-invariant kernel on the uniform sphere S^(d-1), by quadrature.

Funk-Hecke: the eigenfunctions of k(x.x') are the spherical harmonics, N(d, l) of each degree l, with eigenvalue

    lambda_l = integral of k(t) P_l(t) w(t) dt,   w(t) ~ (1 - t^2)^((d-3)/2) of mass one,   P_l(1) = 1

(Müller 1966; Atkinson & Han 2012, theorem 2.22), and sum of N(d, l) lambda_l = k(1). A quadrature in floating point
knows N(d, l) lambda_l to about eps sqrt(N(d, l)) k(1): degrees whose harmonics are too many for that are left to the
`tail`, which the sum rule gives exactly. Beyond them use the series of `fieldprob.kernels.spectra.series`.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from fieldprob.kernels.spectra import gegenbauer
from fieldprob.kernels.spectra.base import Quadrature, Spectrum, covariance_eigenvalues

_LARGEST_ROUNDING = 1e-9  # of a degree's trace, relative to k(1), where modes are left to be chosen here
_LARGEST_QUADRATURE = 1e-6  # change of a degree's trace with half the nodes, relative to k(1)


class Zonal(eqx.Module):
    """The normalised zonal harmonic sqrt(N(d, l)) P_l(direction.x / |x|) of each degree: one for each eigenspace."""

    direction: Float[Array, " inputs"]
    modes: int = eqx.field(static=True)

    def __call__(self, X: Float[Array, "points inputs"]) -> Float[Array, "points modes"]:
        X = jnp.asarray(X)
        inputs = self.direction.shape[0]
        if X.ndim != 2 or X.shape[1] != inputs:
            raise ValueError(f"X has shape {X.shape}: the sphere's points are (points, {inputs}).")
        t = X @ self.direction / jnp.sqrt(jnp.sum(X**2, axis=1))
        return jnp.asarray(gegenbauer.polynomials(t, inputs, self.modes))

    def check_target(self, function: Callable, nodes, y) -> None:
        """Raises ValueError unless the target is the same after reflections that fix the direction."""
        if isinstance(y, Tracer) or isinstance(self.direction, Tracer):
            return
        change = 0.0
        # the nodes lie in the plane of seed 0, which its own reflection keeps
        for axis in (_generic(self.direction.shape[0], self.direction, seed) for seed in (1, 2)):
            mirrored = jnp.asarray(function(nodes - 2 * (nodes @ axis)[:, None] * axis)).reshape(-1)
            change = max(change, float(jnp.max(jnp.abs(mirrored - y))))
        if change > 1e-6 * max(1.0, float(jnp.max(jnp.abs(y)))):
            raise ValueError(
                f"the target is not a function of direction.x (it changes by {change:.3g} under a rotation about it): "
                "make the spectrum with direction= the target's, or use with_target(data=...) or coefficients=...."
            )


def sphere(
    kernel: Any,
    inputs: int,
    *,
    radius: Any = None,
    modes: int | None = None,
    nodes: int | None = None,
    direction: Any = None,
) -> Spectrum:
    """Spectrum of a rotation-invariant kernel on the uniform sphere in `inputs` >= 3 dimensions.

    Args:
        kernel: without `radius`, a function of t = x.x' on the unit sphere. With `radius`, a network with a `limit`
            (any `fp.Mlp`) or a covariance function kernel(X1, X2) -> (points, points_), such as tinygp's kernels.
        inputs: dimension d of the space; the sphere is S^(d-1).
        radius: |x|. `fieldprob` scales inputs to |x|^2 = inputs.
        modes: how many degrees, l = 0 ... modes - 1; by default up to 100, as far as float precision reaches.
        nodes: of the quadrature; by default 400, or 4 modes if that is more.
        direction: axis of the listed eigenfunctions, (inputs,): that of a target which is a function of direction.x.
            The first coordinate by default.

    Returns:
        A homogeneous `Spectrum` with degeneracies N(d, l), labels l, zonal eigenfunctions and a quadrature that is
        exact for functions of direction.x. Differentiable in whatever the kernel depends on.

    Raises:
        ValueError: inputs < 3 (use `circle`); a network or covariance without radius, or one that is not rotation
            invariant; too few nodes for the kernel; too many modes for the precision; a kernel that is no covariance.

    Source: Funk-Hecke formula, Atkinson & Han, Spherical Harmonics (2012), theorem 2.22.

    >>> from fieldprob.kernels import spectra
    >>> arcsin = spectra.sphere(lambda t: 2 / jnp.pi * jnp.arcsin(2 * t / 3), inputs=10, modes=5)
    >>> round(arcsin.eigenvalues[1].item(), 15), arcsin.degeneracies.tolist()
    (0.043291111649834, [1.0, 10.0, 54.0, 210.0, 660.0])
    """
    if inputs < 3:
        raise ValueError(f"inputs = {inputs}: a sphere needs at least 3; in two dimensions use spectra.circle.")
    if modes is not None and modes < 1:
        raise ValueError(f"modes = {modes}: give at least 1.")
    nodes = max(400, 4 * (modes or 0)) if nodes is None else nodes
    if nodes < 2 * (modes or 1):
        raise ValueError(f"nodes = {nodes} for {modes} modes: give at least {2 * (modes or 1)}, or leave nodes out.")
    fine, coarse = gegenbauer.gauss(inputs, nodes), gegenbauer.gauss(inputs, nodes // 2)
    values, constant = _evaluate(kernel, inputs, radius, np.concatenate([fine[0], coarse[0]]))
    dtype = constant.dtype
    eps = float(jnp.finfo(dtype).eps)
    modes = _modes(modes, inputs, eps, nodes // 4)

    degeneracies = np.array([gegenbauer.degeneracy(inputs, degree) for degree in range(modes)])
    eigenvalues = _funk_hecke(values[:nodes], fine, inputs, degeneracies)
    _check_nodes(nodes, eigenvalues, _funk_hecke(values[nodes:], coarse, inputs, degeneracies), degeneracies, constant)
    size = jnp.sqrt(values[:nodes] ** 2 @ jnp.asarray(fine[1], dtype))
    floor = 256 * eps * size / np.sqrt(degeneracies)
    eigenvalues = covariance_eigenvalues("kernel", eigenvalues, floor, "it is no covariance on this sphere.")
    tail = constant - jnp.sum(degeneracies * eigenvalues)
    tail = clipped_tail(tail, constant, 100 * eps * np.sqrt(degeneracies.max()))

    direction = unit_direction(direction, inputs, dtype)
    return Spectrum(
        eigenvalues,
        jnp.asarray(degeneracies, dtype),
        tail=tail,
        eigenfunctions=Zonal(direction, modes),
        quadrature=meridian(direction, nodes, 1.0 if radius is None else radius),
        homogeneous=True,
        name=f"spectrum on the sphere S^{inputs - 1}",
    )


def meridian(direction: Float[Array, " inputs"], nodes: int, radius: Any = 1.0) -> Quadrature:
    """Points along a great circle through the direction, weighted so as to average functions of direction.x."""
    inputs, dtype = direction.shape[0], direction.dtype
    t, weights = (jnp.asarray(a, dtype) for a in gegenbauer.gauss(inputs, nodes))
    across = _generic(inputs, direction)
    return Quadrature(radius * (t[:, None] * direction + jnp.sqrt(1 - t**2)[:, None] * across), weights)


def unit_direction(direction: Any, inputs: int, dtype: Any) -> Float[Array, " inputs"]:
    """The direction normalised; the first coordinate's by default. Raises ValueError on a wrong shape."""
    if direction is None:
        return jnp.eye(1, inputs, dtype=dtype)[0]
    direction = jnp.asarray(direction, dtype)
    if direction.shape != (inputs,):
        raise ValueError(f"direction has shape {direction.shape}: give a vector of the {inputs} inputs.")
    length = jnp.sqrt(direction @ direction)
    if not isinstance(length, Tracer) and not (np.isfinite(length) and length > 0):
        raise ValueError(f"direction has length {float(length):.3g}: give a vector that points somewhere.")
    return direction / length


def _funk_hecke(values, rule, inputs, degeneracies):
    # weights times polynomials are made in float64 whatever the kernel's precision; each column has unit norm
    t, weights = rule
    basis = weights[:, None] * gegenbauer.polynomials(t, inputs, len(degeneracies)) / np.sqrt(degeneracies)
    return values @ jnp.asarray(basis, values.dtype)


def _check_nodes(nodes, fine, coarse, degeneracies, constant):
    if isinstance(fine, Tracer):
        return
    change = float(jnp.max(degeneracies * jnp.abs(coarse - fine)) / jnp.abs(constant))
    if not change < max(_LARGEST_QUADRATURE, 1e3 * float(jnp.finfo(fine.dtype).eps) * degeneracies.max() ** 0.5):
        raise ValueError(
            f"nodes = {nodes} are too few for this kernel: half of them change a degree's trace by {change:.1g} of "
            f"k(x, x). Give nodes={4 * nodes}."
        )


def _evaluate(kernel, inputs, radius, t):
    """The kernel at t and at t = 1, in one call: compiling a deep network costs more than evaluating it."""
    if radius is None:
        if hasattr(kernel, "limit"):
            raise ValueError("a network's kernel depends on |x|: give radius=..., for example radius=inputs**0.5.")
        values = jnp.asarray(kernel(jnp.append(jnp.asarray(t), 1.0)))
        if values.shape != (len(t) + 1,):
            raise ValueError(
                f"kernel gave shape {values.shape} for {len(t) + 1} values of t = x.x': without radius it is a "
                "function of t; a covariance kernel(X1, X2) needs radius=...."
            )
        return values[:-1], values[-1]
    if not isinstance(radius, Tracer) and not radius > 0:
        raise ValueError(f"radius = {radius} must be positive.")
    u, v = _generic(inputs), _generic(inputs, seed=1)
    t = np.append(np.append(t, 1.0), float(u @ v))
    points = np.zeros((len(t) + 1, inputs))
    points[:-1, 0], points[:-1, 1], points[-1] = t, np.sqrt(1 - t**2), v
    covariance = getattr(kernel, "limit", None) or kernel
    K = jnp.asarray(covariance(radius * jnp.stack([jnp.eye(1, inputs)[0], u]), radius * jnp.asarray(points)))
    _check_isotropic(K)
    return K[0, :-3], K[0, -3]


def _check_isotropic(K):
    """The last two columns hold the same angle, from the pole and between two other points."""
    if isinstance(K, Tracer):
        return
    expected, direct, scale = float(K[0, -2]), float(K[1, -1]), float(jnp.max(jnp.abs(K)))
    if abs(direct - expected) > 1e3 * float(jnp.finfo(K.dtype).eps) * scale:
        raise ValueError(
            f"kernel is not rotation invariant: it is {direct:.6g} and {expected:.6g} at two pairs of points with the "
            "same angle. On this measure use spectra.empirical."
        )


def _generic(inputs: int, direction=None, seed: int = 0):
    """A fixed unit vector in no special position; orthogonal to `direction` if one is given."""
    # a stream of its own: nobody's direction is by accident the same draw
    vector = jnp.asarray(np.random.default_rng([2718281828, seed]).normal(size=inputs))
    if direction is not None:
        vector = vector.astype(direction.dtype)
        vector = vector - (vector @ direction) * direction
    return vector / jnp.sqrt(vector @ vector)


def _modes(modes, inputs, eps, most):
    limit = 2 * np.log(_LARGEST_ROUNDING / eps)
    reach = next((n for n in range(101) if gegenbauer.log_degeneracy(inputs, n) > limit), 101)
    if modes is None:
        return max(1, min(reach, 100, most))
    if 0.5 * gegenbauer.log_degeneracy(inputs, modes - 1) > np.log(1e-3 / eps):
        raise ValueError(
            f"modes = {modes} in {inputs} dimensions: degree {modes - 1} has more harmonics than a quadrature can "
            f"resolve (about {reach} modes). Leave the rest to the tail, or use spectra.sphere_series."
        )
    return int(modes)


def clipped_tail(tail, constant, tolerance):
    """k(x, x) less the sum of the eigenvalues, not below zero. Raises ValueError if it is so beyond the tolerance."""
    if not isinstance(tail, Tracer) and float(tail) < -max(tolerance, 1e-6) * abs(float(constant)):
        raise ValueError(
            f"the eigenvalues sum to {float(constant - tail):.6g}, more than k(x, x) = {float(constant):.6g}: give "
            "more nodes, or a kernel that is a covariance."
        )
    return jnp.maximum(tail, 0.0)
