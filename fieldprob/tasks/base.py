"""What is learned: observations of an unknown function, the noise they carry, and the points to predict at.

A `Task` holds a tuple of observations, each with its own noise, and optional test points. The first are values at
points (`Values`), which `Task.X`, `Task.y` and `Task.noise_variance` show; others may observe the function through
linear operators (`Observation`): derivatives, integrals, boundary conditions (`fieldprob.gp.operators`).
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fieldprob.tasks.arguments import floats, is_traced, require_finite

NoiseVariance = Float[Array, ""] | Float[Array, " points"] | Float[Array, "points points"]


class Values(eqx.Module):
    """Values of the function at points, y = f(X) + Gaussian noise.

    Args:
        X: inputs, (points, inputs).
        y: targets, (points,) or (points, outputs); stored as (points, outputs).
        noise_variance: variance of the likelihood, before any division by chi: one number, one per point (points,),
            or a symmetric positive definite covariance (points, points). The same for every output.

    Raises:
        TypeError: data that are not real numbers.
        ValueError: shapes that do not fit, no data, NaN or infinite entries, noise that is not positive.
    """

    X: Float[Array, "points inputs"]
    y: Float[Array, "points outputs"]
    noise_variance: NoiseVariance

    def __init__(self, X: Any, y: Any, noise_variance: Any):
        X, y = _inputs("X", X), _targets("y", y)
        _require_rows("y", y, "X", X)
        self.X, self.y = jnp.asarray(X), jnp.asarray(y)
        self.noise_variance = jnp.asarray(_noise_variance(noise_variance, points=X.shape[0]))

    @property
    def points(self) -> int:
        return self.X.shape[-2]

    @property
    def inputs(self) -> int:
        return self.X.shape[-1]

    @property
    def outputs(self) -> int:
        return self.y.shape[-1]


class Observation(eqx.Module):
    """What is observed of the function through a linear operator, y = L f + Gaussian noise.

    Args:
        operator: L, of `fieldprob.gp`: `Derivative(X, direction)`, `Laplacian(X)`, `Functional(nodes, weights)`, ...
        y: targets, (rows,) or (rows, outputs); stored as (rows, outputs).
        noise_variance: one number, one per row (rows,), or a covariance (rows, rows). The same for every output.

    Raises:
        TypeError: an operator that is none, data that are not real numbers.
        ValueError: shapes that do not fit, NaN or infinite entries, noise that is not positive.
    """

    operator: Any
    y: Float[Array, "rows outputs"]
    noise_variance: NoiseVariance

    def __init__(self, operator: Any, y: Any, noise_variance: Any):
        if not hasattr(operator, "rows") or not callable(getattr(operator, "apply", None)):
            raise TypeError(
                f"operator is a {type(operator).__name__}: give a linear operator, such as fp.gp.Derivative(X, v)."
            )
        y = _targets("y", y)
        if y.shape[0] != operator.rows:
            raise ValueError(f"y has {_plural(y.shape[0], 'row')} but the operator has {operator.rows}: give the same.")
        self.operator, self.y = operator, jnp.asarray(y)
        self.noise_variance = jnp.asarray(_noise_variance(noise_variance, points=y.shape[0]))

    @property
    def outputs(self) -> int:
        return self.y.shape[-1]


class Task(eqx.Module):
    """Data to learn from, their noise, and points to predict at.

    The covariance of the first pre-activations is `weight_variance[0] * x.x' / inputs`, so inputs should be scaled to
    |x|^2 / inputs of order one, as every task of `fieldprob.tasks` is. Arrays are stored in JAX's default float
    dtype at the time of construction. A task is a pytree whose leaves are its arrays; its name is static.

    Args:
        X: training inputs, (points, inputs).
        y: training targets, (points,) or (points, outputs); stored as (points, outputs). Outputs share hidden weights.
        noise_variance: variance of the likelihood, before any division by chi: one number, one per point (points,),
            or a symmetric positive definite covariance (points, points). It may be traced (a sampled hyperparameter).
        X_test: test inputs, (test_points, inputs), or None.
        y_test: test targets, (test_points,) or (test_points, outputs), or None.
        name: what reports call the task.
        observations: what is observed besides values at X: `Observation`s through linear operators.

    Raises:
        TypeError: data that are not real numbers, observations of another kind.
        ValueError: shapes that do not fit, no data, NaN or infinite entries, noise that is not positive.

    >>> import numpy as np
    >>> X = np.array([[1.0, -1.0], [0.5, 1.0], [-1.0, 0.0]])
    >>> task = Task(X, y=[1.0, -1.0, 0.5], noise_variance=0.1, X_test=np.zeros((1, 2)), name="three points")
    >>> task
    Task 'three points': 3 points, 2 inputs, 1 output, 1 test point (no targets), noise variance 0.1
    >>> task.y.shape
    (3, 1)
    >>> task.replace(noise_variance=[0.1, 0.2, 0.4])
    Task 'three points': 3 points, 2 inputs, 1 output, 1 test point (no targets), noise variances 0.1 to 0.4
    """

    observations: tuple[Values | Observation, ...]
    X_test: Float[Array, "test_points inputs"] | None
    y_test: Float[Array, "test_points outputs"] | None
    name: str = eqx.field(static=True)

    def __init__(
        self,
        X: Any,
        y: Any,
        noise_variance: Any,
        X_test: Any = None,
        y_test: Any = None,
        *,
        name: str = "task",
        observations: Any = (),
    ):
        if not isinstance(name, str):
            raise TypeError(f"name = {name!r} is not a string: pass what reports should call the task.")
        values = Values(X, y, noise_variance)
        if X_test is not None:
            X_test = _inputs("X_test", X_test)
            if X_test.shape[1] != values.inputs:
                raise ValueError(
                    f"X_test has {X_test.shape[1]} columns but X has {values.inputs}: both need the same inputs."
                )
        if y_test is not None:
            if X_test is None:
                raise ValueError("y_test is given without X_test: pass the test inputs X_test too, or y_test=None.")
            y_test = _targets("y_test", y_test)
            _require_rows("y_test", y_test, "X_test", X_test)
            if y_test.shape[1] != values.outputs:
                raise ValueError(
                    f"y_test has {y_test.shape[1]} outputs but y has {values.outputs}: both need the same outputs."
                )
        self.observations = (values, *_further(observations, values.outputs))
        self.X_test = None if X_test is None else jnp.asarray(X_test)
        self.y_test = None if y_test is None else jnp.asarray(y_test)
        self.name = name

    def replace(self, **changes: Any) -> "Task":
        """This task with some of the constructor's arguments changed, checked again.

        Works on traced values, so that the noise can be sampled inside a NumPyro model:

        >>> import jax
        >>> task = Task([[1.0], [2.0]], [0.0, 1.0], noise_variance=1.0)
        >>> jax.grad(lambda v: task.replace(noise_variance=v).noise_variance ** 2)(3.0).item()
        6.0

        Raises: TypeError for an argument that the constructor does not have; else as the constructor.
        """
        old = {
            "X": self.X,
            "y": self.y,
            "noise_variance": self.noise_variance,
            "X_test": self.X_test,
            "y_test": self.y_test,
            "name": self.name,
            "observations": self.observations[1:],
        }
        if unknown := sorted(changes.keys() - old.keys()):
            raise TypeError(f"replace has no argument {unknown[0]!r}: it takes {', '.join(old)}.")
        return Task(**(old | changes))

    @property
    def X(self) -> Float[Array, "points inputs"]:
        """Training inputs."""
        return self._values.X

    @property
    def _values(self) -> Values:
        values: Any = self.observations[0]
        return values

    @property
    def y(self) -> Float[Array, "points outputs"]:
        """Training targets."""
        return self.observations[0].y

    @property
    def noise_variance(self) -> NoiseVariance:
        """Variance of the likelihood, before any division by chi."""
        return self.observations[0].noise_variance

    @property
    def points(self) -> int:
        """Number of training points."""
        return self._values.points

    @property
    def inputs(self) -> int:
        """Input dimension."""
        return self._values.inputs

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return self._values.outputs

    @property
    def test_points(self) -> int:
        """Number of test points; 0 if there are none."""
        return 0 if self.X_test is None else self.X_test.shape[-2]

    def __repr__(self) -> str:
        try:
            sizes = [_plural(self.points, "point"), _plural(self.inputs, "input"), _plural(self.outputs, "output")]
            if self.test_points:
                targets = "" if self.y_test is not None else " (no targets)"
                sizes.append(_plural(self.test_points, "test point") + targets)
            sizes.append(_describe_noise(self.noise_variance))
            if further := self.observations[1:]:
                kinds = [f"{o.y.shape[0]} of {type(o.operator).__name__}" for o in further]  # pyright: ignore
                sizes.append(f"and observations {', '.join(kinds)}")
            return f"Task {self.name!r}: {', '.join(sizes)}"
        except (AttributeError, IndexError, TypeError):  # leaves that are not arrays, as after a `jax.tree.map`
            return f"Task {self.name!r}"


def _further(observations: Any, outputs: int) -> tuple[Observation, ...]:
    if not isinstance(observations, tuple | list):
        raise TypeError(f"observations is a {type(observations).__name__}: pass a list of Observation.")
    for i, observation in enumerate(observations):
        if not isinstance(observation, Observation):
            raise TypeError(
                f"observations[{i}] is a {type(observation).__name__}: pass fp.tasks.Observation(operator, y, "
                "noise_variance); values at points go to X and y."
            )
        if observation.outputs != outputs:
            raise ValueError(
                f"observations[{i}] has {observation.outputs} outputs but y has {outputs}: both need the same outputs."
            )
    return tuple(observations)


def _inputs(name: str, value: Any) -> Any:
    array = floats(name, value)
    if array.ndim != 2:
        remedy = f"; for one input per point pass {name}[:, None]" if array.ndim == 1 else ""
        raise ValueError(f"{name} has shape {array.shape} but must be ({_rows(name)}, inputs){remedy}.")
    if 0 in array.shape:
        remedy = "pass None for no test points" if name == "X_test" else "pass at least one point and one input"
        raise ValueError(f"{name} has shape {array.shape}, which is empty: {remedy}.")
    require_finite(name, array)
    return array


def _targets(name: str, value: Any) -> Any:
    array = floats(name, value)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise ValueError(f"{name} has shape {array.shape} but must be ({_rows(name)},) or ({_rows(name)}, outputs).")
    if 0 in array.shape:
        raise ValueError(f"{name} has shape {array.shape}, which is empty: pass one target per point and output.")
    require_finite(name, array)
    return array


def _require_rows(name: str, targets: Any, inputs_name: str, inputs: Any) -> None:
    if targets.shape[0] != inputs.shape[0]:
        remedy = f"pass {name}.T" if targets.shape[1] == inputs.shape[0] else "pass one row per point"
        raise ValueError(
            f"{name} has {_plural(targets.shape[0], 'row')} but {inputs_name} has {inputs.shape[0]}: {remedy}."
        )


def _noise_variance(value: Any, points: int) -> Any:
    array = floats("noise_variance", value)
    if array.shape not in ((), (points,), (points, points)):
        raise ValueError(
            f"noise_variance has shape {array.shape} but must be one number, ({points},) (one per point) "
            f"or ({points}, {points}) (a covariance)."
        )
    require_finite("noise_variance", array)
    if is_traced(array):
        return array
    if array.ndim == 2:
        _require_positive_definite(array)
    elif not (array > 0).all():
        first = tuple(int(i) for i in np.argwhere(array <= 0)[0])
        where = f" at index {first}" if first else ""
        raise ValueError(f"noise_variance = {array[first]:g}{where} must be positive: it is a variance, e.g. 0.01.")
    return array


def _require_positive_definite(matrix: np.ndarray) -> None:
    asymmetry, scale = np.abs(matrix - matrix.T).max(), np.abs(matrix).max()
    if asymmetry > 100 * np.finfo(matrix.dtype).eps * scale:
        raise ValueError(
            f"noise_variance as a matrix must be symmetric but differs from its transpose by {asymmetry:.3g}: "
            f"pass (S + S.T) / 2."
        )
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        smallest = np.linalg.eigvalsh(matrix)[0]
        raise ValueError(
            f"noise_variance as a matrix must be positive definite but its smallest eigenvalue is {smallest:.3g}: "
            f"add a positive number to its diagonal."
        ) from None


def _rows(name: str) -> str:
    return "test_points" if name.endswith("_test") else "points"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _describe_noise(noise_variance: Any) -> str:
    if noise_variance.ndim == 2:
        return f"noise covariance {noise_variance.shape}"
    if is_traced(noise_variance):
        return "noise variance traced"
    if noise_variance.ndim == 1:
        return f"noise variances {noise_variance.min():.4g} to {noise_variance.max():.4g}"
    return f"noise variance {noise_variance:.4g}"
