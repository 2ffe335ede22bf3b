"""Sampled networks of finite width against their theories: the smaller experiments of theories 01 and 02.

All are long. A comparison's own false-alarm rate is set to 1e-5.
"""

import jax
import numpy as np
import pytest

import fieldprob as fp
from fieldprob.sweep import mean_and_error
from tests.test_models import load

pytestmark = [pytest.mark.slow, pytest.mark.long]

PAIR = fp.Task(np.array([[1.2, -0.3], [0.4, 1.1]]), np.array([0.9, -0.6]), 0.3)


def sample(net, task, **options):
    return fp.sample(net, task, **({"draws": 1000, "chains": 4, "warmup": 200, "seed": 0} | options), progress=False)


@pytest.mark.parametrize(
    ("activation", "scaling"),
    [("linear", "mean-field"), ("erf", "mean-field"), ("relu", "mean-field"), ("square", 1.0)],
)
def test_e5_sampled_networks_have_the_posterior_of_the_contour_integral(activation, scaling):
    """02 E5: 32 neurons, two points."""
    net = fp.Mlp(32, 1, activation, 2.0, readout_variance=1.5, scaling=scaling)
    exact, limit = fp.theory.exact_small(net, PAIR, nodes=49), fp.theory.limit(net, PAIR)
    found = fp.compare(sample(net, PAIR), [exact, limit], false_alarm=1e-5).verdicts
    assert found == {"exact_small": "agrees", "limit": "differs"}


@pytest.mark.parametrize("depth", [1, 2])
def test_e7_sampled_deep_linear_networks_have_the_exact_posterior(depth):
    """02 E7: 10 neurons a layer, 20 points in 40 dimensions, chi = N. The saddle point misses what is left at 1 / N."""
    study = load("deep_linear").study(depth=depth, scaling="mean-field", draws=400, warmup=200)
    theories = fp.theory.exact_linear, fp.theory.rescaling, fp.theory.limit
    exact, saddle, limit = (theory(study.prior, study.task) for theory in theories)
    found = fp.compare(study.sample(progress=False), [exact, limit], false_alarm=1e-5).verdicts
    assert found == {"exact linear": "agrees", "limit": "differs"}
    missed, whole = (np.linalg.norm(theory.mean["f"] - exact.mean["f"]) for theory in (saddle, limit))
    assert missed < 0.25 * whole


def test_x8_rescaling_has_most_of_the_predictive_variance():
    """01 X8: erf, 40 points of a linear target in 20 dimensions, 20 neurons. The variance at test points is 1.7 times
    the limit's, and rescaling's 6 % more: 01 says within 1 %, of data that it does not give. The kernel keeps its
    trace."""
    rng = np.random.default_rng(2)
    X, X_test = rng.normal(size=(40, 20)), rng.normal(size=(40, 20))
    task = fp.Task(X, 1.7 * X[:, 0], 0.05, X_test)
    net = fp.Mlp(20, 1, "erf", 1.5, readout_variance=1.0)
    samples = sample(net, task, draws=500)["posterior"]
    f, conditional = samples["f_test"], samples["f_test_conditional_variance"]
    spread = (f - f.mean(("chain", "draw"))) ** 2
    variance, error = mean_and_error((conditional.values.reshape(f.shape) + spread).mean(f.dims[2:]))
    limit, rescaled = (theory(net, task) for theory in (fp.theory.limit, fp.theory.rescaling))
    ratio = {t.theory: float(np.mean(t.variance["f_test"]) / variance) for t in (limit, rescaled)}
    assert error < 0.015 * variance
    assert ratio["limit"] < 0.65 and abs(ratio["rescaling"] - 1) < 0.15
    K = samples["kernel_1"].mean(("chain", "draw"))
    trace = np.trace(K) / np.trace(limit.mean["kernel_1"][: len(K), : len(K)])
    assert abs(trace - 1) < 0.05 and rescaled.mean["rescaling_1"] > 2


@pytest.mark.parametrize("width", [32, 128])
def test_x9_mean_field_networks_approach_the_one_neuron_measure(width):
    """01 X9: within 1 / N of F16-F17 and 6 standard errors of 8 outputs; the Gaussian closure is further away."""
    rng = np.random.default_rng(11)
    X, X_test = rng.normal(size=(24, 6)), rng.normal(size=(8, 6))
    task = fp.Task(X, X[:, 0], 0.1, X_test)
    net = fp.Mlp(width, 1, "erf", 1.5, readout_variance=1.0, scaling="mean-field")
    f, error = mean_and_error(sample(net, task, draws=500)["posterior"]["f_test"])
    neuron = fp.theory.mean_field(net, task, key=jax.random.key(0), samples=24_000)
    closure = fp.theory.adaptation(net, task, closure="gaussian")
    missed, missed_by_closure = (np.abs(theory.mean["f_test"] - f.values) for theory in (neuron, closure))
    assert np.all(missed < 1 / width + 6 * np.hypot(error, neuron.error["f_test"]))
    assert np.max(missed_by_closure) > 0.05 > 2 * np.max(missed)
