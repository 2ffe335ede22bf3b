"""Superpositions of Gaussian processes that differ by a scale: the exact priors of deep linear networks, as NumPyro
distributions.

One output: y | s ~ N(0, s K + noise), s = prod_l chi^2_{N_l} / N_l over the layers' widths (theory 02, (7), (57)).
Several outputs of one hidden layer: vec(Y) | S ~ N(0, S x K + 1 x noise), S ~ Wishart(N, 1/N) over outputs (theory 01,
F2).
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import constraints
from numpyro.distributions.util import validate_sample

from fieldprob.gp.modes import eigh, modes
from fieldprob.gp.scales import log_density, posterior_nodes


class ScaleMixture(dist.Distribution):
    """One output of a deep linear network with Gaussian weights, or any Gaussian process times the root of the scale.

    Args:
        covariance: K, (points, points) or a batch of them; may be singular if there is noise.
        noise_variance: zero for the function itself, else of the data: a scalar, (points,) or (points, points).
        widths: of the hidden layers; one integer or one for each.

    `log_prob` is a quadrature over log s, exact to rounding in float64, differentiable in value, covariance and noise.

    Raises:
        ValueError: widths that are no positive integers, shapes that do not fit.

    >>> import jax.numpy as jnp
    >>> d = ScaleMixture(jnp.eye(2), 0.0, widths=1)
    >>> d.batch_shape, d.event_shape
    ((), (2,))
    >>> round(d.log_prob(jnp.array([1.0, 0.0])).item(), 4)     # log of exp(-1) / 2 pi
    -2.8379
    """

    arg_constraints: ClassVar = {"covariance": constraints.real_matrix}
    support = constraints.real_vector  # pyright: ignore[reportAssignmentType]
    pytree_data_fields = ("covariance", "noise_variance")
    pytree_aux_fields = ("widths",)
    reparametrized_params: ClassVar = ["covariance"]

    def __init__(self, covariance, noise_variance, widths: int | tuple[int, ...], *, validate_args=None):
        self.covariance, self.noise_variance = jnp.asarray(covariance), jnp.asarray(noise_variance)
        self.widths = (widths,) if isinstance(widths, int) else tuple(widths)
        if not self.widths or not all(isinstance(n, int) and n >= 1 for n in self.widths):
            raise ValueError(f"widths is {widths!r}: give one positive integer, or one for each hidden layer.")
        points = _square("covariance", self.covariance)
        _check_noise(self.noise_variance, points)
        super().__init__(self.covariance.shape[:-2], (points,), validate_args=validate_args)

    @validate_sample
    def log_prob(self, value):
        signature = "(p,p),(p)->()"
        return jnp.vectorize(self._log_prob, signature=signature)(self.covariance, jnp.asarray(value))

    def _log_prob(self, K, y):
        data = modes(K, self.noise_variance, y)
        nodes = posterior_nodes(data, self.widths)
        terms = log_density(nodes, self.widths) + data.log_likelihood(jnp.exp(nodes.z))
        return jax.nn.logsumexp(terms + nodes.log_weight)

    def sample(self, key=None, sample_shape=()):
        if key is None:
            raise ValueError("key is None: give a JAX key, e.g. jax.random.key(0).")
        key_s, key_f, key_noise = jax.random.split(key, 3)
        shape = self.shape(sample_shape)
        half = jnp.asarray(self.widths, self.covariance.dtype) / 2
        scales = jax.random.gamma(key_s, half, (*shape[:-1], len(self.widths))) / half
        f = _root(self.covariance) @ jax.random.normal(key_f, (*shape, 1), self.covariance.dtype)
        noise = jax.random.normal(key_noise, (*shape, 1), self.covariance.dtype)
        return (
            jnp.sqrt(jnp.prod(scales, axis=-1))[..., None] * f[..., 0] + _coloured(self.noise_variance, noise)[..., 0]
        )

    @property
    def mean(self):
        return jnp.zeros(self.batch_shape + self.event_shape)

    @property
    def variance(self):
        noise = self.noise_variance
        return jnp.diagonal(self.covariance, axis1=-2, axis2=-1) + (jnp.diagonal(noise) if noise.ndim == 2 else noise)


class OutputScaled(dist.Distribution):
    """Outputs Y (points, outputs) of a Gaussian process whose outputs covary: vec(Y) ~ N(0, scale x K + 1 x noise).

    With `scale` from `sample_wishart`, or the Gram matrix A A^T / N of a latent Gaussian A (outputs, N), the prior of a
    linear network with one hidden layer of N neurons.

    Args:
        covariance: K, (points, points); may be singular if there is noise.
        scale: covariance of the outputs, (outputs, outputs), or a batch of them; may be singular if there is noise.
        noise_variance: zero for the function itself, else a scalar, (points,) or (points, points), the same for every
            output.

    Raises:
        ValueError: shapes that do not fit.

    >>> import jax.numpy as jnp
    >>> d = OutputScaled(jnp.eye(2), jnp.eye(3), 0.5)
    >>> round(d.log_prob(jnp.zeros((2, 3))).item(), 4)         # -3 log(2 pi 1.5)
    -6.73
    """

    arg_constraints: ClassVar = {"covariance": constraints.real_matrix, "scale": constraints.real_matrix}
    support = constraints.real_matrix  # pyright: ignore[reportAssignmentType]
    pytree_data_fields = ("covariance", "scale", "noise_variance")
    reparametrized_params: ClassVar = ["covariance", "scale"]

    def __init__(self, covariance, scale, noise_variance, *, validate_args=None):
        self.covariance, self.scale = jnp.asarray(covariance), jnp.asarray(scale)
        self.noise_variance = jnp.asarray(noise_variance)
        points, outputs = _square("covariance", self.covariance), _square("scale", self.scale)
        if self.covariance.ndim != 2:
            raise ValueError(f"covariance has shape {self.covariance.shape}: give (points, points).")
        _check_noise(self.noise_variance, points)
        super().__init__(self.scale.shape[:-2], (points, outputs), validate_args=validate_args)

    @validate_sample
    def log_prob(self, value):
        points, outputs = self.event_shape
        data = modes(self.covariance, self.noise_variance, jnp.zeros(points, self.covariance.dtype))
        s, V = jnp.vectorize(eigh, signature="(c,c)->(c),(c,c)")(self.scale)
        rotated = jnp.vectorize(data.project, signature="(p,c)->(p,c)")(jnp.asarray(value)) @ V
        variance = data.noise + data.eigenvalues[:, None] * jnp.maximum(s, 0.0)[..., None, :]
        terms = rotated**2 / variance + jnp.log(2 * jnp.pi * variance)
        return -0.5 * jnp.sum(terms, axis=(-2, -1)) - outputs * data.log_det

    def sample(self, key=None, sample_shape=()):
        if key is None:
            raise ValueError("key is None: give a JAX key, e.g. jax.random.key(0).")
        key_f, key_noise = jax.random.split(key)
        shape = self.shape(sample_shape)
        f = _root(self.covariance) @ jax.random.normal(key_f, shape, self.covariance.dtype) @ _root(self.scale)
        return f + _coloured(self.noise_variance, jax.random.normal(key_noise, shape, self.covariance.dtype))


def sample_wishart(key, outputs: int, width: int, sample_shape: tuple[int, ...] = ()) -> Float[Array, "... c c"]:
    """S ~ Wishart(width, 1/width) over outputs, of mean one: the Gram matrix of a trapezoidal Bartlett factor, so that
    S of rank width < outputs is as good as any.

    >>> import jax
    >>> S = sample_wishart(jax.random.key(0), outputs=4, width=2, sample_shape=(3,))
    >>> S.shape, jnp.linalg.matrix_rank(S).tolist()
    ((3, 4, 4), [2, 2, 2])
    """
    if outputs < 1 or width < 1:
        raise ValueError(f"outputs is {outputs} and width is {width}: both must be at least 1.")
    rank = min(outputs, width)
    key_normal, key_chi = jax.random.split(key)
    below = jnp.tril(jax.random.normal(key_normal, (*sample_shape, outputs, rank)), -1)
    half = (width - jnp.arange(rank)) / 2
    diagonal = jnp.sqrt(2 * jax.random.gamma(key_chi, half, (*sample_shape, rank)))
    factor = below + jnp.eye(outputs, rank) * diagonal[..., None, :]
    return factor @ jnp.swapaxes(factor, -1, -2) / width


def _square(name: str, matrix) -> int:
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"{name} has shape {matrix.shape}: give a square matrix, or a batch of them.")
    return matrix.shape[-1]


def _check_noise(noise, points: int) -> None:
    if noise.shape not in ((), (points,), (points, points)):
        raise ValueError(
            f"noise_variance has shape {noise.shape}, but the covariance has {points} points: give a scalar, "
            f"({points},) or ({points}, {points})."
        )


def _root(matrix):
    """The symmetric square root, of a singular matrix too."""
    eigenvalues, vectors = jnp.linalg.eigh(matrix)
    return (vectors * jnp.sqrt(jnp.maximum(eigenvalues, 0.0))[..., None, :]) @ jnp.swapaxes(vectors, -1, -2)


def _coloured(noise_variance, normal):
    """Noise of points (second to last dimension) with this variance or covariance."""
    if noise_variance.ndim == 2:
        return jnp.linalg.cholesky(noise_variance) @ normal
    return jnp.sqrt(noise_variance)[..., None] * normal
