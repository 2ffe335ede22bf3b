"""From what a user writes (a name, a callable, an activation) to an activation."""

import warnings
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.special import erf, ndtri

from fieldprob.activations.base import Activation
from fieldprob.activations.closed_form import GELU, Cos, Erf, Exp, Linear, Monomial, RandomPhaseCosine, Sin
from fieldprob.activations.hermite import Rough, Smooth
from fieldprob.activations.polar import Kinked
from fieldprob.activations.rectified import Abs, LeakyReLU, ReLU, Sign, Step
from fieldprob.activations.singularities import find_singularities

_NAMED: dict[str, Callable[..., Activation]] = {
    "linear": Linear,
    "erf": Erf,
    "relu": ReLU,
    "leaky_relu": LeakyReLU,
    "abs": Abs,
    "gelu": GELU,
    "sin": Sin,
    "cos": Cos,
    "random_phase_cosine": RandomPhaseCosine,
    "square": partial(Monomial, power=2),
    "cube": partial(Monomial, power=3),
    "quartic": partial(Monomial, power=4),
    "exp": Exp,
    "sign": Sign,
    "step": Step,
    "tanh": partial(Smooth, fn=jnp.tanh, label="tanh", terms=256, nodes=1024),
}

# What `get` tries where the default expansion of a smooth callable leaves E[phi' phi'] with a relative error above
# _CONVERGED; above _SMOOTH_LIMIT (with kinks, _ROUGH_LIMIT) it gives up.
_FINER = ({"terms": 512, "nodes": 2048}, {"terms": 1024, "nodes": 4096})
_CONVERGED = 1e-3
_SMOOTH_LIMIT = 0.05
_ROUGH_LIMIT = 0.5

# JAX functions that are one of ours. jax.nn.gelu is not among them: by default it is the tanh fit, not z Phi(z).
_RECOGNISED: dict[Callable, str] = {
    jax.nn.relu: "relu",
    jax.nn.leaky_relu: "leaky_relu",
    jax.nn.tanh: "tanh",
    jax.lax.erf: "erf",
    jax.lax.sin: "sin",
    jax.lax.cos: "cos",
    jax.lax.exp: "exp",
    jax.lax.abs: "abs",
    jax.lax.sign: "sign",
    jax.lax.tanh: "tanh",
    erf: "erf",
    jnp.sin: "sin",
    jnp.cos: "cos",
    jnp.exp: "exp",
    jnp.abs: "abs",
    jnp.sign: "sign",
    jnp.square: "square",
    jnp.tanh: "tanh",
}


def names() -> tuple[str, ...]:
    """The names that `get` understands.

    >>> from fieldprob import activations
    >>> "erf" in activations.names()
    True
    """
    return tuple(_NAMED)


def get(activation: str | Activation | Callable, **options) -> Activation:
    """The activation that `activation` means: an activation itself, one of `names()`, or any elementwise JAX function.

    `options` go to the constructor of a named activation (`scale` of 'erf', `slope` of 'leaky_relu') or of the class
    chosen for a callable. A callable is examined between -8 and 8: `Smooth` if neither it nor its first two derivatives
    jump, `Kinked` if the only jump is at zero, `Rough` otherwise. A steep smooth one gets up to 1024 terms, until
    E[phi' phi'] is good to 1e-3 at coincident points of unit variance; a warning says where that is not enough. To
    override the choice, construct one of these.

    Raises ValueError for an unknown name, an option the activation does not have, a callable that is not an elementwise
    JAX function, is not finite, or whose averages or their derivatives do not converge.

    >>> import jax
    >>> from fieldprob import activations
    >>> activations.get("leaky_relu").slope
    0.01
    >>> type(activations.get(jax.nn.elu)).__name__, type(activations.get(jax.nn.softplus)).__name__
    ('Kinked', 'Smooth')
    """
    if isinstance(activation, Activation):
        if options:
            raise ValueError(f"{next(iter(options))} was given with an activation object: set it in its constructor")
        return activation
    if isinstance(activation, type) and issubclass(activation, Activation):
        return _construct(activation.__name__, activation, options)
    if isinstance(activation, str):
        if activation not in _NAMED:
            raise ValueError(f"activation = '{activation}' is unknown: use one of {', '.join(_NAMED)}, or a function")
        return _construct(activation, _NAMED[activation], options)
    if not callable(activation):
        raise ValueError(f"activation = {activation!r} must be a name, an elementwise JAX function or an Activation")
    if not options and _recognised(activation):
        return _NAMED[_RECOGNISED[activation]]()
    return _examine(activation, options)


