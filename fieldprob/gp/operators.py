"""Linear operators on functions of the inputs: what is observed, or asked for, instead of values at points.

An operator L with `rows` rows turns a function f of one input x into the numbers (L f)_i. If f is a Gaussian process of
covariance k, then L f and M f are jointly Gaussian,

    Cov[(L f)_i, (M f)_j] = L_x M_x' k(x, x'),

and if f = features(x) . theta, then L f = (L features) theta: the same operator on each feature (Rasmussen & Williams
2006, sec. 9.4; Sarkka 2011, Linear operators and stochastic partial differential equations in Gaussian process
regression). Here L is a Python function of a Python function, `apply`; derivatives are exact (automatic
differentiation), and whatever the network's face, it is `apply` that meets it. Operators add and scale:
`-Laplacian(X) + 2.0 * Values(X)`.

Derivatives are those almost everywhere: what sits on a kink (the second derivative of a ReLU) is lost.
"""

from abc import abstractmethod
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Operator(eqx.Module):
    """A linear map from functions of one input to `rows` numbers. A subclass defines `rows` and `apply`.

    `apply` must use only sums, products with constants, and values or derivatives of its argument.
    """

    @property
    @abstractmethod
    def rows(self) -> int:
        """How many numbers it gives."""

    @abstractmethod
    def apply(self, function: Callable) -> Array:
        """(L f): from a function x (inputs,) -> array of any shape, to (rows, *shape)."""

    def __add__(self, other):
        return Sum((self, other)) if isinstance(other, Operator) else NotImplemented

    def __sub__(self, other):
        return Sum((self, -other)) if isinstance(other, Operator) else NotImplemented

    def __mul__(self, factor):
        return NotImplemented if isinstance(factor, Operator) else Scaled(self, jnp.asarray(factor))

    __rmul__ = __mul__

    def __neg__(self):
        return -1.0 * self


class Values(Operator):
    """f(x_i) at points X (points, inputs).

    >>> import jax.numpy as jnp
    >>> Values([[1.0], [2.0]]).apply(lambda x: x[0] ** 2).tolist()
    [1.0, 4.0]
    """

    X: Float[Array, "points inputs"]

    def __init__(self, X):
        self.X = _points(X)

    @property
    def rows(self):
        return self.X.shape[0]

    def apply(self, function):
        return jax.vmap(function)(self.X)


class Derivative(Operator):
    """The derivative of f at points X along a direction: d^order/ds^order f(x_i + s v_i) at s = 0.

    Args:
        X: (points, inputs).
        direction: v, (inputs,) or one for each point (points, inputs); its length counts. With one input, 1 unless
            given.
        order: 1, 2, ...

    Raises: ValueError: shapes that do not fit, an order below 1.

    >>> Derivative([[1.0], [2.0]], order=2).apply(lambda x: x[0] ** 3).tolist()
    [6.0, 12.0]
    """

    X: Float[Array, "points inputs"]
    direction: Float[Array, "points inputs"]
    order: int = eqx.field(static=True)

    def __init__(self, X, direction=None, order: int = 1):
        self.X = _points(X)
        points, inputs = self.X.shape
        if direction is None:
            if inputs != 1:
                raise ValueError(f"direction is None with {inputs} inputs: give ({inputs},) or ({points}, {inputs}).")
            direction = jnp.ones(1, self.X.dtype)
        direction = jnp.asarray(direction, self.X.dtype)
        if direction.shape not in ((inputs,), (points, inputs)):
            raise ValueError(f"direction has shape {direction.shape}: give ({inputs},) or ({points}, {inputs}).")
        if isinstance(order, bool) or not isinstance(order, int | np.integer) or order < 1:
            raise ValueError(f"order is {order!r}: give an integer of at least 1.")
        self.direction = jnp.broadcast_to(direction, self.X.shape)
        self.order = int(order)

    @property
    def rows(self):
        return self.X.shape[0]

    def apply(self, function):
        return jax.vmap(lambda x, v: _along(function, x, v, self.order))(self.X, self.direction)


class Gradient(Operator):
    """All partial derivatives of f at points X: rows are point by point, (points * inputs).

    >>> Gradient([[1.0, 2.0]]).apply(lambda x: x[0] * x[1]).tolist()
    [2.0, 1.0]
    """

    X: Float[Array, "points inputs"]

    def __init__(self, X):
        self.X = _points(X)

    @property
    def rows(self):
        return self.X.size

    def apply(self, function):
        basis = jnp.eye(self.X.shape[1], dtype=self.X.dtype)
        along = jax.vmap(lambda x: jax.vmap(lambda v: _along(function, x, v, 1))(basis))(self.X)
        return along.reshape(self.rows, *along.shape[2:])


