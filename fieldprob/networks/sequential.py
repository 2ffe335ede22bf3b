"""A network made of layers, as a random kernel.

h^{l+1} = W^l g^l + b^l for each layer of weights l = 0..L, the last of which gives the outputs; g^l is what the layers
in between (activations, normalisation, flattening, ...) make of h^l, and g^0 the inputs. Scaling as in `Mlp`: the prior
of the last weights and biases is divided by chi = N^(gamma - 1), N the width of the last hidden layer, and so is the
noise.

kernel_l is the covariance of h^{l+1} given everything before; where there are positions, averaged over them (both
arguments at the same one).
"""

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

from fieldprob.activations import Activation
from fieldprob.networks.arguments import _gamma, _inputs, _integer, _is_zero
from fieldprob.networks.layers import AveragePooling, Dense, Layer, Nonlinearity, Residual, Space
from fieldprob.networks.layers.base import standard_normal
from fieldprob.networks.layers.limit import of_inputs
from fieldprob.networks.layers.residual import as_layer
from fieldprob.networks.network import Network


class Sequential(Network):
    """A network of layers one after the other, with Gaussian weights.

    Args:
        layers: layers of `fieldprob.networks`, and activations by name or as callables; the last is `Dense()` without a
            width, the readout.
        positions: how many positions the inputs have, a number or one for each dimension. X stays (points, inputs) with
            inputs = positions x channels, ordered such that X.reshape(points, *positions, channels) are the images.
            Unless given, a point is one vector.
        scaling: "standard", "mean-field", or gamma >= 1.
        rescale_noise: whether the noise is divided by chi too (see `effective_noise`).

    A network of dense layers and activations is an `Mlp`, with the same sites. Faces: `weights`, `collapsed`, `limit`.

    Raises:
        ValueError: an argument is out of range, or a layer cannot follow the one in front of it.

    >>> from fieldprob.networks import Convolution, Dense, Flatten, LayerNorm, Residual, Sequential
    >>> import jax.numpy as jnp
    >>> net = Sequential(
    ...     Convolution(32, 3),
    ...     Residual(LayerNorm(), "relu", Convolution(32, 3)),
    ...     "relu",
    ...     Flatten(),
    ...     Dense(),
    ...     positions=8,
    ... )
    >>> net.depth, net.limit(jnp.ones((5, 16))).shape
    (2, (5, 5))
    """

    layers: tuple[Layer, ...]
    readout: Dense
    positions: tuple[int, ...] | None = eqx.field(static=True)
    gamma: float = eqx.field(static=True)
    rescale_noise: bool = eqx.field(static=True)

    faces = ("weights", "collapsed", "limit")

    def __init__(
        self,
        *layers,
        positions: int | tuple[int, ...] | None = None,
        scaling: str | float = "standard",
        rescale_noise: bool = True,
    ):
        made = tuple(as_layer(layer) for layer in layers)
        if not made or not isinstance(made[-1], Dense) or made[-1].width is not None:
            last = made[-1] if made else "missing"
            raise ValueError(f"the last layer is {last}: end with the readout, Dense() without a width.")
        self.layers, self.readout = made[:-1], made[-1]
        if positions is not None:
            grid = positions if isinstance(positions, tuple | list) else (positions,)
            positions = tuple(_integer("positions", n) for n in grid)
        self.positions = positions
        self.gamma = _gamma(scaling)
        if not isinstance(rescale_noise, bool | np.bool_):
            raise ValueError(f"rescale_noise is {rescale_noise!r}: give True or False.")
        self.rescale_noise = bool(rescale_noise)
        self._check()

    def _check(self) -> None:
        space = Space(self.positions, 0, "inputs")
        for number, layer in enumerate(self.layers):
            if layer.weight_layers == 1 and not isinstance(layer, Residual):
                if layer.width is None:  # pyright: ignore[reportAttributeAccessIssue]
                    raise ValueError(f"layer {number} is {layer}, without a width: only the last layer has none.")
                if _is_zero(layer.weight_variance):  # pyright: ignore[reportAttributeAccessIssue]
                    raise ValueError(f"layer {number}: weight_variance is 0, so nothing passes: give a positive one.")
            try:
                space = layer.follow(space)
            except ValueError as error:
                raise ValueError(f"layer {number}, {type(layer).__name__}: {error}") from None
        if _is_zero(self.readout.weight_variance):
            raise ValueError("the readout's weight_variance is zero: give a positive one.")
        if not self.depth:
            raise ValueError("there is no hidden layer: put a layer of weights in front of the readout.")
        if space.grid is not None:
            raise ValueError("the outputs would have positions: put Flatten() or AveragePooling() before the readout.")

    # --- scales -------------------------------------------------------------------------------------------------------

    @property
    def depth(self) -> int:
        """Number of layers of weights before the readout."""
        return sum(layer.weight_layers for layer in self.layers)

    @property
    def activations(self) -> tuple[Activation, ...]:
        """All activations, in order."""
        return tuple(layer.activation for layer in _flat(self.layers) if isinstance(layer, Nonlinearity))

    @property
    def chi(self) -> float:
        """N^(gamma - 1), N the width (channels) of the last hidden layer: 1 in standard, N in mean-field scaling."""
        widths = [layer.width for layer in _flat(self.layers) if layer.weight_layers]  # pyright: ignore[reportAttributeAccessIssue]
        return float(widths[-1]) ** (self.gamma - 1.0)

    def _output_variances(self):
        return self.readout.weight_variance / self.chi, self.readout.bias_variance / self.chi

    # --- the infinite-width face --------------------------------------------------------------------------------------

    def limit_kernels(self, X1, X2=None) -> list[Float[Array, "points1 points2"]]:
        """Infinite-width kernels [kernel_0, ..., kernel_L] between points: kernel_l is the covariance of layer l + 1's
        pre-activations, averaged over positions where there are any, and kernel_L that of the outputs, 1/chi included
        and noise not.

        Raises:
            ValueError: X1 or X2 is not (points, positions x channels).
            MemoryError: the kernels of all positions (with pooling, of their pairs) do not fit.
        """
        return self._limit(X1, X2)[0]

    def limit(self, X1, X2=None) -> Float[Array, "points1 points2"]:
        """Covariance of the outputs at infinite width, without noise: `limit(X)` or `limit(X1, X2)`."""
        return self._limit(X1, X2)[0][-1]

    def limit_variance(self, X) -> Float[Array, " points"]:
        """The diagonal of `limit(X)` alone: memory points x positions, with pooling points x positions^2."""
        return self._limit(X, None, cross=False)[0][-1][:, 0]

    def limit_tangent(self, X1, X2=None) -> Float[Array, "points1 points2"]:
        """The tangent kernel of one output at infinite width, sum over parameters of (df(x1)/dtheta) (df(x2)/dtheta).

        The parameters are the standard normals that are sampled, weights and biases (NTK parametrisation), and f has
        1/sqrt(chi) included: Theta is 1/chi times that of standard scaling.

        Raises:
            ValueError: as `limit_kernels`, and where an activation jumps.

        Source: Jacot, Gabriel & Hongler, arXiv:1806.07572, theorem 1; Arora et al., arXiv:1904.11955.
        """
        return self._limit(X1, X2, tangent=True)[1]  # pyright: ignore[reportReturnType]

    def _limit(self, X1, X2, cross: bool = True, tangent: bool = False):
        first, second = self._arrange("X1" if cross else "X", X1), None if X2 is None else self._arrange("X2", X2)
        if second is not None and first.shape[-1] != second.shape[-1]:
            sizes = [np.prod(X.shape[1:]) for X in (first, second)]
            raise ValueError(f"X1 has {sizes[0]} inputs and X2 has {sizes[1]}: they must be the same.")
        pairs = any(isinstance(layer, AveragePooling) for layer in self.layers)
        axes = 0 if self.positions is None else 1 + pairs
        kernels = of_inputs(first, second, axes=axes, cross=cross, tangent=tangent)
        record = []
        for layer, space, _ in self._walk(first.shape[-1]):
            kernels = layer.limit(kernels, space, record)
        kernels = kernels.weighted(*self._output_variances())
        return [*record, kernels.average()], kernels.tangent

    # --- forward pass -------------------------------------------------------------------------------------------------

    def _arrange(self, name: str, X):
        """X (points, inputs), or (points, positions, channels) where there are positions."""
        X = _inputs(name, X)
        if self.positions is None:
            return X
        A = int(np.prod(self.positions))
        if not X.shape[1] or X.shape[1] % A:
            raise ValueError(
                f"{name} has {X.shape[1]} inputs, which the {A} positions {self.positions} do not divide: inputs are "
                "positions x channels."
            )
        return X.reshape(X.shape[0], A, -1)

    def _walk(self, channels: int):
        """Each layer before the readout, with the space of what comes in and the number of layers of weights before."""
        space, index = Space(self.positions, channels, "inputs"), 0
        for layer in self.layers:
            yield layer, space, index
            space, index = layer.follow(space), index + layer.weight_layers

    def _channels(self, inputs: int) -> int:
        return self._arrange("X", np.zeros((1, inputs))).shape[-1]

    def sample_hidden(self, inputs: int) -> dict[str, Array]:
        """NumPyro sites of everything before the readout, all standard normal, numbered by the layers of weights:
        `weight_l` (width, fan-in) or (width, filter positions, channels), `bias_l` (width,) where the bias variance is
        not zero, `phase_l` (width,) for random-phase activations behind layer l."""
        parameters = {}
        for layer, space, index in self._walk(self._channels(inputs)):
            parameters |= layer.sample(space, index)
        return parameters

    def sample_readout(self, outputs: int = 1) -> dict[str, Array]:
        """NumPyro sites of the readout, standard normal: `readout` (features, outputs) and `bias_L` (outputs,)."""
        space = Space(self.positions, 0, "inputs")
        for layer in self.layers:
            space = layer.follow(space)
        parameters = {"readout": standard_normal("readout", space.width, outputs)}
        if not _is_zero(self.readout.bias_variance):
            name = f"bias_{self.depth}"
            parameters[name] = standard_normal(name, outputs)
        return parameters

    def hidden(self, parameters, X: Float[Array, "points inputs"]) -> list[Float[Array, "points *positions features"]]:
        """What each layer of weights after the first takes in, [g^1, ..., g^L], at X for given parameters; the last of
        a residual branch: h and g next to each other. Computed in the dtype of X."""
        h = self._arrange("X", X)
        taken = []
        for layer, space, index in self._walk(h.shape[-1]):
            h = layer.forward(parameters, h, space, index, taken)
        return [*taken[1:], h]

    def layer_kernels(self, hidden, X: Float[Array, "points inputs"]) -> list[Float[Array, "points points"]]:
        """[kernel_0, ..., kernel_L] of a finite network with `hidden` at the points X."""
        h = self._arrange("X", X)
        taken, result = [h, *hidden[:-1]], []
        for layer, space, index in self._walk(h.shape[-1]):
            result += layer.grams(taken[index : index + layer.weight_layers], space)
        F = self.output_features(hidden[-1])
        return [*result, F @ F.T]


def _flat(layers):
    """Layers in order, those of branches too."""
    for layer in layers:
        yield from _flat(layer.branch) if isinstance(layer, Residual) else (layer,)
