"""First order in 1/N at fixed data: what kernels that fluctuate do to a posterior.

Given the hidden weights the outputs are Gaussian with the covariance C = kernel_L of the finite network. To first order
its prior has the mean K + m, with K the infinite-width limit, and the covariance G = kernel_covariance_L; data pull it
by the conjugate kernel E = (d d^T - R) / 2, with R = (K + noise)^-1 and d = R y. Any function of C then averages to

    g(K) + g' : (m + G : E) + g'' : G / 2,

for the predictor, its covariance, the kernels of every layer and the evidence (theory 01, E8-E11; for one hidden layer
theory 02, (35b), (51) and (52); theory 03, (28)-(31) and (39)-(41)). G is a sum over layers of Cov(phi phi) / N_l,
carried to the output by the derivative of the layers' kernel map, whose second derivative gives m.

Such a covariance is a sum of products Y x Z of perturbations of a kernel: either over the pairs of points, exactly, or
over one-neuron draws (theory 01, E12). All else is the same code.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Float

from fieldprob.activations.four_point import CLOSED, unit_covariance
from fieldprob.prediction import Prediction
from fieldprob.theory.setting import Setting, predict, setting

_TENSOR_POINTS = 24  # the most points for which "auto" takes the tensor: points^4 numbers
_BATCH = 64  # perturbations carried through the layers at once


def perturbative(
    net, task, *, method: str = "auto", neurons: int = 100_000, key: Array | None = None, nodes: int = 16
) -> Prediction:
    """The posterior of a network to first order in 1/N: fixed data, any depth, widths and activations.

    Valid while the correction is small: it is of order (discrepancy^2 / noise) / N, so it fails for small noise, for as
    many points as neurons, and in mean-field scaling (chi = N), where it does not shrink with N. Use
    `theory.rescaling` or `theory.adaptation` there.

    Args:
        net: an `Mlp` with one output and no readout bias; hidden biases enter through the kernels.
        task: a `Task` of values at points.
        method: "tensor" for the exact four-point functions of all quadruples of points (points^4 numbers, training and
            test points together), "neurons" for averages over draws of one neuron (points^2 numbers), "auto" for the
            tensor at up to 24 points if the four-point functions are closed forms.
        neurons: draws for each layer; the standard errors of "neurons" are in the prediction's `error` and
            `variance_error`.
        key: of the draws; needed by "neurons".
        nodes: of the quadrature for four-point functions that have no closed form, see `activations.four_point`.

    Returns:
        A `Prediction` of `f`, `f_test` (mean, variance, covariance), `kernel_0`..`kernel_L`, alignments, losses and the
        log evidence.

    Raises:
        ValueError: what `theory.setting` refuses; an unknown method; draws without a key; two hidden layers or more
            with an activation given as a callable with a kink; a variance that comes out negative.

    Source: theory 01, E1-E12; theory 03, (27)-(31), (39)-(41); Yaida 2020 (prior), Naveh et al., arXiv:2004.01190.

    >>> import fieldprob as fp
    >>> task = fp.tasks.linear_teacher(4, inputs=3, noise_variance=0.3, seed=0)
    >>> at = [fp.theory.perturbative(fp.Mlp(width=n), task).mean["f"] for n in (100, 200)]
    >>> limit = fp.theory.limit(fp.Mlp(width=100), task).mean["f"]
    >>> bool(abs((at[0] - limit) - 2 * (at[1] - limit)).max() < 1e-12)
    True
    """
    problem = setting("perturbative", net, task)
    kernels = net.limit_kernels(problem.X)
    if method not in ("auto", "tensor", "neurons"):
        raise ValueError(f"method is {method!r}: give 'auto', 'tensor' or 'neurons'.")
    if method == "auto":
        closed = all(isinstance(phi, CLOSED) for phi in problem.activations)
        method = "tensor" if closed and len(problem.X) <= _TENSOR_POINTS else "neurons"
    if method == "neurons" and (key is None or neurons < 2):
        raise ValueError(
            f"method 'neurons' with key={key}, neurons={neurons}: give a key, e.g. jax.random.key(0), and two or more."
        )
    numbers = jax.tree.map(  # one compilation for all widths and variances
        lambda leaf: jnp.asarray(leaf) if isinstance(leaf, float) else leaf,
        problem._replace(widths=tuple(float(n) for n in problem.widths)),
    )
    limit, shift, square = _expand(numbers, kernels, method == "tensor", neurons, key, nodes)
    total = jax.tree.map(jnp.add, limit, shift)
    error = None if square is None else jax.tree.map(jnp.sqrt, square)
    for name, variance in total.variance.items():
        if not isinstance(variance, Tracer) and np.any(variance < -1e-8 * np.max(limit.variance[name])):
            raise ValueError(
                f"theory 'perturbative': the variance of {name} comes out negative, {np.min(variance):.2g}, so the "
                f"correction in 1/N is not small (widths {net.widths}, chi {net.chi:g}): use theory.rescaling or "
                "theory.adaptation, or more neurons."
            )
    return Prediction(
        theory="perturbative",
        order="first order in 1/N",
        source="theory 01, E8-E12; theory 03, (27)-(31), (39)-(41)",
        mean=total.mean,
        variance=total.variance,
        covariance=total.covariance,
        log_evidence=total.log_evidence,
        error={} if error is None else {name: e for name, e in error.mean.items() if name != "kernel_0"},
        variance_error={} if error is None else error.variance,
    )


@eqx.filter_jit
def _expand(problem: Setting, kernels, tensor: bool, neurons: int, key, nodes: int):
    """The infinite-width `Prediction`, its shift, and the squared standard error of that (None for the tensor)."""
    limit = _limit(problem, kernels[-1])

    def predicted(mean, covariance, log_evidence, kernels):
        return predict(
            "perturbative",
            problem,
            order="",
            source="",
            mean=mean,
            covariance=covariance,
            log_evidence=log_evidence,
            kernels=dict(enumerate(kernels)),
        )

    base = (limit.mean, limit.covariance, limit.log_evidence, kernels)
    layers = _layers(problem)
    shifts, squares = [], []
    for source, layer in enumerate(layers):

        def observe(Y, Z, source=source):
            above = _through(layers[source + 1 :], kernels[source + 1 :], Y, Z)
            return jax.jvp(predicted, base, _first_order(limit, above, source + 1))[1]

        if tensor:
            shifts.append(_over_pairs(layer, kernels[source], observe, nodes))
        else:
            shift, square = _over_neurons(layer, kernels[source], observe, neurons, jax.random.fold_in(key, source))
            shifts.append(shift)
            squares.append(square)
    return predicted(*base), _sum(shifts), _sum(squares) if squares else None


def _sum(trees):
    return jax.tree.map(lambda *values: sum(values[1:], start=values[0]), *trees)


# --- layers and their fluctuations ------------------------------------------------------------------------------------


class _Layer(NamedTuple):
    """The kernel map of a hidden layer: K -> bias + weight E[phi phi]."""

    activation: Any
    weight: Any
    bias: Any
    width: Any

    def __call__(self, K: Float[Array, "points points"]) -> Float[Array, "points points"]:
        q = jnp.diagonal(K)
        return self.bias + self.weight * self.activation.dual(q[:, None], K, q[None, :])


def _layers(problem: Setting) -> list[_Layer]:
    weights = (*problem.weight_variance[1:], problem.readout)
    biases = (*problem.bias_variance[1:], 0.0)
    return [_Layer(*parts) for parts in zip(problem.activations, weights, biases, problem.widths, strict=True)]


def _over_pairs(layer: _Layer, K, observe, nodes: int):
    """The sum of `observe(Y, Z)` over Y = the unit perturbation of each pair of points, Z = its covariance."""
    points = K.shape[0]
    i, j = np.triu_indices(points)
    unit = np.zeros((i.size, points, points))
    unit[np.arange(i.size), i, j] = unit[np.arange(i.size), j, i] = 1.0
    covariance = layer.weight**2 / layer.width * unit_covariance(layer.activation, K, nodes=nodes)[i, j]
    parts = jax.lax.map(lambda pair: observe(*pair), (jnp.asarray(unit), covariance), batch_size=_BATCH)
    return jax.tree.map(lambda value: jnp.sum(value, axis=0), parts)


def _over_neurons(layer: _Layer, K, observe, neurons: int, key):
    """The mean of `observe(Y, Y)` over one-neuron draws Y = (weight phi phi^T - its mean) / sqrt(width), and the
    square of its standard error."""
    eigenvalues, vectors = jnp.linalg.eigh(K)
    root = vectors * jnp.sqrt(jnp.maximum(eigenvalues, 0))
    mean = layer(K) - layer.bias

    def draw(key):
        for_h, for_phase = jax.random.split(key)
        h = root @ jax.random.normal(for_h, (K.shape[0],), K.dtype)
        phase = 2 * jnp.pi * jax.random.uniform(for_phase, (), K.dtype)
        phi = layer.activation.phi(h, phase) if layer.activation.random_phase else layer.activation.phi(h)
        Y = (layer.weight * jnp.outer(phi, phi) - mean) / jnp.sqrt(layer.width)
        return observe(Y, Y)

    def batch(sums, start):
        index = start + jnp.arange(_BATCH)
        values = jax.vmap(lambda i: draw(jax.random.fold_in(key, i)))(index)
        values = jax.tree.map(lambda v: jnp.where(jnp.expand_dims(index < neurons, range(1, v.ndim)), v, 0), values)
        moments = jax.tree.map(lambda v: jnp.stack([jnp.sum(v, axis=0), jnp.sum(v**2, axis=0)]), values)
        return jax.tree.map(jnp.add, sums, moments), None

    zero = jax.tree.map(lambda v: jnp.zeros((2, *v.shape), v.dtype), jax.eval_shape(draw, key))
    sums = jax.lax.scan(batch, zero, jnp.arange(0, neurons, _BATCH))[0]
    mean_of = jax.tree.map(lambda v: v[0] / neurons, sums)
    square = jax.tree.map(lambda v: jnp.maximum(v[1] / neurons - (v[0] / neurons) ** 2, 0) / (neurons - 1), sums)
    return mean_of, square


# --- what a fluctuation of the output kernel does ---------------------------------------------------------------------


class _Limit(NamedTuple):
    """The infinite-width posterior and what perturbations of its kernel meet.

    `residual` P is (all points, all points): the perturbation dC of the output covariance changes the mean by
    P dC discrepancy and the covariance by P dC P^T. `resolvent` and `discrepancy` are zero at test points.
    """

    mean: Array
    covariance: Array
    log_evidence: Array
    resolvent: Array
    discrepancy: Array
    residual: Array


def _limit(problem: Setting, K) -> _Limit:
    P, size = problem.points, K.shape[0]
    factor = jnp.linalg.cholesky(K[:P, :P] + problem.noise)
    inverse = jax.scipy.linalg.cho_solve((factor, True), jnp.eye(P))
    d = inverse @ problem.y
    residual = jnp.eye(size).at[:, :P].add(-K[:, :P] @ inverse)
    determinant = 2 * jnp.sum(jnp.log(jnp.diagonal(factor)))
    return _Limit(
        mean=K[:, :P] @ d,
        covariance=residual @ K,
        log_evidence=-(problem.y @ d + determinant + P * np.log(2 * np.pi)) / 2,
        resolvent=jnp.zeros((size, size)).at[:P, :P].set((inverse + inverse.T) / 2),
        discrepancy=jnp.zeros(size).at[:P].set(d),
        residual=residual,
    )


class _Fluctuation(NamedTuple):
    """What the covariance Y x Z of a kernel does to the kernels of the layers from its own to the output."""

    Y: list[Array]
    Z: Array  # at the output
    shift: list[Array]  # of the prior mean


def _through(layers, kernels, Y, Z) -> _Fluctuation:
    """Theory 03, (28)-(30): carry Y x Z, a covariance of kernels[0], through `layers`."""
    path, shifts = [Y], [jnp.zeros_like(Y)]
    for layer, K in zip(layers, kernels, strict=False):

        def along(K, V, layer=layer):
            return jax.jvp(layer, (K,), (V,))[1]

        bend = jax.jvp(lambda K, Y=path[-1], along=along: along(K, Y), (K,), (Z,))[1]
        shifts.append(along(K, shifts[-1]) + bend / 2)
        path.append(along(K, path[-1]))
        Z = along(K, Z)
    return _Fluctuation(path, Z, shifts)


def _first_order(limit: _Limit, above: _Fluctuation, layer: int):
    """Theory 03, (31) and (39)-(41): shifts of the mean, the covariance, the log evidence and the kernels by a
    fluctuation of kernel `layer` and what it becomes above."""
    d, R, A = limit.discrepancy, limit.resolvent, limit.residual
    Y, Z, m = above.Y[-1], above.Z, above.shift[-1]
    Yd, Zd, AY = Y @ d, Z @ d, A @ Y
    pull, pull_Y = ((V @ d @ d - jnp.sum(R * V)) / 2 for V in (Z, Y))  # V : conjugate kernel
    exchange = AY @ R @ Z
    mean = A @ (m @ d + Yd * pull) - exchange @ d
    covariance = A @ (m + Y * pull) @ A.T + _even(jnp.outer(A @ Yd, A @ Zd) - exchange @ A.T)
    log_evidence = m @ d @ d - jnp.sum(R * m) + pull * pull_Y - Zd @ R @ Yd + jnp.sum((Z @ R) * (Y @ R).T) / 2
    kernels = [_even(V) * pull + m for V, m in zip(above.Y, above.shift, strict=True)]
    return mean, covariance, log_evidence / 2, [jnp.zeros_like(Y)] * layer + kernels


def _even(V):
    return (V + V.T) / 2
