"""What the theory of one neuron starts from: a network of one hidden layer, and a population with a Hermite teacher."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from fieldprob.activations import Activation
from fieldprob.networks import Mlp
from fieldprob.networks.overlaps import check_degrees, check_direction, direction, overlaps, target_coefficients
from fieldprob.tasks import Gaussian, HermiteTeacher, Population, Sphere
from fieldprob.theory.precision import require_float64
from fieldprob.theory.tilted import require_normalisable


class Setting(NamedTuple):
    """A network and a population.

    `target` are the coefficients of the orthonormal polynomials of `degrees` and `norms` turn them into those of monic
    ones. `gamma` is the variance of a readout weight, `kappa` one over the effective points, for each size of the
    population; `variance` that of a first-layer weight.
    """

    activation: Activation
    measure: Gaussian | Sphere
    degrees: tuple[int, ...]
    target: Float[Array, " degrees"]
    norms: Float[Array, " degrees"]
    width: int
    sizes: tuple[int, ...]
    noise: Any
    gamma: Any
    kappa: Float[Array, " points"]
    variance: Any

    @property
    def inputs(self) -> int:
        return self.measure.inputs


def setting(theory: str, net: Any, population: Any, degrees: tuple[int, ...] = ()) -> Setting:
    """Check a network and a population, and choose the degrees. Raises as `mean_field` says."""
    require_float64(theory)
    if not isinstance(net, Mlp):
        raise TypeError(f"net is a {type(net).__name__}: theory {theory!r} is for fully connected networks, fp.Mlp.")
    if not isinstance(population, Population):
        raise TypeError(
            f"task is a {type(population).__name__}: theory {theory!r} is for a population, fp.tasks.Population; for "
            "one data set use fp.theory.adaptation."
        )
    if net.depth != 1:
        raise ValueError(f"net has depth {net.depth}: theory {theory!r} is for one hidden layer.")
    if any(isinstance(b, Tracer) or np.any(np.asarray(b)) for b in net.bias_variance):
        raise ValueError(f"bias_variance is {net.bias_variance}: theory {theory!r} is for networks without biases.")
    (activation,) = net.activations
    require_normalisable(theory, activation)
    teacher = population.target
    if not isinstance(teacher, HermiteTeacher):
        raise TypeError(
            f"the target is {teacher!r}: theory {theory!r} needs its polynomial, "
            "target=fp.tasks.HermiteTeacher((0, 1, 0, -0.3))."
        )
    for name, value, positive in (
        ("label_noise_variance", population.label_noise_variance, False),
        ("noise_variance", population.noise_variance, True),
    ):
        if not isinstance(value, Tracer) and (not value > 0 if positive else value != 0):
            need = "positive" if positive else "0, since labels are noiseless here"
            raise ValueError(f"{name} = {float(value):g}: theory {theory!r} needs it {need}.")
    measure = population.measure
    if not isinstance(measure, Gaussian | Sphere) or measure.inputs < 2:
        raise ValueError(
            f"measure is {measure!r}: theory {theory!r} is for tasks.Gaussian(inputs) or tasks.Sphere(inputs), of at "
            "least 2 inputs."
        )
    check_direction(teacher, measure.inputs)
    degrees = check_degrees(degrees)
    target = target_coefficients(teacher.link, measure, len(teacher.coefficients))
    chosen = tuple(sorted({*_degrees(activation, teacher, measure), *degrees}))
    norms = direction(measure, max(chosen) + 1).norms
    padded = jnp.concatenate([target, jnp.zeros(max(chosen) + 1)])
    return Setting(
        activation,
        measure,
        chosen,
        padded[np.array(chosen)],
        jnp.asarray(norms[np.array(chosen)]),
        net.widths[0],
        population.points,
        net.effective_noise(population),
        net.readout_variance / net.chi / net.widths[0],
        net.effective_noise(population) / jnp.asarray(population.points, float),
        net.weight_variance[0] / measure.inputs,
    )


def _degrees(activation: Activation, teacher: HermiteTeacher, measure: Gaussian | Sphere) -> list[int]:
    """The degrees that the target has, and those below its highest in which neurons respond.

    Raises:
        ValueError: the target has none.
    """
    # a traced coefficient counts as one that is not zero
    present = HermiteTeacher([1.0 if isinstance(c, Tracer) else c for c in teacher.coefficients])
    with jax.ensure_compile_time_eval():
        target = np.abs(np.asarray(target_coefficients(present.link, measure, len(teacher.coefficients))))
    if not target.max() > 0:
        raise ValueError("every coefficient of the target is zero: there is nothing to learn.")
    with jax.ensure_compile_time_eval():
        response = np.asarray(_response(activation, len(target)))
    return [k for k in range(len(target)) if target[k] > 1e-12 * target.max() or response[k] > 1e-10 * response.max()]


@eqx.filter_jit
def _response(activation: Activation, degrees: int) -> Float[Array, " degrees"]:
    q = jnp.array([0.1, 1.0, 3.0])
    return jnp.max(jnp.abs(overlaps(activation, jnp.sqrt(q), q, tuple(range(degrees)))), axis=1)
