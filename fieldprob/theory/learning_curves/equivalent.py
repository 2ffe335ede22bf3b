"""The equivalent kernel: leading order of the average over data sets.

The empirical measure of the inputs is replaced by the population's, so that every mode is a regression of its own on P
exact measurements with noise k2 (Sollich & Williams 2005; Cohen, Malka & Ringel, arXiv:1906.05301, eq. 12):

    <f_k> = L_k y_k,   L_k = lambda_k / (lambda_k + k2 / P),   posterior variance of a mode v_k = lambda_k (1 - L_k).

Good while the posterior variance of a point, sum of g_k v_k, is far below the ridge k2.
"""

import jax
import jax.numpy as jnp

from fieldprob.prediction import Prediction
from fieldprob.theory.learning_curves.setting import Setting, curve, positive_ridge, setting


def equivalent_kernel(prior, task) -> Prediction:
    """The equivalent-kernel approximation of a learning curve.

    Args:
        prior: a `Spectrum`.
        task: a population: `points` (the curve), `noise_variance` (ridge of the model), `label_noise_variance`,
            `poisson`, and `target` or None if the spectrum carries it.

    Returns:
        A `Prediction` named 'equivalent kernel', along `points`: `test_error` of the mean predictor against clean
        labels, `noisy_test_error` and, equal to it at this order, `train_error`; `posterior_variance` averaged over
        inputs; `effective_ridge` (the model's own here); and along (`points`, `mode`) `learnability`, the average
        `predictor`. Its variance over data sets is of the next order.

    Raises:
        TypeError: prior is no `Spectrum`, or task no population.
        ValueError: float32; no target; noise_variance that is not positive.

    >>> import fieldprob as fp
    >>> from types import SimpleNamespace as Population
    >>> spectrum = fp.kernels.Spectrum([1.0, 0.1], coefficients=[1.0, 1.0])
    >>> task = Population(points=(10,), noise_variance=1.0, label_noise_variance=0.0, poisson=False, target=None)
    >>> equivalent_kernel(spectrum, task).mean["learnability"].round(3).tolist()
    [[0.909, 0.5]]
    """
    s = setting("equivalent kernel", prior, task)
    positive_ridge(s)
    return curve(
        s,
        order="leading order in posterior variance / noise_variance",
        source="Cohen, Malka & Ringel, arXiv:1906.05301; Sollich & Williams (2005)",
        **_curve(s),
    )


@jax.jit
def _curve(s: Setting):
    spectrum, P = s.spectrum, s.points[:, None]
    y = spectrum.required_coefficients()
    L = P * spectrum.eigenvalues / (P * spectrum.eigenvalues + s.ridge)
    clean = jnp.sum((1 - L) ** 2 * y**2, axis=1) + spectrum.target_tail
    return {
        "test_error": clean,
        "noisy_test_error": clean + s.label_noise,
        "train_error": clean + s.label_noise,
        "effective_ridge": jnp.broadcast_to(s.ridge, clean.shape),
        "posterior_variance": jnp.sum(spectrum.weights * (1 - L), axis=1) + spectrum.tail,
        "learnability": L,
        "predictor": L * y,
    }
