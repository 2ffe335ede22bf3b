"""The forward-backward theory: kernels of all layers, and the forces of the data on them, at the saddle point of the
kernel superposition prior (theory 03, (12)-(26), (38)-(41); Fischer et al., arXiv:2405.10761)."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from fieldprob.activations import Linear
from fieldprob.activations.four_point import CLOSED
from fieldprob.prediction import Prediction
from fieldprob.theory.kernel_fluctuations import layers_of
from fieldprob.theory.kernel_saddle import Saddle, data_force, find_saddle
from fieldprob.theory.kernel_tilts import TILTS, Nodes, nodes_for, require_bounded_growth
from fieldprob.theory.layer_rescaling import rescale_layers
from fieldprob.theory.perturbative import expansion, moments_of, require_definite
from fieldprob.theory.setting import Setting, predict, setting
from fieldprob.theory.solvers import require_converged
from fieldprob.theory.tilted import SMALLEST_SAMPLE_SIZE, require_normalisable

_TENSOR_POINTS = 12  # up to which the leading tilt takes the four-point functions of all points
_SATURATED = 0.25  # points per neuron above which fluctuations of the kernels shift the saddle
_LEAST_OVERLAP = 0.1  # of the exact tilt with its nodes
_SOURCE = "theory 03, {}; Fischer et al., arXiv:2405.10761"
_ORDERS = {
    "leading": "adaptation to first order in 1/N, tilts of layers to first order",
    "exact": "adaptation to first order in 1/N (standard scaling), to leading order with O(1) adaptation (chi = N)",
    "gaussian": "best Gaussian measure of the pre-activations: a lower bound of the action, exact if linear",
}
_EQUATIONS = {"leading": "(16), (19)", "exact": "(15)-(18), (38)", "gaussian": "(21)-(23); theory 01, F9-F15"}


def forward_backward(
    net,
    task,
    tilt: str = "leading",
    *,
    fluctuations: bool = True,
    scalar: bool = False,
    samples: int = 8192,
    method: str = "auto",
    neurons: int = 100_000,
    key: Array | None = None,
) -> Prediction:
    """Posterior kernels and conjugate kernels of all layers of a network: the saddle point of its kernels.

    The kernel of a layer is the force on it, from the data through the later layers, applied to its prior given the
    kernel before. At fixed data the change of the kernels is right to first order in 1/N in standard scaling; in
    mean-field scaling (chi = N), where kernels change by O(1), the exact tilt is right as N grows. At points ~ N it is
    wrong for one output, whatever the tilt (theory 03, 3.4): a linear network has `scalar=True` there, others are
    warned about.

    Outputs are not those of a Gaussian process with the adapted kernel: the fluctuations of the kernel count as much
    (theory 03, (39)-(40)), and are added.

    Args:
        net: a `fieldprob.Mlp` of any depth, widths and biases, the readout's included.
        task: a `fieldprob.Task` of one output, values at points.
        tilt: how a force changes a layer. "leading", to first order in it (19); "exact", by averages over the tilted
            neurons; "gaussian", by the best Gaussian measure, found as a minimum at any strength, which for a
            non-linear activation is off already at first order in 1/N. The latter two are one closed form for a
            linear network.
        fluctuations: add what the fluctuations of the kernels do to first order in 1/N: the prior mean shift of the
            kernels (30), so that `kernel_l` is the posterior mean that is sampled, and not only its change added to the
            limit; outputs, losses, alignments and the evidence. Without, only the kernels and conjugate kernels of
            the saddle are predicted.
        scalar: for a linear network, the saddle of one scalar per layer instead, right at points ~ N: (25) with
            c = 1 - points/N, kernels by (10).
        samples: quasi-random nodes of averages over a layer's neurons, where there is no closed form and there are more
            than four points (training and test together) or the activation has a kink.
        method: how fluctuations are averaged, and
        neurons: over how many draws, see `theory.perturbative`.
        key: of random nodes and draws, where there are any.

    Returns:
        A `Prediction`: `kernel_0`..`kernel_L` over training then test points; `conjugate_kernel_1`..`_L` over the
        training points (zero at test points), the forces at the saddle, from which their posterior averages differ at
        order 1/N, with fluctuations or without; with fluctuations `f`, `f_test` (mean, variance, covariance),
        alignments, losses and the log evidence. These differ from `theory.perturbative` at order 1/N^2 in standard
        scaling; in mean-field scaling variances are those of kernels that fluctuate as in the prior, which is not
        their leading order there. `error` holds the standard errors of fluctuations over draws of
        neurons, not the (smaller) errors of quasi-random nodes. Differentiable in variances, noise and targets, where
        kernel_0 is singular along changes that keep its null space (a bias variance of zero does not).

    Raises:
        TypeError: the network is no `Mlp`.
        ValueError: what `theory.setting` refuses; an unknown tilt; `scalar` of a non-linear network; no convergence;
            a tilt that cannot be normalised, or that the nodes do not represent; random averages without a key.

    >>> import fieldprob as fp
    >>> task = fp.tasks.linear_teacher(4, inputs=3, noise_variance=0.3, seed=0)
    >>> theory = forward_backward(fp.Mlp(width=50, depth=2), task)
    >>> theory.mean["kernel_2"].shape, theory.mean["conjugate_kernel_1"].shape
    ((4, 4), (4, 4))
    """
    if tilt not in TILTS:
        raise ValueError(f"tilt={tilt!r}: give 'leading', 'gaussian' or 'exact'.")
    name = "forward_backward" if tilt == "leading" else f"forward_backward ({tilt})"
    problem = setting(name, net, task, readout_bias=True)
    linear = all(isinstance(phi, Linear) for phi in problem.activations)
    if scalar:
        return _scalar(net, task, tilt)
    _warn_saturated(name, problem, linear)
    variance = jnp.max(jnp.stack([jnp.max(jnp.diagonal(K)) for K in net.limit_kernels(problem.X)[:-1]]))
    nodes = _nodes(name, problem, tilt, samples, key, variance)
    numbers = jax.tree.map(  # one compilation for all widths and variances
        lambda leaf: jnp.asarray(leaf) if isinstance(leaf, float) else leaf,
        problem._replace(widths=tuple(float(n) for n in problem.widths)),
    )
    saddle = find_saddle(numbers, nodes, tilt)
    advice = "raise noise_variance or the widths, lower chi, or take tilt='gaussian', which is a minimum."
    converged = saddle.converged & jnp.isfinite(saddle.log_evidence)
    saddle = require_converged(f"theory {name!r}", converged, advice, saddle)
    if tilt == "exact":
        _require_overlap(name, saddle, nodes)
        require_bounded_growth(name, layers_of(numbers), saddle.kernels, saddle.forces)
    return _prediction(name, net, numbers, saddle, tilt, fluctuations, method, neurons, key)


def _prediction(name, net, numbers: Setting, saddle: Saddle, tilt, fluctuations, method, neurons, key) -> Prediction:
    forces = {f"conjugate_kernel_{layer}": T for layer, T in enumerate(saddle.forces, start=1)}
    dims = dict.fromkeys(forces, ("train_point", "train_point_"))
    about = {"theory": name, "order": _ORDERS[tilt], "source": _SOURCE.format(_EQUATIONS[tilt]), "dims": dims}
    if not fluctuations:
        kernels = {f"kernel_{layer}": K for layer, K in enumerate(saddle.kernels)}
        return Prediction(mean=kernels | forces, **about)
    at_saddle, shift, square = expansion(numbers, saddle.kernels, method=method, neurons=neurons, key=key, pulled=False)
    total = jax.tree.map(jnp.add, at_saddle, shift)
    require_definite(name, net, total)
    # the action at the saddle in place of its data term alone
    log_evidence = saddle.log_evidence + shift.log_evidence
    return Prediction(mean=total.mean | forces, log_evidence=log_evidence, **moments_of(total, square), **about)


def _nodes(theory: str, problem: Setting, tilt: str, samples: int, key, variance) -> Nodes | None:
    nonlinear = [phi for phi in problem.activations if not isinstance(phi, Linear)]
    points = len(problem.X)
    if tilt == "gaussian" or not nonlinear:
        return None
    if tilt == "leading" and points <= _TENSOR_POINTS and all(isinstance(phi, CLOSED) for phi in nonlinear):
        return None
    for phi in nonlinear:
        if phi.random_phase:
            raise ValueError(
                f"theory {theory!r} does not average over random phases, which activation {phi.name!r} has, at "
                f"{points} points: use tilt='gaussian', or tilt='leading' at up to {_TENSOR_POINTS} points."
            )
        if tilt == "exact":
            require_normalisable(theory, phi)
    return nodes_for(points, samples, all(phi.smooth for phi in nonlinear), key, variance)


def _require_overlap(theory: str, saddle: Saddle, nodes: Nodes | None) -> None:
    if nodes is None or isinstance(saddle.overlap, Tracer):
        return
    overlap = float(saddle.overlap)
    equal = not isinstance(nodes.weights, Tracer) and np.ptp(nodes.weights) == 0  # else a grid, dense where it counts
    if overlap < _LEAST_OVERLAP or (equal and overlap * len(nodes.weights) < SMALLEST_SAMPLE_SIZE):
        raise ValueError(
            f"theory {theory!r}: the tilted neurons have an effective sample size of {overlap:.2g} of the "
            f"{len(nodes.weights)} nodes: give more samples, raise noise_variance or the widths, or use tilt='gaussian'"
            " or theory.adaptation."
        )


def _warn_saturated(theory: str, problem: Setting, linear: bool) -> None:
    load = problem.points / min(problem.widths)
    if load > _SATURATED:
        remedy = "give scalar=True" if linear else "sample (fp.sample) or see theory.rescaling"
        warnings.warn(
            f"theory {theory!r} is not to be trusted at {problem.points} points and {min(problem.widths)} neurons: "
            f"fluctuations of the kernels shift the saddle where points / N > {_SATURATED}; {remedy}.",
            stacklevel=3,
        )


# --- linear networks at points ~ N ------------------------------------------------------------------------------------


def _scalar(net, task, tilt: str) -> Prediction:
    """The saddle of the layers' scalars Q (theory 02, (60); 03, (8)-(10)), kernels by (10)."""
    theory = "forward_backward (scalar)"
    problem = setting(theory, net, task, linear=True)
    moments = rescale_layers(problem, tree=False)
    P = problem.points
    factors = [moments["mean_of"][f"rescaling_{layer}"] for layer in range(1, net.depth + 1)]
    variances = (*problem.weight_variance[1:], problem.readout)
    scales = [q * g for q, g in zip(factors, variances, strict=True)]
    K = problem.kernel_0 * jnp.prod(jnp.stack(scales))
    gain = jnp.linalg.solve(K[:P, :P] + problem.noise_covariance, K[:P]).T
    mean = gain @ problem.y
    second = jnp.outer(mean, mean) + K - gain @ K[:P]
    kernels = [problem.kernel_0]
    for layer, (g, N) in enumerate(zip(variances, problem.widths, strict=True)):
        kernels.append(g / N * ((N - 1) * kernels[-1] + second / jnp.prod(jnp.stack(scales[layer:]))))
    force = f"conjugate_kernel_{net.depth}"
    return predict(
        theory,
        problem,
        order="leading as width and points grow together",
        source=_SOURCE.format("(8)-(10), (25)"),
        mean=moments["mean"],
        covariance=moments["covariance"],
        kernels=dict(enumerate(kernels)),
        log_evidence=moments["log_evidence"],
        mean_of=moments["mean_of"] | {force: data_force(K[:P, :P], problem.y, problem.noise_covariance)[0]},
        variance_of=moments["variance_of"],
        dims={force: ("train_point", "train_point_")},
    )
