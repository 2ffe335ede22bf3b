"""The fully connected network as a random kernel.

Pre-activations and outputs, with variances per fan-in and N_0 the input dimension (Neal 1996; Lee et al. 2018):

    h^1 = W^0 x + b^0,   h^{l+1} = W^l phi(h^l) + b^l,   f = (W^L phi(h^L) + b^L) / sqrt(chi),
    W^l_ij ~ N(0, weight_variance[l] / N_l),   b^l ~ N(0, bias_variance[l]),   chi = N_L^(gamma - 1).

gamma = 1 is standard scaling, gamma = 2 mean-field scaling. chi divides the whole prior of the readout (weights and
bias) and the noise, so that the infinite-width predictor does not depend on it: what changes with chi is feature
learning.
"""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import Array, Float

from fieldprob import kernels
from fieldprob.activations import Activation, get
from fieldprob.gp.covariance import LowRank
from fieldprob.networks.arguments import (
    _gamma,
    _inputs,
    _integer,
    _is_zero,
    _per_layer,
    _point_sets,
    _standard_normal,
    _variances,
)
from fieldprob.networks.network import Network
from fieldprob.networks.superposition import kernel_roots, plan, sample_latents


class Mlp(Network):
    """A fully connected network of any depth, with Gaussian weights.

    Args:
        width: neurons of each hidden layer; one integer, or one for each of the `depth` layers.
        depth: number of hidden layers L.
        activation: a name ("erf", "relu", ...), an `Activation`, a callable, or one of these for each layer.
        weight_variance: variance per fan-in of the weights before the readout; a number, or one for each l = 0..L-1.
        bias_variance: a number, or one for each l = 0..L (the last is the readout's).
        readout_variance: variance per fan-in of the readout; the (last) `weight_variance` unless given.
        scaling: "standard", "mean-field", or gamma >= 1.
        rescale_noise: whether the noise is divided by chi too (see `effective_noise`).

    Every weight is sampled as a standard normal and scaled in the forward pass. Faces: `weights`, `collapsed`,
    `kernels`, `limit`.

    Raises:
        ValueError: an argument is out of range or has the wrong length.

    >>> net = Mlp(width=64, depth=1, activation="erf", scaling="mean-field")
    >>> net.chi
    64.0
    >>> import jax.numpy as jnp
    >>> net.limit(jnp.ones((3, 2))).shape
    (3, 3)
    """

    widths: tuple[int, ...] = eqx.field(static=True)
    activations: tuple[Activation, ...]
    weight_variance: tuple
    bias_variance: tuple
    readout_variance: Float[Array, ""] | float
    gamma: float = eqx.field(static=True)
    rescale_noise: bool = eqx.field(static=True)

    faces = ("weights", "collapsed", "kernels", "limit")

    def __init__(
        self,
        width: int | Sequence[int],
        depth: int = 1,
        activation: str | Callable | Sequence = "erf",
        weight_variance: float | Sequence[float] = 1.0,
        bias_variance: float | Sequence[float] = 0.0,
        readout_variance: float | None = None,
        scaling: str | float = "standard",
        rescale_noise: bool = True,
    ):
        depth = _integer("depth", depth)
        self.widths = tuple(_integer("width", n) for n in _per_layer("width", width, depth))
        self.activations = tuple(get(a) for a in _per_layer("activation", activation, depth))
        self.weight_variance = _variances("weight_variance", weight_variance, depth, positive=True)
        self.bias_variance = _variances("bias_variance", bias_variance, depth + 1, positive=False)
        if readout_variance is None:
            readout_variance = self.weight_variance[-1]
        self.readout_variance = _variances("readout_variance", readout_variance, 1, positive=True)[0]
        self.gamma = _gamma(scaling)
        if not isinstance(rescale_noise, bool | np.bool_):
            raise ValueError(f"rescale_noise is {rescale_noise!r}: give True or False.")
        self.rescale_noise = bool(rescale_noise)

    # --- scales -------------------------------------------------------------------------------------------------------

    @property
    def depth(self) -> int:
        """Number of hidden layers."""
        return len(self.widths)

    @property
    def chi(self) -> float:
        """N^(gamma - 1) with N the width of the last hidden layer: 1 in standard, N in mean-field scaling."""
        return float(self.widths[-1]) ** (self.gamma - 1.0)

    def _output_variances(self):
        return self.readout_variance / self.chi, self.bias_variance[-1] / self.chi

    # --- the infinite-width face --------------------------------------------------------------------------------------

    def limit_kernels(self, X1, X2=None) -> list[Float[Array, "points1 points2"]]:
        """Infinite-width kernels [kernel_0, ..., kernel_L] between points: kernel_l is the covariance of layer l + 1's
        pre-activations, kernel_L that of the outputs, 1/chi included and noise not."""
        return kernels.nngp(*_point_sets(X1, X2), **self._recursion())

    def limit_variance(self, X) -> Float[Array, " points"]:
        """The diagonal of `limit(X)`, in O(points) memory."""
        return kernels.nngp_diagonal(_inputs("X", X), **self._recursion())[-1]

    def _recursion(self):
        readout, bias = self._output_variances()
        return {
            "activations": self.activations,
            "weight_variance": (*self.weight_variance, readout),
            "bias_variance": (*self.bias_variance[:-1], bias),
        }

    def limit(self, X1, X2=None) -> Float[Array, "points1 points2"]:
        """Covariance of the outputs at infinite width, without noise: `limit(X)` or `limit(X1, X2)`."""
        return kernels.nngp(*_point_sets(X1, X2), every_layer=False, **self._recursion())[-1]

    def limit_tangent(self, X1, X2=None) -> Float[Array, "points1 points2"]:
        """Neural tangent kernel of the outputs at infinite width: `limit_tangent(X)` or `limit_tangent(X1, X2)`.

        In the NTK parametrisation, which is this class's: the gradient of an output is with respect to the standard
        normal weights and biases of every layer, readout included (phases of random-phase activations are not trained).
        The 1/chi of the readout multiplies all of it, as it multiplies `limit`. Raises ValueError for activations that
        jump.

        >>> import jax.numpy as jnp
        >>> net = Mlp(width=64, depth=2, activation="relu", weight_variance=2.0)
        >>> net.limit_tangent(jnp.ones((1, 3))).item() / net.limit(jnp.ones((1, 3))).item()
        3.0
        """
        return self.limit_tangents(X1, X2, every_layer=False)[-1]

    def limit_tangents(self, X1, X2=None, *, every_layer: bool = True) -> list[Float[Array, "points1 points2"]]:
        """Neural tangent kernels of every layer's pre-activations and of the outputs, in the order of
        `limit_kernels`."""
        X1, X2 = _point_sets(X1, X2)
        return kernels.nngp_and_ntk(X1, X2, every_layer=every_layer, **self._recursion()).ntk

    # --- forward pass -------------------------------------------------------------------------------------------------

    def sample_hidden(self, inputs: int) -> dict[str, Array]:
        """NumPyro sites of everything before the readout, all standard normal: `weight_l` (N_{l+1}, N_l), `bias_l`
        (N_{l+1},) where the bias variance is not zero, `phase_l` for random-phase activations."""
        parameters = {}
        fan_in = (inputs, *self.widths[:-1])
        for layer, (n_in, n_out) in enumerate(zip(fan_in, self.widths, strict=True)):
            parameters[f"weight_{layer}"] = _standard_normal(f"weight_{layer}", n_out, n_in)
            if not _is_zero(self.bias_variance[layer]):
                parameters[f"bias_{layer}"] = _standard_normal(f"bias_{layer}", n_out)
            if self.activations[layer].random_phase:
                # A phase uniform on the circle, as a function of a standard normal: every latent has the same prior.
                parameters[f"phase_{layer}"] = _standard_normal(f"phase_{layer}", n_out)
        return parameters

    def sample_readout(self, outputs: int = 1) -> dict[str, Array]:
        """NumPyro sites of the readout, standard normal: `readout` (N_L, outputs) and `bias_L` (outputs,)."""
        parameters = {"readout": _standard_normal("readout", self.widths[-1], outputs)}
        if not _is_zero(self.bias_variance[-1]):
            name = f"bias_{self.depth}"
            parameters[name] = _standard_normal(name, outputs)
        return parameters

    def hidden(self, parameters, X: Float[Array, "points inputs"]) -> list[Float[Array, "points neurons"]]:
        """Activations [phi(h^1), ..., phi(h^L)] at X for given parameters; computed in the dtype of X."""
        layers, h = [], X
        for layer, activation in enumerate(self.activations):
            W = parameters[f"weight_{layer}"].astype(X.dtype)
            h = (h @ W.T) * jnp.sqrt(self.weight_variance[layer] / W.shape[-1]).astype(X.dtype)
            if f"bias_{layer}" in parameters:
                b = parameters[f"bias_{layer}"].astype(X.dtype)
                h = h + b * jnp.sqrt(self.bias_variance[layer]).astype(X.dtype)
            if activation.random_phase:
                phase = 2 * jnp.pi * ndtr(parameters[f"phase_{layer}"].astype(X.dtype))
                h = activation.phi(h, phase)
            else:
                h = activation.phi(h)
            layers.append(h)
        return layers

    def layer_kernels(self, hidden, X: Float[Array, "points inputs"]) -> list[Float[Array, "points points"]]:
        """[kernel_0, ..., kernel_L] of a finite network with activations `hidden` at the points X."""
        result = [kernels.linear(X, X, self.weight_variance[0], self.bias_variance[0])]
        for layer, phi in enumerate(hidden[:-1], start=1):
            gram = phi @ phi.T * (self.weight_variance[layer] / phi.shape[-1])
            result.append(gram + self.bias_variance[layer])
        F = self.output_features(hidden[-1])
        return [*result, F @ F.T]

    # --- the kernels themselves ---------------------------------------------------------------------------------------

    def sample_kernels(self, X) -> list[LowRank]:
        """Sample the layer kernels over the points X without weights (NumPyro sites of `superposition.sample_latents`)
        and return [kernel_0, ..., kernel_L].

        Exact at every width: the kernels, and so the outputs at X, have the same law as on the faces `weights` and
        `collapsed`. The kernels at other points cannot be computed from them: give all points at once.

        >>> import jax.numpy as jnp, numpyro
        >>> with numpyro.handlers.seed(rng_seed=0):
        ...     [K.shape for K in Mlp(width=64, depth=2).sample_kernels(jnp.eye(3))]
        [(3, 3), (3, 3), (3, 3)]
        """
        X = _inputs("X", X)
        layers = plan(self, X.shape[1], len(X), len(X))
        return [LowRank(root) for root in kernel_roots(self, sample_latents(self, layers), layers, X, len(X))]

    def kernels(self, X) -> LowRank:
        """Sample the layer kernels (NumPyro sites, see `sample_kernels`) and return kernel_L, the covariance of the
        outputs."""
        return self.sample_kernels(X)[-1]
