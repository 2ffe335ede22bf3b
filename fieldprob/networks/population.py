"""Regression of a population with a network of one hidden layer, its readout integrated out.

Infinitely many inputs at a fixed ratio of points to noise: the network sees its features F only through their Gram
matrix E[F F^T] and their overlaps with the target, both averages over the input measure (theory 04, (2.7)-(2.8)). No
data set is drawn, so that what differs from a mean-field theory of the population is due to the width alone.
"""

from math import factorial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
from jax.core import Tracer
from jaxtyping import Array, Float

from fieldprob.activations import Activation
from fieldprob.gp.evidence import coefficients, log_evidence
from fieldprob.networks.mlp import Mlp
from fieldprob.networks.overlaps import check_degrees, check_direction, direction, overlaps
from fieldprob.tasks import Gaussian, HermiteTeacher, Population


class Averages(NamedTuple):
    """Averages of the features over the inputs: `gram` E[F F^T], and `overlap` with the orthonormal polynomials of some
    degrees along the teacher."""

    gram: Float[Array, "neurons neurons"]
    overlap: Float[Array, "degrees neurons"]


def population_regression(net, population, *, degrees: tuple[int, ...] = ()):
    """The NumPyro model of a network that learns a population: every weight but the readout is sampled.

    Args:
        net: a `fieldprob.Mlp` with one hidden layer and no biases, of any activation without a random phase.
        population: a `fieldprob.tasks.Population` of one size, of Gaussian inputs and a `tasks.HermiteTeacher`, without
            label noise. Only points / effective noise matters.
        degrees: of the residual; those that the target has unless given.

    Registers `residual` (mode), coefficients of target - f in monic polynomials of the `degrees`, with f the mean over
    the readout; and `test_loss`, the mean of (target - f)^2 over readouts and inputs. Returns the site of the weights,
    (neurons, inputs), scaled.

    Raises:
        TypeError, ValueError: a network or a population that the model is not for.

    >>> import fieldprob as fp, numpyro
    >>> teacher = fp.tasks.HermiteTeacher((0, 1, 0, -1.2))
    >>> task = fp.tasks.Population(700, 1.0, 0.0, measure=fp.tasks.Gaussian(20), target=teacher)
    >>> with numpyro.handlers.seed(rng_seed=0):
    ...     trace = numpyro.handlers.trace(population_regression).get_trace(fp.Mlp(8, readout_variance=0.02), task)
    >>> trace["residual"]["value"].shape
    (2,)
    """
    check(net, population)
    present = {k: c for k, c in enumerate(population.target.coefficients) if c}
    asked = check_degrees(degrees) or tuple(present)
    known = tuple(sorted({*present, *asked}))
    norms = direction(population.measure, max(known) + 1).norms[np.array(known)]
    target = norms * np.array([present.get(k, 0.0) for k in known])
    points = population.points[0] / net.effective_noise(population)

    W = net.sample_hidden(population.measure.inputs)["weight_0"]
    W = W * jnp.sqrt(net.weight_variance[0] / population.measure.inputs)
    found = averages(net, W, population, known)
    A, b = points * found.gram, points * target @ found.overlap
    numpyro.factor("y", log_evidence(A, b))

    # from here on nothing enters the likelihood
    readout = coefficients(A, b)
    residual = target - found.overlap @ readout.mean
    numpyro.deterministic("residual", (residual / norms)[np.array([known.index(k) for k in asked])])
    second = jnp.outer(readout.mean, readout.mean) + readout.covariance
    gained = 2 * target @ found.overlap @ readout.mean - jnp.sum(found.gram * second)
    numpyro.deterministic("test_loss", target @ target - gained)
    return W


