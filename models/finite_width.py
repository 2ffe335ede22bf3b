"""Theories of finite width on real data: a network with one hidden layer on digits, at any width and scaling.

Sweep the width at standard and at mean-field scaling to see which theory holds where:

    fieldprob sweep finite_width --width 16,32,64,128 --scaling standard,mean-field

At standard scaling all theories tend to the infinite-width limit, and the question is who predicts the deviation from
it: with the defaults the first order in 1/width for everything, and below as many neurons as points one loop for means
(at width 16 the kernel is 2 % off, against 26 % of the limit) and rescaling for variances. At mean-field scaling the
limit stays wrong at every width (50 % in the kernel), and the tree of adaptation becomes exact.
"""

from dataclasses import replace
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpyro

import fieldprob as fp

presets = {
    "small": {},
    "full": {"train": 200, "test": 100, "width": 512, "draws": 4000, "chains": 16},
}


def finite_width(net, task, **options):
    """The model: noisy outputs of a network, and `readout_norm`, |a|^2 of its readout given the hidden weights.

    `options` are those of `fp.regression`, for the face "collapsed".
    """
    with numpyro.handlers.trace() as sites:
        fp.regression(net, task, **options)
    f, variance = sites["f"]["value"], sites["f_conditional_variance"]["value"]
    numpyro.deterministic("readout_norm", readout_norm(net, task, f, variance))


def readout_norm(net, task, f, variance):
    """The mean of |a|^2 given the hidden weights, where `f` and `variance` are those of the training outputs.

    For noise of one variance, with G = readout_variance / chi, R = 1 / (K + noise) and y - f = noise R y, it is

        G (1 + y R K R y / N - tr(R K) / N).
    """
    if jnp.ndim(task.noise_variance):
        raise ValueError("the model finite_width is for noise of one variance: give the task a number.")
    pull = (jnp.sum(f * (task.y - f)) - jnp.sum(variance)) / net.effective_noise(task)
    return net.readout_variance / net.chi * (1 + pull / net.widths[0])


def rescaling(net, task):
    """Kernel rescaling, without a variance of `readout_norm`: here that is a mean given the hidden weights."""
    prediction = fp.theory.rescaling(net, task)
    variance = {name: value for name, value in prediction.variance.items() if name != "readout_norm"}
    return replace(prediction, variance=variance)


def theories(net, task, samples, seed):
    """Those that are for this network: first order in 1/N is for standard scaling, and at least one neuron a point."""
    key = jax.random.key(seed)
    tree = partial(fp.theory.adaptation, samples=samples, key=key)
    perturbative = partial(fp.theory.perturbative, key=key)
    return [
        fp.theory.limit,
        *([perturbative] if net.chi == 1 and net.widths[0] >= task.points else []),
        rescaling,
        partial(fp.theory.adaptation, closure="gaussian"),
        tree,
        partial(tree, order="one-loop"),
    ]


def study(
    classes: tuple[int, ...] = (3, 8),
    train: int = 40,
    test: int = 20,
    width: int = 64,
    activation: str = "erf",
    weight_variance: float = 1.0,
    readout_variance: float = 1.0,
    scaling: Literal["standard", "mean-field"] | float = "standard",
    noise_variance: float = 0.1,
    samples: int = 96_000,
    draws: int = 1000,
    chains: int = 4,
    warmup: int = 300,
    seed: int = 0,
):
    """A network with one hidden layer tells two digits apart; which theory of finite width predicts it best?

    Args:
        classes: two digits to tell apart, targets -1 and +1.
        train: training points.
        test: test points.
        width: hidden neurons; the first order in 1/width is left out where there are more training points.
        activation: name of the activation function, one that grows at most linearly.
        weight_variance: variance per fan-in of the hidden weights.
        readout_variance: variance per fan-in of the readout, before it is divided by chi.
        scaling: standard, mean-field, or an exponent gamma of at least 1.
        noise_variance: likelihood variance, before it is divided by chi.
        samples: neurons drawn for the averages of adaptation.
        draws: draws of each chain.
        chains: number of chains.
        warmup: adaptation steps of each chain, discarded.
        seed: of the data split, the chains and the averages.
    """
    net = fp.Mlp(width, 1, activation, weight_variance, 0.0, readout_variance, scaling)
    task = fp.tasks.digits(classes=classes, train=train, test=test, noise_variance=noise_variance, seed=seed)
    return fp.Study(
        net,
        task,
        theories=theories(net, task, samples, seed),
        sampling={"model": finite_width, "draws": draws, "chains": chains, "warmup": warmup},
        seed=seed,
    )
