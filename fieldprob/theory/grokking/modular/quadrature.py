"""The mean field of modular addition at finite modulus, by quadrature over one mode of a neuron."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from fieldprob.prediction import Prediction
from fieldprob.tasks.arguments import real
from fieldprob.theory.grokking.modular.setting import NAME, ModularAddition, prediction
from fieldprob.theory.precision import require_float64
from fieldprob.theory.solvers import Derivatives, minimise_convex, require_converged

_NODES = 8  # of a panel
_PANELS = 300
_FURTHEST = 4.0  # power, in units of that of the side well
_TRACED = 200.0


def mean_field(task: ModularAddition, *, edges: Any = None, threshold: float = 0.45) -> Prediction:
    """The mean field at finite modulus, by quadrature over a mode (04 (3.42)-(3.45)).

    Args:
        task: the network and its noise; of moderate modulus times sqrt(3 / sextic), some hundreds at most.
        edges: of the bins of `power_histogram`, in Phi; 61 from 0 to 3 task.side_well unless given.
        threshold: of Phi and Psi in units of task.side_well above which a mode of a neuron counts as specialised.

    Returns:
        A `Prediction` of `residual_amplitude` a, the residual over the target; `specialised_fraction` of modes of
        neurons; `mode_power`, E Phi; `power_histogram` (bin), the density of Phi, with centres of bins as coordinates;
        `target_eigenvalue` lambda of the kernel; `train_error` of the mean predictor, over pairs and outputs.
        Differentiable in the variances.

    Raises:
        ValueError: JAX is in float32; a mode varies too fast for the quadrature; edges or threshold out of range.

    Source: Rubin, Seroussi & Ringel, arXiv:2310.03789, appendix B, with the corrections of theory 04 §7.1.

    >>> mean = mean_field(ModularAddition.with_phases(modulus=31, width=50, sextic=0.5, end=0.5, noise=0.7)).mean
    >>> print(mean["residual_amplitude"].round(4))
    0.6952
    """
    require_float64(NAME)
    side = task.side_well
    if edges is not None:
        edges = np.asarray(edges, float)
        if edges.ndim != 1 or len(edges) < 2 or not np.all(np.diff(edges) > 0) or edges[0] < 0:
            raise ValueError(f"edges is {edges}: give at least two increasing numbers, none negative.")
    if not 0 < real("threshold", threshold) < _FURTHEST:
        raise ValueError(f"threshold = {threshold} must be between 0 and {_FURTHEST:g}, in units of task.side_well.")
    # in units of the side well the edges must be known; by default they are the same whatever the sextic
    relative = np.linspace(0, 3, 61) if edges is None else edges / float(side)
    rule, tau, both, one = mode_law(task, relative, threshold)
    x, panel, middle = rule.x, rule.panel, (rule.edges[1:] + rule.edges[:-1]) / 2
    high = jnp.asarray(middle[panel] > threshold, float)
    inside = (middle[panel] > relative[:-1, None]) & (middle[panel] < relative[1:, None])
    density = jnp.asarray(inside, float) @ one / (jnp.diff(jnp.asarray(relative)) * side)
    a = tau * task.noise_variance
    product = side**2 * x @ both @ x
    mean = {
        "residual_amplitude": a,
        "specialised_fraction": high @ both @ high,
        "mode_power": side * x @ one,
        "power_histogram": density,
        "target_eigenvalue": 4 * task.modulus**2 * task.readout_variance * product,
        "train_error": a**2 * (task.modulus - 1) / task.modulus**2,
    }
    centres = ((relative[1:] + relative[:-1]) / 2).tolist()
    coords = {} if isinstance(side, Tracer) else {"bin": [c * float(side) for c in centres]}
    return prediction(
        "mean field",
        mean,
        order="leading as width and modulus grow together, exact in modulus",
        source="arXiv:2310.03789; theory 04, (3.42)-(3.45)",
        coords=coords,
    )


class ModeLaw(NamedTuple):
    """The law of one mode in mean field: `tau` = a / noise_variance, and the probabilities of the nodes of `rule`."""

    rule: "Rule"
    tau: Float[Array, ""]
    both: Float[Array, "nodes nodes"]
    one: Float[Array, " nodes"]


def mode_law(task: ModularAddition, relative=(0.0, 1.0), threshold: float = 0.45) -> ModeLaw:
    """The solution at finite modulus; panels of the quadrature end at `relative` and `threshold` side wells."""
    rule = _rule(np.asarray(relative), threshold, task)
    tau, converged, found = _solve(*(jnp.asarray(x) for x in rule[:2]), *_numbers(task))
    found, tau = require_converged(f"theory {NAME!r}", converged, "are the variances in range?", (found, tau))
    _require_resolved(found[1], rule)
    return ModeLaw(rule, tau, *found)


class Rule(NamedTuple):
    """Nodes of Phi / side_well and weights, the panel of each, edges of panels."""

    x: Float[np.ndarray, " nodes"]
    weights: Float[np.ndarray, " nodes"]
    panel: np.ndarray
    edges: Float[np.ndarray, " edges"]


def _rule(relative, threshold: float, task: ModularAddition) -> Rule:
    """Panels that resolve both wells: in units of the side well, 2P s = steepness [(x + y)/2 - ...]."""
    side = task.side_well
    steepness = _TRACED if isinstance(side, Tracer) else 2 * task.modulus * float(side)
    near = np.arange(0, min(_FURTHEST, 80 / steepness), 6 / steepness)
    far = np.linspace(near[-1], _FURTHEST, 1 + int(np.ceil((_FURTHEST - near[-1]) * np.sqrt(5 * steepness) / 1.5)))
    if len(near) + len(far) > _PANELS:
        raise ValueError(
            f"modulus = {task.modulus} with sextic = {float(task.sextic):g}: the wells are too narrow for the "
            f"quadrature (modulus times sqrt(3 / sextic) is {steepness / 2:.0f}). Use large_modulus."
        )
    edges = np.unique(np.concatenate([near, far, [threshold], relative[relative < _FURTHEST]]))
    y, w = np.polynomial.legendre.leggauss(_NODES)
    width = np.diff(edges)[:, None]
    x = edges[:-1, None] + width * (1 + y) / 2
    panel = np.repeat(np.arange(len(edges) - 1), _NODES)
    return Rule(x.ravel(), (width * w / 2).ravel(), panel, edges)


def _numbers(task: ModularAddition):
    values = (task.modulus, task.width, task.noise_variance, task.readout_variance, task.sextic)
    return tuple(jnp.asarray(v, float) for v in values)


@jax.jit
def _solve(x, weights, modulus, width, noise, readout, sextic):
    """tau = a / noise_variance at the maximum of (3.45), whether it was found, and the probabilities of nodes: of
    (Phi, Psi), and of Phi."""
    steepness = 2 * modulus * jnp.sqrt(3 / sextic)
    single = jnp.log(weights) - steepness * (x + x**3) / 2
    pair = single[:, None] + single[None]
    product = jnp.outer(x, x)
    # 2P u a² Phi Psi = pull tau² x y
    pull = 2 * modulus * 2 * modulus**2 * readout / width * 3 / sextic
    size, modes = modulus * (modulus - 1), (modulus - 1) / 2

    def negative_dual(tau, args):
        noise, pair, pull, neurons = args
        t = tau[0]
        exponent = pair + pull * t**2 * product
        log_normaliser = logsumexp(exponent)
        p = jnp.exp(exponent - log_normaliser)
        mean = jnp.sum(p * product)
        variance = jnp.sum(p * product**2) - mean**2
        return Derivatives(
            value=-size * (t - noise * t**2 / 2) + neurons * log_normaliser,
            gradient=jnp.array([-size * (1 - noise * t) + neurons * 2 * pull * t * mean]),
            hessian=jnp.array([[size * noise + neurons * (2 * pull * mean + (2 * pull * t) ** 2 * variance)]]),
        )

    start = jax.lax.stop_gradient(1 / jnp.array([noise + 4 * readout]))
    tau, converged = minimise_convex(negative_dual, start, (noise, pair, pull, width * modes))
    both = jax.nn.softmax(pair + pull * tau[0] ** 2 * product, axis=(0, 1))
    return tau[0], converged, (both, jnp.sum(both, axis=1))


def _require_resolved(one, rule: Rule) -> None:
    if isinstance(one, Tracer):
        return
    share = float(one[rule.panel == rule.panel[-1]].sum())
    if not share < 1e-9:
        raise ValueError(
            f"a share {share:.1g} of the modes has a power beyond {_FURTHEST:g} side wells: the noise variance is too "
            "small for the quadrature."
        )