class Laplacian(Operator):
    """The Laplacian of f at points X, sum over inputs of second derivatives.

    >>> Laplacian([[1.0, 2.0]]).apply(lambda x: x[0] ** 2 + x[1] ** 2).tolist()
    [4.0]
    """

    X: Float[Array, "points inputs"]

    def __init__(self, X):
        self.X = _points(X)

    @property
    def rows(self):
        return self.X.shape[0]

    def apply(self, function):
        basis = jnp.eye(self.X.shape[1], dtype=self.X.dtype)
        return jax.vmap(lambda x: jax.vmap(lambda v: _along(function, x, v, 2))(basis).sum(0))(self.X)


class Functional(Operator):
    """Weighted sums sum_j weights_ij (L f)_j of an operator's rows: integrals by quadrature, mode coefficients, means.

    Args:
        operator: L; points X (nodes, inputs) stand for `Values(X)`.
        weights: (rows, nodes), or (nodes,) for a single row. For the coefficients of modes phi_k with respect to a
            measure: quadrature weight times phi_k(x_j).

    Raises: ValueError: shapes that do not fit.

    >>> Functional([[0.0], [1.0]], [0.5, 0.5]).apply(lambda x: x[0]).tolist()     # trapezoidal rule
    [0.5]
    """

    operator: Operator
    weights: Float[Array, "rows nodes"]

    def __init__(self, operator, weights):
        self.operator = operator if isinstance(operator, Operator) else Values(operator)
        weights = jnp.asarray(weights, jnp.result_type(float))
        if weights.ndim not in (1, 2) or weights.shape[-1] != self.operator.rows:
            raise ValueError(
                f"weights has shape {weights.shape}, but the operator has {self.operator.rows} rows: give "
                f"({self.operator.rows},) or (rows, {self.operator.rows})."
            )
        self.weights = jnp.atleast_2d(weights)

    @property
    def rows(self):
        return self.weights.shape[0]

    def apply(self, function):
        return jnp.tensordot(self.weights, self.operator.apply(function), 1)


class Scaled(Operator):
    """Rows of an operator times a number, or one for each row (rows,): a coefficient that varies in space."""

    operator: Operator
    factor: Float[Array, " *rows"]

    def __check_init__(self):
        if self.factor.shape not in ((), (self.operator.rows,)):
            raise ValueError(
                f"an operator of {self.operator.rows} rows is multiplied by an array of shape {self.factor.shape}: "
                f"give a number or ({self.operator.rows},)."
            )

    @property
    def rows(self):
        return self.operator.rows

    def apply(self, function):
        value = self.operator.apply(function)
        return value * self.factor.reshape(self.factor.shape + (1,) * (value.ndim - 1) * self.factor.ndim)


class Sum(Operator):
    """Row-wise sum of operators with equally many rows, such as a differential operator at points."""

    operators: tuple[Operator, ...]

    def __check_init__(self):
        if len({operator.rows for operator in self.operators}) != 1:
            rows = ", ".join(str(operator.rows) for operator in self.operators)
            raise ValueError(f"operators of {rows} rows are added: give them at the same points, or use Stack.")

    @property
    def rows(self):
        return self.operators[0].rows

    def apply(self, function):
        return sum(operator.apply(function) for operator in self.operators)


class Stack(Operator):
    """The rows of several operators, one after the other.

    >>> Stack((Values([[2.0]]), Derivative([[2.0]]))).apply(lambda x: x[0] ** 2).tolist()
    [4.0, 4.0]
    """

    operators: tuple[Operator, ...]

    @property
    def rows(self):
        return sum(operator.rows for operator in self.operators)

    def apply(self, function):
        return jnp.concatenate([operator.apply(function) for operator in self.operators])


def _along(function, x, v, order: int):
    for _ in range(order):
        function = _directional(function, v)
    return function(x)


def _directional(function, v):
    return lambda x: jax.jvp(function, (x,), (v,))[1]


def _points(X) -> Float[Array, "points inputs"]:
    X = jnp.asarray(X)
    if X.ndim != 2:
        raise ValueError(f"X has shape {X.shape}: give (points, inputs).")
    return X if jnp.issubdtype(X.dtype, jnp.floating) else X.astype(jnp.result_type(float))
