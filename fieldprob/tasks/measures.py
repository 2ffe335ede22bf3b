"""Input measures: how the points of a random data set are drawn.

A measure is a probability measure on inputs, called as `measure(key, points) -> X` with X (points, inputs). Any pure
function of this form is one; these are those whose spectra are known, and data sets to draw from.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fieldprob.tasks.arguments import count, floats, is_traced, real, require_finite


class Sphere(eqx.Module):
    """The uniform measure on the sphere |x| = radius in `inputs` dimensions.

    The default radius is √inputs, so that |x|²/inputs = 1 as everywhere in fieldprob.

    Raises: TypeError, ValueError: fewer than two inputs, or a radius that is not positive and finite.

    >>> import jax
    >>> X = Sphere(10)(jax.random.key(0), 5)
    >>> X.shape, round(float((X[0] ** 2).sum()), 6)
    ((5, 10), 10.0)
    """

    inputs: int = eqx.field(static=True)
    radius: float

    def __init__(self, inputs: int, radius: float | None = None):
        self.inputs = count("inputs", inputs, minimum=2)
        self.radius = float(inputs) ** 0.5 if radius is None else _positive("radius", radius)

    def __call__(self, key: Array, points: int) -> Float[Array, "points inputs"]:
        z = jax.random.normal(key, (points, self.inputs))
        return self.radius * z / jnp.linalg.norm(z, axis=1, keepdims=True)


class Circle(eqx.Module):
    """Uniform angles: X (points, 1) in [0, 2π).

    >>> import jax
    >>> Circle()(jax.random.key(0), 5).shape
    (5, 1)
    """

    inputs: ClassVar[int] = 1

    def __call__(self, key: Array, points: int) -> Float[Array, "points inputs"]:
        return jax.random.uniform(key, (points, 1), maxval=2 * jnp.pi)


class Gaussian(eqx.Module):
    """Independent Gaussian inputs of one variance.

    Raises: TypeError, ValueError: no inputs, or a variance that is not positive and finite.

    >>> import jax
    >>> Gaussian(3)(jax.random.key(0), 5).shape
    (5, 3)
    """

    inputs: int = eqx.field(static=True)
    variance: float

    def __init__(self, inputs: int = 1, variance: float = 1.0):
        self.inputs = count("inputs", inputs)
        self.variance = _positive("variance", variance)

    def __call__(self, key: Array, points: int) -> Float[Array, "points inputs"]:
        return jnp.sqrt(self.variance) * jax.random.normal(key, (points, self.inputs))


class Interval(eqx.Module):
    """The uniform measure on [low, high].

    Raises: TypeError, ValueError: ends that are not finite, or low that is not below high.

    >>> import jax
    >>> Interval(0.0, 1.0)(jax.random.key(0), 5).shape
    (5, 1)
    """

    low: float
    high: float
    inputs: ClassVar[int] = 1

    def __init__(self, low: float, high: float):
        self.low, self.high = (x if is_traced(x) else real(name, x) for name, x in (("low", low), ("high", high)))
        if not is_traced(self.low) and not is_traced(self.high) and not self.low < self.high:
            raise ValueError(f"low = {low} and high = {high}: give low below high.")

    def __call__(self, key: Array, points: int) -> Float[Array, "points inputs"]:
        return jax.random.uniform(key, (points, 1), minval=self.low, maxval=self.high)


class Pool(eqx.Module):
    """Inputs with their targets, of which a data set is drawn without replacement; the rest are test points.

    Args:
        X: (pool, inputs); y: (pool,) or (pool, 1). Real data, whose labels carry no further noise: that of a
            `Population` is zero here unless given.

    >>> import jax, jax.numpy as jnp
    >>> Pool(jnp.ones((7, 2)), jnp.ones(7))(jax.random.key(0), 5).shape
    (5, 2)
    """

    X: Float[Array, "pool inputs"]
    y: Float[Array, " pool"]

    def __init__(self, X, y):
        X, y = floats("X", X), floats("y", y)
        if X.ndim != 2 or y.size != X.shape[0]:
            raise ValueError(f"X has shape {X.shape} and y {y.shape}: give (pool, inputs) and one target for each.")
        require_finite("X", X)
        require_finite("y", y)
        self.X, self.y = jnp.asarray(X), jnp.asarray(y).reshape(-1)

    @property
    def inputs(self) -> int:
        return self.X.shape[1]

    def permutation(self, key: Array) -> Array:
        """A random order of the pool: the first entries are the data set, the last the test points."""
        return jax.random.permutation(key, self.X.shape[0])

    def __call__(self, key: Array, points: int) -> Float[Array, "points inputs"]:
        return self.X[self.permutation(key)[:points]]


def _positive(name: str, value: Any) -> Any:
    if not is_traced(value) and real(name, value) <= 0:
        raise ValueError(f"{name} = {value} must be positive.")
    return value
