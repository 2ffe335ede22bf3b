"""Training in time on a linear-plus-cubic teacher: what is recorded, and that generalisation comes late."""

from math import factorial

import numpy as np
import pytest
from scipy.special import erf

import fieldprob as fp
from fieldprob.infer.trajectories import Langevin, trajectories
from fieldprob.report import run_page
from tests.test_models import load

MODEL = load("grokking_dynamics")
SMALL = {"width": 12, "inputs": 4, "points": 20, "test": 50, "steps": 100, "particles": 3}


@pytest.fixture(scope="module")
def small():
    return MODEL.study(**SMALL, equilibrium_draws=20).run(progress=False)


def test_the_residual_is_that_of_the_function_over_all_inputs():
    """Against an average over 4e5 inputs, two numbers at 5 standard errors: false-alarm rate 1.1e-6."""
    study = MODEL.study(**SMALL, readout_variance=3.0)
    task = study.task
    rng = np.random.default_rng(0)
    z = {"weight_0": rng.normal(size=(12, 4)) * 2, "readout": rng.normal(size=(12, 1))}
    found = study.sampling["measure"](z)
    X = rng.normal(size=(400_000, 4))
    f = erf(X @ (z["weight_0"] * np.sqrt(0.5 / 4)).T) @ z["readout"][:, 0] * np.sqrt(3.0 / 12)
    x = X[:, 0]
    discrepancy = x - 0.6 * (x**3 - 3 * x) - f
    for index, (degree, polynomial) in enumerate(((1, x), (3, x**3 - 3 * x))):
        products = discrepancy * polynomial / factorial(degree)
        error = products.std() / np.sqrt(len(products))
        assert abs(found["residual"][index] - products.mean()) < 5 * error
    m = z["weight_0"][:, 0] * np.sqrt(0.5 / 4)
    assert found["specialised_fraction"] == np.mean(np.abs(m) > 0.6)
    np.testing.assert_allclose(found["overlap_histogram"], np.histogram(m, MODEL.EDGES)[0] / 12 / 0.1)
    np.testing.assert_allclose(task.y[:, 0], task.X[:, 0] - 0.6 * (task.X[:, 0] ** 3 - 3 * task.X[:, 0]))


def test_training_is_the_langevin_dynamics_of_the_papers(small):
    """dtheta = -(gamma theta + grad L) dt + sqrt(2 sigma² dt) xi in the network's own weights, with the loss 1/2 sum
    (y - f)² and gamma = sigma² / prior variance (theory 04, (2.10)), step by step from the same start and noise."""
    study = MODEL.study(**SMALL)
    net, task = study.prior, study.task
    loss, initial, _ = fp.infer.training.training_potential(net, task)
    decay = {"weight_0": 0.02 * 4 / 0.5, "readout": 0.02 * 12 / 0.4}
    again = trajectories(
        potential_fn=loss,
        weight_decay=decay,
        initial=initial,
        dynamics=Langevin(step_size=5e-4, temperature=0.02),
        times=[0, 0.05],
        particles=3,
        statistics=lambda theta: {"train_loss": 2 * loss(theta) / task.points},
        seed=0,
        progress=False,
    )
    trained = small.samples["trajectory"]["train_loss"].isel(time=[0, -1])
    np.testing.assert_allclose(again["trajectory"]["train_loss"], trained, rtol=1e-9)


def test_a_trajectory_is_kept_reported_and_drawn(small, tmp_path):
    small.save(tmp_path)
    again = fp.load(tmp_path)
    assert again.samples["trajectory"].sizes == small.samples["trajectory"].sizes
    assert set(again.samples["equilibrium"].data_vars) == {"train_loss", "test_loss"}
    assert again.samples["trajectory"].to_dataset()["step"].values[[0, 1, -1]].tolist() == [0, 1, 100]
    page = run_page(again)
    assert "<td>particles</td><td>3</td>" in page or "3" in page.split("particles")[1][:40]
    for draw in MODEL.study(**SMALL).figures.values():
        assert draw(again).axes


@pytest.mark.slow
@pytest.mark.long
def test_generalisation_is_delayed_and_training_ends_in_the_posterior():
    """Theory 04, E9, at a fixed seed: the test loss first falls with the linear part, then rises while the network
    memorises, and falls below its first minimum only after half of the specialised neurons are there. Where training
    ends is a statement about any seed: both losses are those of HMC, at 14 standard errors of the mean over 8 networks;
    false-alarm rate of the two 5e-6 (Student's t with 7 degrees of freedom)."""
    result = MODEL.study(points=80, particles=8, equilibrium_draws=500).run(progress=False)
    data = result.samples["trajectory"].to_dataset()
    mean, step = data.mean("particle"), data["step"].values
    test_loss, specialised = mean["test_loss"].values, mean["specialised_fraction"].values
    middle = (step > 5) & (step < 50)
    first_minimum = test_loss[middle].min()
    bump = test_loss[(step > 50) & (step < 500)].max()
    assert bump > 1.02 * first_minimum
    below = step[np.argmax((step > 50) & (test_loss < 0.97 * first_minimum))]
    assert below > step[np.argmax(specialised > specialised[-10:].mean() / 2)]
    for name in ("train_loss", "test_loss"):
        ends = data[name].isel(time=slice(-8, None)).mean("time").values
        posterior = result.samples["equilibrium"][name]
        chains = posterior.mean("draw").values
        error = np.hypot(ends.std(ddof=1) / np.sqrt(8), (chains.max() - chains.min()) / 2)
        assert abs(ends.mean() - chains.mean()) < 14 * error
