"""Noisy gradient flow of a model that is linear in what is trained, from its kernels alone.

With features Phi, f = f_0 + Phi theta, loss 1/2 sum (y - f)^2 over the data, weight decay g and temperature T,

    d theta = -(g theta + Phi^T (f - y)) dt + sqrt(2 T) dB.

Theta = Phi Phi^T is the (tangent) kernel at the data, Theta_* that between queries and data, Theta_** at the queries;
rates are g + Theta, functions of it act on the eigenbasis (`fieldprob.theory.dynamics.modes`). Then

    mean     m(t) = J(t) y,     J(t) = Theta_* I_t(g + Theta),                                                     (G1)
    response R(t', t) = e^{-g (t'-t)} Theta_** + Theta_* E_{t'-t}[g, g + Theta] Theta_*^T,                         (G4)

the response of f(t') to a field h at an earlier t that adds -h f to the energy. The covariance depends on the start:

    theta ~ N(0, s_0) and f_0 = 0:  C(t, t') = H(g) Theta_** + Theta_* H[g, g + Theta] Theta_*^T,             (G2, G4)
                                    H = s_0 E_{t+t'} + T E_{|t'-t|} I_{2 min(t, t')};
    theta = 0 and f_0 ~ GP(0, K):   K_** + J K J'^T - J K_*^T - K_* J'^T, J = J(t), J' = J(t'),                    (G6)
                                    plus the same with s_0 = 0 where T > 0.

Theory 01, G1-G6. The last case is the linearised wide network, K its NNGP and Theta its tangent kernel (Lee et al.,
arXiv:1902.06720, eqs. 14-16): weight decay there pulls towards the start.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from fieldprob.theory.dynamics.modes import (
    decay,
    decay_difference,
    integrated_decay,
    integrated_decay_difference,
    sandwich,
    sandwich_diagonal,
)

Number = Float[Array, ""] | float


class LinearDynamics(eqx.Module):
    """Moments in time of a linear model, at queries.

    Attributes:
        tangent: Theta (P, P), tangent_cross: Theta_* (Q, P), tangent_query: Theta_** (Q, Q).
        y: targets (P, C); outputs are independent and share the kernels.
        weight_decay: g >= 0, temperature: T >= 0.
        initial_variance: s_0, of each parameter; ignored where `initial` is given.
        initial: K (P, P), K_* (Q, P), K_** (Q, Q) of the function at the start, where the parameters do not make it.

    >>> import jax.numpy as jnp
    >>> one = jnp.ones((1, 1))
    >>> model = LinearDynamics(one, one, one, 2 * one, weight_decay=1.0, temperature=1.0)
    >>> [round(x.item(), 4) for x in model.mean(jnp.array([0.0, 1.0, 50.0])).ravel()]     # to y / (1 + g)
    [0.0, 0.8647, 1.0]
    """

    tangent: Float[Array, "points points"]
    tangent_cross: Float[Array, "queries points"]
    tangent_query: Float[Array, "queries queries"]
    y: Float[Array, "points outputs"]
    weight_decay: Number = 0.0
    temperature: Number = 0.0
    initial_variance: Number = 1.0
    initial: (
        tuple[Float[Array, "points points"], Float[Array, "queries points"], Float[Array, "queries queries"]] | None
    ) = None

    def gain(self, time: Number) -> Float[Array, "queries points"]:
        """J(t), with which the mean is J y: to what the function has moved from zero."""
        identity = jnp.eye(self.tangent.shape[0], dtype=self.tangent.dtype)
        return sandwich(_integral, self.tangent, self.tangent_cross, identity, self.weight_decay, time)

    def mean(self, times: Float[Array, " times"]) -> Float[Array, "times queries outputs"]:
        """The mean of the outputs at each time."""
        return sandwich(_integral, self.tangent, self.tangent_cross, self.y.T, self.weight_decay, times[:, None])

    def variance(self, times: Float[Array, " times"]) -> Float[Array, "times queries"]:
        """The variance of an output at each time."""
        return self.autocovariance(times, times)

    def autocovariance(
        self, first: Float[Array, " times"], second: Float[Array, " times"]
    ) -> Float[Array, "times queries"]:
        """The covariance of each output with itself between pairs of times first[k], second[k]."""
        spread, start = self._start()
        pairs = (first[:, None], second[:, None])
        free = _covariance(self.weight_decay, *pairs, self.temperature, spread) * jnp.diagonal(self.tangent_query)
        cross, rest = self.tangent_cross, (self.weight_decay, *pairs, self.temperature, spread)
        total = free + sandwich_diagonal(_covariance_difference, self.tangent, cross, cross, *rest)
        if start is None:
            return total
        K, K_cross, K_query = start

        def one(pair):
            J, J_ = self.gain(pair[0]), self.gain(pair[1])
            return jnp.diagonal(K_query) + jnp.sum(J @ K * J_ - J * K_cross - K_cross * J_, axis=1)

        return total + jax.lax.map(one, (first, second))

    def covariance(self, first: Number, second: Number) -> Float[Array, "queries queries"]:
        """C(t, t') of one output: rows are queries at the first time, columns at the second."""
        spread, start = self._start()
        rest = (self.weight_decay, first, second, self.temperature, spread)
        free = _covariance(*rest[:3], self.temperature, spread) * self.tangent_query
        cross = self.tangent_cross
        total = free + sandwich(_covariance_difference, self.tangent, cross, cross, *rest)
        if start is None:
            return total
        K, K_cross, K_query = start
        J, J_ = self.gain(first), self.gain(second)
        return total + K_query + J @ K @ J_.T - J @ K_cross.T - K_cross @ J_.T

    def response(self, later: Number, earlier: Number) -> Float[Array, "queries queries"]:
        """R(t', t): of the mean at rows and time t' to a field on columns at time t; zero where t' < t."""
        lag = jnp.maximum(later - earlier, 0.0)
        cross = self.tangent_cross
        moved = sandwich(_decay_difference, self.tangent, cross, cross, self.weight_decay, lag)
        value = decay(self.weight_decay, lag) * self.tangent_query + moved
        return jnp.where(later < earlier, 0.0, value)

    def self_response(
        self, later: Float[Array, " times"], earlier: Float[Array, " times"]
    ) -> Float[Array, "times queries"]:
        """The response of each output to a field on itself between pairs of times: diagonals of `response`."""
        lag, cross = jnp.maximum(later - earlier, 0.0)[:, None], self.tangent_cross
        moved = sandwich_diagonal(_decay_difference, self.tangent, cross, cross, self.weight_decay, lag)
        value = decay(self.weight_decay, lag) * jnp.diagonal(self.tangent_query) + moved
        return jnp.where((later < earlier)[:, None], 0.0, value)

    def covariance_rate(self, later: Number, earlier: Number) -> Float[Array, "queries queries"]:
        """dC(t', t) / dt with respect to the earlier time t < t'."""
        return jax.jvp(lambda t: self.covariance(later, t), (jnp.asarray(earlier, float),), (jnp.ones(()),))[1]

    def fluctuation_dissipation_ratio(self, later: Number, earlier: Number) -> Float[Array, " queries"]:
        """T R(t', t) / (dC(t', t) / dt) of each output with itself, t < t': 1 in equilibrium.

        Source: Cugliandolo & Kurchan, Phys. Rev. Lett. 71, 173 (1993).

        Raises: ValueError unless 0 <= t < t'; traced times are not checked.
        """
        if not any(isinstance(time, Tracer) for time in (later, earlier)) and not 0 <= earlier < later:
            raise ValueError(f"later = {later} and earlier = {earlier}: give 0 <= earlier < later.")
        response = jnp.diagonal(self.response(later, earlier))
        return self.temperature * response / jnp.diagonal(self.covariance_rate(later, earlier))

    def _start(self):
        """(variance of the parameters at the start, kernels of the function at the start)."""
        return (self.initial_variance, None) if self.initial is None else (0.0, self.initial)


def _integral(eigenvalues, g, time):
    return integrated_decay(g + eigenvalues, time)


def _decay_difference(eigenvalues, g, time):
    return decay_difference(g, eigenvalues, time)


def _covariance(g, first, second, temperature, initial_variance):
    """H(g) = s_0 E_{t+t'} + T E_{|t'-t|} I_{2 min(t, t')}."""
    lag, twice = jnp.abs(second - first), 2 * jnp.minimum(first, second)
    start = initial_variance * decay(g, first + second)
    return start + temperature * decay(g, lag) * integrated_decay(g, twice)


def _covariance_difference(eigenvalues, g, first, second, temperature, initial_variance):
    """H[g, g + lambda], by the product rule of divided differences."""
    lag, twice = jnp.abs(second - first), 2 * jnp.minimum(first, second)
    start = initial_variance * decay_difference(g, eigenvalues, first + second)
    noise = decay(g + eigenvalues, lag) * integrated_decay_difference(g, eigenvalues, twice)
    noise = noise + decay_difference(g, eigenvalues, lag) * integrated_decay(g, twice)
    return start + temperature * noise
