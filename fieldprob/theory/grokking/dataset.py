"""Mean field on one data set: kernel adaptation, with what `mean_field` says of neurons.

The measure of a neuron and the field of the data are those of `theory.adaptation` (04 (3.19)). What is added here are
the statistics of overlaps with the teacher.
"""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fieldprob.networks.overlaps import overlaps
from fieldprob.networks.population import along_teacher
from fieldprob.prediction import Prediction
from fieldprob.tasks import Gaussian, HermiteTeacher, Population
from fieldprob.tasks.arguments import real
from fieldprob.theory.adaptation.averages import Saddle, find_saddle
from fieldprob.theory.adaptation.nonlinear import Data, Measure, influence_errors, measure_at
from fieldprob.theory.adaptation.theory import neuron_and_data, saddle_prediction
from fieldprob.theory.grokking.setting import Setting
from fieldprob.theory.grokking.setting import setting as grokking_setting
from fieldprob.theory.grokking.theory import histogram_edges
from fieldprob.theory.setting import setting
from fieldprob.theory.tilted import Neuron, Neurons

_NAME = "adaptation"


def on_data(
    net: Any,
    task: Any,
    teacher: HermiteTeacher,
    *,
    edges: Any = None,
    threshold: float = 0.5,
    degrees: tuple[int, ...] = (),
    samples: int = 12_000,
    key: Any = None,
) -> Prediction:
    """`theory.adaptation` of a data set, with the statistics of overlaps that `mean_field` has for a population.

    What is predicted scatters from one data set to another, and with it what is sampled.

    Args:
        net: as in `mean_field`.
        task: a `fieldprob.Task` with one output, of Gaussian inputs that span all directions.
        teacher: what the labels are of; noiseless or not.
        edges, threshold: as in `mean_field`.
        degrees: as in `mean_field`.
        samples: neurons drawn.
        key: a JAX key.

    Returns:
        The `Prediction` of `theory.adaptation`, and `residual` (mode), of fresh Gaussian inputs, `overlap_histogram`
        (bin), `specialised_fraction`, `overlap_second_moment`, all with their standard errors.

    Raises:
        TypeError, ValueError: as `mean_field` and `theory.adaptation`; inputs that do not span all directions.

    Source: theory 04, (3.19), §4.3.

    >>> import jax
    >>> import fieldprob as fp
    >>> task = fp.tasks.cubic_teacher(40, 5, cubic=-1.2 * 6**0.5, noise_variance=1.0)
    >>> net = fp.Mlp(width=100, activation="erf", weight_variance=0.25, readout_variance=0.01)
    >>> teacher = fp.tasks.HermiteTeacher((0, 1, 0, -1.2))
    >>> found = on_data(net, task, teacher, samples=2000, key=jax.random.key(0))
    >>> found.mean["residual"].shape, found.dims["residual"]
    ((2,), ('mode',))
    """
    problem = setting(_NAME, net, task, depth=1)
    neuron, data = neuron_and_data(_NAME, problem)
    inputs = problem.X.shape[1]
    if neuron.coordinates.shape[1] < inputs or neuron.basis.shape[0] > inputs:
        raise ValueError(
            f"the points span {neuron.directions} of {inputs} directions, with a bias as one more: give more points "
            "than inputs, and a network without biases."
        )
    population = Population(problem.points, 1.0, 0.0, measure=Gaussian(inputs), target=teacher)
    modes = grokking_setting(_NAME, net, population, degrees)
    bins, threshold = histogram_edges(edges), real("threshold", threshold, minimum=0.0)
    saddle = find_saddle(_NAME, neuron, data, "importance", samples, key)
    prediction = saddle_prediction(_NAME, problem, neuron, data, saddle, "tree")

    observe = _observer(neuron, data, modes, teacher, bins, threshold)
    mean, error = _evaluate(observe, neuron, data, saddle)
    return replace(
        prediction,
        mean=prediction.mean | mean,
        error=prediction.error | error,
        dims=prediction.dims | {"residual": ("mode",), "overlap_histogram": ("bin",)},
        coords=prediction.coords | {"mode": modes.degrees, "bin": ((bins[1:] + bins[:-1]) / 2).tolist()},
    )


def _observer(neuron: Neuron, data: Data, modes: Setting, teacher: HermiteTeacher, bins: np.ndarray, threshold: float):
    """(neurons, measure) -> the statistics."""

    def observe(neurons: Neurons, at: Measure) -> dict[str, Float[Array, "..."]]:
        m = along_teacher(neurons.w @ neuron.basis.T, teacher)
        q = jnp.sum(neurons.w**2, axis=1)
        h = overlaps(neuron.activation, m, q, modes.degrees)
        inside = (m[:, None] >= bins[:-1]) & (m[:, None] < bins[1:])
        return {
            "residual": (modes.target - data.G * h @ (at.probability * at.u)) / modes.norms,
            "overlap_histogram": at.probability @ inside / np.diff(bins),
            "specialised_fraction": at.probability @ (jnp.abs(m) > threshold),
            "overlap_second_moment": at.probability @ m**2,
        }

    return observe


def _evaluate(observe, neuron: Neuron, data: Data, saddle: Saddle):
    at = measure_at(saddle.tau, neuron, saddle.neurons, data)
    return observe(saddle.neurons, at), influence_errors(observe, neuron, saddle.neurons, data, saddle.tau)
