"""Bayesian neural network: a network of any width and depth on real data, against its infinite-width limit.

At standard scaling the posterior approaches the limit's as 1/width; at mean-field scaling it does not, because the
network learns features: its kernels move by an amount that does not vanish. Sweep the width to see it.
"""

from typing import Literal

import fieldprob as fp

presets = {
    "small": {},
    "full": {"train": 400, "test": 200, "width": 512, "draws": 4000, "chains": 16},
}


def bnn(net, task, **options):
    """The model: noisy outputs y ~ N(f(X), noise) of a network with Gaussian weights, and the statistics to record.

    `options` are those of `fp.regression`: which face of the network is sampled, the precision, the recorded points.
    """
    fp.regression(net, task, **options)


def study(
    data: Literal["digits", "breast_cancer", "diabetes"] = "digits",
    classes: tuple[int, ...] = (0, 1),
    train: int = 60,
    test: int = 30,
    width: int = 128,
    depth: int = 1,
    activation: str = "erf",
    weight_variance: float = 1.0,
    bias_variance: float = 0.0,
    readout_variance: float | None = None,
    scaling: Literal["standard", "mean-field"] | float = "standard",
    noise_variance: float = 0.1,
    face: Literal["auto", "collapsed", "kernels", "weights", "limit"] = "auto",
    draws: int = 1000,
    chains: int = 4,
    warmup: int = 300,
    seed: int = 0,
):
    """A network's posterior on real data against its infinite-width limit.

    Args:
        data: a data set that scikit-learn ships.
        classes: digits to tell apart (only for digits); two give targets -1 and +1, more give centred one-hot targets.
        train: training points.
        test: test points.
        width: neurons of each hidden layer.
        depth: hidden layers.
        activation: name of the activation function.
        weight_variance: variance per fan-in of the weights before the readout.
        bias_variance: variance of the biases.
        readout_variance: variance per fan-in of the readout; weight_variance unless given.
        scaling: standard, mean-field, or an exponent gamma of at least 1.
        noise_variance: likelihood variance, before it is divided by chi.
        face: what is sampled: all weights, all but the readout (collapsed), the layer kernels
            without weights (kernels), or the infinite-width process (limit).
        draws: draws of each chain.
        chains: number of chains.
        warmup: adaptation steps of each chain, discarded.
        seed: of the data split and of the chains.
    """
    net = fp.Mlp(width, depth, activation, weight_variance, bias_variance, readout_variance, scaling)
    size = {"train": train, "test": test, "noise_variance": noise_variance, "seed": seed}
    task = fp.tasks.digits(classes=classes, **size) if data == "digits" else getattr(fp.tasks, data)(**size)
    return fp.Study(
        net,
        task,
        theories=[fp.theory.limit],
        sampling={"model": bnn, "draws": draws, "chains": chains, "warmup": warmup, "face": face},
        seed=seed,
    )
