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

import warnings
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from fieldprob import statistics
from fieldprob.activations.four_point import unit_covariance
from fieldprob.prediction import Prediction
from fieldprob.theory.kernel_fluctuations import (
    Fluctuation,
    along,
    chosen_method,
    layers_of,
    over_neurons,
    over_pairs,
    through,
)
from fieldprob.theory.setting import Setting, predict, setting

_LARGE = 0.3  # change of the kernel, relative to its size, above which a first order is not to be trusted


def perturbative(
    net, task, *, method: str = "auto", neurons: int = 100_000, key: Array | None = None, nodes: int = 16
) -> Prediction:
    """The posterior of a network to first order in 1/N: fixed data, any depth, widths and activations.

    Valid while the correction is small: it is of order (discrepancy^2 / noise) / N, so it fails for small noise, for as
    many points as neurons, and in mean-field scaling (chi = N), where it does not shrink with N. Use
    `theory.rescaling` or `theory.adaptation` there.

    Args:
        net: an `Mlp` with one output; biases enter through the kernels.
        task: a `Task` of values at points.
        method: "tensor" for the exact four-point functions of all quadruples of points (points^4 numbers, training and
            test points together), "neurons" for averages over draws of one neuron (points^2 numbers), "auto" for the
            tensor at up to 24 points if the four-point functions are closed forms.
        neurons: draws for each layer; the standard errors of "neurons" are in the prediction's `error` and
            `variance_error`.
        key: of the draws; needed by "neurons".
        nodes: of the quadrature for four-point functions that have no closed form, see `activations.four_point`.

    Returns:
        A `Prediction` of `f`, `f_test` (mean, variance, covariance), `kernel_0`..`kernel_L` and alignments (mean,
        leading variance), losses and the log evidence. Warns where the kernel changes by more than 30 %.

    Raises:
        ValueError: what `theory.setting` refuses; an unknown method; draws without a key; two hidden layers or more
            with an activation given as a callable with a kink; a covariance that comes out indefinite.

    Source: theory 01, E1-E12; theory 03, (27)-(31), (39)-(41); Yaida 2020 (prior), Naveh et al., arXiv:2004.01190.

    >>> import fieldprob as fp
    >>> task = fp.tasks.linear_teacher(4, inputs=3, noise_variance=0.3, seed=0)
    >>> at = [fp.theory.perturbative(fp.Mlp(width=n), task).mean["f"] for n in (100, 200)]
    >>> limit = fp.theory.limit(fp.Mlp(width=100), task).mean["f"]
    >>> bool(abs((at[0] - limit) - 2 * (at[1] - limit)).max() < 1e-12)
    True
    """
    problem = setting("perturbative", net, task, readout_bias=True)
    limit, shift, square = expansion(
        problem, net.limit_kernels(problem.X), method=method, neurons=neurons, key=key, nodes=nodes
    )
    total = jax.tree.map(jnp.add, limit, shift)
    _warn_large(net, limit, shift)
    require_definite("perturbative", net, total)
    return Prediction(
        theory="perturbative",
        order="first order in 1/N",
        source="theory 01, E8-E12; theory 03, (27)-(31), (39)-(41)",
        log_evidence=total.log_evidence,
        mean=total.mean,
        **moments_of(total, square),
    )


def require_definite(theory: str, net, total: Prediction) -> None:
    """Raise a ValueError where a covariance of outputs to first order is indefinite."""
    for name, covariance in total.covariance.items():
        if isinstance(covariance, Tracer):
            continue
        eigenvalues = np.linalg.eigvalsh(np.asarray(covariance))
        if eigenvalues[0] < -1e-10 * eigenvalues[-1]:
            raise ValueError(
                f"theory {theory!r}: the covariance of {name} comes out indefinite, so the correction in 1/N is "
                f"not small (widths {net.widths}, chi {net.chi:g}): use theory.rescaling, at one hidden layer "
                "theory.adaptation, or more neurons."
            )


def moments_of(total: Prediction, square: Prediction | None) -> dict[str, Any]:
    """Variances, covariances and standard errors of an expansion, as arguments of a `Prediction`."""
    errors = {} if square is None else {"error": square.mean, "variance_error": square.variance}
    variance = {
        name: value if name in total.covariance else jnp.maximum(value, 0) for name, value in total.variance.items()
    }
    roots = {moment: {name: jnp.sqrt(e) for name, e in named.items()} for moment, named in errors.items()}
    return {"variance": variance, "covariance": total.covariance, **roots}


def _warn_large(net, limit: Prediction, shift: Prediction) -> None:
    name = f"kernel_{net.depth}"
    relative = jnp.linalg.norm(shift.mean[name]) / jnp.linalg.norm(limit.mean[name])
    if not isinstance(relative, Tracer) and relative > _LARGE:
        warnings.warn(
            f"theory 'perturbative': the kernel of the outputs changes by {relative:.0%}, too much for a first order "
            f"in 1/N (widths {net.widths}, chi {net.chi:g}): use theory.rescaling, or at one "
            "hidden layer theory.adaptation.",
            stacklevel=3,
        )


