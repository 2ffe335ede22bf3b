"""A correlated Gaussian on which every kernel is tried, with tests of its mean and of all entries of its covariance.

The chains are independent, so that the standard error of a moment comes from its scatter between chains, whatever the
autocorrelation within one; each score is then Student's t with (chains - 1) degrees of freedom. Chains do not start in
the target: a kernel that leaves it invariant but does not move is caught as well.

    target = Gaussian(dimension=20, condition=30)
    run = sample(MALA(potential_fn=target.potential_fn), target, warmup=500, draws=20, thinning=10)
    assert_moments(run.draws, target.mean, target.covariance)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

FALSE_ALARM = 1e-6  # of a whole set of scores: leaves a factor of ten to the tails of products of few draws


class Gaussian:
    """N(mean, covariance) in random axes; the eigenvalues of the covariance run from 1/√condition to √condition."""

    def __init__(self, dimension: int = 20, condition: float = 30.0, seed: int = 0):
        rng = np.random.default_rng(seed)
        axes, _ = np.linalg.qr(rng.standard_normal((dimension, dimension)))
        self.variances = np.geomspace(condition**-0.5, condition**0.5, dimension)
        self.mean = rng.standard_normal(dimension)
        self.covariance = (axes * self.variances) @ axes.T
        self.precision = (axes / self.variances) @ axes.T

    def potential_fn(self, z):
        """½ (z − mean) · precision · (z − mean), in the precision of z."""
        x = z - jnp.asarray(self.mean, z.dtype)
        return 0.5 * jnp.dot(x, jnp.asarray(self.precision, z.dtype) @ x)


class Run(NamedTuple):
    """draws (chains, draws, dimension); what `collect` returned, stacked in the same way; the final (batched) state."""

    draws: np.ndarray
    collected: Any
    state: Any


def sample(
    kernel,
    target,
    *,
    warmup: int,
    draws: int,
    thinning: int = 1,
    chains: int = 256,
    seed: int = 0,
    spread: float = 1.5,
    collect=lambda state: None,
    dtype=None,
) -> Run:
    """Independent chains in one compiled scan, started from N(mean, spread² × the diagonal of the covariance).

    warmup must be a multiple of thinning. collect: state of one chain -> a pytree to keep beside the draws.
    """
    assert warmup % thinning == 0, "warmup must be a multiple of thinning, for one scan does both"
    rng = np.random.default_rng(seed)
    scale = spread * np.sqrt(np.diag(target.covariance))
    start = jnp.asarray(target.mean + scale * rng.standard_normal((chains, len(scale))), dtype)
    state = kernel.init(jax.random.split(jax.random.key(seed), chains), warmup, start)

    def transition(state, _):
        return kernel.sample(state, (), {}), None

    def block(state, _):
        state, _ = jax.lax.scan(transition, state, length=thinning)
        return state, (state.z, jax.vmap(collect)(state))

    scan = jax.jit(lambda state: jax.lax.scan(block, state, length=warmup // thinning + draws))
    state, kept = scan(state)
    z, collected = jax.tree.map(lambda x: np.swapaxes(np.asarray(x[warmup // thinning :]), 0, 1), kept)
    return Run(z, collected, state)


def scores(draws, mean, covariance) -> np.ndarray:
    """t-scores of the mean (d of them) and of the upper triangle of the covariance (d(d+1)/2), chains independent.

    draws is (chains, draws, d), or (chains, d). They are first turned to the principal axes of `covariance` and scaled
    to unit variance: a bias of the stiff directions, where discretisation acts, would drown in the entries of the soft.
    Second moments are about the given mean, hence unbiased.
    """
    variances, axes = np.linalg.eigh(covariance)
    x = np.asarray(draws, float).reshape(len(draws), -1, np.shape(draws)[-1]) - mean
    x = (x @ axes) / np.sqrt(variances)
    rows, columns = np.triu_indices(len(variances))
    second = np.einsum("cti,ctj->cij", x, x)[:, rows, columns] / x.shape[1] - np.eye(len(variances))[rows, columns]
    errors = np.concatenate([x.mean(1), second], axis=1)
    with np.errstate(all="ignore"):  # chains that do not move have no scatter: NaN or infinite, refused below
        return errors.mean(0) / (errors.std(0, ddof=1) / np.sqrt(len(errors)))


def threshold(count: int, chains: int, false_alarm: float = FALSE_ALARM) -> float:
    """The largest of `count` |t| with (chains - 1) degrees of freedom is above this with at most that probability."""
    return float(scipy.stats.t.isf(false_alarm / (2 * count), chains - 1))


def assert_moments(draws, mean, covariance, false_alarm: float = FALSE_ALARM) -> None:
    """Mean and covariance of the draws agree with these: those of the target, or of the exact discretised law."""
    t = scores(draws, mean, covariance)
    bound = threshold(len(t), len(draws), false_alarm)
    d = len(np.asarray(mean))
    worst = [float(np.max(np.abs(part))) if np.all(np.isfinite(part)) else np.inf for part in (t[:d], t[d:])]
    report = f"largest |t| of the mean {worst[0]:.1f}, of the covariance {worst[1]:.1f}; bound {bound:.1f}"
    assert max(worst) < bound, report
