"""Modular addition: quadratic neurons that see pairs (i, j) of integers mod P and learn the indicator of i + j.

f_p(i, j) = sum_c a_pc (u_c,i + v_c,j)² with a ~ N(0, readout_variance / width), weights u, v ~ N(0, 1) times a
regulator exp(-P sextic / 6 sum over k ≠ 0 of |u_k|^6 + |v_k|^6) of their Fourier modes, u_k = sum_x u_x exp(2 pi i k
x / P) / P; without it the law of a neuron is not normalisable. On the full table symmetry leaves one unknown: the mean
residual is a times the target. With Phi = |u_k|², Psi = |v_k|² each of the (P - 1)/2 independent modes k of a neuron
has the density

    exp(-2P s) dPhi dPsi,    s = (Phi + Psi)/2 - u a² Phi Psi + sextic (Phi³ + Psi³)/6,   u = 2 readout_variance P² /
    (width noise_variance²),

and a = noise_variance / (noise_variance + lambda), lambda = 4 P² readout_variance <Phi Psi> (theory 04, (3.40)-(3.45),
with the factor 4P² that the paper lacks). A mode specialises when the well at Phi = Psi > 0 is as deep as that at zero.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from fieldprob.prediction import Prediction
from fieldprob.tasks.arguments import count, is_traced, real
from fieldprob.theory.precision import require_float64
from fieldprob.theory.solvers import Derivatives, bisect, minimise_convex, require_converged

_NAME = "modular addition"
_NODES = 8  # of a panel
_PANELS = 300
_FURTHEST = 4.0  # power, in units of that of the side well
_TRACED = 200.0


class ModularAddition(eqx.Module):
    """A network that learns addition modulo a prime on the full table; see the module for its variances.

    Args:
        modulus: P, odd.
        width: neurons.
        noise_variance: of the likelihood.
        readout_variance: per fan-in: readout weights have readout_variance / width.
        sextic: strength of the regulator, 04's gamma_6.

    Raises: TypeError, ValueError: an argument is out of range.

    >>> task = ModularAddition.with_phases(modulus=31, width=50, sextic=0.5, end=0.5, noise=0.9)
    >>> print(round(float(task.noise_variance / task.noise_scale), 6), round(float(task.end / task.noise_scale), 6))
    0.9 0.5
    """

    modulus: int = eqx.field(static=True)
    width: int = eqx.field(static=True)
    noise_variance: Any
    readout_variance: Any
    sextic: Any

    def __init__(self, modulus: int, width: int, noise_variance, readout_variance, sextic):
        self.modulus, self.width = count("modulus", modulus, minimum=3), count("width", width)
        if not self.modulus % 2:
            raise ValueError(f"modulus = {modulus} must be odd: a prime, 7 or 31.")
        self.noise_variance = _positive("noise_variance", noise_variance)
        self.readout_variance = _positive("readout_variance", readout_variance)
        self.sextic = _positive("sextic", sextic)

    @classmethod
    def with_phases(cls, modulus: int, width: int, sextic, *, end=0.5, noise=1.0) -> "ModularAddition":
        """A network with all three phases (04 (3.53)): modes specialise while the noise variance, in units of
        `noise_scale`, falls from 1 to 1 - `end`, with `end` in (0, 1); its own is `noise`."""
        root = jnp.sqrt(jnp.sqrt(3.0) / (width * jnp.sqrt(sextic)))
        readout = (end * sextic / (12 * modulus) * root) ** 2
        scale = end * sextic * np.sqrt(3.0) / (12 * width * jnp.sqrt(sextic))
        return cls(modulus, width, noise * scale, readout, sextic)

    @property
    def modes(self) -> int:
        """Independent modes, (P - 1)/2: k and P - k are one."""
        return (self.modulus - 1) // 2

    @property
    def coupling(self) -> Any:
        """u (04 (3.42))."""
        return 2 * self.readout_variance * self.modulus**2 / (self.width * self.noise_variance**2)

    @property
    def noise_scale(self) -> Any:
        """Sigma (04 (3.47)): the noise variance at which wells become equally deep, as P grows."""
        root = jnp.sqrt(np.sqrt(3.0) / (self.width * jnp.sqrt(self.sextic)))
        return jnp.sqrt(self.readout_variance) * self.modulus * root

    @property
    def end(self) -> Any:
        """The noise variance below which every mode is specialised (04 (3.50)); negative where there is none."""
        return self.noise_scale - 12 * self.modulus**2 * self.readout_variance / self.sextic

    @property
    def side_well(self) -> Any:
        """Phi of the side well where it is as deep as the central one, sqrt(3 / sextic) (04 (3.46))."""
        return jnp.sqrt(3 / self.sextic)


class Side(NamedTuple):
    """The side well at X = u a² as P grows: its `power` Phi_+, the `action` s there, NaN where there is none; the
    `odds` of the two wells and the `covariance` of (Phi, Psi) in it, both leading in 1/P."""

    power: Float[Array, ""]
    action: Float[Array, ""]
    odds: Float[Array, ""]
    covariance: Float[Array, "2 2"]


def action(phi, psi, X, sextic) -> Float[Array, "..."]:
    """s(Phi, Psi) at X = u a² (04 (3.42)). Arguments broadcast.

    >>> print(action(jnp.sqrt(6.0), jnp.sqrt(6.0), 2 * jnp.sqrt(0.5 / 3), 0.5).round(12) + 0)  # side well, coexistence
    0.0
    """
    phi, psi = jnp.asarray(phi), jnp.asarray(psi)
    return (phi + psi) / 2 - X * phi * psi + sextic * (phi**3 + psi**3) / 6


def side_well(X, modulus, sextic) -> Side:
    """The side well at X = u a² (04 (3.46), (3.51)-(3.52)).

    >>> side = side_well(2 * jnp.sqrt(0.5 / 3), 101, 0.5)
    >>> print(side.power.round(6), jnp.sqrt(3 / 0.5).round(6))
    2.44949 2.44949
    """
    X, sextic = jnp.asarray(X, float), jnp.asarray(sextic, float)
    power = (X + jnp.sqrt(X**2 - sextic)) / sextic
    depth = action(power, power, X, sextic)
    determinant = (sextic * power) ** 2 - X**2
    odds = jnp.pi * modulus / jnp.sqrt(determinant) * jnp.exp(-2 * modulus * depth)
    curvature = jnp.stack([jnp.stack([sextic * power, -X]), jnp.stack([-X, sextic * power])])
    return Side(power, depth, odds, jnp.linalg.inv(curvature) / (2 * modulus))


def large_modulus(task: ModularAddition) -> Prediction:
    """The phases as P grows (04 (3.48)-(3.50)): `residual_amplitude` a and `specialised_fraction`, of modes of neurons.

    One well for noise variances above Sigma - 4 readout_variance; below, modes specialise until the residual is
    noise_variance / Sigma, at which the wells are equally deep; below `task.end` all have. The last phase takes the
    largest root, Phi_+ at the residual that it makes itself.

    >>> task = ModularAddition.with_phases(modulus=31, width=50, sextic=0.5, end=0.5, noise=0.7)
    >>> mean = large_modulus(task).mean
    >>> print(f"{mean['residual_amplitude']:.3f} {mean['specialised_fraction']:.3f}")
    0.700 0.600
    """
    require_float64(_NAME)
    return _prediction(
        "large modulus",
        _phases(task),
        order="leading as modulus → ∞; inputs/width small",
        source="theory 04, (3.46)-(3.50)",
    )


@eqx.filter_jit
def _phases(task: ModularAddition) -> dict[str, Array]:
    noise, scale, prior = task.noise_variance, task.noise_scale, 4 * task.readout_variance
    full = 12 * task.modulus**2 * task.readout_variance / task.sextic
    share = (scale - noise - prior) / (full - prior)
    one = noise / (noise + prior)
    a = jnp.where(share <= 0, one, jnp.where(share < 1, noise / scale, _specialised(task)))
    return {"residual_amplitude": a, "specialised_fraction": jnp.clip(share, 0.0, 1.0)}


def _specialised(task: ModularAddition):
    """a of the phase with side wells only: a (noise + lambda(Phi_+(u a²))) = noise, increasing in a."""
    lowest = jnp.sqrt(jnp.sqrt(task.sextic) / task.coupling)  # where the side well appears

    def defect(a, task):
        X = task.coupling * a**2
        power = (X + jnp.sqrt(jnp.maximum(X**2 - task.sextic, 1e-300))) / task.sextic
        return a * (task.noise_variance + 4 * task.modulus**2 * task.readout_variance * power**2) - task.noise_variance

    return bisect(defect, jnp.minimum(lowest, 1.0), jnp.ones_like(lowest), task)


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
    require_float64(_NAME)
    side = task.side_well
    if edges is not None:
        edges = np.asarray(edges, float)
        if edges.ndim != 1 or len(edges) < 2 or not np.all(np.diff(edges) > 0) or edges[0] < 0:
            raise ValueError(f"edges is {edges}: give at least two increasing numbers, none negative.")
    if not 0 < real("threshold", threshold) < _FURTHEST:
        raise ValueError(f"threshold = {threshold} must be between 0 and {_FURTHEST:g}, in units of task.side_well.")
    # in units of the side well the edges must be known; by default they are the same whatever the sextic
    relative = np.linspace(0, 3, 61) if edges is None else edges / float(side)
    rule = _rule(relative, threshold, task)
    tau, converged, found = _solve(*(jnp.asarray(x) for x in rule[:2]), *_numbers(task))
    found, tau = require_converged(f"theory {_NAME!r}", converged, "are the variances in range?", (found, tau))
    both, one = found
    _require_resolved(one, rule)
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
    return _prediction(
        "mean field",
        mean,
        order="leading as width and modulus grow together, exact in modulus",
        source="arXiv:2310.03789; theory 04, (3.42)-(3.45)",
        coords=coords,
    )


class _Rule(NamedTuple):
    """Nodes of Phi / side_well and weights, the panel of each, edges of panels."""

    x: Float[np.ndarray, " nodes"]
    weights: Float[np.ndarray, " nodes"]
    panel: np.ndarray
    edges: Float[np.ndarray, " edges"]


def _rule(relative, threshold: float, task: ModularAddition) -> _Rule:
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
    return _Rule(x.ravel(), (width * w / 2).ravel(), panel, edges)


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


def _require_resolved(one, rule: _Rule) -> None:
    if isinstance(one, Tracer):
        return
    share = float(one[rule.panel == rule.panel[-1]].sum())
    if not share < 1e-9:
        raise ValueError(
            f"a share {share:.1g} of the modes has a power beyond {_FURTHEST:g} side wells: the noise variance is too "
            "small for the quadrature."
        )


def _prediction(kind: str, mean: dict[str, Array], *, order: str, source: str, coords: Any = None) -> Prediction:
    dims = {name: ("bin",) if name == "power_histogram" else () for name in mean}
    return Prediction(theory=f"{_NAME} ({kind})", order=order, source=source, mean=mean, dims=dims, coords=coords or {})


def _positive(name: str, value: Any) -> Any:
    if is_traced(value):
        return value
    if real(name, value) <= 0:
        raise ValueError(f"{name} = {value} must be positive.")
    return jnp.asarray(value, float)