def check(net, population) -> None:
    """Raise a TypeError or ValueError unless `population_regression` is for this network and this population."""
    if not isinstance(net, Mlp):
        raise TypeError(f"net is a {type(net).__name__}: a population is learned by fully connected networks, fp.Mlp.")
    if net.depth != 1 or any(np.any(np.asarray(b)) for b in net.bias_variance) or net.activations[0].random_phase:
        raise ValueError(
            f"a population is learned by networks of one hidden layer without biases and random phases: net has depth "
            f"{net.depth}, bias_variance {net.bias_variance} and activation {net.activations[0].name!r}."
        )
    if not isinstance(population, Population):
        raise TypeError(f"task is a {type(population).__name__}: give a fp.tasks.Population, or use fp.regression.")
    if not isinstance(population.target, HermiteTeacher) or not isinstance(population.measure, Gaussian):
        raise TypeError(
            f"measure is {population.measure!r} and target {population.target!r}: averages of features are known for "
            "measure=fp.tasks.Gaussian(inputs) and target=fp.tasks.HermiteTeacher((0, 1, 0, -0.3))."
        )
    check_direction(population.target, population.measure.inputs)
    if not any(population.target.coefficients):
        raise ValueError("every coefficient of the target is zero: there is nothing to learn.")
    noise, label_noise = population.noise_variance, population.label_noise_variance
    noisy = not isinstance(label_noise, Tracer) and np.asarray(label_noise) != 0
    noiseless = not isinstance(noise, Tracer) and not np.asarray(noise) > 0
    if len(population.points) != 1 or noisy or noiseless:
        raise ValueError(
            f"{population!r}: give one number of points, a positive noise_variance and label_noise_variance=0, since "
            "noise of labels averages out in a population."
        )


def averages(net, W: Float[Array, "neurons inputs"], population, degrees: tuple[int, ...]) -> Averages:
    """Averages over a population of the output features of neurons with these weights.

    Source: theory 04, (2.7), (3.1)-(3.3).
    """
    (activation,) = net.activations
    scale = net.readout_variance / net.chi / net.widths[0]
    q = jnp.sum(W**2, axis=1)
    gram = activation.dual(q[:, None], W @ W.T, q[None, :])
    h = overlaps(activation, along_teacher(W, population.target), q, degrees, population.measure)
    return Averages(scale * gram, jnp.sqrt(scale) * h)


def along_teacher(W: Float[Array, "neurons inputs"], teacher: HermiteTeacher) -> Float[Array, " neurons"]:
    """The overlap m = w . teacher of each neuron.

    >>> along_teacher(jnp.array([[3.0, 4.0]]), HermiteTeacher((0, 1), (0.0, 2.0))).tolist()
    [4.0]
    """
    return W[:, 0] if teacher.direction is None else W @ jnp.asarray(teacher.direction, W.dtype)


def polynomial_residual(
    activation: Activation,
    W: Float[Array, "neurons inputs"],
    readout: Float[Array, " neurons"],
    teacher: HermiteTeacher,
    degrees: tuple[int, ...] = (1, 3),
) -> Float[Array, " degrees"]:
    """Coefficients of teacher - f in He_k, on fresh Gaussian inputs, of a network f(x) = readout . phi(W x).

    An average over all inputs, in closed form: nothing is drawn.

    Args:
        activation: phi.
        W, readout: the weights themselves, with their scales.
        teacher: the target, a polynomial of one direction.
        degrees: k.

    Source: theory 04, (3.1)-(3.3).

    >>> import fieldprob as fp
    >>> W, readout = jnp.eye(2), jnp.array([0.25, 1.0])
    >>> linear = fp.activations.get("linear")
    >>> polynomial_residual(linear, W, readout, HermiteTeacher((0, 1, 0, -1.2))).round(6).tolist()
    [0.75, -1.2]
    """
    h = overlaps(activation, along_teacher(W, teacher), jnp.sum(W**2, axis=1), degrees)
    norms = np.sqrt([factorial(k) for k in degrees])
    target = [teacher.coefficients[k] if k < len(teacher.coefficients) else 0.0 for k in degrees]
    return jnp.asarray(target) - h @ readout / norms
