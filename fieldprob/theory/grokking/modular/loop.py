"""The first correction in 1/width to the mean field of modular addition.

To leading order the evidence of targets y is exp(-D(T)) det(H)^(-1/2), with D the dual over T (pair, output), at its
maximum T = tau y, and H its curvature there (theory 04, (3.30)); over neurons of the mean-field law, with signals
s_p = T_p . phi,

    H = noise_variance + readout_variance (<phi phi^T> delta_pq + readout_variance / width Cov(s_p phi, s_q phi)).

The mean residual is a derivative of the log evidence with respect to the targets, which moves tau by
(d ln det H / d tau) / (2 h |y|²), h the eigenvalue of H on the target. Shifts of both summands make H diagonal in
Fourier space up to blocks of modulus outputs, one for each charge (c, c'); multiplication of both summands by a number
makes blocks alike whose charges are multiples of one another. What is left of averages are those over neurons, drawn
from the law of their modes with free phases.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from fieldprob.prediction import Prediction
from fieldprob.tasks.arguments import count
from fieldprob.theory.grokking.modular.quadrature import mode_law
from fieldprob.theory.grokking.modular.setting import NAME, ModularAddition, prediction
from fieldprob.theory.precision import require_float64

_BATCHES = 8
_MEMORY = 2**25  # complex numbers of a batch


def one_loop(task: ModularAddition, *, key: Array, neurons: int = 8192) -> Prediction:
    """The mean residual to first order in 1/width: `residual_amplitude` and `train_error` of the mean predictor.

    Args:
        task: the network and its noise; of a prime modulus, at most some tens.
        key: of the neurons that are neurons.
        neurons: how many; their sampling error is the error of the prediction.

    Raises:
        ValueError: JAX is in float32; a modulus that is no prime; too few neurons, or too many for the memory.

    Source: theory 04, (3.30)-(3.32), carried over to modular addition; checked against sampled networks.

    >>> task = ModularAddition.with_phases(modulus=3, width=50, sextic=1.0, end=0.5, noise=1.2)
    >>> found = one_loop(task, key=jax.random.key(0), neurons=800)
    >>> bool(found.mean["residual_amplitude"] > task.noise_variance * mode_law(task).tau)
    True
    """
    require_float64(NAME)
    P = task.modulus
    if any(P % k == 0 for k in range(2, int(P**0.5) + 1)):
        raise ValueError(f"modulus = {P} is no prime: one_loop needs one, 7 or 31.")
    batch = count("neurons", neurons) // _BATCHES
    largest = _MEMORY // ((P + 2) * (P - 1) * P)
    if not 10 * P <= batch <= largest:
        raise ValueError(
            f"neurons = {neurons}: one_loop needs from {10 * P * _BATCHES} to {largest * _BATCHES} at modulus {P}."
        )
    law = mode_law(task)
    shifts = _shifts(jax.random.split(key, _BATCHES), law.tau, law.both, jnp.asarray(law.rule.x), task, batch)
    a = task.noise_variance * (law.tau + jnp.mean(shifts))
    error = task.noise_variance * jnp.std(shifts, ddof=1) / np.sqrt(_BATCHES)
    share = (P - 1) / P**2
    return prediction(
        "one loop",
        {"residual_amplitude": a, "train_error": a**2 * share},
        error={"residual_amplitude": error, "train_error": 2 * a * error * share},
        order="first order in 1/width",
        source="theory 04, (3.30)-(3.32)",
    )


@eqx.filter_jit
def _shifts(keys, tau, both, x, task: ModularAddition, size: int) -> Float[Array, " batches"]:
    """tau beyond mean field, by independent batches of neurons."""
    power = task.side_well * x
    product = jnp.outer(power, power)
    mean = jnp.sum(both * product)
    variance = jnp.sum(both * product**2) - mean**2
    # |s|² of a neuron at tau = 1 is 8 P³ times the sum over modes of Phi Psi
    P, scale, gamma = task.modulus, 8 * task.modulus**3, task.readout_variance / task.width
    per_target = task.modes * (scale * mean + gamma * tau**2 * scale**2 * variance) / (P * (P - 1))
    on_target = task.noise_variance + task.readout_variance * per_target

    def shift(key):
        neurons = _neurons(*_draw(both, power, task, size, key))
        return jax.grad(_log_determinant)(tau, tau, neurons, task) / (2 * on_target * P * (P - 1))

    return jax.lax.map(shift, keys)


def _draw(both, power, task: ModularAddition, size: int, key):
    """Modes u_k and v_k, k = 0..P-1, of neurons of the mean-field law: (neurons, P) each."""
    P = task.modulus
    key_node, key_phase, key_mean = jax.random.split(key, 3)
    cumulative = jnp.cumsum(both.ravel())
    node = jnp.searchsorted(cumulative, cumulative[-1] * jax.random.uniform(key_node, (size, task.modes)))
    root = jnp.sqrt(power[jnp.stack(jnp.divmod(node, len(power)))])
    modes = root * jnp.exp(2j * jnp.pi * jax.random.uniform(key_phase, root.shape))
    mean = jax.random.normal(key_mean, (2, size, 1)) / jnp.sqrt(P)
    return jnp.concatenate([mean, modes, modes[..., ::-1].conj()], axis=-1)


class _Neurons(NamedTuple):
    """Signals at tau = 1 and features of neurons in Fourier space; [n, b, x - 1, m] belongs to the charge x (c, c') of
    block b and to the output mode x m. `square` is the squared norm of the signals."""

    signal: Complex[Array, "neurons 1 multiples modulus"]
    feature: Complex[Array, "neurons blocks multiples modulus"]
    square: Float[Array, " neurons"]


def _neurons(u: Complex[Array, "neurons modulus"], v: Complex[Array, "neurons modulus"]) -> _Neurons:
    P = u.shape[-1]
    x, m = np.arange(1, P)[:, None], np.arange(P)
    at_u, at_v = ((x * (c[:, None, None] - m)) % P for c in _charges(P).T)
    square_u, square_v = (jnp.fft.ifft(jnp.fft.fft(w) ** 2) for w in (u, v))  # modes of u_i² and v_j²
    mixed = 2 * u[:, at_u] * v[:, at_v]
    feature = P * (mixed + (at_v == 0) * square_u[:, at_u] + (at_u == 0) * square_v[:, at_v])
    signal = (2 * P**1.5 * u * v).at[:, 0].set(0)
    return _Neurons(signal[:, (x * m) % P][:, None], feature, jnp.sum(jnp.abs(signal) ** 2, axis=-1))


def _charges(P: int) -> np.ndarray:
    """One charge (c, c') of those that are multiples of one another: (0, 0) and P + 1 classes of P - 1 charges."""
    return np.array([(0, 0), (0, 1), *((1, c) for c in range(P))])


def _log_determinant(tau, at, neurons: _Neurons, task: ModularAddition):
    """ln det H at tau, by neurons drawn at tau = `at`."""
    P, gamma = task.modulus, task.readout_variance / task.width
    weight = jax.nn.softmax(gamma / 2 * (tau**2 - at**2) * neurons.square)
    g = tau * neurons.signal * neurons.feature
    covariance = jnp.einsum("n,nbxi,nbxj->bij", weight, g, g.conj()) / (P - 1)
    mean = jnp.einsum("n,nxi->i", weight, g[:, 0]) / (P - 1)  # the target has charge (0, 0)
    covariance = covariance.at[0].add(-mean[:, None] * mean.conj())
    power = jnp.einsum("n,nbxi->bi", weight, jnp.abs(neurons.feature) ** 2) / (P - 1)
    diagonal = task.noise_variance + task.readout_variance * power
    H = diagonal[..., None] * jnp.eye(P) + task.readout_variance * gamma * covariance
    alike = jnp.array([1, *(P - 1 for _ in range(P + 1))])
    return alike @ jnp.linalg.slogdet(H)[1]
