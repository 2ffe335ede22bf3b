"""The study of the kernel superposition: faces and exact reference agree, the limit does not, and its statistics."""

import jax.numpy as jnp
import numpy as np
import pytest

import fieldprob as fp
from tests.test_models import load

MODEL = load("kernel_superposition")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("face", ["kernels", pytest.param("weights", marks=pytest.mark.long)])
def test_the_small_case_agrees_with_the_reweighted_prior_and_not_with_the_limit(face, tmp_path):
    """The verdict's own false-alarm rate is set to 1e-6."""
    study = MODEL.study(face=face, draws=1500 if face == "kernels" else 4000)
    result = study.run(progress=False)
    verdicts = fp.compare(result.samples, result.predictions, false_alarm=1e-6).verdicts
    assert verdicts["limit"] == "differs" and verdicts["importance"] == "agrees"
    assert verdicts.keys() == {"limit", "perturbative", "forward_backward (exact)", "importance"}
    found = set(result.comparison.to_dataframe()["statistic"])
    assert found >= {"kernel_2", "kernel_gain_1", "kernel_gain_2", "kernel_law", "alignment_2", "f", "f_test"}
    for name, draw in study.figures.items():
        draw(result).savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 0
    result.save(tmp_path)
    loaded = fp.load(tmp_path)
    np.testing.assert_array_equal(loaded.samples.posterior["bin"], MODEL.EDGES[:-1])


def test_the_statistics_of_given_kernels():
    """A kernel moved by 0.3 y y^T from its prior mean; entries in units of the prior's deviation, by hand."""
    y = np.array([1.0, -1.0, 0.8])
    task = fp.Task(np.eye(3), y, 0.1)
    entries = MODEL.three_entries(task)
    assert entries.tolist() == [[0, 0], [0, 2], [0, 1]]
    mean = np.stack([np.eye(3), 2 * np.eye(3)])
    prior = {"mean": mean, "scale": np.full((3, 3), 0.5)}
    kernels = [jnp.eye(3), jnp.asarray(2 * np.eye(3) + 0.3 * np.outer(y, y))]
    found = MODEL.kernel_statistics(kernels, task, prior, entries)
    assert np.isclose(found["kernel_gain_1"], 0.0) and np.isclose(found["kernel_gain_2"], 0.3)
    width = MODEL.EDGES[1] - MODEL.EDGES[0]
    np.testing.assert_allclose(found["kernel_law"].sum(1) * width, 1.0)
    for row, deviation in zip(found["kernel_law"], (0.6, 0.48, -0.6), strict=True):
        k = int(np.argmax(row))
        assert MODEL.EDGES[k] <= deviation < MODEL.EDGES[k + 1]


def test_prior_moments_of_a_linear_network_are_known():
    """Mean C, variance (C_aa C_bb + C_ab^2) / N, by 2e4 draws: 6 standard errors of the mean, 10 % of the deviation."""
    task = fp.Task(np.array([[1.0, 0.5], [-0.3, 1.0]]), np.array([1.0, -1.0]), 0.1)
    net = fp.Mlp(20, 1, "linear")
    C = np.asarray(task.X @ task.X.T / 2)
    exact = np.sqrt((np.outer(np.diag(C), np.diag(C)) + C**2) / 20)
    found = MODEL.prior_moments(net, task, 20_000, MODEL.jax.random.key(0))
    assert np.all(np.abs(found["mean"][0] - C) < 6 * exact / np.sqrt(20_000))
    np.testing.assert_allclose(found["scale"], exact, rtol=0.1)


@pytest.mark.slow
@pytest.mark.long
def test_digits_are_compared_with_the_first_order():
    result = MODEL.study(**MODEL.presets["digits"]).run(progress=False)
    assert {p.theory for p in result.predictions} == {"limit", "perturbative", "forward_backward", "importance"}
    table = result.comparison.to_dataframe()
    law = table[(table["statistic"] == "kernel_law") & (table["theory"] == "perturbative")]
    assert len(law) == 3 * (len(MODEL.EDGES) - 1)
    shift = table[table["statistic"] == "kernel_gain_2"].set_index("theory")["relative_error"]
    assert shift["perturbative"] < 0.5 * shift["limit"]


def test_targets_of_one_sign_are_refused():
    with pytest.raises(ValueError, match="have one sign"):
        MODEL.three_entries(fp.Task(np.eye(2), np.ones(2), 0.1))


def test_the_limit_has_nothing_to_reweight():
    study = MODEL.study(face="limit")
    assert [theory.__name__ for theory in study.theories] == ["limit"] and not study.figures
    assert MODEL.study(points=4, test=8, prior_draws=10, reference=0).chosen == {"tilt": "leading"}
