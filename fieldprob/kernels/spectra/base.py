"""A Mercer spectrum: eigenvalues of a covariance operator with respect to a probability measure of inputs.

    integral of k(x, x') phi_k(x') dmu(x') = lambda_k phi_k(x),   integral of phi_k phi_l dmu = delta_kl,   mu(1) = 1,

so that the matrix of the kernel over P points drawn from mu, divided by P, has eigenvalues that tend to lambda_k, and
trace = sum of degeneracy * lambda = average of k(x, x) (Rasmussen & Williams 2006, section 4.3). A target is
y(x) = sum_k y_k phi_k(x).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, Num


class Quadrature(NamedTuple):
    """Nodes (nodes, inputs) and weights (nodes,), summing to one, for averages over the measure of a spectrum."""

    nodes: Float[Array, "nodes inputs"]
    weights: Float[Array, " nodes"]


class Eigenfunctions(eqx.Module):
    """A plain callable X (points, inputs) -> (points, modes) as part of a pytree."""

    function: Callable = eqx.field(static=True)

    def __call__(self, X: Float[Array, "points inputs"]) -> Float[Array, "points modes"]:
        return self.function(X)


class Spectrum(eqx.Module):
    """Eigenvalues, one per distinct eigenspace, with respect to a probability measure of the inputs.

    Attributes:
        eigenvalues: (modes,), one per eigenspace; zero or positive.
        degeneracies: (modes,), dimension of each eigenspace; ones by default.
        coefficients: (modes,) or None: component of the target in each eigenspace. Where the eigenspace has more than
            one dimension: the component along its one listed eigenfunction, which the target lies along, and so in
            absolute value the square root of the target's power in the space.
        tail: trace of the eigenvalues that are not listed. Theories take it as an additional ridge.
        target_tail: power of the target outside the listed modes, which nothing learns.
        labels: coordinate of each mode (degree, wave number, index); 0, 1, ... by default.
        eigenfunctions: X (points, inputs) -> (points, modes), one orthonormal function per eigenspace; or None for a
            bare spectrum, whose features theories take as independent Gaussians.
        quadrature: nodes and weights that integrate products of the eigenfunctions over the measure, or None.
        homogeneous: whether the squares of an eigenspace's functions sum to its degeneracy at every x, as on the
            sphere and on the circle; then k(x, x) is constant.
        name: what reports call it.

    Raises:
        ValueError: arrays of different lengths, negative or not finite eigenvalues, degeneracies below zero.

    >>> spectrum = Spectrum([1.0, 0.25], degeneracies=[1, 2], coefficients=[0.3, -0.5], tail=0.1)
    >>> spectrum.trace.item()
    1.6
    >>> spectrum
    Spectrum: 2 eigenspaces, eigenvalues 0.25 to 1, trace 1.6 (0.1 of it not listed), target of power 0.34
    """

    eigenvalues: Float[Array, " modes"]
    degeneracies: Float[Array, " modes"]
    coefficients: Float[Array, " modes"] | None
    tail: Float[Array, ""]
    target_tail: Float[Array, ""]
    eigenfunctions: Any
    quadrature: Quadrature | None
    labels: tuple = eqx.field(static=True)
    homogeneous: bool = eqx.field(static=True)
    name: str = eqx.field(static=True)

    def __init__(
        self,
        eigenvalues: Any,
        degeneracies: Any = None,
        coefficients: Any = None,
        tail: Any = 0.0,
        target_tail: Any = 0.0,
        labels: Sequence | None = None,
        eigenfunctions: Callable | None = None,
        quadrature: Quadrature | None = None,
        homogeneous: bool = False,
        name: str = "Spectrum",
    ):
        self.eigenvalues = _vector("eigenvalues", eigenvalues)
        modes = self.eigenvalues.shape[0]
        if degeneracies is None:
            degeneracies = jnp.ones_like(self.eigenvalues)
        self.degeneracies = _vector("degeneracies", degeneracies, modes)
        self.coefficients = None if coefficients is None else _vector("coefficients", coefficients, modes)
        self.tail, self.target_tail = _power("tail", tail), _power("target_tail", target_tail)
        _require_none("eigenvalues", self.eigenvalues, self.eigenvalues < 0, "a covariance has none below zero")
        _require_none("degeneracies", self.degeneracies, self.degeneracies <= 0, "give the dimension of the eigenspace")
        self.labels = tuple(range(modes)) if labels is None else tuple(labels)
        if len(self.labels) != modes:
            raise ValueError(f"labels has {len(self.labels)} entries for {modes} eigenvalues: give one for each.")
        if eigenfunctions is not None and not isinstance(eigenfunctions, eqx.Module):
            eigenfunctions = Eigenfunctions(eigenfunctions)
        self.eigenfunctions, self.quadrature = eigenfunctions, quadrature
        self.homogeneous, self.name = bool(homogeneous), name

    @property
    def modes(self) -> int:
        """Number of listed eigenspaces."""
        return self.eigenvalues.shape[0]

    @property
    def weights(self) -> Float[Array, " modes"]:
        """Trace of the kernel in each eigenspace: degeneracy times eigenvalue."""
        return self.degeneracies * self.eigenvalues

    @property
    def trace(self) -> Float[Array, ""]:
        """The average of k(x, x) over the measure, tail included."""
        return jnp.sum(self.weights) + self.tail

    @property
    def target_power(self) -> Float[Array, ""]:
        """The average of y(x)^2 over the measure. Raises ValueError without a target."""
        return jnp.sum(self.required_coefficients() ** 2) + self.target_tail

    def required_coefficients(self) -> Float[Array, " modes"]:
        """The target's coefficients. Raises ValueError if there are none."""
        if self.coefficients is None:
            raise ValueError(
                f"the {self.name} has no target: use spectrum.with_target(function), or "
                "spectrum.with_target(coefficients=...), or give the population a target."
            )
        return self.coefficients

    def with_target(
        self,
        function: Callable | None = None,
        *,
        coefficients: Num[ArrayLike, " modes"] | None = None,
        data: tuple | None = None,
        tail: Any = None,
    ) -> "Spectrum":
        """This spectrum with a target, given in one of three ways.

        Args:
            function: X (points, inputs) -> (points,); its coefficients are taken by quadrature and what is left of its
                power is the new `target_tail`. On the sphere it must be a function of direction.x.
            coefficients: the coefficients themselves, signed.
            data: (X, y): inputs drawn from the measure and their targets; the coefficients are averages of y phi_k,
                with a sampling error of order points^-1/2.
            tail: power of the target outside the listed modes; by default zero for `coefficients`, what is left of the
                function's power for `function`, and what is left of y's for `data` (where noise counts as target).

        Raises:
            ValueError: none or several ways are given, or the spectrum lacks the eigenfunctions or quadrature needed.

        >>> from fieldprob.kernels import spectra
        >>> circle = spectra.circle(jnp.array([0.5, 0.2, 0.1]))
        >>> circle.with_target(lambda angle: 3 * jnp.sin(angle[:, 0])).coefficients[1].round(12).item()
        2.12132034356
        """
        if sum(way is not None for way in (function, coefficients, data)) != 1:
            raise ValueError("with_target takes a function, coefficients=..., or data=(X, y): give one of them.")
        eigenfunctions = self.eigenfunctions
        if coefficients is None:
            nodes, weights, y = self._values(function, data)
            if hasattr(eigenfunctions, "aligned"):
                eigenfunctions = eigenfunctions.aligned(nodes, weights, y)
            coefficients = jnp.einsum("i,im,i->m", weights, eigenfunctions(nodes), y)
            left = jnp.sum(weights * y**2) - jnp.sum(coefficients**2)
            tail = jnp.maximum(left, 0.0) if tail is None else tail
        coefficients = _vector("coefficients", coefficients, self.modes)
        tail = _power("target_tail", 0.0 if tail is None else tail)
        return eqx.tree_at(
            lambda s: (s.coefficients, s.target_tail, s.eigenfunctions),
            self,
            (coefficients, tail, eigenfunctions),
            is_leaf=lambda leaf: leaf is None,
        )

    def _values(self, function, data):
        if self.eigenfunctions is None:
            raise ValueError(f"the {self.name} has no eigenfunctions: use with_target(coefficients=...).")
        if data is not None:
            X, y = jnp.asarray(data[0]), jnp.asarray(data[1])
            if y.size != X.shape[0]:
                raise ValueError(f"data has {X.shape[0]} inputs and {y.size} targets: give one target for each input.")
            return X, jnp.full(X.shape[0], 1 / X.shape[0]), y.reshape(-1)
        if self.quadrature is None:
            raise ValueError(f"the {self.name} has no quadrature: use with_target(data=(X, y)) or coefficients=....")
        nodes, weights = self.quadrature
        y = jnp.asarray(function(nodes))
        if y.size != nodes.shape[0]:
            raise ValueError(f"the target returned shape {y.shape} for {nodes.shape[0]} inputs: one number per input.")
        y = y.reshape(-1)
        if hasattr(self.eigenfunctions, "check_target"):
            self.eigenfunctions.check_target(function, nodes, y)
        return nodes, weights, y

    def __repr__(self) -> str:
        try:
            smallest, largest = float(self.eigenvalues.min()), float(self.eigenvalues.max())
            tail = f" ({float(self.tail):.4g} of it not listed)" if float(self.tail) else ""
            target = f", target of power {float(self.target_power):.4g}" if self.coefficients is not None else ""
            spaces = f"{self.modes} eigenspace" + ("s" if self.modes != 1 else "")
            return (
                f"{self.name}: {spaces}, eigenvalues {smallest:.4g} to {largest:.4g}, "
                f"trace {float(self.trace):.4g}{tail}{target}"
            )
        except Exception:  # leaves that are not numbers, as when traced
            return f"{self.name} (traced)"


