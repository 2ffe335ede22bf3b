"""What an activation is: a function of one real number together with its Gaussian averages.

For (u, v) ~ N(0, [[a, c], [c, b]]), the pre-activations of one neuron at two inputs, every kernel of an infinitely wide
network is made of C(a, c, b) = E[phi(u) phi(v)] and of E[phi'(u) phi'(v)] = dC/dc (Price's theorem).
"""

import abc
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jax import Array
from jaxtyping import ArrayLike, Float, Num


class Activation(eqx.Module):
    """An activation function phi and its Gaussian averages.

    `name` identifies it in tables; `smooth` is False where phi has a kink or a jump; `random_phase` is True where every
    neuron carries a phase of its own, drawn uniformly from [0, 2 pi).

    The arguments `a`, `c`, `b` are the variance of u, the covariance of u and v, and the variance of v. They broadcast:
    `a` (points, 1), `b` (1, points) and `c` (points, points) give a kernel matrix.
    """

    name: ClassVar[str]
    smooth: eqx.AbstractClassVar[bool]
    random_phase: eqx.AbstractClassVar[bool]

    @abc.abstractmethod
    def phi(self, z: Float[Array, "..."], phase: Float[Array, "..."] | None = None) -> Float[Array, "..."]:
        """phi at z, elementwise. `phase` broadcasts against z and is used only where `random_phase` is True."""

    def dual(
        self, a: Num[ArrayLike, "*#batch"], c: Num[ArrayLike, "*#batch"], b: Num[ArrayLike, "*#batch"]
    ) -> Float[Array, "..."]:
        """E[phi(u) phi(v)] for centred Gaussians of variances `a`, `b` and covariance `c`.

        Differentiable in `a`, `c`, `b`, also where u = +-v (except for functions that jump).
        """
        return self._dual(*as_floats(a, c, b))

    def dual_derivative(
        self, a: Num[ArrayLike, "*#batch"], c: Num[ArrayLike, "*#batch"], b: Num[ArrayLike, "*#batch"]
    ) -> Float[Array, "..."]:
        """E[phi'(u) phi'(v)], which is the derivative of `dual` with respect to `c`.

        Raises ValueError for functions that jump: their phi' is a distribution and the average diverges at u = v.
        """
        return self._dual_derivative(*as_floats(a, c, b))

    def dual_error(
        self, a: Num[ArrayLike, "*#batch"], c: Num[ArrayLike, "*#batch"], b: Num[ArrayLike, "*#batch"]
    ) -> Float[Array, "..."]:
        """Estimated absolute error of `dual`; zero where `dual` is a closed form."""
        return self._dual_error(*as_floats(a, c, b))

    def dual_derivative_error(
        self, a: Num[ArrayLike, "*#batch"], c: Num[ArrayLike, "*#batch"], b: Num[ArrayLike, "*#batch"]
    ) -> Float[Array, "..."]:
        """Estimated absolute error of `dual_derivative`, and so of gradients; zero for closed forms.

        Raises ValueError for functions that jump, as `dual_derivative`.
        """
        return self._dual_derivative_error(*as_floats(a, c, b))

    @abc.abstractmethod
    def _dual(self, a: Array, c: Array, b: Array) -> Array: ...

    @abc.abstractmethod
    def _dual_derivative(self, a: Array, c: Array, b: Array) -> Array: ...

    def _dual_derivative_error(self, a: Array, c: Array, b: Array) -> Array:
        return Activation._dual_error(self, a, c, b)

    def _dual_error(self, a: Array, c: Array, b: Array) -> Array:
        return jnp.zeros(jnp.broadcast_shapes(a.shape, c.shape, b.shape), a.dtype)


def as_floats(a, c, b) -> tuple[Array, Array, Array]:
    """The three moments as arrays of one floating-point type, not broadcast; shapes must broadcast."""
    dtype = jnp.result_type(a, c, b, float)
    a, c, b = (jnp.asarray(x, dtype) for x in (a, c, b))
    try:
        jnp.broadcast_shapes(a.shape, c.shape, b.shape)
    except ValueError:
        raise ValueError(
            f"a {a.shape}, c {c.shape} and b {b.shape} do not broadcast: pass a (points, 1), c (points, points_), "
            "b (1, points_)"
        ) from None
    return a, c, b


def distributional(name: str) -> ValueError:
    """The error for the derivative average of a function that jumps."""
    return ValueError(
        f"activation '{name}' jumps, so phi' is a distribution and E[phi'(u) phi'(v)] diverges at u = v: "
        "use a continuous activation (for instance 'erf' with a large scale) where derivatives are needed"
    )


def parameter(name: str):
    """A field converter: a real number stays a Python float (so that it follows the precision of the arrays)."""

    def convert(value):
        if isinstance(value, Array):
            return value
        try:
            return float(value)
        except (TypeError, ValueError):
            raise ValueError(f"{name} = {value!r} is not a number: pass a float") from None

    return convert
