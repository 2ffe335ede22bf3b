"""Mean field on one data set: kernel adaptation, with neurons drawn where they specialise.

The measure of a neuron and the field of the data are those of `theory.adaptation` (04 (3.19)). What is added here is a
proposal that knows of the wells, which a Gaussian does not, and the statistics of overlaps with the teacher.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fieldprob.networks.overlaps import direction, overlaps, target_coefficients
from fieldprob.prediction import Prediction
from fieldprob.tasks import Gaussian, HermiteTeacher, Population
from fieldprob.tasks.arguments import real
from fieldprob.theory.adaptation.averages import Saddle, find_saddle
from fieldprob.theory.adaptation.nonlinear import Data, Measure, influence_errors, measure_at
from fieldprob.theory.adaptation.theory import neuron_and_data, saddle_prediction
from fieldprob.theory.grokking.theory import histogram_edges, mean_field
from fieldprob.theory.neuron_sets import Wells, about_wells, log_density_about_wells, wells
from fieldprob.theory.setting import setting
from fieldprob.theory.tilted import Neuron, Neurons, over_neurons

_NAME = "adaptation"
_BROAD, _BROAD_SHARE = 0.5, 0.25


def on_data(
    net: Any,
    task: Any,
    teacher: HermiteTeacher,
    *,
    edges: Any = None,
    threshold: float = 0.5,
    degrees: tuple[int, ...] = (),
    extent: float | None = None,
    samples: int = 12_000,
    key: Any = None,
) -> Prediction:
    """`theory.adaptation` of a data set, with the statistics of overlaps that `mean_field` has for a population.

    Neurons are drawn from the overlaps that the population's mean field predicts, broadened, and from the prior in all
    other directions; half of them from normal laws about the wells, which lean towards what the labels of the data have
    in other directions. What is predicted scatters from one data set to another, and with it what is sampled.

    Args:
        net: as in `mean_field`.
        task: a `fieldprob.Task` with one output, of Gaussian inputs that span all directions.
        teacher: what the labels are of; noiseless or not.
        edges, threshold: as in `mean_field`.
        degrees, extent: as in `mean_field`.
        samples: neurons drawn.
        key: a JAX key.

    Returns:
        The `Prediction` of `theory.adaptation`, and `residual` (mode), of fresh Gaussian inputs, `overlap_histogram`
        (bin), `specialised_fraction`, `overlap_second_moment`, all with their standard errors.

    Raises:
        TypeError, ValueError: as `mean_field` and `theory.adaptation`; inputs that do not span all directions.

    Source: theory 04, (3.19), §4.3.

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
    noise = float(jnp.mean(jnp.diag(problem.noise_covariance)))
    population = Population(problem.points, noise * net.chi, 0.0, measure=Gaussian(inputs), target=teacher)
    expected = mean_field(net, population, degrees=degrees, extent=extent)
    kept = tuple(int(str(k)) for k in expected.coords["mode"])
    bins, threshold = histogram_edges(edges), real("threshold", threshold, minimum=0.0)
    unit = _direction(teacher, inputs)
    law = (np.asarray(expected.coords["bin"]), np.asarray(expected.mean["overlap_histogram"]))
    first = find_saddle(_NAME, neuron, data, _proposal(unit, *law), samples, key)
    draw = _proposal(unit, *law, _wells(neuron, data, first, unit, threshold))
    saddle = find_saddle(_NAME, neuron, data, draw, samples, jax.random.fold_in(key, 1))
    prediction = saddle_prediction(_NAME, problem, neuron, data, saddle, "tree")

    measure = Gaussian(inputs)
    target = target_coefficients(teacher.link, measure, max(kept) + 1)[np.array(kept)]
    norms = jnp.asarray(direction(measure, max(kept) + 1).norms[np.array(kept)])
    observe = _observer(neuron, data, kept, (target, norms, jnp.asarray(unit)), bins, threshold)
    mean, error = _evaluate(observe, neuron, data, saddle)
    return replace(
        prediction,
        mean=prediction.mean | mean,
        error=prediction.error | error,
        dims=prediction.dims | {"residual": ("mode",), "overlap_histogram": ("bin",)},
        coords=prediction.coords | {"mode": kept, "bin": ((bins[1:] + bins[:-1]) / 2).tolist()},
    )