def expansion(
    problem: Setting,
    kernels: list[Array],
    *,
    method: str = "auto",
    neurons: int = 100_000,
    key: Array | None = None,
    nodes: int = 16,
    pulled: bool = True,
) -> tuple[Prediction, Prediction, Prediction | None]:
    """The posterior with the given kernels of all layers, what their fluctuations add to it to first order in 1/N, and
    the squared standard error of that (None if it has none).

    `pulled` says whether the data's pull G : E is to be added: not where the kernels given have been pulled already
    (nor to the evidence, which then is that of the kernels given).
    Other arguments and errors are those of `perturbative`.
    """
    method = chosen_method(method, problem.activations, len(problem.X), neurons, key)
    numbers = jax.tree.map(  # one compilation for all widths and variances
        lambda leaf: jnp.asarray(leaf) if isinstance(leaf, float) else leaf,
        problem._replace(widths=tuple(float(n) for n in problem.widths)),
    )
    covariances = None
    if method == "tensor":
        covariances = [
            unit_covariance(phi, K, nodes=nodes) for phi, K in zip(numbers.activations, kernels, strict=False)
        ]
    return _expand(numbers, kernels, covariances, neurons, key, pulled)


@eqx.filter_jit
def _expand(problem: Setting, kernels, covariances, neurons: int, key, pulled: bool):
    limit = _limit(problem, kernels[-1])
    layers = layers_of(problem)
    depth, P = len(layers), problem.points

    def alignment(K):
        return statistics.centred_kernel_alignment(K[:P, :P], problem.y[:, None])

    def predicted(moments: _Moments):
        aligned = enumerate(zip(moments.kernels[1:], moments.alignment_shifts, strict=True), start=1)
        return predict(
            "perturbative",
            problem,
            order="",
            source="",
            mean=moments.mean,
            covariance=moments.covariance,
            log_evidence=moments.log_evidence,
            kernels=dict(enumerate(moments.kernels)),
            mean_of={f"alignment_{layer}": alignment(K) + shift for layer, (K, shift) in aligned},
            variance_of=moments.variance_of,
        )

    def shift(source, Y, Z):
        carried = through(layers, kernels, source, Y, Z)
        tangent = _first_order(limit, carried, kernels, alignment, pulled)
        return jax.jvp(predicted, (base,), (tangent,))[1]

    fixed = {f"kernel_{layer}": 0 * K for layer, K in enumerate(kernels[1:], start=1)}
    fixed |= {f"alignment_{layer}": jnp.zeros(()) for layer in range(1, depth + 1)}
    base = _Moments(limit.mean, limit.covariance, limit.log_evidence, kernels, [jnp.zeros(())] * depth, fixed)
    found = []
    for source, (layer, K) in enumerate(zip(layers, kernels[:-1], strict=True), start=1):
        if covariances is not None:
            found.append((over_pairs(layer, covariances[source - 1], partial(shift, source)), None))
        else:
            found.append(over_neurons(layer, K, partial(shift, source), neurons, jax.random.fold_in(key, source)))
    return predicted(base), *jax.tree.map(lambda *parts: sum(parts[1:], start=parts[0]), *found)


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
    factor = jnp.linalg.cholesky(K[:P, :P] + problem.noise_covariance)
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


class _Moments(NamedTuple):
    """Posterior moments, and what is added to the mean alignment of layer 1, 2, ... beyond that of the mean kernel."""

    mean: Array
    covariance: Array
    log_evidence: Array
    kernels: list[Array]
    alignment_shifts: list
    variance_of: dict[str, Array]


def _first_order(limit: _Limit, carried: Fluctuation, kernels, alignment, pulled: bool) -> _Moments:
    """Theory 03, (31) and (39)-(41), and the leading variances of kernels and alignments."""
    d, R, A = limit.discrepancy, limit.resolvent, limit.residual
    Y, Z, m = carried.Y[-1], carried.Z[-1], carried.shift[-1]
    Yd, Zd, AY = Y @ d, Z @ d, A @ Y
    pull, pull_Y = ((V @ d @ d - jnp.sum(R * V)) / 2 for V in (Z, Y))  # V : conjugate kernel
    if not pulled:
        pull = 0.0
    exchange = AY @ R @ Z
    log_evidence = m @ d @ d - jnp.sum(R * m) + pull * pull_Y - Zd @ R @ Yd + jnp.sum((Z @ R) * (Y @ R).T) / 2
    bends, variance_of = [], {}
    for layer, (K, Y_l, Z_l) in list(enumerate(zip(kernels, carried.Y, carried.Z, strict=True)))[1:]:
        bends.append(along(lambda K, Y=Y_l: along(alignment, K, Y), K, Z_l) / 2)
        variance_of[f"kernel_{layer}"] = Y_l * Z_l
        variance_of[f"alignment_{layer}"] = along(alignment, K, Y_l) * along(alignment, K, Z_l)
    return _Moments(
        mean=A @ (m @ d + Yd * pull) - exchange @ d,
        covariance=A @ (m + Y * pull) @ A.T + _even(jnp.outer(A @ Yd, A @ Zd) - exchange @ A.T),
        log_evidence=log_evidence / 2,
        kernels=[_even(V) * pull + shift for V, shift in zip(carried.Y, carried.shift, strict=True)],
        alignment_shifts=bends,
        variance_of=variance_of,
    )


def _even(V):
    return (V + V.T) / 2
