"""Gaussian-process regression with the infinite-width kernel of a network, its variances sampled with priors.

The sampled hyperparameters are held against quadrature of the same posterior on a grid; the limit at the prior's median
shows what learning them is worth. Observations may be values, with noise that differs from point to point (preset
`heteroscedastic`: repeated measurements, averaged), and slopes (preset `derivatives`), or any other linear operator of
`fieldprob.gp` that a task holds.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import fieldprob as fp

presets = {
    "small": {},
    "derivatives": {"data": "curve", "train": 6, "test": 41, "slopes": 6, "depth": 2, "draws": 2000},
    "heteroscedastic": {"data": "curve", "train": 40, "test": 41, "repeats": 16, "depth": 2},
    "full": {"train": 400, "test": 200, "depth": 3, "draws": 4000, "chains": 16},
}

# Log-normal priors of the two hyperparameters: median and standard deviation of the logarithm. The noise of every
# observation is proportional to the second; at its median it is what the task says.
WEIGHT_VARIANCE = (1.0, 0.7)
NOISE_VARIANCE = (0.3, 1.0)


def network(depth, activation, weight_variance):
    """The network whose infinite-width kernel is used; its width plays no part."""
    return fp.Mlp(1, depth, activation, weight_variance=weight_variance)


def curve(train, test, slopes, repeats, seed):
    """sin(2 x) on [-2, 2], the second input constant (it acts as a bias): values, each the mean of 1 to `repeats`
    measurements, and slopes."""
    rng = np.random.default_rng(seed)

    def points(x):
        return np.stack([x, np.ones_like(x)], axis=1)

    def noisy(values, variance):
        return values + np.sqrt(variance) * rng.normal(size=values.shape)

    x, x_slope = np.sort(rng.uniform(-2, 2, train)), np.linspace(-2, 2, slopes + 2)[1:-1]
    # two steps of measurement: many on the left half, one each on the right
    variance = 0.1 / np.where(x < 0, repeats, 1)
    relative = NOISE_VARIANCE[0] / 0.1
    observations = []
    if slopes:
        slope = fp.gp.Derivative(points(x_slope), [1.0, 0.0])
        y = noisy(2 * np.cos(2 * x_slope), np.full(slopes, 0.1))
        observations = [fp.tasks.Observation(slope, y, 0.1 * relative)]
    noise = variance * relative if repeats > 1 else 0.1 * relative
    grid = np.linspace(-2, 2, test)
    return fp.Task(points(x), noisy(np.sin(2 * x), variance), noise, points(grid), np.sin(2 * grid),
                   name="curve", observations=observations)  # fmt: skip


def scaled(task, noise_variance):
    """The task with its noise scaled from the prior's median to `noise_variance`, for every observation."""
    factor = noise_variance / NOISE_VARIANCE[0]
    further = [fp.tasks.Observation(o.operator, o.y, factor * o.noise_variance) for o in task.observations[1:]]
    return task.replace(noise_variance=factor * task.noise_variance, observations=further)


def gp_regression(task, depth=1, activation="erf"):
    """The model: hyperparameters from their priors, outputs integrated out, y ~ N(0, K + noise)."""
    weight_variance = numpyro.sample("weight_variance", dist.LogNormal(np.log(WEIGHT_VARIANCE[0]), WEIGHT_VARIANCE[1]))
    noise = numpyro.sample("noise_variance", dist.LogNormal(np.log(NOISE_VARIANCE[0]), NOISE_VARIANCE[1]))
    net = network(depth, activation, weight_variance)
    operator, y, noise = fp.gp.observe(scaled(task, noise))
    X, P = jnp.concatenate([task.X, task.X_test]), task.points
    K = fp.gp.cross_covariance(net.limit, operator)
    numpyro.sample("y", fp.gp.Marginal(K, noise, task.outputs), obs=y)

    K_cross = fp.gp.cross_covariance(net.limit, X, operator)
    posterior = fp.gp.condition(K, noise, y, K_cross, net.limit_variance(X))
    numpyro.deterministic("f", posterior.mean[:P])
    numpyro.deterministic("f_test", posterior.mean[P:])
    variance = posterior.variance
    numpyro.deterministic("f_conditional_variance", variance[:P])
    numpyro.deterministic("f_test_conditional_variance", variance[P:])
    numpyro.deterministic("test_loss", jnp.mean((task.y_test - posterior.mean[P:]) ** 2) + jnp.mean(variance[P:]))


