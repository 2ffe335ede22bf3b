"""The tilted measure of one neuron.

Given the rest of the network, a neuron that sees the points X has weights of density (theory 02, (39))

    p(w) ~ N(w; 0, variance I) exp(1/2 phi^T M phi),   phi = phi(X w),   M = vectors diag(coefficients) vectors^T.

It is normalisable for every M if phi is bounded; if |phi| grows linearly, for small M only (02 (50)); never if phi
grows faster, which is refused. Averages are sums over a fixed set of neurons (`Neurons`, made in `neuron_sets`), on
which the log normaliser stays convex in the tilt.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.scipy.special import logsumexp
from jaxtyping import Float

from fieldprob.activations import Activation
from fieldprob.theory.setting import Setting

SMALLEST_SAMPLE_SIZE = 200.0
BLOCKS = 16  # neuron i of a sampled set is of block i modulo BLOCKS, for standard errors
_CHUNK = 4096


class Neuron(eqx.Module):
    """The prior of a neuron and the points it sees, in the directions that these span.

    A hidden bias is one more input. `coordinates` are the points in the orthonormal `basis` of their span; `inputs` the
    number of inputs without the bias; `variance` that of each weight.
    """

    coordinates: Float[Array, "all_points directions"]
    basis: Float[Array, "columns directions"]
    variance: Float[Array, ""]
    activation: Activation
    points: int = eqx.field(static=True)
    inputs: int = eqx.field(static=True)

    @property
    def directions(self) -> int:
        return self.coordinates.shape[1]

    @property
    def at_data(self) -> "Neuron":
        """The same neuron, which sees the training points only."""
        return eqx.tree_at(lambda neuron: neuron.coordinates, self, self.coordinates[: self.points])

    def features(self, w: Float[Array, "*samples directions"]) -> Float[Array, "*samples points"]:
        """Activations at the training points."""
        return self.activation.phi(w @ self.coordinates[: self.points].T)

    def weight_covariance(self, second_moment: Float[Array, "directions directions"]) -> Float[Array, "inputs inputs"]:
        """E[w w^T] over the inputs; directions orthogonal to the points keep their prior."""
        E = self.basis[: self.inputs]
        shift = second_moment - self.variance * jnp.eye(self.directions)
        return self.variance * jnp.eye(self.inputs) + E @ shift @ E.T


class Neurons(NamedTuple):
    """A weighted set of neurons: E_prior[g] = sum of exp(log_weights) g(w)."""

    w: Float[Array, "samples directions"]
    log_weights: Float[Array, " samples"]


class Tilt(NamedTuple):
    """The tilted measure on a set of neurons: `log_normaliser` ln E_prior[exp(1/2 phi^T M phi)], and the `probability`
    of each neuron under it."""

    log_normaliser: Float[Array, ""]
    probability: Float[Array, " samples"]

    @property
    def effective_sample_size(self) -> Float[Array, ""]:
        return 1 / jnp.sum(self.probability**2)


def one_neuron(theory: str, problem: Setting) -> Neuron:
    """The neuron of a network with one hidden layer.

    Raises:
        ValueError: its activation has a random phase, or grows faster than linearly.
    """
    (activation,) = problem.activations
    require_normalisable(theory, activation)
    X, inputs = problem.X, problem.X.shape[1]
    variance = problem.weight_variance[0] / inputs
    bias = problem.bias_variance[0]
    if isinstance(bias, Tracer) or np.any(np.asarray(bias)):
        X = jnp.concatenate([X, jnp.full((X.shape[0], 1), 1.0) * jnp.sqrt(bias / variance)], axis=1)
    basis = _span(X)
    return Neuron(X @ basis, basis, jnp.asarray(variance, float), activation, problem.points, inputs)


def _span(X) -> Float[Array, "columns directions"]:
    # a change of coordinates, exact in itself: no derivative of X passes through it
    if isinstance(X, Tracer):
        return jnp.eye(X.shape[1])
    _, singular, rows = np.linalg.svd(np.asarray(X), full_matrices=False)
    rank = max(1, int(np.sum(singular > singular[0] * max(X.shape) * np.finfo(float).eps)))
    return jnp.asarray(rows[:rank].T)


def slopes(activation: Activation) -> tuple[float, float]:
    """phi(z) / |z| as z goes to plus and minus infinity; infinite where phi grows faster than linearly.

    >>> from fieldprob.activations import get
    >>> slopes(get("relu")), slopes(get("square"))[0]
    ((1.0, 0.0), inf)
    """
    far = np.array([1e12, -1e12, 1e6, -1e6])
    with jax.ensure_compile_time_eval(), np.errstate(over="ignore"):
        ratio = np.asarray(_values(activation, far), float) / np.abs(far)
    grows = ~(np.abs(ratio[:2]) < 1.5 * np.abs(ratio[2:]) + 1e-3)
    plus, minus = np.where(grows, np.inf, np.where(np.abs(ratio[:2]) < 1e-3, 0.0, ratio[:2])).tolist()
    return plus, minus


@eqx.filter_jit  # as one call, which a transformation that is under way leaves alone
def _values(activation: Activation, z):
    return activation.phi(z)


def require_normalisable(theory: str, activation: Activation) -> None:
    """Raise a ValueError unless the tilted measure exists for small tilts."""
    if activation.random_phase:
        raise ValueError(f"theory {theory!r} is for neurons without a random phase, and {activation.name!r} has one.")
    if np.isinf(slopes(activation)).any():
        raise ValueError(
            f"activation {activation.name!r} grows faster than linearly, so that the tilted measure of a neuron cannot "
            f"be normalised and theory {theory!r} does not exist: sample the posterior (fp.sample), or use "
            "fp.theory.perturbative at standard scaling."
        )


def tilt(features: Float[Array, "samples points"], neurons: Neurons, vectors, coefficients) -> Tilt:
    """The tilted measure on a set of neurons.

    Args:
        features: their activations at the training points.
        neurons: the set.
        vectors: (points, rank).
        coefficients: (rank,), of any sign: M = vectors diag(coefficients) vectors^T.

    >>> neurons = Neurons(jnp.zeros((2, 1)), jnp.log(jnp.array([0.5, 0.5])))
    >>> measure = tilt(jnp.array([[0.0], [1.0]]), neurons, jnp.ones((1, 1)), jnp.array([2 * jnp.log(3.0)]))
    >>> measure.probability.round(6).tolist(), round(float(jnp.exp(measure.log_normaliser)), 6)
    ([0.25, 0.75], 2.0)
    """
    exponent = neurons.log_weights + ((features @ vectors) ** 2 @ coefficients) / 2
    log_normaliser = logsumexp(exponent)
    return Tilt(log_normaliser, jnp.exp(exponent - log_normaliser))


def over_neurons(function, neuron: Neuron, w: Float[Array, "samples directions"]) -> Float[Array, " samples"]:
    """`function` of the activations of some neurons at the training points, (neurons, points) -> (neurons,), of all."""
    part = jax.checkpoint(lambda chunk: function(neuron.features(chunk[0])))
    return jax.lax.map(part, _chunks(w)).reshape(-1)[: len(w)]


def first_moment(
    neuron: Neuron, w: Float[Array, "samples directions"], weights: Float[Array, " samples"]
) -> Float[Array, " all_points"]:
    """Sum over neurons of weights phi at all points."""
    return _sum_in_chunks(lambda phi, a: phi @ a[:, 0], neuron, w, weights[:, None])


def second_moments(
    neuron: Neuron, w: Float[Array, "samples directions"], weights: Float[Array, "samples sets"]
) -> Float[Array, "sets all_points all_points"]:
    """Sum over neurons of weights phi phi^T at all points, for each set of weights."""
    return _sum_in_chunks(lambda phi, a: jnp.stack([(phi * c) @ phi.T for c in a.T]), neuron, w, weights)


def _sum_in_chunks(function, neuron: Neuron, w, weights):
    """The sum of `function` of activations (all points, samples) and weights (samples, sets)."""
    split = _chunks(w, weights)
    part = jax.checkpoint(lambda chunk: function(neuron.activation.phi(neuron.coordinates @ chunk[0].T), chunk[1]))
    shape = jax.eval_shape(part, jax.tree.map(lambda x: x[0], split))
    return jax.lax.scan(lambda total, chunk: (total + part(chunk), None), jnp.zeros(shape.shape, shape.dtype), split)[0]


def _chunks(*arrays: Float[Array, "samples _"]):
    # activations are never all held at once
    chunks = -(-len(arrays[0]) // _CHUNK)
    padding = ((0, -len(arrays[0]) % chunks), (0, 0))
    return tuple(jnp.pad(x, padding).reshape(chunks, -1, x.shape[1]) for x in arrays)


def require_sample_size(theory: str, sample_size) -> None:
    """Raise a ValueError where an effective sample size is too small to trust (unless it is traced)."""
    if not isinstance(sample_size, Tracer) and not float(sample_size) >= SMALLEST_SAMPLE_SIZE:
        raise ValueError(
            f"theory {theory!r}: the effective sample size of the tilted neurons is {float(sample_size):.0f}, below "
            f"{SMALLEST_SAMPLE_SIZE:.0f}: give more samples, average='particles', or closure='gaussian'."
        )


# --- the domain -------------------------------------------------------------------------------------------------------


def largest_growth(neuron: Neuron, w: Float[Array, "samples directions"], vector, coefficient) -> Float[Array, ""]:
    """c = max over unit vectors n of coefficient variance (vector . phi(X n))^2, phi its linearly growing part.

    The measure tilted by M = coefficient vector vector^T is normalisable where c < 1 (02 (50)). The maximum is sought
    by ascent from those directions of the neurons `w` in which it is largest.
    """
    X = neuron.coordinates[: neuron.points]
    rising = growing_part(neuron.activation)
    return largest_on_sphere(lambda n: coefficient * neuron.variance * (rising(n @ X.T) @ vector) ** 2, w)


def growing_part(activation: Activation):
    """The part of phi that grows linearly, as a function."""
    plus, minus = slopes(activation)
    return lambda h: plus * jax.nn.relu(h) + minus * jax.nn.relu(-h)


def largest_on_sphere(function, w: Float[Array, "samples directions"]) -> Float[Array, ""]:
    """The maximum of a function of unit vectors, (..., directions) -> (...), as `ascend_on_sphere` finds it."""
    return jnp.max(ascend_on_sphere(function, w)[1])


def ascend_on_sphere(
    function, w: Float[Array, "samples directions"]
) -> tuple[Float[Array, "starts directions"], Float[Array, " starts"]]:
    """Unit vectors uphill of those directions of `w` in which a function of unit vectors is largest, and its values."""
    units = w / jnp.linalg.norm(w, axis=1, keepdims=True)
    best = units[jnp.argsort(-jax.lax.map(function, units, batch_size=_CHUNK))[:32]]
    gradient = jax.grad(lambda n: jnp.sum(function(n)))

    def ascend(n, size):  # to a maximum that may be a kink: steps of shrinking size
        g = gradient(n)
        norm = jnp.linalg.norm(g, axis=1, keepdims=True)
        n = n + size * g / jnp.where(norm > 0, norm, 1.0)
        n = n / jnp.linalg.norm(n, axis=1, keepdims=True)
        return n, function(n)

    best, values = jax.lax.scan(ascend, best, 0.3 * 0.8 ** jnp.arange(80))
    return best, values[-1]
