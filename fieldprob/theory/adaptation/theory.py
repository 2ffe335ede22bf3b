"""`adaptation`: checks, the choice of a solver, and the `Prediction`."""

from typing import Any

import jax.numpy as jnp

from fieldprob.activations import Linear
from fieldprob.prediction import Prediction
from fieldprob.theory.adaptation import nonlinear
from fieldprob.theory.adaptation.averages import Saddle, find_saddle
from fieldprob.theory.adaptation.closure import gaussian_closure, predictions
from fieldprob.theory.adaptation.linear import adaptation_linear
from fieldprob.theory.adaptation.nonlinear import Data
from fieldprob.theory.setting import Setting, predict, setting
from fieldprob.theory.tilted import Neuron, one_neuron

_SOURCE = "arXiv:2502.03210"
_ORDERS = {
    "tree": "leading in chi/N, log_evidence to one loop",
    "one-loop": "first order in the loop",
    "self-consistent": "first order in the loop, summed",
}


def adaptation(
    net,
    task,
    *,
    order: str = "tree",
    closure: str | None = None,
    average: Any = "auto",
    samples: int = 48_000,
    key=None,
) -> Prediction:
    """Kernel adaptation of a network with one hidden layer: its neurons tilt towards the targets.

    The posterior of N neurons is that of one, p(w) ~ prior(w) exp[G (tau . phi(X w))^2 / 2N], at the saddle
    (noise + G <phi phi^T>) tau = y of the conjugate field, with G = readout_variance / chi. Mean, kernel and weights at
    tree level depend on width and chi only through chi/N, the strength of feature learning: 0 is the infinite-width
    limit, 1 mean-field. What tree level misses at standard scaling, where its mean may be worse than the limit's, the
    loop adds.

    Args:
        net: a `fieldprob.Mlp` with one hidden layer and no bias at the readout; a hidden bias is one more input.
        task: a `fieldprob.Task` with one output, values at points.
        order: "tree", the saddle; "one-loop", with the first loop (32); or "self-consistent", the stationary point of
            the one-loop effective action (33).
        closure: "gaussian" replaces the measure of a neuron by the best Gaussian: exact for a linear network, else an
            uncontrolled approximation of the tree, cheap in many dimensions.
        average: how the measure of a neuron is averaged. A linear network needs none ("auto"). "quadrature" is for
            points that span at most two directions, with a hidden bias as one more; "importance" for some twenty;
            "particles" (Langevin) for more. "auto" takes quadrature where it can, else importance. Importance
            seeks the wells of a measure that has several, up to four of one length and sign; one that it misses, no
            effective sample size shows.
        samples: neurons drawn, for importance and particles.
        key: a JAX key, for importance and particles.

    Returns:
        A `Prediction` named "adaptation", with order or closure in parentheses if not the tree: mean, variance and
        covariance of `f` and `f_test`; `kernel_0`, `kernel_1` (readout_variance/chi included) over training then test
        points; `alignment_1`; `weight_covariance` (inputs, inputs), the average of W^T W / N; losses; the log evidence
        to one loop (31), absent for particles. Beyond the tree there are means of `f`, `f_test`, kernels and weights
        only: covariance, losses and alignment are known to tree level. `error` holds the standard errors of averages
        over random neurons. Differentiable in the network's variances and in noise and targets.

    Raises:
        TypeError: the network is no `Mlp`.
        ValueError: float32; several outputs or layers; a readout bias; an activation that grows faster than linearly,
            for which no tree level exists; an effective sample size below 200; no convergence; a missing key.

    Source: Rubin et al., arXiv:2502.03210; theory 02, (24)-(34), (39)-(50); the closure: Seroussi, Naveh & Ringel,
    arXiv:2112.15383.

    >>> import fieldprob as fp
    >>> net = fp.Mlp(width=64, activation="linear", scaling="mean-field")
    >>> task = fp.tasks.ising(8, inputs=30, noise_variance=0.5)
    >>> adaptation(net, task).mean["weight_covariance"].shape
    (30, 30)
    """
    if order not in _ORDERS:
        raise ValueError(f"order={order!r}: give 'tree', 'one-loop' or 'self-consistent'.")
    if closure not in (None, "gaussian"):
        raise ValueError(f"closure={closure!r}: give None or 'gaussian'.")
    if closure and order != "tree":
        raise ValueError(f"closure='gaussian' is a tree level: it has no order={order!r}.")
    kind = closure or order
    name = "adaptation" if kind == "tree" else f"adaptation ({kind})"
    problem = setting(name, net, task, depth=1)
    if closure:
        neuron, data = neuron_and_data(name, problem)
        found = predictions(neuron, gaussian_closure(neuron, data), data)
        return _prediction(name, problem, found, order="Gaussian closure of the tree level", equations="(46)-(48)")
    if isinstance(problem.activations[0], Linear) and average == "auto":
        found = adaptation_linear(problem, order)
        if order != "tree":
            found["covariance"] = None
        source = f"{_SOURCE}; theory 02, (25)-(34)"
        return predict(name, problem, order=_ORDERS[order], source=source, alignments=order == "tree", **found)
    neuron, data = neuron_and_data(name, problem)
    saddle = find_saddle(name, neuron, data, average, samples, key)
    return saddle_prediction(name, problem, neuron, data, saddle, order, evidence=average != "particles")


def neuron_and_data(theory: str, problem: Setting) -> tuple[Neuron, Data]:
    """The neuron of a network, and what it regresses."""
    G, N = jnp.asarray(problem.readout, float), jnp.asarray(problem.widths[0], float)
    data = Data(problem.y, problem.noise_covariance, G, N)
    return one_neuron(theory, problem), data


def saddle_prediction(
    theory: str, problem: Setting, neuron: Neuron, data: Data, saddle: Saddle, order: str, *, evidence: bool = True
) -> Prediction:
    """The prediction of a saddle at an order."""
    at = (neuron, saddle.neurons, data, saddle.tau)
    found = nonlinear.tree(*at)
    if order == "one-loop":
        found |= nonlinear.one_loop(*at)
    elif order == "self-consistent":
        found |= nonlinear.self_consistent(*at)
    if not evidence:
        found["log_evidence"] = None
    if order != "tree":
        found["covariance"] = None
    errors = nonlinear.standard_errors(*at) if saddle.sampled else None
    return _prediction(theory, problem, found, order=_ORDERS[order], equations="(39)-(44)", errors=errors)


def _prediction(theory: str, problem: Setting, found, *, order: str, equations: str, errors=None) -> Prediction:
    error = {}
    if errors is not None:
        P = problem.points
        error = {"f": errors["mean"][:P, None], "kernel_1": errors["kernel"], "weight_covariance": errors["weights"]}
        if problem.X.shape[0] > P:
            error["f_test"] = errors["mean"][P:, None]
    return predict(
        theory,
        problem,
        order=order,
        source=f"{_SOURCE}; theory 02, {equations}",
        mean=found["mean"],
        covariance=found["covariance"],
        alignments=found["covariance"] is not None,
        kernels={0: problem.kernel_0, 1: found["kernel"]},
        log_evidence=found["log_evidence"],
        mean_of={"weight_covariance": found["weights"]},
        error=error,
    )