def _direction(teacher: HermiteTeacher, inputs: int) -> np.ndarray:
    return np.eye(inputs)[0] if teacher.direction is None else np.asarray(teacher.direction)


def _wells(neuron: Neuron, data: Data, saddle: Saddle, unit: np.ndarray, threshold: float) -> Wells:
    """The wells uphill of the likeliest neurons on either side and in the middle."""
    w = saddle.neurons.w
    m = w @ (jnp.asarray(unit) @ neuron.basis)
    u = over_neurons(lambda phi: phi @ saddle.tau, neuron, w)
    coupling = data.G / data.N
    log_density = coupling * u**2 / 2 - jnp.sum(w**2, axis=1) / (2 * neuron.variance)
    parts = (m > threshold, m < -threshold, jnp.abs(m) <= threshold)
    starts = [w[jnp.argmax(jnp.where(part, log_density, -jnp.inf))] for part in parts]
    return wells(neuron, saddle.tau, coupling, jnp.stack(starts))


def _proposal(unit: np.ndarray, centres: np.ndarray, density: np.ndarray, peaks: Wells | None = None):
    """(neuron, samples, key) -> Neurons: overlaps from a density smoothed by its bins, in part from a broad normal, and
    the prior across; half of the neurons from the wells."""
    width = centres[1] - centres[0]
    share = np.append((1 - _BROAD_SHARE) * density / density.sum(), _BROAD_SHARE)
    middle, scale = jnp.asarray(np.append(centres, 0.0)), jnp.asarray(np.append(np.full(len(centres), width), _BROAD))
    log_share = jnp.log(jnp.asarray(share))

    def draw(neuron: Neuron, samples: int, key) -> Neurons:
        key_part, key_along, key_rest, key_wells = jax.random.split(key, 4)
        part = jax.random.choice(key_part, len(share), (samples,), p=jnp.asarray(share))
        m = middle[part] + scale[part] * jax.random.normal(key_along, (samples,))
        w = jnp.sqrt(neuron.variance) * jax.random.normal(key_rest, (samples, neuron.directions))
        e = jnp.asarray(unit) @ neuron.basis
        w = w + (m - w @ e)[:, None] * e
        if peaks is not None:
            w = w.at[::2].set(about_wells(neuron, peaks, len(w[::2]), key_wells))
        m = w @ e
        parts = log_share - (m[:, None] - middle) ** 2 / (2 * scale**2) - jnp.log(scale)
        # log density over that of the prior
        along = m**2 / (2 * neuron.variance) + jnp.log(neuron.variance) / 2
        ratio = jax.nn.logsumexp(parts, axis=1) + along
        if peaks is not None:
            square = jnp.sum(w**2, axis=1) / neuron.variance + neuron.directions * jnp.log(2 * jnp.pi * neuron.variance)
            ratio = jnp.logaddexp(ratio, log_density_about_wells(peaks, w) + square / 2) - jnp.log(2.0)
        return Neurons(w, -ratio - jnp.log(samples))

    return draw


def _observer(neuron: Neuron, data: Data, degrees: tuple[int, ...], polynomials, bins: np.ndarray, threshold: float):
    """(neurons, measure) -> the statistics."""
    target, norms, unit = polynomials

    def observe(neurons: Neurons, at: Measure) -> dict[str, Float[Array, "..."]]:
        m = neurons.w @ (unit @ neuron.basis)
        q = jnp.sum(neurons.w**2, axis=1)
        h = overlaps(neuron.activation, m, q, degrees)
        inside = (m[:, None] >= bins[:-1]) & (m[:, None] < bins[1:])
        return {
            "residual": (target - data.G * h @ (at.probability * at.u)) / norms,
            "overlap_histogram": at.probability @ inside / np.diff(bins),
            "specialised_fraction": at.probability @ (jnp.abs(m) > threshold),
            "overlap_second_moment": at.probability @ m**2,
        }

    return observe


def _evaluate(observe, neuron: Neuron, data: Data, saddle: Saddle):
    at = measure_at(saddle.tau, neuron, saddle.neurons, data)
    return observe(saddle.neurons, at), influence_errors(observe, neuron, saddle.neurons, data, saddle.tau)