def hyperparameter_quadrature(prior, task, *, depth=1, activation="erf", nodes=48):
    """The same posterior by quadrature: the limit at every node of a grid, weighted by prior times evidence.

    A theory is any function (prior, task) -> fp.Prediction. This one takes its error from a grid with half the nodes.
    """
    fine = _quadrature(task, depth, activation, nodes)
    coarse = _quadrature(task, depth, activation, nodes // 2)
    return fp.Prediction(
        theory="quadrature",
        order="exact",
        source="Rasmussen & Williams (2006), eq. 5.3, on a grid",
        mean=fine["mean"],
        variance=fine["variance"],
        error={name: np.abs(fine["mean"][name] - coarse["mean"][name]) for name in fine["mean"]},
        dims={"weight_variance": (), "noise_variance": ()},
    )


def _quadrature(task, depth, activation, nodes):
    # Trapezoidal in standardised logarithms: spectrally accurate for a smooth density that vanishes at the ends.
    z = jnp.linspace(-6.0, 6.0, nodes)
    z_weight, z_noise = (g.ravel() for g in jnp.meshgrid(z, z))
    weight_variance = WEIGHT_VARIANCE[0] * jnp.exp(WEIGHT_VARIANCE[1] * z_weight)
    noise = NOISE_VARIANCE[0] * jnp.exp(NOISE_VARIANCE[1] * z_noise)

    @jax.jit
    def at(pair):
        prediction = fp.theory.limit(network(depth, activation, pair[0]), scaled(task, pair[1]))
        mean = {name: prediction.mean[name] for name in ("f", "f_test", "test_loss")}
        return prediction.log_evidence, mean, {name: prediction.variance[name] for name in ("f", "f_test")}

    log_evidence, mean, variance = jax.lax.map(at, (weight_variance, noise), batch_size=nodes)
    log_weight = log_evidence - 0.5 * z_weight**2 - 0.5 * z_noise**2
    w = jax.nn.softmax(log_weight)
    average = partial(jnp.tensordot, w, axes=1)
    mean |= {"weight_variance": weight_variance, "noise_variance": noise}
    means = {name: average(value) for name, value in mean.items()}
    variances = {name: average(value + (mean[name] - means[name]) ** 2) for name, value in variance.items()}
    for name in ("weight_variance", "noise_variance"):
        variances[name] = average((mean[name] - means[name]) ** 2)
    return {"mean": means, "variance": variances}


def limit_at_median(prior, task, *, depth=1, activation="erf"):
    """The infinite-width limit with both hyperparameters at the median of their priors."""
    return fp.theory.limit(network(depth, activation, WEIGHT_VARIANCE[0]), task)


def study(
    data: Literal["digits", "breast_cancer", "diabetes", "curve"] = "diabetes",
    train: int = 60,
    test: int = 30,
    depth: int = 1,
    activation: str = "erf",
    hyperparameters: bool = True,
    slopes: int = 0,
    repeats: int = 1,
    draws: int = 1000,
    chains: int = 4,
    warmup: int = 300,
    seed: int = 0,
):
    """Regression with an infinitely wide network, hyperparameters learned.

    Args:
        data: a data set that scikit-learn ships, or a noisy curve.
        train: training points.
        test: test points.
        depth: hidden layers of the network whose kernel is used.
        activation: name of the activation function.
        hyperparameters: sample the weight and noise variance; if not, they stay at the median of their priors and the
            outputs themselves are sampled.
        slopes: observations of the slope, of the curve only.
        repeats: measurements that are averaged at each point of the left half of the curve; one on the right half.
        draws: draws of each chain.
        chains: number of chains.
        warmup: adaptation steps of each chain, discarded.
        seed: of the data split and of the chains.
    """
    if data == "curve":
        task = curve(train, test, slopes, repeats, seed)
    elif slopes or repeats != 1:
        raise ValueError(f"slopes={slopes} and repeats={repeats} are for data='curve', not {data!r}.")
    else:
        task = getattr(fp.tasks, data)(train=train, test=test, noise_variance=NOISE_VARIANCE[0], seed=seed)
    options = {"depth": depth, "activation": activation}
    sampling = {"draws": draws, "chains": chains, "warmup": warmup}
    if not hyperparameters:
        net = network(depth, activation, WEIGHT_VARIANCE[0])
        return fp.Study(net, task, [fp.theory.limit], {**sampling, "face": "limit"}, seed)
    theories = [partial(hyperparameter_quadrature, **options), partial(limit_at_median, **options)]
    return fp.Study(partial(gp_regression, **options), task, theories, sampling, seed)
