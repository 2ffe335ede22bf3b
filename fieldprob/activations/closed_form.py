"""Smooth activations whose Gaussian averages are elementary functions.

Erf: Williams (1997), Computing with infinite networks. GELU: Tsuchida, Pearce, van der Heide, Roosta and Gallagher
(2021), Avoiding kernel fixed points. Trigonometric functions: Rahimi and Recht (2007), Random features for large-scale
kernel machines. Monomials: Isserlis' theorem.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import erf

from fieldprob.activations.base import Activation, parameter
from fieldprob.activations.gaussian import determinant


class Linear(Activation):
    """phi(z) = z, with E[phi phi] = c.

    >>> from fieldprob.activations import Linear
    >>> float(Linear().dual(2.0, 0.5, 1.0))
    0.5
    """

    name: ClassVar[str] = "linear"
    smooth: ClassVar[bool] = True
    random_phase: ClassVar[bool] = False

    def phi(self, z, phase=None):
        return z

    def _dual(self, a, c, b):
        return c + jnp.zeros_like(a) + jnp.zeros_like(b)

    def _dual_derivative(self, a, c, b):
        return jnp.ones(jnp.broadcast_shapes(a.shape, c.shape, b.shape), a.dtype)


class Erf(Activation):
    """phi(z) = erf(scale z), with E[phi phi] = (2/pi) arcsin(2c / sqrt((1+2a)(1+2b))) at scale 1.

    The scale multiplies the pre-activation: scale^2 multiplies a, b and c. The arcsine is taken as an arctangent of
    2c / sqrt(1 + 2a + 2b + 4(ab - c^2)), which keeps its accuracy at rho = +-1. The probit 2 Phi(z) - 1 is
    `Erf(scale=2**-0.5)`.

    Raises ValueError if `scale` is not positive and finite.

    >>> from fieldprob.activations import Erf
    >>> print(round(float(Erf().dual(1.3, -0.55, 0.8)), 5))
    -0.23414
    """

    scale: float | Array = eqx.field(default=1.0, converter=parameter("scale"))
    name: ClassVar[str] = "erf"
    smooth: ClassVar[bool] = True
    random_phase: ClassVar[bool] = False

    def __check_init__(self):
        if isinstance(self.scale, float) and not (np.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale = {self.scale} must be positive and finite")

    def phi(self, z, phase=None):
        return erf(self.scale * z)

    def _root(self, a, c, b):
        return jnp.sqrt(1 + 2 * (a + b) + 4 * determinant(a, c, b))

    def _dual(self, a, c, b):
        a, c, b = (self.scale**2 * x for x in (a, c, b))
        return (2 / jnp.pi) * jnp.arctan(2 * c / self._root(a, c, b))

    def _dual_derivative(self, a, c, b):
        a, c, b = (self.scale**2 * x for x in (a, c, b))
        return (4 / jnp.pi) * self.scale**2 / self._root(a, c, b)


class GELU(Activation):
    """phi(z) = z Phi(z) with Phi the standard normal distribution function (the exact GELU, not its tanh fit).

    With D = (1+a)(1+b) - c^2 and s = arcsin(c / sqrt((1+a)(1+b))),
    E[phi phi] = c/4 + c s / 2pi + [ab - c^2 + c^2 (1/(1+a) + 1/(1+b))] / (2 pi sqrt(D)).

    >>> from fieldprob.activations import GELU
    >>> print(round(float(GELU().dual(1.3, -0.55, 0.8)), 5))
    -0.02928
    """

    name: ClassVar[str] = "gelu"
    smooth: ClassVar[bool] = True
    random_phase: ClassVar[bool] = False

    def phi(self, z, phase=None):
        return jax.nn.gelu(z, approximate=False)

    def _dual(self, a, c, b):
        det = determinant(a, c, b)
        root = jnp.sqrt(1 + (a + b) + det)
        reciprocals = 1 / (1 + a) + 1 / (1 + b)
        return c / 4 + (c * jnp.arctan(c / root) + (det + c * c * reciprocals) / root) / (2 * jnp.pi)

    def _dual_derivative(self, a, c, b):
        delta = 1 + (a + b) + determinant(a, c, b)
        root = jnp.sqrt(delta)
        reciprocals = (1 / (1 + a) + 1 / (1 + b)) + 1 / delta
        return 1 / 4 + (jnp.arctan(c / root) + c * reciprocals / root) / (2 * jnp.pi)


def _damped_sinh(a: Array, c: Array, b: Array) -> Array:
    """exp(-(a+b)/2) sinh(c) with no overflow at large c and no cancellation at small c."""
    mean = (a + b) / 2
    small = jnp.abs(c) < 1
    near = jnp.exp(-mean) * jnp.sinh(jnp.where(small, c, 0))
    far = jnp.where(small, 1, c)
    return jnp.where(small, near, (jnp.exp(far - mean) - jnp.exp(-far - mean)) / 2)


def _damped_cosh(a: Array, c: Array, b: Array) -> Array:
    """exp(-(a+b)/2) cosh(c) with no overflow at large c."""
    mean = (a + b) / 2
    return (jnp.exp(c - mean) + jnp.exp(-c - mean)) / 2


class Sin(Activation):
    """phi(z) = sin(z), with E[phi phi] = exp(-(a+b)/2) sinh(c).

    >>> from fieldprob.activations import Sin
    >>> print(round(float(Sin().dual(1.3, -0.55, 0.8)), 5))
    -0.20232
    """

    name: ClassVar[str] = "sin"
    smooth: ClassVar[bool] = True
    random_phase: ClassVar[bool] = False

    def phi(self, z, phase=None):
        return jnp.sin(z)

    def _dual(self, a, c, b):
        return _damped_sinh(a, c, b)

    def _dual_derivative(self, a, c, b):
        return _damped_cosh(a, c, b)


class Cos(Activation):
    """phi(z) = cos(z), with E[phi phi] = exp(-(a+b)/2) cosh(c).

    >>> from fieldprob.activations import Cos
    >>> float(Cos().dual(0.0, 0.0, 0.0))
    1.0
    """

    name: ClassVar[str] = "cos"
    smooth: ClassVar[bool] = True
    random_phase: ClassVar[bool] = False

    def phi(self, z, phase=None):
        return jnp.cos(z)

    def _dual(self, a, c, b):
        return _damped_cosh(a, c, b)

    def _dual_derivative(self, a, c, b):
        return _damped_sinh(a, c, b)


class RandomPhaseCosine(Activation):
    """phi(z) = sqrt(2) cos(z + phase), the phase of each neuron uniform on [0, 2 pi).

    Averaged over the phase too, E[phi phi] = exp(-(a + b - 2c)/2): the squared-exponential covariance of the distance
    between pre-activations (random Fourier features).

    >>> from fieldprob.activations import RandomPhaseCosine
    >>> float(RandomPhaseCosine().dual(1.0, 1.0, 1.0))
    1.0
    """

    name: ClassVar[str] = "random_phase_cosine"
    smooth: ClassVar[bool] = True
    random_phase: ClassVar[bool] = True

    def phi(self, z, phase=None):
        if phase is None:
            raise ValueError("phase = None: 'random_phase_cosine' needs one phase per neuron, uniform on [0, 2 pi)")
        return np.sqrt(2.0).item() * jnp.cos(z + phase)

    def _dual(self, a, c, b):
        return jnp.exp(c - (a + b) / 2)

    def _dual_derivative(self, a, c, b):
        return jnp.exp(c - (a + b) / 2)


class Monomial(Activation):
    """phi(z) = z^power for power 2, 3 or 4 (Isserlis' theorem).

    E[phi phi] = ab + 2c^2, 9abc + 6c^3 and 9 a^2 b^2 + 72 abc^2 + 24 c^4.

    Raises ValueError if `power` is not 2, 3 or 4.

    >>> from fieldprob.activations import Monomial
    >>> float(Monomial(2).dual(1.0, 1.0, 1.0))
    3.0
    """

    power: int = eqx.field(static=True)
    smooth: ClassVar[bool] = True
    random_phase: ClassVar[bool] = False

    def __check_init__(self):
        if self.power not in (2, 3, 4):
            raise ValueError(f"power = {self.power!r} must be 2, 3 or 4: use 'linear' for 1, Smooth(fn) for others")

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return {2: "square", 3: "cube", 4: "quartic"}[self.power]

    def phi(self, z, phase=None):
        return z**self.power

    def _dual(self, a, c, b):
        if self.power == 2:
            return a * b + 2 * c**2
        if self.power == 3:
            return c * (9 * (a * b) + 6 * c**2)
        return 9 * (a * b) ** 2 + 72 * (a * b) * c**2 + 24 * c**4

    def _dual_derivative(self, a, c, b):
        if self.power == 2:
            return 4 * c + jnp.zeros_like(a) + jnp.zeros_like(b)
        if self.power == 3:
            return 9 * (a * b) + 18 * c**2
        return c * (144 * (a * b) + 96 * c**2)


class Exp(Activation):
    """phi(z) = exp(z), with E[phi phi] = exp((a+b)/2 + c).

    >>> from fieldprob.activations import Exp
    >>> float(Exp().dual(0.0, 0.0, 0.0))
    1.0
    """

    name: ClassVar[str] = "exp"
    smooth: ClassVar[bool] = True
    random_phase: ClassVar[bool] = False

    def phi(self, z, phase=None):
        return jnp.exp(z)

    def _dual(self, a, c, b):
        return jnp.exp((a + b) / 2 + c)

    def _dual_derivative(self, a, c, b):
        return jnp.exp((a + b) / 2 + c)
