"""`mean_field`: the posterior of a population network, by the law of one of its neurons."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from fieldprob.networks.overlaps import direction, features, zonal
from fieldprob.prediction import Prediction
from fieldprob.tasks.arguments import count, real
from fieldprob.theory.grokking import loop
from fieldprob.theory.grokking.dual import Dual, solve, tilted
from fieldprob.theory.grokking.neuron import Panels, neurons, panels, require_resolved
from fieldprob.theory.grokking.setting import Setting, setting
from fieldprob.theory.solvers import require_converged
from fieldprob.theory.tilted import slopes

_NAME = "grokking mean field"
_ORDERS = {
    "tree": "leading in inputs/width and inputs/points at fixed effective points",
    "one-loop": "first order in inputs/width, leading in inputs/points at fixed effective points",
}


class Solution(NamedTuple):
    """The self-consistent field of a network and the law of its neurons.

    `field` are effective points times the residual, in orthonormal polynomials of `degrees`: the T of the decoupled
    density prior(w) exp[gamma (T . h(w))² / 2] (04 (2.9)), gamma = `readout_weight_variance`.
    """

    degrees: tuple[int, ...]
    field: Float[Array, "*points degrees"]
    readout_weight_variance: Any


def field(
    net: Any, population: Any, *, degrees: tuple[int, ...] = (), extent: float | None = None, radii: int = 40
) -> Solution:
    """The conjugate field of each degree at the mean-field solution; arguments and errors as in `mean_field`.

    >>> import fieldprob as fp
    >>> net = fp.Mlp(width=200, activation="erf", weight_variance=0.25, readout_variance=0.02)
    >>> teacher = fp.tasks.HermiteTeacher((0, 1, 0, -1.2))
    >>> task = fp.tasks.Population(1200, 1.0, 0.0, measure=fp.tasks.Gaussian(20), target=teacher)
    >>> field(net, task).degrees
    (1, 3)
    """
    problem = setting(_NAME, net, population, degrees)
    rule = _panels(problem, np.zeros(0), 0.5, extent)
    found = _require(problem, rule, _solutions(problem, rule, radii, "tree"))
    values = found["field"]
    return Solution(problem.degrees, values if len(problem.sizes) > 1 else values[0], problem.gamma)


def mean_field(
    net: Any,
    population: Any,
    *,
    order: str = "tree",
    degrees: tuple[int, ...] = (),
    edges: Any = None,
    threshold: float = 0.5,
    extent: float | None = None,
    radii: int = 40,
) -> Prediction:
    """Grokking: what a network of one hidden layer learns of a single-index polynomial, at fixed effective points.

    Given the residual of the network its neurons are independent, each with overlap m = w . teacher. As points, noise
    or width are varied, side wells of the law of m become as deep as the one at zero, and a share of the neurons moves
    there: they learn what the others cannot. The residual solves a concave problem, so that the solution is unique and
    two wells at once are a mixture of neurons in one network, never two states of it. The law of one neuron is exact
    in the number of inputs; functions of the inputs across the teacher are left out of the residual, which moves it
    by 4 % at 2 inputs and by less than a thousandth at 20.

    Args:
        net: a `fieldprob.Mlp` with one hidden layer and no biases, of any activation that does not grow faster than
            linearly; readout_variance is 04's sigma_a², or that times chi.
        population: a `fieldprob.Population` of Gaussian(d) or Sphere(d) inputs with a `tasks.HermiteTeacher`, no label
            noise; with several sizes a curve in points. Only points / noise_variance matters.
        order: "tree", or "one-loop" for the first correction in inputs/width.
        degrees: more degrees of the residual. Those of the target are kept, and all below its highest in which neurons
            respond; a neuron's response in higher degrees, which the target does not have, is left out unless given.
        edges: of the bins of `overlap_histogram`; 81 from -2 to 2 unless given.
        threshold: of |m| above which a neuron counts as specialised.
        extent: largest |m| of the quadrature; 3 or 10 standard deviations of the prior unless given.
        radii: quadrature nodes of |w|² - m².

    Returns:
        A `Prediction`, with a leading dimension `points` for several sizes, of the posterior means `residual` (mode):
        coefficients of target - f in monic orthogonal polynomials of the degrees `mode` (He_k; 04's b and c);
        `overlap_histogram` (bin), a density in m of one neuron, with centres of bins as coordinates;
        `specialised_fraction`, the probability of |m| > threshold; `overlap_second_moment`, E m²; `test_error` of the
        mean predictor, the squared residual, and `test_loss`, with the posterior variance (to leading order) added;
        with one size also the log evidence of the data (04 (3.30)), averaged over data sets. Differentiable in the
        variances of network and noise and in the teacher.

    Raises:
        TypeError: not an `Mlp` or not a `Population`, or a target without coefficients.
        ValueError: JAX is in float32; biases, depth, label noise or a measure that the theory is not for; an activation
            that grows faster than linearly; the quadrature does not reach far enough; no convergence.

    Source: Rubin, Seroussi & Ringel, arXiv:2310.03789, with the corrections of theory 04, (3.12)-(3.34).

    >>> import fieldprob as fp
    >>> net = fp.Mlp(width=200, activation="erf", weight_variance=0.25, readout_variance=0.02)
    >>> teacher = fp.tasks.HermiteTeacher((0, 1, 0, -1.2))
    >>> task = fp.tasks.Population(1200, 1.0, 0.0, measure=fp.tasks.Gaussian(20), target=teacher)
    >>> print(mean_field(net, task).mean["residual"].round(4))
    [ 0.4135 -1.1668]
    """
    if order not in _ORDERS:
        raise ValueError(f"order = {order!r}: give 'tree' or 'one-loop'.")
    bins = histogram_edges(edges)
    threshold = real("threshold", threshold, minimum=0.0)
    problem = setting(_NAME, net, population, degrees)
    rule = _panels(problem, bins, threshold, extent)
    found = _require(problem, rule, _solutions(problem, rule, radii, order))
    means = _statistics(problem, rule, found, bins, threshold)
    prefix = ("points",) if len(problem.sizes) > 1 else ()
    if not prefix:
        means = jax.tree.map(lambda x: x[0], means)
    last = {"residual": ("mode",), "overlap_histogram": ("bin",)}
    coords: dict[str, Any] = {"mode": problem.degrees, "bin": ((bins[1:] + bins[:-1]) / 2).tolist()}
    return Prediction(
        theory=_NAME if order == "tree" else f"{_NAME} (one-loop)",
        order=_ORDERS[order],
        source="arXiv:2310.03789; theory 04, (3.13), (3.17)" + (", (3.32)-(3.34)" if order == "one-loop" else ""),
        mean=means,
        log_evidence=None if prefix else found["log_evidence"][0] - _noise_entropy(problem),
        dims={name: prefix + last.get(name, ()) for name in means},
        coords=coords | ({"points": problem.sizes} if prefix else {}),
    )


def histogram_edges(edges: Any) -> Float[np.ndarray, " edges"]:
    """Edges of the bins of `overlap_histogram`; raises a ValueError unless they increase."""
    bins = np.linspace(-2, 2, 81) if edges is None else np.asarray(edges, float)
    if bins.ndim != 1 or len(bins) < 2 or not np.all(np.diff(bins) > 0):
        raise ValueError(f"edges is {edges!r}: give at least two increasing numbers.")
    return bins


def _panels(problem: Setting, bins, threshold: float, extent: float | None) -> Panels:
    if extent is None:
        spread = 0.0 if isinstance(problem.variance, Tracer) else float(np.sqrt(problem.variance))
        extent = max(3.0, 10 * spread)
    furthest = max(threshold, *np.abs(bins), 0.0)
    if not real("extent", extent) > furthest:
        raise ValueError(f"extent = {extent:g} does not reach the bins and the threshold: give more than {furthest:g}.")
    return panels(bins, threshold, float(extent), problem.variance)


def _solutions(problem: Setting, rule: Panels, radii: int, order: str) -> dict[str, Array]:
    radii = count("radii", radii, minimum=2)
    static = _Static(problem.measure, problem.degrees, rule, radii, order, slopes(problem.activation))
    numbers = (jnp.asarray(x, float) for x in (problem.width, problem.gamma, problem.kappa, problem.variance))
    return _solve(static, problem.activation, problem.target, *numbers)


class _Static:
    """What is compiled in; equal for equal content."""

    def __init__(self, measure, degrees, rule: Panels, radii: int, order: str, slopes: tuple[float, float]):
        self.measure, self.degrees, self.rule, self.radii, self.order = measure, degrees, rule, radii, order
        self.slopes = slopes
        kind = (type(measure).__name__, measure.inputs)
        self._key = (kind, degrees, rule.edges.tobytes(), rule.m.tobytes(), radii, order, slopes)

    def __hash__(self):
        return hash(self._key)

    def __eq__(self, other):
        return isinstance(other, _Static) and self._key == other._key


@eqx.filter_jit
def _solve(static: _Static, activation, target, width, gamma, kappas, variance) -> dict[str, Array]:
    d = static.measure.inputs
    prior = neurons(static.rule, d, variance, static.radii)
    q = prior.m**2 + prior.r
    response = features(activation, prior.m, q, static.degrees, static.measure)
    h = response.overlap.reshape(len(static.degrees), -1)
    across = response.across.reshape(len(response.across), -1)
    rest = jnp.clip(response.power.reshape(-1) - jnp.sum(across**2, axis=0) - jnp.sum(h**2, axis=0), 0.0)
    others = loop.Rest(across, rest, d - 1)
    growth = jnp.sqrt(variance) * _growth(static.slopes, static.degrees, static.measure)
    dual = Dual(h, prior.log_prior.reshape(-1), growth, target, gamma, width)

    def at_size(kappa):
        T, converged = solve(kappa, dual)
        at = tilted(T, kappa, dual)
        H = loop.spectrum(T, at, kappa, dual, others)
        probability, mean = at.probability, T
        if static.order == "one-loop":
            fewer = dual._replace(width=width - 1)
            T_fewer, converged_fewer = solve(kappa, fewer)
            converged = converged & converged_fewer
            mean = loop.shifted(T, kappa, dual, others)
            probability = loop.conditional(T_fewer, loop.shifted(T_fewer, kappa, fewer, others), kappa, fewer, others)
        value = kappa * T @ T / 2 - T @ target + width * at.log_normaliser
        return {
            "field": mean,
            "converged": converged,
            "probability": probability.reshape(prior.m.shape),
            "posterior_variance": loop.posterior_variance(kappa, H, others),
            "log_evidence": value - loop.log_determinant(kappa, H, others) / 2,
        }

    return jax.lax.map(at_size, kappas)


def _growth(slopes, degrees: tuple[int, ...], measure) -> Float[Array, "degrees directions"]:
    """h / |w| as |w| grows, in directions of every angle with the teacher."""
    plus, minus = slopes
    rule = direction(measure, max(degrees) + 1)
    linear = np.where(rule.z > 0, plus, -minus) * rule.z * rule.weights
    alpha = jnp.asarray(np.stack([rule.polynomials[k] @ linear for k in degrees]))
    return alpha[:, None] * zonal(jnp.linspace(-1.0, 1.0, 401), degrees, measure)


def _noise_entropy(problem: Setting):
    return problem.sizes[0] / 2 * jnp.log(2 * jnp.pi * problem.noise)


def _require(problem: Setting, rule: Panels, found: dict[str, Array]) -> dict[str, Array]:
    converged = found.pop("converged")[:, None]
    field = require_converged(f"theory {_NAME!r}", converged, "are the variances in range?", found["field"])
    require_resolved(_NAME, found["probability"], rule, problem.inputs)
    return found | {"field": field}


def _statistics(problem: Setting, rule: Panels, found: dict[str, Array], bins, threshold: float) -> dict[str, Array]:
    residual = found["field"] * problem.kappa[:, None]
    density = jnp.sum(found["probability"], axis=2)
    middle = (rule.edges[1:] + rule.edges[:-1])[rule.panel] / 2
    inside = jnp.asarray((middle > bins[:-1, None]) & (middle < bins[1:, None]), float)
    error = jnp.sum(residual**2, axis=1)
    return {
        "residual": residual / problem.norms,
        "overlap_histogram": density @ inside.T / jnp.diff(jnp.asarray(bins)),
        "specialised_fraction": density @ jnp.asarray(np.abs(middle) > threshold, float),
        "overlap_second_moment": density @ jnp.asarray(rule.m**2),
        "test_error": error,
        "test_loss": error + found["posterior_variance"],
    }
