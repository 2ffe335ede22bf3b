"""A distribution over data sets in place of one: what a learning curve is the average over.

A data set has P inputs drawn from a measure, y = target(x) + noise of variance `label_noise_variance`. The model that
learns it assumes `noise_variance` (its ridge), which may be another number.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fieldprob.tasks.arguments import count, is_traced, real


class Population(eqx.Module):
    """Random data sets of given sizes.

    Args:
        points: P, or several for a curve in P; means where `poisson` is True.
        noise_variance: of the model's likelihood, the ridge; zero or positive.
        label_noise_variance: of the labels in truth; `noise_variance` unless given, zero with a `tasks.Pool`, whose
            labels have theirs.
        measure: a function (key, points) -> X, such as `tasks.Sphere(10)`; None for data that are given by the
            eigenvalues of a spectrum alone, with independent Gaussian features.
        target: a function X -> (points,), the noiseless labels. With measure=None the coefficients of the spectrum are
            the target; a `tasks.Pool` brings its own, and none is given.
        poisson: whether the number of points is Poisson distributed with mean `points`, instead of fixed.

    Raises:
        TypeError, ValueError: an argument is out of range or of the wrong kind.

    >>> Population(points=(10, 100), noise_variance=0.1)
    Population of 10 to 100 points, noise variance 0.1, label noise variance 0.1, Gaussian features
    """

    points: tuple[int, ...] = eqx.field(static=True)
    noise_variance: Float[Array, ""]
    label_noise_variance: Float[Array, ""]
    measure: Callable | None
    target: Callable | None
    poisson: bool = eqx.field(static=True)

    def __init__(
        self,
        points: Any,
        noise_variance: Any,
        label_noise_variance: Any = None,
        *,
        measure: Callable | None = None,
        target: Callable | None = None,
        poisson: bool = False,
    ):
        sizes = points if np.ndim(points) else (points,)
        self.points = tuple(count("points", p) for p in sizes)
        if not self.points or list(self.points) != sorted(set(self.points)):
            raise ValueError(f"points is {points!r}: give one integer, or several that increase.")
        self.noise_variance = _variance("noise_variance", noise_variance)
        labelled = hasattr(measure, "y")
        default = 0.0 if labelled else noise_variance
        given = default if label_noise_variance is None else label_noise_variance
        self.label_noise_variance = _variance("label_noise_variance", given)
        for name, function in (("measure", measure), ("target", target)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} is {function!r}: give a function.")
        if measure is None and target is not None:
            raise ValueError("target is given without measure: say how inputs are drawn, measure=tasks.Sphere(10).")
        if labelled and target is not None:
            raise ValueError(
                "target is given with a Pool, which has its labels: leave target out, or change the pool's y."
            )
        if measure is not None and target is None and not labelled:
            raise ValueError("measure is given without target: give a function X -> (points,).")
        if not isinstance(poisson, bool | np.bool_):
            raise TypeError(f"poisson is {poisson!r}: give True or False.")
        self.measure, self.target, self.poisson = measure, target, bool(poisson)

    def replace(self, **changes: Any) -> "Population":
        """This population with some of the constructor's arguments changed, checked again.

        >>> Population(10, 0.1).replace(points=20).points
        (20,)
        """
        names = ("points", "noise_variance", "label_noise_variance", "measure", "target", "poisson")
        if unknown := sorted(changes.keys() - set(names)):
            raise TypeError(f"replace has no argument {unknown[0]!r}: it takes {', '.join(names)}.")
        return Population(**({name: getattr(self, name) for name in names} | changes))

    def __repr__(self) -> str:
        sizes = f"{self.points[0]}" + (f" to {self.points[-1]}" if len(self.points) > 1 else "")
        inputs = "Gaussian features" if self.measure is None else type(self.measure).__name__
        if not isinstance(self.measure, eqx.Module) and self.measure is not None:
            inputs = getattr(self.measure, "__name__", inputs)
        kind = " (Poisson mean)" if self.poisson else ""
        return (
            f"Population of {sizes} points{kind}, noise variance {_text(self.noise_variance)}, "
            f"label noise variance {_text(self.label_noise_variance)}, {inputs}"
        )


def _variance(name: str, value: Any) -> Any:
    return value if is_traced(value) else jnp.asarray(real(name, value, minimum=0.0))


def _text(value: Any) -> str:
    return "traced" if is_traced(value) else f"{float(value):g}"
