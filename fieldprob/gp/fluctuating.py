"""A covariance with Gaussian fluctuations, as a NumPyro distribution over positive semidefinite matrices.

Over finite widths the output covariance C of a network fluctuates. To first order in 1/N it is Gaussian with mean M and
covariance G_{ab,cd} = sum_r Y^r_ab Y^r_cd, here restricted to positive semidefinite matrices (theory 03, (42)):

    C = M + sum_r z_r Y^r,  z standard normal where C >= 0.

Of the distribution it stands for it has the mean and the covariance to 1/N, and not the third cumulants (1/N^2); and it
is one of its own only where few draws are cut away: at other widths it is refused.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.core import Tracer
from jaxtyping import Array, Float
from numpyro.distributions import constraints

from fieldprob.gp.checks import check_finite

_CHECKED = 4000  # draws from which the fraction that is cut away is measured
_ROUNDING = 1e-10  # negative eigenvalues down to this times the largest of the mean count as zero


class FluctuatingCovariance(dist.Distribution):
    """Standard normal amplitudes z of the fluctuations of a covariance, where that is positive semidefinite.

    `covariance(z)` is the covariance itself, so that in a NumPyro model

        z = numpyro.sample("fluctuation", law)
        numpyro.sample("y", Marginal(law.covariance(z), noise_variance), obs=y)

    is the Gaussian surrogate. The density is not normalised by the probability of the restriction, which is constant.

    Args:
        mean: (points, points).
        fluctuation: G, covariance of the entries of C, (points, points, points, points); see `from_factor` for G given
            by its square root.
        largest_indefinite: of draws that are not restricted, the fraction that may be indefinite.

    Raises:
        ValueError: shapes that do not fit, entries that are not finite, G that is not symmetric or not positive
            semidefinite; more than `largest_indefinite` of the draws of N(M, G) are indefinite. Traced values are not
            checked.

    >>> import jax.numpy as jnp
    >>> law = FluctuatingCovariance.from_factor(jnp.eye(2), 0.1 * jnp.ones((1, 2, 2)))
    >>> law.covariance(jnp.array([2.0])).tolist()
    [[1.2, 0.2], [0.2, 1.2]]
    """

    arg_constraints: ClassVar = {}
    support = constraints.real_vector  # pyright: ignore[reportAssignmentType]
    pytree_data_fields = ("mean_covariance", "factor")
    reparametrized_params: ClassVar = []

    def __init__(self, mean, fluctuation, *, largest_indefinite: float = 0.01, validate_args=None):
        mean, G = jnp.asarray(mean), jnp.asarray(fluctuation)
        points = len(mean)
        if mean.shape != (points, points) or G.shape != (points,) * 4:
            raise ValueError(
                f"mean has shape {mean.shape} and fluctuation {G.shape}: give (points, points) and (points,) * 4."
            )
        self._set(mean, _factor(G), largest_indefinite, validate_args)

    @classmethod
    def from_factor(cls, mean, factor, *, largest_indefinite: float = 0.01, validate_args=None):
        """From fluctuations Y^r, (number, points, points), each symmetric: G = sum_r Y^r Y^r."""
        mean, factor = jnp.asarray(mean), jnp.asarray(factor)
        points = len(mean)
        if mean.shape != (points, points) or factor.ndim != 3 or factor.shape[1:] != mean.shape:
            raise ValueError(
                f"mean has shape {mean.shape} and factor {factor.shape}: give (points, points) and (number, points, "
                "points)."
            )
        law = cls.__new__(cls)
        law._set(mean, factor, largest_indefinite, validate_args)
        return law

    def _set(self, mean, factor, largest_indefinite, validate_args):
        if not 0 <= largest_indefinite < 1:
            raise ValueError(f"largest_indefinite is {largest_indefinite}: give a fraction from 0 to below 1.")
        for name, array in (("mean", mean), ("fluctuation", factor)):
            check_finite(name, array)
            if not isinstance(array, Tracer) and not np.allclose(array, np.swapaxes(array, -1, -2)):
                raise ValueError(f"{name} is not symmetric.")
        self.mean_covariance, self.factor = mean, factor
        super().__init__(event_shape=(len(factor),), validate_args=validate_args)
        if isinstance(mean, Tracer) or isinstance(factor, Tracer):
            return
        fraction = self.indefinite_fraction()
        if fraction > largest_indefinite:
            raise ValueError(
                f"{fraction:.1%} of the draws of the Gaussian law of the covariance are indefinite, more than "
                f"{largest_indefinite:.1%}: its fluctuations are too large for a Gaussian. Take a larger width, or the "
                "exact prior, face='kernels'."
            )

    def covariance(self, z: Float[Array, "*batch number"]) -> Float[Array, "*batch points points"]:
        """M + sum_r z_r Y^r."""
        return self.mean_covariance + jnp.tensordot(z, self.factor, 1)

    def indefinite_fraction(self) -> float:
        """Of draws without the restriction, those that are indefinite: from 4000 of them, its error below 0.8 %."""
        z = jax.random.normal(jax.random.key(0), (_CHECKED, len(self.factor)), self.factor.dtype)
        return 1.0 - float(jnp.mean(self._is_positive(z)))

    def _is_positive(self, z):
        eigenvalues = jnp.linalg.eigvalsh(self.covariance(z))
        largest = jnp.max(jnp.abs(jnp.diagonal(self.mean_covariance)))
        return eigenvalues[..., 0] >= -_ROUNDING * largest

    def log_prob(self, value: Any) -> Any:
        value = jnp.asarray(value)
        normal = -0.5 * jnp.sum(value**2, axis=-1) - 0.5 * len(self.factor) * jnp.log(2 * jnp.pi)
        return jnp.where(self._is_positive(jax.lax.stop_gradient(value)), normal, -jnp.inf)

    def sample(self, key=None, sample_shape=()):
        """Draws by rejection."""
        if key is None:
            raise ValueError("key is None: give a JAX key, e.g. jax.random.key(0).")
        shape = (*sample_shape, len(self.factor))

        def redraw(state):
            key, z, positive = state
            key, now = jax.random.split(key)
            fresh = jax.random.normal(now, shape, self.factor.dtype)
            z = jnp.where(positive[..., None], z, fresh)
            return key, z, self._is_positive(z)

        start = (key, jnp.zeros(shape, self.factor.dtype), jnp.zeros(sample_shape, bool))
        return jax.lax.while_loop(lambda state: ~jnp.all(state[2]), redraw, start)[1]


def _factor(G: Float[Array, "points points points points"]) -> Float[Array, "number points points"]:
    """Symmetric Y^r with sum_r Y^r Y^r = G: a square root in the coordinates of symmetric matrices."""
    points = len(G)
    a, b = np.triu_indices(points)
    if not isinstance(G, Tracer) and not (
        np.allclose(G, np.swapaxes(G, 0, 1)) and np.allclose(G, np.transpose(G, (2, 3, 0, 1)))
    ):
        raise ValueError("fluctuation is not symmetric in each pair of points and between the pairs.")
    weight = np.where(a == b, 1.0, np.sqrt(2.0))  # the Frobenius norm of symmetric matrices
    flat = G[a, b][:, a, b] * weight[:, None] * weight
    eigenvalues, vectors = jnp.linalg.eigh(flat)
    if not isinstance(eigenvalues, Tracer) and eigenvalues[0] < -1e-8 * max(float(eigenvalues[-1]), 0.0):
        raise ValueError(
            f"fluctuation is not positive semidefinite: its smallest eigenvalue is {float(eigenvalues[0]):.3g}, its "
            f"largest {float(eigenvalues[-1]):.3g}."
        )
    root = (vectors * jnp.sqrt(jnp.maximum(eigenvalues, 0.0))).T / weight
    Y = jnp.zeros((len(a), points, points), flat.dtype).at[:, a, b].set(root)
    return Y.at[:, b, a].set(root)