def covariance_eigenvalues(name: str, eigenvalues: Any, floor: Any, remedy: str) -> Array:
    """Computed eigenvalues with those that are zero to rounding, |lambda| <= floor, set to zero.

    Raises ValueError if one is below -floor: the function is no covariance.
    """
    eigenvalues = jnp.asarray(eigenvalues)
    if not isinstance(eigenvalues, Tracer):
        below = np.asarray(eigenvalues < -jnp.asarray(floor))
        if below.any():
            index = int(np.argmax(below))
            raise ValueError(
                f"{name} is not positive semi-definite: eigenvalue {index} is {float(eigenvalues[index]):.3g}, of a "
                f"largest {float(eigenvalues.max()):.3g}: {remedy}"
            )
    return jnp.where(jnp.abs(eigenvalues) <= floor, 0.0, eigenvalues)


def _vector(name: str, value: Any, modes: int | None = None) -> Array:
    array = jnp.asarray(value)
    array = array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(jnp.result_type(float))
    if array.ndim != 1 or array.shape[0] == 0:
        raise ValueError(f"{name} has shape {array.shape}: give (modes,), one number for each mode.")
    if modes is not None and array.shape[0] != modes:
        raise ValueError(f"{name} has {array.shape[0]} entries for {modes} eigenvalues: give one for each.")
    _require_none(name, array, ~jnp.isfinite(array), "give finite numbers")
    return array


def _power(name: str, value: Any) -> Array:
    array = jnp.asarray(value)
    array = array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(jnp.result_type(float))
    if array.ndim != 0:
        raise ValueError(f"{name} has shape {array.shape}: give one number.")
    if not isinstance(array, Tracer) and not (np.isfinite(array) and array >= 0):
        raise ValueError(f"{name} = {float(array):.6g} must be finite, zero or positive.")
    return array


def _require_none(name: str, values: Array, wrong: Array, remedy: str) -> None:
    if isinstance(wrong, Tracer):
        return
    found = np.flatnonzero(wrong)
    if found.size:
        index = int(found[0])
        raise ValueError(f"{name}[{index}] = {float(values[index]):.6g}: {remedy}.")
