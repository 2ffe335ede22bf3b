"""The model of feature learning: its statistics on both sides, and which theory is right."""

import numpy as np
import numpyro
import pytest

import fieldprob as fp
from tests.test_models import load

MODEL = load("feature_learning")


def test_its_statistics_are_those_of_the_weights_and_of_the_outputs():
    study = MODEL.study(points=12, inputs=3, test=20, width=5)
    net, task = study.prior, study.task
    with numpyro.handlers.seed(rng_seed=0):
        trace = numpyro.handlers.trace(MODEL.feature_learning).get_trace(net, task, face="weights")
    sites = {
        name: np.asarray(site["value"]) for name, site in trace.items() if site["type"] in ("sample", "deterministic")
    }
    W = sites["weight_0"] / np.sqrt(3)
    assert np.isclose(sites["weight_spike"], np.mean(W[:, 0] ** 2))
    assert np.isclose(sites["weight_bulk"], np.mean(W[:, 1:] ** 2))
    z, f = np.asarray(task.X_test[:, 0]), sites["f_test"][:, 0]
    expected = [np.mean(f), np.mean(z * f), np.mean((z**2 - 1) * f) / 2, np.mean((z**3 - 3 * z) * f) / 6]
    np.testing.assert_allclose(sites["hermite_coefficient"], expected, rtol=1e-10)
    np.testing.assert_allclose(task.y[:, 0], task.X[:, 0] - 0.3 * (task.X[:, 0] ** 3 - 3 * task.X[:, 0]))


def test_where_nothing_adapts_the_weights_keep_their_prior():
    study = MODEL.study(points=12, inputs=3, test=20, width=5)
    limit = MODEL.with_features(fp.theory.limit, study.prior, study.task)
    assert np.isclose(limit.mean["weight_spike"], 1 / 3) and np.isclose(limit.mean["weight_bulk"], 1 / 3)


@pytest.mark.slow
@pytest.mark.long
def test_the_theories_rank_as_the_document_says():
    """The network learns the cubic direction: one loop, tree, Gaussian closure and limit, in this order."""
    result = MODEL.study(draws=500, chains=2, samples=24_000).run(progress=False)
    table = result.comparison.summary().reset_index()
    table = table[table["moment"] == "mean"].set_index(["theory", "statistic"])["relative_error"]
    for statistic in ("f", "f_test", "kernel_1"):
        errors = [table[t, statistic] for t in ("adaptation (one-loop)", "adaptation", "limit")]
        assert errors[0] < errors[1] < 0.3 * errors[2]
    assert table["adaptation (gaussian)", "kernel_1"] > table["adaptation", "kernel_1"]
    assert table["adaptation", "weight_spike"] < 0.1 < table["limit", "weight_spike"]
