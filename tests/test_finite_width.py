"""The study of finite width on real data: which theories it holds against a network, and the norm of the readout."""

import numpy as np
import numpyro
import pytest
from scipy.special import erf

from tests.test_models import load

MODEL = load("finite_width")
SMALL = {"train": 10, "test": 4}
ADAPTATION = ["adaptation (gaussian)", "adaptation", "adaptation (one-loop)"]


@pytest.mark.parametrize(
    ("options", "theories"), [({"width": 10}, 6), ({"width": 9}, 5), ({"width": 10, "scaling": "mean-field"}, 5)]
)
def test_first_order_in_1_over_n_is_for_standard_scaling_and_a_neuron_a_point(options, theories):
    assert len(MODEL.study(**SMALL, **options).theories) == theories


@pytest.mark.parametrize("scaling", ["standard", "mean-field"])
def test_the_norm_of_the_readout_given_the_hidden_weights(scaling):
    """Against the Gaussian posterior of the readout weights themselves."""
    study = MODEL.study(**SMALL, width=7, scaling=scaling, readout_variance=1.3)
    net, task = study.prior, study.task
    with numpyro.handlers.seed(rng_seed=0):
        trace = numpyro.handlers.trace(MODEL.finite_width).get_trace(net, task, precision="full")
    noise, variance = 0.1 / net.chi, 1.3 / net.chi / 7
    phi = erf(np.asarray(task.X) @ np.asarray(trace["weight_0"]["value"]).T / 8)
    covariance = np.linalg.inv(phi.T @ phi / noise + np.eye(7) / variance)
    mean = covariance @ phi.T @ np.asarray(task.y)[:, 0] / noise
    assert np.isclose(trace["readout_norm"]["value"], mean @ mean + np.trace(covariance), rtol=1e-8)
