"""First correction to the equivalent kernel, for any features, at a fixed and at a Poisson number of points.

The average over data sets of the replicated action, expanded to second order in the loss of one point, gives with
v(x, x') = sum of v_k phi_k(x) phi_k(x'), Delta = (equivalent-kernel mean) - target, label noise s2 and ridge k2

    d<f(x*)>         = (P/k2^2) [ E v(x*, z) v(z, z) Delta(z)          - E E' v(x*, z') v(z', z) Delta(z) ],
    Cov[f(x), f(x')] = (P/k2^2) [ E v(x, z) v(x', z) (Delta(z)^2 + s2) - E v(x, z) Delta(z) E v(x', z) Delta(z) ],
    d v(x, x')       = (P/k2^2) [ E v(x, z) v(x', z) v(z, z)           - E E' v(x, z) v(z, z') v(z', x') ],

the second terms at fixed P only (Cohen, Malka & Ringel, arXiv:1906.05301, section V; the covariance and the variance
derived here in the same way). The training error follows from the identity y_i - f(x_i) = (y_i - f_-i(x_i)) k2 / (k2 +
v_-i(x_i, x_i)), where f_-i has learned from the other points: P - 1 of them, on average where P is a mean, since the
training error is that of a data set, a mean over its own points.
Exact to first order in v(x, x)/k2, whose largest value `order` reports.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from fieldprob.prediction import Prediction
from fieldprob.theory.learning_curves.moments import check_features, moments
from fieldprob.theory.learning_curves.setting import Setting, curve, positive_ridge, setting


def equivalent_kernel_corrected(prior, task) -> Prediction:
    """The equivalent kernel and its first correction in posterior variance over ridge.

    Args:
        prior: a `Spectrum`. Averages of products of its eigenfunctions are taken by its quadrature; without
            eigenfunctions its features are independent Gaussians.
        task: a population: `points` (the curve), `noise_variance` (ridge of the model), `label_noise_variance`,
            `poisson` (whether `points` is the mean of a Poisson number), and `target` or None if the spectrum has it.

    Returns:
        A `Prediction` named 'first correction', along `points`: `test_error` of the mean predictor against clean
        labels, `noisy_test_error`, `train_error`, `effective_ridge` (the ridge plus the leading posterior variance),
        `posterior_variance`; along (`points`, `mode`) `learnability`, the average `predictor` with its
        variance over data sets. All strictly to first order. `order` says how large v(x, x)/k2 gets.

    Raises:
        TypeError: prior is no `Spectrum`, or task no population.
        ValueError: float32; no target; noise_variance that is not positive; degenerate modes with eigenfunctions on a
            measure that is not homogeneous (list every mode).

    >>> import fieldprob as fp
    >>> from types import SimpleNamespace as Population
    >>> spectrum = fp.kernels.spectra.interval(jnp.arange(1.0, 13) ** -1.5).with_target(coefficients=[1.0] + 11 * [0.0])
    >>> task = Population(points=(30,), noise_variance=8.0, label_noise_variance=0.5, poisson=False, target=None)
    >>> prediction = equivalent_kernel_corrected(spectrum, task)
    >>> round(prediction.mean["predictor"][0, 0].item(), 4), prediction.order
    (0.7736, 'first order in posterior variance / noise_variance, which reaches 0.22')
    """
    s = setting("first correction", prior, task)
    positive_ridge(s)
    check_features(s.spectrum)
    mean, largest = _curve(s)
    order = "first order in posterior variance / noise_variance"
    if not isinstance(largest, Tracer):
        order += f", which reaches {float(jnp.max(largest / s.ridge)):.2g}"
    return curve(s, order=order, source="Cohen, Malka & Ringel, arXiv:1906.05301, section V", **mean)


def predictor_covariance_corrected(prior, task) -> Float[Array, "points modes modes_"]:
    """Covariance over data sets of the mean predictor's coefficients, to first order, at every size of the population.

    Its diagonal is the variance of `predictor` in `equivalent_kernel_corrected`; same arguments, same errors.

    >>> from types import SimpleNamespace as Population
    >>> import fieldprob as fp
    >>> spectrum = fp.kernels.spectra.interval(jnp.arange(1.0, 4) ** -1.5).with_target(coefficients=[1.0, 0.0, 0.0])
    >>> task = Population(points=(30,), noise_variance=8.0, label_noise_variance=0.5, poisson=True, target=None)
    >>> predictor_covariance_corrected(spectrum, task).shape
    (1, 3, 3)
    """
    s = setting("first correction", prior, task)
    positive_ridge(s)
    check_features(s.spectrum)
    return _covariance(s)


@jax.jit
def _covariance(s: Setting):
    def one(P):
        v, delta = _leading(s, P)[1:]
        inner = moments(s.spectrum, v, delta).covariance + s.label_noise * jnp.eye(s.spectrum.modes)
        inner = inner - (0.0 if s.poisson else delta[:, None] * delta)
        return P / s.ridge**2 * v[:, None] * inner * v

    return jax.vmap(one)(s.points)


def _leading(s: Setting, P):
    """Learnability, posterior variance of a mode, and mean minus target, of the equivalent kernel."""
    eigenvalues, y = s.spectrum.eigenvalues, s.spectrum.required_coefficients()
    L = P * eigenvalues / (P * eigenvalues + s.ridge)
    return L, eigenvalues * (1 - L), (L - 1) * y


@jax.jit
def _curve(s: Setting):
    return jax.vmap(partial(_corrected, s))(s.points)


def _corrected(s: Setting, P):
    spectrum, y = s.spectrum, s.spectrum.required_coefficients()
    L, v, delta = _leading(s, P)
    E = moments(spectrum, v, delta)
    fixed, strength = (0.0 if s.poisson else 1.0), P / s.ridge**2

    shift = strength * v * (E.pull - fixed * v * delta)
    variance = strength * v**2 * (E.square + s.label_noise - fixed * delta**2)
    scatter = strength * (E.scatter + s.label_noise * E.spread - fixed * jnp.sum(v**2 * delta**2))
    lost = strength * v * (E.variance - fixed * v)  # relative change of a mode's posterior variance
    posterior = jnp.sum(spectrum.degeneracies * v * (1 + lost)) + spectrum.tail

    leading = jnp.sum(delta**2) + spectrum.target_tail
    clean = leading + 2 * delta @ shift + scatter
    # a point is predicted from P - 1 others: the leading error there is larger by -dE/dP
    others = clean + 2 * jnp.sum(L * delta**2) / P
    train = others + s.label_noise - 2 / s.ridge * (E.weighted + s.label_noise * E.mean)
    mean = {
        "test_error": clean,
        "noisy_test_error": clean + s.label_noise,
        "train_error": train,
        "effective_ridge": s.ridge + E.mean,
        "posterior_variance": posterior,
        "learnability": L - (1 - L) * lost,
        "predictor": L * y + shift,
        "predictor_variance": variance,
    }
    return mean, E.largest
