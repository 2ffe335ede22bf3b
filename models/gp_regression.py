"""Gaussian-process regression with the infinite-width kernel of a network, its variances sampled with priors.

The sampled hyperparameters are held against quadrature of the same posterior on a grid; the theory `prior median`
shows what learning them is worth. Observations may be values, with noise that differs from point to point (preset
`heteroscedastic`: repeated measurements, averaged), and slopes (preset `derivatives`, where the theory `without slopes`
shows what they are worth), or any other linear operator of `fieldprob.gp` that a task holds.
"""

from dataclasses import replace
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
    prediction = fp.theory.limit(network(depth, activation, WEIGHT_VARIANCE[0]), task)
    return replace(prediction, theory="prior median", order=f"{prediction.order}, hyperparameters not learned")


def without_slopes(prior, task, **options):
    """The quadrature for the values alone: what the slopes are worth."""
    prediction = hyperparameter_quadrature(prior, task.replace(observations=()), **options)
    return replace(prediction, theory="without slopes", order="exact for the values alone")


def draw_curve(result, task):
    """The curve, what was observed of it, and its posterior at the test points: mean and two standard deviations.

    Bars are one standard deviation of the noise, at the mean of its posterior, and so is the opening of the wedges: the
    observed slopes, drawn on the sampled mean.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.0), layout="constrained")
    ax = figure.subplots()
    ax.spines[["top", "right"]].set_visible(False)
    ax.set(xlabel="x", ylabel="f(x)")
    x, noise = np.asarray(task.X_test[:, 0]), NOISE_VARIANCE[0]
    posterior = result.samples["posterior"].to_dataset().squeeze("output").mean(("chain", "draw"))
    mean, variance = posterior["f_test"], result.samples["posterior"]["f_test"].squeeze("output").var(("chain", "draw"))
    if "noise_variance" in posterior:
        noise = float(posterior["noise_variance"])
        variance = variance + posterior["f_test_conditional_variance"]
    theories = {p.theory: (p.mean["f_test"][:, 0], 2 * np.sqrt(p.variance["f_test"][:, 0])) for p in result.predictions}
    name, (theory, deviation) = next(iter(theories.items()))

    if "without slopes" in theories:
        middle, width = theories["without slopes"]
        ax.fill_between(
            x, middle - width, middle + width, color="#E69F00", alpha=0.3, linewidth=0, label="without slopes, ±2σ"
        )
        ax.plot(x, middle, color="#B87A00", label="without slopes, mean")
    width = 2 * np.sqrt(variance)
    ax.fill_between(x, mean - width, mean + width, color="#0072B2", alpha=0.25, linewidth=0, label="sampled, ±2σ")
    ax.plot(x, mean, color="#0072B2", label="sampled, mean")
    lines = np.stack([theory, theory - deviation, theory + deviation], axis=1)
    ax.plot(x, lines, color="#D55E00", linewidth=1.2, linestyle="--", label=[f"{name}, mean and ±2σ", None, None])
    ax.plot(x, task.y_test, color="0.3", linewidth=1.2, linestyle=":", label="true curve")

    values, *slopes = scaled(task, noise).observations
    step = np.array([-0.12, 0.12])
    for slope in slopes:
        for i, (at, y) in enumerate(zip(slope.operator.X[:, 0], slope.y, strict=True)):
            height, width = np.interp(at, x, mean), np.sqrt(slope.noise_variance) * step
            ax.fill_between(at + step, height + y * step - width, height + y * step + width, color="0.4", alpha=0.4)
            ax.plot(at + step, height + y * step, color="k", linewidth=2, label=None if i else "slopes ±σ")
    errors = np.broadcast_to(np.sqrt(values.noise_variance), task.points)
    ax.errorbar(task.X[:, 0], task.y[:, 0], errors, color="k", fmt="o", markersize=4, elinewidth=0.8, label="values ±σ")
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


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
    figures = {"curve": partial(draw_curve, task=task)} if data == "curve" else {}
    sampling = {"draws": draws, "chains": chains, "warmup": warmup}
    if not hyperparameters:
        net = network(depth, activation, WEIGHT_VARIANCE[0])
        return fp.Study(net, task, [fp.theory.limit], {**sampling, "face": "limit"}, seed, figures=figures)
    theories = [partial(hyperparameter_quadrature, **options), partial(limit_at_median, **options)]
    if slopes:
        theories.append(partial(without_slopes, **options))
    return fp.Study(partial(gp_regression, **options), task, theories, sampling, seed, figures=figures)
