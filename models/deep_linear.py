"""Deep linear networks: the posterior at any width and depth, exactly, against kernel rescaling and the limit.

The prior over functions is a Gaussian process of random scale, a product of one chi-square a layer; the scale is what
depth and width do to the predictor, and the layers' kernels are where they differ from a rescaled limit.
"""

from typing import Literal

import fieldprob as fp

presets = {
    "small": {},
    "full": {"train": 80, "test": 200, "inputs": 200, "width": 100, "draws": 2000, "chains": 8},
}


def deep_linear(net, task, **options):
    """The model: y ~ N(f(X), noise) of a network with Gaussian weights, `options` those of `fp.regression`."""
    fp.regression(net, task, **options)


def study(
    train: int = 20,
    test: int = 10,
    inputs: int = 40,
    width: int = 10,
    depth: int = 2,
    weight_variance: float = 1.0,
    readout_variance: float | None = None,
    scaling: Literal["standard", "mean-field"] | float = "standard",
    noise_variance: float = 0.2,
    face: Literal["collapsed", "kernels", "weights"] = "collapsed",
    draws: int = 1000,
    chains: int = 4,
    warmup: int = 500,
    seed: int = 0,
):
    """A deep linear network learns a linear teacher.

    Args:
        train: training points.
        test: test points.
        inputs: input dimension.
        width: neurons of each hidden layer.
        depth: hidden layers.
        weight_variance: variance per fan-in of the weights before the readout.
        readout_variance: variance per fan-in of the readout; weight_variance unless given.
        scaling: standard, mean-field, or an exponent gamma of at least 1.
        noise_variance: likelihood variance, before it is divided by chi.
        face: what is sampled: all weights, all but the readout (collapsed), or the kernels of the layers (kernels).
        draws: draws of each chain.
        chains: number of chains.
        warmup: adaptation steps of each chain, discarded.
        seed: of the data and of the chains.
    """
    net = fp.Mlp(width, depth, "linear", weight_variance, 0.0, readout_variance, scaling)
    task = fp.tasks.linear_teacher(train, inputs, test=test, noise_variance=noise_variance, seed=seed)
    return fp.Study(
        net,
        task,
        theories=[fp.theory.limit, fp.theory.rescaling, fp.theory.exact_linear],
        sampling={"model": deep_linear, "draws": draws, "chains": chains, "warmup": warmup, "face": face},
        seed=seed,
    )
