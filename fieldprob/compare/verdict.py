"""From a difference and its error to a verdict: tail probabilities, many numbers at once, convergence."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy import special

AGREES, DIFFERS, NOT_CONVERGED = "agrees", "differs", "not converged"
_BEND = 0.5


def p_values(
    difference: np.ndarray,
    mcse: np.ndarray,
    error: np.ndarray,
    skewness: np.ndarray,
    degrees_of_freedom: np.ndarray,
    widening: np.ndarray,
    kind: str = "value",
) -> tuple[np.ndarray, np.ndarray]:
    """z and p-value of sampled minus predicted, given both standard errors.

    z = difference / sqrt(mcse² + error²) is what it says. The p-value allows for what a normal tail ignores and what
    matters once p is of the order 1e-6: the variance under the square root is itself estimated (Student's t, and mcse
    times `widening`), and the mean of skewed draws is skewed and correlated with its own estimated error. For that z is
    replaced by Hall's monotone cubic, z + a z² + a² z³/3 + skewness/6, a = skewness/3, `skewness` that of the mean.

    `kind` "lower" says that the prediction is a lower bound: only a sampled value below it counts against it; "upper"
    the reverse; both with a one-sided p-value.

    Source: Hall, On the removal of skewness by transformation, J. R. Stat. Soc. B 54 (1992), 221.
    """
    z = difference / np.hypot(mcse, error)
    total = np.hypot(widening * mcse, error)
    share = widening * mcse / total
    t = _unskew(difference / total, skewness * share**3)
    dof = degrees_of_freedom / share**4  # Welch-Satterthwaite, the error of the prediction taken as known
    if kind == "lower":
        return z, special.stdtr(dof, t)
    if kind == "upper":
        return z, special.stdtr(dof, -t)
    return z, 2 * special.stdtr(dof, -np.abs(t))


def _unskew(z: np.ndarray, skewness: np.ndarray) -> np.ndarray:
    """Hall's cubic ((1 + az)³ − 1)/3a, continued linearly before it flattens, so that a large |z| stays large."""
    a = np.where(np.abs(skewness) < 1e-12, 1e-12, skewness) / 3
    u = np.maximum(a * z, -_BEND)
    cubic = u * (1 + u + u**2 / 3) / a
    return cubic + (a * z - u) / a * (1 - _BEND) ** 2 + skewness / 6


def holm(p: np.ndarray, false_alarm: float) -> np.ndarray:
    """Which null hypotheses Holm's step-down procedure rejects; NaN entries are no hypotheses.

    The probability that any true one is rejected is at most `false_alarm`, whatever their dependence.
    """
    rejected = np.zeros(p.shape, bool)
    order = np.argsort(p)[: np.sum(np.isfinite(p))]
    passed = p[order] <= false_alarm / np.arange(len(order), 0, -1)
    rejected[order[: len(order) if passed.all() else int(np.argmin(passed))]] = True
    return rejected


def worst(verdicts: Iterable[str]) -> str:
    """The verdict on several numbers: not converged if one is not, else differs if one does."""
    present = set(verdicts)
    return next(v for v in (NOT_CONVERGED, DIFFERS, AGREES) if v in present)


def rhat_limit(maximum: float, ess: np.ndarray, chains: int, numbers: int) -> np.ndarray:
    """The R-hat above which a number counts as not converged.

    R-hat of converged chains exceeds 1 by chance: with m half-chains, R-hat² − 1 ≈ (m/ESS) χ²(m−1)/(m−1), and the
    largest of many exceeds it by more. `maximum` is therefore raised to what all `numbers` stay below with probability
    0.999. (Chains that have not mixed are not excused by this: their ESS is only a few per chain.)
    """
    half_chains = 2 * max(chains, 2)
    chance = special.chdtri(half_chains - 1, 1e-3 / max(numbers, 1)) / (half_chains - 1)
    return np.maximum(maximum, np.sqrt(1 + half_chains / ess * chance))
