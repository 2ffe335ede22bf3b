"""Tasks with a known target function: linear, single-index, linear plus cubic, and the Ising task.

Everything random comes from `numpy.random.default_rng(seed)`. The training inputs are its first draw; test inputs and
label noise have streams of their own, so that neither the number of test points nor the label noise changes the
inputs. Inputs have independent coordinates of unit second moment: |x|^2 / inputs is one up to O(1 / sqrt(inputs)).
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import equinox as eqx
import numpy as np
from scipy.special import erf

from fieldprob.tasks.arguments import count, floats, generator, is_traced, real, require_finite
from fieldprob.tasks.base import Task


class HermiteTeacher(eqx.Module):
    """y = sum over k of coefficients[k] He_k(z), z = direction . x, of one direction of the inputs.

    He_k are probabilists' Hermite polynomials, not normalised: E[He_k²] = k! under z ~ N(0, 1). Called as teacher(X), X
    (points, inputs) of NumPy or of JAX; `link` is the function of z. It serves as the target of a `Population`.

    Args:
        coefficients: one for each degree from 0 on; numbers, or traced ones.
        direction: (inputs,), divided by its norm. Default: the first unit vector, without loss of generality.

    Raises: TypeError or ValueError for arguments that do not fit.

    >>> teacher = HermiteTeacher((0, 1, 0, -0.3))                       # z - 0.3 (z^3 - 3 z)
    >>> teacher(np.array([[2.0, 5.0]])).round(12).tolist()
    [1.4]
    """

    coefficients: tuple
    direction: tuple[float, ...] | None

    def __init__(self, coefficients: Any, direction: Any = None):
        try:
            values = list(coefficients)
        except TypeError:
            values = []
        if not values:
            raise ValueError(
                f"coefficients is {coefficients!r}: give one number for each degree, e.g. (0, 1, 0, -0.3)."
            )
        self.coefficients = tuple(c if is_traced(c) else real("coefficients", c) for c in values)
        if direction is None:
            self.direction = None
        else:
            self.direction = tuple(_unit_vector(direction, np.size(direction)).tolist())

    def link(self, z: Any) -> Any:
        """The polynomial at z, of any shape."""
        last, previous, total = 0 * z + 1.0, 0 * z, self.coefficients[0] + 0 * z
        for k, c in enumerate(self.coefficients[1:]):
            last, previous = z * last - k * previous, last
            total = total + c * last
        return total

    def __call__(self, X: Any) -> Any:
        if self.direction is None:
            return self.link(X[:, 0])
        if X.shape[1] != len(self.direction):
            raise ValueError(f"X has {X.shape[1]} inputs, but the teacher's direction {len(self.direction)}.")
        return self.link(X @ np.asarray(self.direction, X.dtype))


def hermite(order: int, z: np.ndarray) -> np.ndarray:
    """Probabilists' Hermite polynomial He_n(z) / sqrt(n!), orthonormal under z ~ N(0, 1).

    >>> float(hermite(3, np.array(2.0)) * math.sqrt(6.0))  # He_3(z) = z^3 - 3 z
    2.0
    """
    return HermiteTeacher((0.0,) * order + (1 / math.sqrt(math.factorial(order)),)).link(z)


LINKS: Mapping[str, Callable[[Any], Any]] = MappingProxyType(
    {
        "linear": lambda z: z,
        "erf": erf,
        "tanh": np.tanh,
        "sin": np.sin,
        "cos": np.cos,
        "abs": np.abs,
        "relu": lambda z: np.maximum(z, 0.0),
        "sign": np.sign,
        "hermite_2": lambda z: hermite(2, z),
        "hermite_3": lambda z: hermite(3, z),
        "hermite_4": lambda z: hermite(4, z),
    }
)


def linear_teacher(
    points: int,
    inputs: int,
    *,
    weights: Any = None,
    test: int = 0,
    noise_variance: Any = 0.01,
    label_noise_variance: float = 0.0,
    seed: Any = 0,
) -> Task:
    """y = x . weights with x ~ N(0, I), so that E[y^2] = |weights|^2 for each output.

    Args:
        points, inputs, test: number of training points, input dimension, number of test points.
        weights: (inputs,) or (inputs, outputs). Default: the first unit vector; the inputs being isotropic, every unit
            vector gives the same distribution of tasks.
        noise_variance: of the likelihood; as in `Task`.
        label_noise_variance: variance of the Gaussian noise added to the training targets. Test targets have none.
        seed: an int or a JAX key. With the same seed, more points extend the training set and keep its first points.

    Raises: TypeError or ValueError for arguments that do not fit.

    >>> linear_teacher(100, 20, test=50)
    Task 'linear teacher': 100 points, 20 inputs, 1 output, 50 test points, noise variance 0.01
    """
    inputs = count("inputs", inputs)
    matrix = np.eye(inputs, 1) if weights is None else floats("weights", weights)
    if matrix.ndim not in (1, 2) or matrix.shape[0] != inputs or matrix.size == 0:
        raise ValueError(f"weights has shape {matrix.shape} but must be ({inputs},) or ({inputs}, outputs).")
    require_finite("weights", matrix)
    return _gaussian_task(
        "linear teacher", lambda X: X @ matrix, points, inputs, test, noise_variance, label_noise_variance, seed
    )


def single_index_teacher(
    points: int,
    inputs: int,
    link: str | Callable[[Any], Any] = "erf",
    *,
    direction: Any = None,
    test: int = 0,
    noise_variance: Any = 0.01,
    label_noise_variance: float = 0.0,
    seed: Any = 0,
) -> Task:
    """y = link(u . x) with x ~ N(0, I) and |u| = 1, so that E[y^2] = E[link(z)^2] with z ~ N(0, 1).

    Args:
        link: an elementwise function of an array (points,), or one of the names in `LINKS`; `hermite_n` there is
            He_n / sqrt(n!), for which E[y^2] = 1.
        direction: (inputs,), divided by its norm. Default: the first unit vector, without loss of generality.
        points, inputs, test, noise_variance, label_noise_variance, seed: as in `linear_teacher`.

    Raises: TypeError or ValueError for arguments that do not fit.

    >>> single_index_teacher(100, 20, "tanh")
    Task 'single-index teacher tanh': 100 points, 20 inputs, 1 output, noise variance 0.01
    """
    inputs = count("inputs", inputs)
    unit = _unit_vector(direction, inputs)
    if isinstance(link, str):
        if link not in LINKS:
            raise ValueError(f"link = {link!r} is unknown: pass a function or one of {', '.join(LINKS)}.")
        name, function = link, LINKS[link]
    elif callable(link):
        name, function = getattr(link, "__name__", type(link).__name__), link
    else:
        raise TypeError(f"link = {link!r} is neither a name nor a function: pass e.g. 'erf' or jnp.tanh.")

    def target(X: np.ndarray) -> np.ndarray:
        z = X @ unit
        values = floats("link(z)", function(z))
        if values.shape != z.shape:
            raise ValueError(f"link maps shape {z.shape} to {values.shape}: it must act elementwise.")
        require_finite("link(z)", values)
        return values

    return _gaussian_task(
        f"single-index teacher {name}", target, points, inputs, test, noise_variance, label_noise_variance, seed
    )


def cubic_teacher(
    points: int,
    inputs: int,
    *,
    linear: float = 1.0,
    cubic: float = -0.3 * math.sqrt(6.0),
    direction: Any = None,
    test: int = 0,
    noise_variance: Any = 0.01,
    label_noise_variance: float = 0.0,
    seed: Any = 0,
) -> Task:
    """y = linear He_1(z) + cubic He_3(z) / sqrt(6), z = u . x, with x ~ N(0, I) and |u| = 1.

    The two components are orthonormal, so E[y^2] = linear^2 + cubic^2. The form y = z + epsilon He_3(z) has
    cubic = sqrt(6) epsilon; the default is its epsilon = -0.3.

    Args:
        linear, cubic: coefficients of the orthonormal components.
        direction: (inputs,), divided by its norm. Default: the first unit vector, without loss of generality.
        points, inputs, test, noise_variance, label_noise_variance, seed: as in `linear_teacher`.

    Raises: TypeError or ValueError for arguments that do not fit.

    Source: Rubin, Seroussi, Ringel, arXiv:2310.03789 (there x ~ N(0, I), noiseless labels, epsilon = -0.3).

    >>> cubic_teacher(100, 8, test=50, noise_variance=4.0)
    Task 'cubic teacher': 100 points, 8 inputs, 1 output, 50 test points, noise variance 4
    """
    inputs = count("inputs", inputs)
    unit = _unit_vector(direction, inputs)
    linear, cubic = real("linear", linear), real("cubic", cubic)

    target = HermiteTeacher((0.0, linear, 0.0, cubic / math.sqrt(6.0)), unit)
    return _gaussian_task("cubic teacher", target, points, inputs, test, noise_variance, label_noise_variance, seed)


def ising(
    points: int, inputs: int, bias: float = 0.1, *, test: int = 0, noise_variance: Any = 0.01, seed: Any = 0
) -> Task:
    """Ising task: y = +-1 balanced, x_j = +-1 independent given y with P(x_j = +1 | y) = 1/2 + bias y.

    With u = 2 bias, E[x_a . x_b / inputs] = u^2 y_a y_b for a != b, and exactly 1 for a = b. So for a linear network
    the mean kernel is weight_variance [(1 - u^2) I + u^2 y y^T], with eigenvalue weight_variance (1 - u^2 + points u^2)
    along y and weight_variance (1 - u^2), points - 1 times, orthogonal to it.

    Training and test points are half +1, then half -1, in this order. More points do not extend the training set.

    Args:
        points, test: even numbers.
        bias: in [0, 1/2]: 0 carries no signal, 1/2 makes every x_j equal to y.
        inputs, noise_variance, seed: as in `linear_teacher`.

    Raises: TypeError or ValueError for arguments that do not fit.

    Source: the task is that of Rubin et al., arXiv:2502.03210 (linear networks), in a reconstruction.

    >>> ising(80, 200, bias=0.1, test=1000, noise_variance=1.0)
    Task 'Ising': 80 points, 200 inputs, 1 output, 1000 test points, noise variance 1
    """
    points, inputs, test = count("points", points), count("inputs", inputs), count("test", test, minimum=0)
    for name, number in (("points", points), ("test", test)):
        if number % 2:
            raise ValueError(f"{name} = {number} is odd, but the classes are balanced: pass an even number.")
    bias = real("bias", bias)
    if not 0.0 <= bias <= 0.5:
        raise ValueError(f"bias = {bias:g} must be in [0, 0.5]: P(x = +1 | y) = 1/2 + bias y is a probability.")
    random = generator(seed)
    (random_test,) = random.spawn(1)

    def draw(random: np.random.Generator, points: int) -> tuple[np.ndarray, np.ndarray]:
        y = np.repeat([1.0, -1.0], points // 2)
        return np.where(random.random((points, inputs)) < 0.5 + bias * y[:, None], 1.0, -1.0), y

    X, y = draw(random, points)
    X_test, y_test = draw(random_test, test) if test else (None, None)
    return Task(X, y, noise_variance, X_test, y_test, name="Ising")


def _gaussian_task(
    name: str,
    target: Callable[[np.ndarray], np.ndarray],
    points: int,
    inputs: int,
    test: int,
    noise_variance: Any,
    label_noise_variance: float,
    seed: Any,
) -> Task:
    """Inputs x ~ N(0, I); noisy training targets, noiseless test targets."""
    points, test = count("points", points), count("test", test, minimum=0)
    label_noise_variance = real("label_noise_variance", label_noise_variance, minimum=0.0)
    random = generator(seed)
    random_test, random_labels = random.spawn(2)
    X = random.standard_normal((points, inputs))
    y = target(X)
    y = y + math.sqrt(label_noise_variance) * random_labels.standard_normal(y.shape)
    if not test:
        return Task(X, y, noise_variance, name=name)
    X_test = random_test.standard_normal((test, inputs))
    return Task(X, y, noise_variance, X_test, target(X_test), name=name)


def _unit_vector(direction: Any, inputs: int) -> np.ndarray:
    vector = np.eye(inputs)[0] if direction is None else floats("direction", direction)
    if vector.shape != (inputs,):
        raise ValueError(f"direction has shape {vector.shape} but must be ({inputs},).")
    require_finite("direction", vector)
    norm = np.linalg.norm(vector)
    if norm == 0.0:
        raise ValueError("direction is zero: pass a vector with a direction, or None.")
    return vector / norm
