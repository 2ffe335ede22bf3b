"""Piecewise-linear activations with a kink at zero, and their jumping relatives: the arc-cosine kernels.

With theta = arccos(c / sqrt(ab)), E[relu relu] = [sqrt(ab - c^2) + (pi - theta) c] / 2 pi (Cho and Saul 2009, Kernel
methods for deep learning, order 1; the step function is order 0). The other kinked ones combine it with c.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fieldprob.activations.base import Activation, distributional, parameter
from fieldprob.activations.gaussian import angle, reciprocal, sine


@jax.custom_jvp
def _relu_dual(a: Array, c: Array, b: Array) -> Array:
    return (sine(a, c, b) + (jnp.pi - angle(a, c, b)) * c) / (2 * jnp.pi)


@_relu_dual.defjvp
def _relu_dual_jvp(primals, tangents):
    # The divergent derivatives of sine and angle cancel at |rho| = 1, so the sum has a rule of its own.
    # At a zero variance the derivative with respect to it is infinite (C ~ sqrt(a)); it is set to 0, so that the
    # gradient with respect to inputs, where it is multiplied by x = 0, exists.
    (a, c, b), (da, dc, db) = primals, tangents
    s = sine(a, c, b)
    tangent = s * (reciprocal(a) * da + reciprocal(b) * db) / (4 * jnp.pi) + _relu_dual_derivative(a, c, b) * dc
    return _relu_dual(a, c, b), tangent


def _relu_dual_derivative(a: Array, c: Array, b: Array) -> Array:
    return (jnp.pi - angle(a, c, b)) / (2 * jnp.pi)


class ReLU(Activation):
    """phi(z) = max(z, 0), with E[phi phi] = [sqrt(ab - c^2) + (pi - theta) c] / 2 pi.

    First derivatives of `dual` are right everywhere. Second derivatives, and first ones of `dual_derivative`, diverge
    at u = +-v; there the divergent part is dropped.

    >>> from fieldprob.activations import ReLU
    >>> print(round(float(ReLU().dual(1.3, -0.55, 0.8)), 5))
    0.04904
    """

    name: ClassVar[str] = "relu"
    smooth: ClassVar[bool] = False
    random_phase: ClassVar[bool] = False

    def phi(self, z, phase=None):
        return jax.nn.relu(z)

    def _dual(self, a, c, b):
        return _relu_dual(a, c, b)

    def _dual_derivative(self, a, c, b):
        return _relu_dual_derivative(a, c, b)


class LeakyReLU(Activation):
    """phi(z) = z for z > 0 and slope z for z < 0, with E[phi phi] = (1 - slope)^2 E[relu relu] + slope c.

    Raises ValueError if `slope` is not finite.

    >>> from fieldprob.activations import LeakyReLU
    >>> print(round(float(LeakyReLU(slope=0.2).dual(1.3, -0.55, 0.8)), 5))
    -0.07861
    """

    slope: float | Array = eqx.field(default=0.01, converter=parameter("slope"))
    name: ClassVar[str] = "leaky_relu"
    smooth: ClassVar[bool] = False
    random_phase: ClassVar[bool] = False

    def __check_init__(self):
        if isinstance(self.slope, float) and not np.isfinite(self.slope):
            raise ValueError(f"slope = {self.slope} must be finite")

    def phi(self, z, phase=None):
        return jnp.where(z > 0, z, self.slope * z)

    def _dual(self, a, c, b):
        return (1 - self.slope) ** 2 * _relu_dual(a, c, b) + self.slope * c

    def _dual_derivative(self, a, c, b):
        return (1 - self.slope) ** 2 * _relu_dual_derivative(a, c, b) + self.slope


class Abs(Activation):
    """phi(z) = |z|, with E[phi phi] = 4 E[relu relu] - c.

    >>> from fieldprob.activations import Abs
    >>> float(Abs().dual(2.0, 2.0, 2.0))
    2.0
    """

    name: ClassVar[str] = "abs"
    smooth: ClassVar[bool] = False
    random_phase: ClassVar[bool] = False

    def phi(self, z, phase=None):
        return jnp.abs(z)

    def _dual(self, a, c, b):
        return 4 * _relu_dual(a, c, b) - c

    def _dual_derivative(self, a, c, b):
        return 4 * _relu_dual_derivative(a, c, b) - 1


def _arcsine(a: Array, c: Array, b: Array) -> Array:
    """arcsin(c / sqrt(ab)), 0 at a zero variance."""
    theta = angle(a, c, b)
    return jnp.where((a == 0) | (b == 0), 0, jnp.pi / 2 - theta)


class Sign(Activation):
    """phi(z) = sign(z), with sign(0) = 0 and E[phi phi] = (2/pi) arcsin(rho).

    `dual_derivative` raises ValueError. The gradient of `dual` diverges at u = +-v, where 0 is returned.

    >>> from fieldprob.activations import Sign
    >>> float(Sign().dual(1.0, 0.0, 2.0))
    0.0
    """

    name: ClassVar[str] = "sign"
    smooth: ClassVar[bool] = False
    random_phase: ClassVar[bool] = False

    def phi(self, z, phase=None):
        return jnp.sign(z)

    def _dual(self, a, c, b):
        return (2 / jnp.pi) * _arcsine(a, c, b)

    def _dual_derivative(self, a, c, b):
        raise distributional(self.name)


class Step(Activation):
    """phi(z) = 1 for z > 0, 0 for z < 0 and 1/2 at 0, with E[phi phi] = 1/4 + arcsin(rho) / 2 pi.

    `dual_derivative` raises ValueError. The gradient of `dual` diverges at u = +-v, where 0 is returned.

    >>> from fieldprob.activations import Step
    >>> float(Step().dual(1.0, 0.0, 2.0))
    0.25
    """

    name: ClassVar[str] = "step"
    smooth: ClassVar[bool] = False
    random_phase: ClassVar[bool] = False

    def phi(self, z, phase=None):
        return (1 + jnp.sign(z)) / 2

    def _dual(self, a, c, b):
        return 1 / 4 + _arcsine(a, c, b) / (2 * jnp.pi)

    def _dual_derivative(self, a, c, b):
        raise distributional(self.name)
