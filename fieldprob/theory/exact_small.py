"""The exact posterior of a network of one hidden layer and any width on up to three points, by integration.

With the likelihood written through a conjugate field z, the readout and all neurons but one integrate out:

    p(y) = (2 pi)^-P int d^P s exp(-Phi(t + i s)),   Phi(z) = z^T y - z^T noise z / 2 - W(z),
    W(z) = N log E exp(G (z . phi)^2 / 2N),          G = readout_variance / chi,

for any real t: the exponential is entire where E is. t at the saddle of Phi leaves a positive peak to integrate over.
Moments of f are derivatives of W (theory 02, (24), (35), (53)).

The average over one neuron is taken in polar coordinates, cut at the rays where a pre-activation vanishes, so that a
kink of the activation is an end of a Gauss-Legendre rule.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import logsumexp
from jaxtyping import Float

from fieldprob.activations import Activation, Exp, Monomial
from fieldprob.activations.polar import radial_rule
from fieldprob.prediction import Prediction
from fieldprob.theory.setting import Setting, predict, setting
from fieldprob.theory.solvers import minimise

_NODES = {1: 161, 2: 81, 3: 41}  # contour nodes of each dimension, by the number of points
_ANGLES, _RADII = 24, 40  # of an arc between two rays
_REACH = 8.5  # standard deviations of the noise factor, exp(-s^T noise s / 2), that the contour covers
_BATCH = 64  # contour nodes at once
_UNTILTED = (Exp, Monomial)  # grow so fast that E exists on the imaginary axis only


class _Rule(NamedTuple):
    """How fine the integrals are: contour nodes of each dimension, angles of each arc, radii."""

    nodes: int
    angles: int
    radii: int

    def coarser(self) -> "_Rule":
        return _Rule(self.nodes * 3 // 8 * 2 + 1, self.angles * 3 // 4, self.radii * 3 // 4)


def exact_small(net, task, *, nodes: int | None = None) -> Prediction:
    """The exact posterior of one hidden layer of any width at up to three training points.

    The training points, and training and test points together, must depend on the weights of a neuron through at most
    two numbers: two inputs and no bias, one input with a bias, or two points in all.

    Args:
        net: an `Mlp` of depth 1, one output and no readout bias. Kinked activations are as accurate as smooth ones.
        task: a `Task` of at most three values at points.
        nodes: of the contour in each dimension; 161, 81 or 41 for one, two or three points unless given.

    Returns:
        A `Prediction` of `f`, `f_test` (mean, variance, covariance), `kernel_1` (theory 02's G <H>), its alignment, the
        losses and the log evidence. `error` and `variance_error` are the differences from a rule with 3/4 of the nodes
        in every direction, an upper estimate. For exponential and monomial activations the contour cannot be shifted
        and relative errors are 1e-16 / p(y): good for log evidences above about -20.

    Raises:
        ValueError: what `theory.setting` refuses; more points or dimensions than above; a random-phase activation.

    Source: theory 02, (53).

    >>> import fieldprob as fp, numpy as np
    >>> task = fp.Task(np.array([[1.2, -0.3], [0.4, 1.1]]), np.array([0.9, -0.6]), 0.3)
    >>> theory = fp.theory.exact_small(fp.Mlp(16, weight_variance=2.0, readout_variance=1.5), task)
    >>> bool(theory.error["f"].max() < 1e-8)
    True
    """
    problem = setting("exact_small", net, task, depth=1)
    if problem.points > 3:
        raise ValueError(f"the task has {problem.points} points: theory 'exact_small' is for at most three.")
    if problem.activations[0].random_phase:
        raise ValueError("theory 'exact_small' does not average over random phases: use another activation.")
    if nodes is not None and nodes < 9:
        raise ValueError(f"nodes={nodes}: give at least 9.")
    directions = _directions(problem)
    rule = _Rule(nodes or _NODES[problem.points], _ANGLES, _RADII)
    numbers = _Problem(
        problem.activations[0],
        directions,
        problem.y,
        problem.noise_covariance,
        jnp.asarray(problem.readout, float),
        jnp.asarray(problem.widths[0], float),
    )
    contour = _saddle(numbers, rule)
    fine, coarse = (_predict(problem, _integrate(numbers, contour, r)) for r in (rule, rule.coarser()))

    def gap(moment):
        return {name: jnp.abs(value - getattr(coarse, moment)[name]) for name, value in getattr(fine, moment).items()}

    return dataclasses.replace(fine, error=gap("mean"), variance_error=gap("variance"))


def _predict(problem: Setting, integrals) -> Prediction:
    f, second, kernel, log_evidence = integrals
    return predict(
        "exact_small",
        problem,
        exact=True,
        order="exact",
        source="theory 02, (53)",
        mean=f,
        covariance=second - jnp.outer(f, f),
        kernels={1: kernel},
        log_evidence=log_evidence,
    )


def _directions(problem: Setting) -> Float[Array, "all_points 2"]:
    """A with pre-activations A v for a standard normal v of two components."""
    points, inputs = problem.X.shape
    weight, bias = problem.weight_variance[0], problem.bias_variance[0]
    A = jnp.sqrt(weight / inputs) * problem.X
    if not isinstance(bias, float) or bias > 0:
        A = jnp.concatenate([A, jnp.broadcast_to(jnp.sqrt(bias), (points, 1))], axis=1)
    if A.shape[1] > points:
        eigenvalues, vectors = jnp.linalg.eigh(problem.kernel_0)
        A = vectors * jnp.sqrt(jnp.maximum(eigenvalues, 0))
    if A.shape[1] > 2:
        raise ValueError(
            f"{points} points, test points included, of {inputs} inputs depend on {A.shape[1]} numbers of a neuron: "
            "theory 'exact_small' is for two. Take two inputs without hidden bias, or two points in all."
        )
    return jnp.pad(A, ((0, 0), (0, 2 - A.shape[1])))


def _neurons(A: Float[Array, "all_points 2"], rule: _Rule) -> tuple[Array, Array]:
    """Pre-activations (neurons, all points) and weights of the rule for a standard normal v."""
    rays = jnp.sort(jnp.mod(jnp.arctan2(A[:, 0], -A[:, 1]), np.pi))
    arcs = jnp.diff(rays, append=rays[:1] + np.pi)
    x, w = np.polynomial.legendre.leggauss(rule.angles)
    angles = (rays[:, None] + arcs[:, None] * (1 + x) / 2).ravel()
    angular = (arcs[:, None] * w / (4 * np.pi)).ravel()
    radii, radial = radial_rule(rule.radii)
    v = radii[:, None, None] * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    h = v.reshape(-1, 2) @ A.T
    weights = (radial[:, None] * angular).ravel()
    return jnp.concatenate([h, -h]), jnp.concatenate([weights, weights])


def _contour(rule: _Rule, reach: Float[Array, ""], dimensions: int) -> tuple[Array, Array]:
    """Nodes (nodes, dimensions) and weights for twice the integral over a half space, the other half being the complex
    conjugate. Spaced as sinh: unit peaks and algebraic tails are both covered."""
    u = jnp.linspace(-1, 1, rule.nodes) * jnp.arcsinh(reach)
    s, w = jnp.sinh(u), jnp.cosh(u) * (u[1] - u[0])
    grid = jnp.stack(jnp.meshgrid(*[s] * dimensions, indexing="ij"), axis=-1).reshape(-1, dimensions)
    weights = jnp.prod(jnp.stack(jnp.meshgrid(*[w] * dimensions, indexing="ij")), axis=0).ravel()
    half = weights.size // 2
    weights = jnp.append(2 * weights[:half], weights[half])
    padding = -weights.size % _BATCH  # whole batches: one compilation of the integrand
    return jnp.pad(grid[: half + 1], ((0, padding), (0, 0))), jnp.pad(weights, (0, padding))


class _Problem(NamedTuple):
    """What the integrals need: G is the readout variance with its 1/chi, N the width."""

    activation: Activation
    directions: Array
    y: Array
    noise: Array
    G: Array
    N: Array

    def exponent(self, train, weights, z):
        """-Phi at a real z, convex; `train` are features (neurons, points)."""
        tilt = self.G / (2 * self.N) * (train @ z) ** 2
        return -z @ self.y + z @ self.noise @ z / 2 + self.N * logsumexp(tilt, b=weights)


@eqx.filter_jit
def _saddle(problem: _Problem, rule: _Rule) -> tuple[Array, Array]:
    """A real point for the contour to pass and a square root of the inverse Hessian there."""
    h, weights = _neurons(problem.directions, rule)
    train = problem.activation.phi(h)[:, : problem.y.size]
    exponent = partial(problem.exponent, train, weights)
    untilted = _inverse_root(problem.noise + problem.G * (train.T * weights) @ train)
    saddle = jnp.zeros_like(problem.y)
    if not isinstance(problem.activation, _UNTILTED):
        # any point will do: it need not be the exact saddle
        saddle = untilted @ minimise(lambda u, _: exponent(untilted @ u), saddle, tol=1e-6)[0]
    return saddle, _inverse_root(jax.hessian(exponent)(saddle))


@eqx.filter_jit
def _integrate(problem: _Problem, contour: tuple[Array, Array], rule: _Rule):
    """<f>, <f f^T>, the mean of kernel_1 and the log evidence."""
    activation, directions, y, noise, G, N = problem
    saddle, root = contour
    P = y.size
    h, weights = _neurons(directions, rule)
    phi = activation.phi(h)
    train, size = phi[:, :P], phi.shape[1]
    pairs = (phi[:, :, None] * phi[:, None, :]).reshape(-1, size**2)
    ones = jnp.ones((len(phi), 1))
    smallest = jnp.linalg.eigvalsh(root.T @ noise @ root)[0]
    nodes, measure = _contour(rule, _REACH / jnp.sqrt(smallest), P)
    top = problem.exponent(train, weights, saddle)

    def average(tilted, features):  # of real features under a complex measure
        return tilted.real @ features + 1j * (tilted.imag @ features)

    def at(node):
        s, weight = node
        z = saddle + 1j * (root @ s)
        p = train @ z
        tilted = weights * jnp.exp(G / (2 * N) * p**2)
        total, kernel = jnp.split(average(tilted, jnp.concatenate([ones, pairs], axis=1)), [1])
        density = weight * jnp.exp(-z @ y + z @ noise @ z / 2 + N * jnp.log(total[0]) - top)
        f = G * average(tilted * p, phi) / total
        kernel = G * kernel / total
        second = kernel + G**2 / N * average(tilted * p**2, pairs) / total + (1 - 1 / N) * jnp.outer(f, f).ravel()
        return jax.tree.map(lambda x: jnp.real(density * x), (jnp.ones(()), f, second, kernel))

    values = jax.lax.map(at, (nodes, measure), batch_size=_BATCH)
    total, f, second, kernel = jax.tree.map(lambda x: jnp.sum(x, axis=0), values)
    second, kernel = (x.reshape(size, size) / total for x in (second, kernel))
    log_evidence = top + jnp.log(total) + jnp.linalg.slogdet(root)[1] - P * np.log(2 * np.pi)
    return f / total, second, kernel, log_evidence


def _inverse_root(M: Array) -> Array:
    """R with R R^T = M^-1."""
    return jnp.linalg.inv(jnp.linalg.cholesky(M)).T
