"""Importance sampling: independent draws from the prior of a model, weighted by its likelihood.

Far cheaper than a Markov chain where few data meet a wide network, since draws are independent and errors exact. Prior
and posterior averages come from the same draws, so that their difference, of order 1/N, is known far better than each.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from numpyro import handlers

from fieldprob import weighted
from fieldprob.infer.datatree import constant_data, event_dims, labelled, observed_data
from fieldprob.networks.regression import check_face, check_task, default_kernel_points, regression
from fieldprob.weighted import Estimate

_BATCH = 1000
_PARTICLES = 10_000


@dataclasses.dataclass(frozen=True)
class Moments:
    """Mean and variance of every statistic, each an `Estimate` (value, standard error) in the statistic's shape.

    Where a model registers `<name>_conditional_variance`, the variance of `<name>` is that of the law of total
    variance.
    """

    mean: dict[str, Estimate]
    variance: dict[str, Estimate]


@dataclasses.dataclass(frozen=True)
class Importance:
    """Weighted draws, as moments of statistics and as the independent draws that rejection leaves.

    Made by `Importance.sample` (a network or a NumPyro model) or `Importance.average` (any draws with weights).

    Attributes:
        log_weights: of every draw, (draws,).
        log_evidence: log of their mean, an `Estimate`.
        prior: moments over unweighted draws. On the faces collapsed and kernels `f` is a mean conditional on the data:
            of what is recorded there, kernels and alignments are prior quantities.
        posterior: moments over weighted draws.
        shift: posterior less prior, with the error of the difference.
        kept: values of the statistics named in `keep`, in every draw, {name: (draws, ...)}.
        particles: draws kept with probability weight / largest weight, {name: (particles, ...)}: independent, equally
            weighted draws of the posterior, at most 10,000 of them.
    """

    log_weights: np.ndarray
    log_evidence: Estimate
    prior: Moments
    posterior: Moments
    shift: Moments
    particles: dict[str, np.ndarray]
    kept: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    net: Any = None
    task: Any = None
    coords: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def effective_sample_size(self) -> float:
        """Of the weights, see `fieldprob.weighted`."""
        return float(weighted.effective_sample_size(self.log_weights))

    def shift_draws(self, name: str) -> np.ndarray:
        """Independent numbers, one a draw, whose mean is the shift of a kept statistic and whose standard error its.

        With weights u that sum to one and the posterior mean, draw i contributes mean + draws u_i (x_i - mean) to the
        posterior (delta method) and x_i to the prior. As the same draw makes both, their difference varies far less
        than either. Any function of several such averages is known as well: these are what a comparison needs.

        Raises:
            ValueError: the statistic was not named in `keep`.

        >>> import jax
        >>> def tilted(key):
        ...     z = jax.random.normal(key)
        ...     return z, {"z": z}
        >>> found = Importance.average(tilted, key=jax.random.key(0), draws=20_000, keep=("z",))
        >>> bool(abs(found.shift_draws("z").mean() - found.shift.mean["z"].value) < 1e-12)
        True
        """
        if name not in self.kept:
            raise ValueError(f"{name!r} was not kept in every draw: give keep=({name!r},). Kept: {sorted(self.kept)}.")
        x, mean = self.kept[name], self.posterior.mean[name].value
        u = weighted.normalised(self.log_weights).reshape(-1, *[1] * (x.ndim - 1))
        return mean + len(x) * u * (x - mean) - x

    @classmethod
    def sample(
        cls,
        prior,
        task=None,
        *,
        key,
        draws: int = 100_000,
        batch: int = _BATCH,
        face: str = "collapsed",
        kernel_points=None,
        model: Callable = regression,
        keep: Sequence[str] = (),
    ) -> "Importance":
        """Draw the latent sites of a model from their priors; the weight is the likelihood of its observed sites.

        Args:
            prior: a network (its `face` becomes the model), or a NumPyro model: a callable of the task, or of nothing
                where `task` is None. Its statistics are its deterministic sites.
            task: the data.
            key: a JAX key. Draw i has the key fold_in(key, i), whatever the batch.
            draws: their number. Time grows with it (each draw is made twice, unless all is kept), memory does not.
            batch: draws made at once, which bounds the memory.
            face, kernel_points, model: as for `fieldprob.sample`.
            keep: statistics whose value in every draw is kept, for `shift_draws`.

        Raises:
            ValueError: the effective sample size is below 200; numbers out of range; an unknown face or statistic.
            TypeError: `prior` is neither a network nor callable.

        >>> import fieldprob as fp, jax
        >>> task = fp.tasks.linear_teacher(3, inputs=2, noise_variance=0.5, seed=0)
        >>> found = fp.infer.Importance.sample(fp.Mlp(width=8), task, key=jax.random.key(0), draws=2000)
        >>> found.posterior.mean["f"].error.shape
        (3, 1)
        """
        net, coords = None, {}
        if hasattr(prior, "faces"):
            check_task(task)
            check_face(prior, face)
            net = prior
            points = default_kernel_points(task) if kernel_points is None else np.asarray(kernel_points)
            coords = {"point": points, "point_": points}
            prior = partial(model, prior, face=face, precision="full", kernel_points=points)
        if not callable(prior):
            raise TypeError(f"prior is a {type(prior).__name__}: give a network (e.g. fp.Mlp) or a NumPyro model.")
        arguments = () if task is None else (task,)

        def draw(key):
            trace = handlers.trace(handlers.seed(prior, key)).get_trace(*arguments)
            observed = [s for s in trace.values() if s["type"] == "sample" and s["is_observed"]]
            likelihood = sum(jnp.sum(s["fn"].log_prob(s["value"])) * (s["scale"] or 1.0) for s in observed)
            return likelihood, {name: s["value"] for name, s in trace.items() if s["type"] == "deterministic"}

        found = cls.average(draw, key=key, draws=draws, batch=batch, keep=keep)
        return dataclasses.replace(found, net=net, task=task, coords=coords)

    @classmethod
    def average(
        cls,
        draw: Callable[[Any], tuple[Any, Mapping[str, Any]]],
        *,
        key,
        draws: int = 100_000,
        batch: int = _BATCH,
        keep: Sequence[str] = (),
    ) -> "Importance":
        """Averages over any independent draws, such as neurons from a tilted measure.

        Args:
            draw: key -> (log weight, {name: array}), a JAX function.
            key, draws, batch, keep: as for `sample`.

        >>> import jax
        >>> def tilted(key):  # N(0, 1) tilted by exp(z) is N(1, 1)
        ...     z = jax.random.normal(key)
        ...     return z, {"z": z}
        >>> found = Importance.average(tilted, key=jax.random.key(0), draws=20_000)
        >>> bool(abs(found.posterior.mean["z"].value - 1) < 0.1)
        True
        """
        for name, number in (("draws", draws), ("batch", batch)):
            if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
                raise ValueError(f"{name} is {number!r}: give an integer of at least 1.")
        # The key and the index of the draw are all that a draw depends on: a second pass makes the same ones again.
        many = jax.jit(jax.vmap(lambda i: draw(jax.random.fold_in(key, i))))
        batches = [np.arange(start, min(start + batch, draws)) for start in range(0, draws, batch)]

        log_weights, largest, sums = np.empty(draws), -np.inf, {}
        kept: dict[str, np.ndarray] = {}
        for index in batches:
            log_weight, values = _drawn(many, index, batch)
            if unknown := set(keep) - values.keys():
                raise ValueError(f"keep holds {sorted(unknown)}: the statistics are {', '.join(values)}.")
            for name in keep:
                kept.setdefault(name, np.empty((draws, *values[name].shape[1:])))[index] = values[name]
            log_weights[index] = log_weight
            top = max(largest, np.max(log_weight))
            scale = top if np.isfinite(top) else 0.0  # no draw has a weight yet
            weights, shrunk = np.exp(log_weight - scale), np.exp(largest - scale)
            for name, x in values.items():
                plain, tilted = sums.get(name, (0.0, 0.0))
                sums[name] = plain + x.sum(axis=0), tilted * shrunk + np.tensordot(weights, x, 1)
            largest = top
        weighted.require_effective(
            log_weights, "take more draws, fewer data or more noise; for a posterior far from the prior use fp.sample."
        )
        u = weighted.normalised(log_weights)
        norm = np.exp(log_weights - largest).sum()
        means = {name: (plain / draws, tilted / norm) for name, (plain, tilted) in sums.items()}
        accepted = np.random.default_rng(_seed(key)).random(draws) < np.exp(log_weights - largest)
        accepted &= np.cumsum(accepted) <= _PARTICLES

        second, particles = {}, {name: [] for name in means}
        for index in batches:
            if kept.keys() == means.keys():
                values = {name: x[index] for name, x in kept.items()}
            else:
                _, values = _drawn(many, index, batch)
            for name, x in values.items():
                particles[name].append(x[accepted[index]])
                inner = values.get(f"{name}_conditional_variance", np.zeros(1))
                inner = inner.reshape(*inner.shape, *[1] * (x.ndim - inner.ndim))
                products = _products(u[index], 1 / draws, x, inner, *means[name])
                second[name] = products if name not in second else second[name] + products
        prior, posterior, shift = _moments(means, second, draws, u)
        return cls(
            log_weights=log_weights,
            log_evidence=weighted.log_mean_weight(log_weights),
            prior=prior,
            posterior=posterior,
            shift=shift,
            particles={name: np.concatenate(parts) for name, parts in particles.items()},
            kept=kept,
        )

    def to_datatree(self) -> xr.DataTree:
        """What `fieldprob.compare` reads, in a group `posterior`: the particles, which are independent and of equal
        weight. The weighted moments, which are more precise, are in groups `prior_moments`, `posterior_moments` and
        `shift`: `<name>`, `<name>_error`, `<name>_variance`, `<name>_variance_error`.
        """
        groups = {"posterior": labelled(self.particles, {}, self.coords, ("particle",))}
        moments = {"prior_moments": self.prior, "posterior_moments": self.posterior, "shift": self.shift}
        for group, part in moments.items():
            arrays, dims = {}, {}
            for suffix, named in (("", part.mean), ("_variance", part.variance)):
                for name, estimate in named.items():
                    for end, array in (("", estimate.value), ("_error", estimate.error)):
                        arrays[name + suffix + end] = array
                        dims[name + suffix + end] = event_dims(name, array.ndim, {})
            groups[group] = labelled(arrays, dims, self.coords)
        if hasattr(self.task, "noise_variance"):
            groups["observed_data"] = observed_data(self.task, self.coords)
            groups["constant_data"] = constant_data(self.net, self.task, self.coords)
        tree = xr.DataTree.from_dict(groups, name="fieldprob")
        tree.attrs |= {
            "effective_sample_size": self.effective_sample_size,
            "log_evidence": float(self.log_evidence.value),
            "log_evidence_error": float(self.log_evidence.error),
        }
        return tree


def _seed(key) -> int:
    return int(jax.random.bits(jax.random.fold_in(key, 2**31 - 1)))


def _drawn(many, index: np.ndarray, batch: int):
    """A batch of draws on the host; the last is filled up, so that there is one compilation."""
    full = np.minimum(index[0] + np.arange(batch), index[-1])
    return jax.tree.map(lambda x: np.asarray(x, float)[: index.size], many(full))


def _products(u, v, x, inner, plain, tilted) -> np.ndarray:
    """Sums over draws, from which means, variances and their errors follow; u and v are the weights that sum to one.

    With a = u (x - posterior mean), b = v (x - prior mean), p = u ((x - posterior mean)^2 + conditional variance), and
    q the same with v about the prior mean.
    """
    u = u.reshape(-1, *[1] * (x.ndim - 1))
    a, b = u * (x - tilted), v * (x - plain)
    p, q = u * ((x - tilted) ** 2 + inner), v * ((x - plain) ** 2 + inner)
    terms = (a * a, a * b, b * b, p, q, p * p, p * q, q * q, u * p, v * q, v * p, u * q)
    return np.stack([term.sum(axis=0) for term in terms])


def _moments(means, second, draws: int, u) -> tuple[Moments, Moments, Moments]:
    prior, posterior, shift = (Moments({}, {}) for _ in range(3))
    uu, vv, uv = np.sum(u**2), 1 / draws, 1 / draws
    for name, (plain, tilted) in means.items():
        aa, ab, bb, V, W, pp, pq, qq, up, vq, vp, uq = second[name]
        _set(prior.mean, name, plain, bb)
        _set(posterior.mean, name, tilted, aa)
        _set(shift.mean, name, tilted - plain, aa - 2 * ab + bb)
        # the same with u (p - V) for a and v (q - W) for b
        aa = pp - 2 * V * up + V**2 * uu
        bb = qq - 2 * W * vq + W**2 * vv
        ab = pq - W * vp - V * uq + V * W * uv
        _set(prior.variance, name, W, bb)
        _set(posterior.variance, name, V, aa)
        _set(shift.variance, name, V - W, aa - 2 * ab + bb)
    return prior, posterior, shift


def _set(moments, name: str, value, squared_error) -> None:
    moments[name] = Estimate(np.asarray(value), np.sqrt(np.maximum(squared_error, 0)))
