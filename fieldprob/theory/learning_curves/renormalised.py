"""The renormalised ridge: the replica-symmetric average over data sets with Gaussian features.

Each mode is a regression of its own with the effective ridge m in place of the model's k2. With L_k = P lambda_k /
(P lambda_k + m), gamma = (1/P) sum of g_k L_k^2, label noise s2 and Delta_k = (1 - L_k) y_k,

    <f_k> = L_k y_k,   E = [sum of Delta_k^2 + s2] / (1 - gamma)   against noisy labels,
    training error (k2/m)^2 E,   posterior variance m - k2,   sum of g_k L_k = P (1 - k2/m)

(Bordelon, Canatar & Pehlevan, arXiv:2002.02561; Canatar, Bordelon & Pehlevan, arXiv:2006.13198; Simon et al.,
arXiv:2110.03922). Over data sets the mean predictor scatters by

    Cov(f_k, f_l) = (L_k L_l / P) [ delta_kl E + Delta_k Delta_l / (1 - gamma) ],

and a Poisson number of points adds P (d<f_k>/dP)(d<f_l>/dP) = (L_k L_l / P) Delta_k Delta_l / (1 - gamma)^2. The first
term is that of the references; the others matter where one mode holds much of the error. They are inferred here, from
the first correction and from projections on random subspaces, whose variances they reproduce, and checked on samples.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fieldprob.prediction import Prediction
from fieldprob.theory.learning_curves.ridge import effective_ridge
from fieldprob.theory.learning_curves.setting import Setting, curve, setting


def renormalised_ridge(prior, task) -> Prediction:
    """The learning curve of kernel regression with Gaussian features, to all orders in variance over ridge.

    Args:
        prior: a `Spectrum`. Its tail is an additional ridge, the target's tail additional label noise.
        task: a population: `points` (the curve), `noise_variance` (ridge of the model; may be zero while there are more
            modes than points), `label_noise_variance`, `poisson`, and `target` or None if the spectrum carries it.

    Returns:
        A `Prediction` named 'renormalised ridge', along `points`: `test_error` of the mean predictor against clean
        labels, `noisy_test_error`, `train_error` (against the noisy labels learned from), `effective_ridge`,
        `posterior_variance` averaged over inputs; and along (`points`, `mode`) `learnability`, the average `predictor`
        with its variance over data sets, of the one listed function of each eigenspace.

    Raises:
        TypeError: prior is no `Spectrum`, or task no population.
        ValueError: float32; no target; zero ridge with at least as many points as modes.

    >>> import fieldprob as fp
    >>> from types import SimpleNamespace as Population
    >>> spectrum = fp.kernels.spectra.power_law(1.5, modes=10**6, target_exponent=1.5)
    >>> task = Population(points=(10, 100), noise_variance=0.0, label_noise_variance=0.0, poisson=False, target=None)
    >>> renormalised_ridge(spectrum, task).mean["test_error"].round(3).tolist()
    [1.103, 0.37]
    """
    s = setting("renormalised ridge", prior, task)
    m = effective_ridge(s.spectrum, s.points, s.ridge)
    L, error, scatter = _solution(s, m)
    return curve(
        s,
        order="Gaussian features, many modes: all orders in posterior variance / noise_variance",
        source="Canatar, Bordelon & Pehlevan, arXiv:2006.13198; Simon et al., arXiv:2110.03922",
        test_error=error - s.label_noise,
        noisy_test_error=error,
        train_error=(s.ridge / m) ** 2 * error,
        effective_ridge=m,
        posterior_variance=m - s.ridge,
        learnability=L,
        predictor=L * s.spectrum.required_coefficients(),
        predictor_variance=(error[:, None] * L**2 + scatter**2) / s.points[:, None],
    )


def predictor_covariance(prior, task) -> Float[Array, "points modes modes_"]:
    """Covariance over data sets of the mean predictor's coefficients, at every size of the population.

    Its diagonal is the variance of `predictor` in `renormalised_ridge`; same arguments, same errors.

    >>> import fieldprob as fp
    >>> from types import SimpleNamespace as Population
    >>> spectrum = fp.kernels.Spectrum([1.0, 0.1], coefficients=[1.0, 1.0])
    >>> task = Population(points=(10,), noise_variance=1.0, label_noise_variance=0.0, poisson=False, target=None)
    >>> round(predictor_covariance(spectrum, task)[0, 0, 1].item(), 4)
    0.0026
    """
    s = setting("renormalised ridge", prior, task)
    L, error, scatter = _solution(s, effective_ridge(s.spectrum, s.points, s.ridge))
    covariance = jnp.eye(s.spectrum.modes) * (error[:, None] * L**2)[:, None, :]
    return (covariance + scatter[:, :, None] * scatter[:, None, :]) / s.points[:, None, None]


@jax.jit
def _solution(s: Setting, m: Float[Array, " points"]):
    """Learnabilities, error against noisy labels, and L Delta scaled as it enters covariances."""
    spectrum, P = s.spectrum, s.points[:, None]
    L = P * spectrum.eigenvalues / (P * spectrum.eigenvalues + m[:, None])
    delta = (1 - L) * spectrum.required_coefficients()
    gamma = jnp.sum(spectrum.degeneracies * L**2, axis=1) / s.points
    error = (jnp.sum(delta**2, axis=1) + spectrum.target_tail + s.label_noise) / (1 - gamma)
    strength = 1 / (1 - gamma) + (1 / (1 - gamma) ** 2 if s.poisson else 0.0)
    return L, error, jnp.sqrt(strength)[:, None] * L * delta