def _recognised(fn: Callable) -> bool:
    try:
        return fn in _RECOGNISED
    except TypeError:
        raise ValueError(f"activation = {fn!r} is not hashable: pass a function, or define __hash__") from None


def _construct(name: str, constructor: Callable[..., Activation], options: dict) -> Activation:
    try:
        return constructor(**options)
    except TypeError as error:
        raise ValueError(f"activation '{name}' does not take {', '.join(options) or 'no options'}: {error}") from None


def _examine(fn: Callable, options: dict) -> Activation:
    jumps, kinks = find_singularities(fn)
    name = str(getattr(fn, "__name__", type(fn).__name__)).strip("<>")
    rules = [options]
    if not jumps and not kinks:
        cls = Smooth
        if not {"terms", "nodes"} & set(options):
            rules += [{**options, **rule} for rule in _FINER]
    else:
        cls = Kinked if all(abs(z) < 1e-3 for z in jumps + kinks) else Rough
        rules = [{"continuous": not jumps, **options}]
    for rule in rules:
        activation = _construct(name, cls, {"fn": fn, "label": name, **rule})
        _refuse_divergence(activation)
        relative = 0.0 if jumps else _derivative_error(activation)
        if relative <= _CONVERGED:
            return activation
    _report(activation, relative)
    return activation


def _refuse_divergence(activation: Activation) -> None:
    with jax.ensure_compile_time_eval():
        value, error = activation.dual(1.0, 0.5, 1.0), activation.dual_error(1.0, 0.5, 1.0)
        square = jnp.mean(activation.phi(ndtri((jnp.arange(4096) + 0.5) / 4096)) ** 2)
        if not bool(jnp.isfinite(value)) or bool(error > 0.1 * jnp.maximum(jnp.abs(value), 1e-6 * square)):
            raise ValueError(
                f"the Gaussian averages of activation '{activation.name}' do not converge ({value:.3g} +- {error:.1g} "
                "at unit variance): it grows too fast, has a pole or varies too fast; if the last, rescale it"
            )


def _derivative_error(activation: Activation) -> float:
    """Relative error of E[phi' phi'] at coincident points of unit variance, where it is largest."""
    with jax.ensure_compile_time_eval():
        slope, error = (f(1.0, 1.0, 1.0) for f in (activation.dual_derivative, activation.dual_derivative_error))
        relative = float(error / jnp.maximum(jnp.abs(slope), jnp.finfo(slope.dtype).tiny))
    return relative if relative == relative else float("inf")


def _report(activation: Activation, relative: float) -> None:
    """Refuse an activation whose gradients are wrong, and warn where they are poor."""
    cls, smooth = type(activation).__name__, activation.smooth
    finer = "terms=..., nodes=..." if cls in ("Smooth", "Rough") else "angles=..., radii=..."
    if relative > (_SMOOTH_LIMIT if smooth else _ROUGH_LIMIT):
        raise ValueError(
            f"activation '{activation.name}' varies too fast: its E[phi' phi'], and gradients of kernels, do not "
            f"converge (relative error {relative:.1g} at unit variance). Rescale it, or pass "
            f"{cls}(fn, {finer}) to accept this"
        )
    if relative > (_CONVERGED if smooth else _SMOOTH_LIMIT):
        warnings.warn(
            f"activation '{activation.name}' varies fast: its E[phi' phi'], and gradients of kernels, are only good to "
            f"{relative:.1%} at coincident points and unit variance (kernels are better; see dual_derivative_error)",
            stacklevel=4,
        )
