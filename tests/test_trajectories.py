"""Ensembles out of equilibrium, against the exact law of the discretised process and matrix exponentials."""

import json
import os
import subprocess
import sys

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.linalg
import scipy.stats

import fieldprob as fp
from fieldprob.infer.trajectories.dynamics import GradientDescent, GradientFlow, Langevin
from fieldprob.infer.trajectories.ensemble import trajectories

# --- a quadratic potential with mobilities, and the exact law of its steps --------------------------------------------

D, T, ETA, S0 = 3, 0.6, 0.08, 0.5
_rng = np.random.default_rng(0)
_root = _rng.normal(size=(D, D))
A = _root @ _root.T / D + 0.3 * np.eye(D)
B = _rng.normal(size=D)
DECAY, MOBILITY = 0.7, np.array([1.0, 2.0, 0.5])
HESSIAN = A + DECAY * np.eye(D)
STEPS = np.array([0, 1, 3, 12, 60])
START = np.array([1.0, -0.5, 2.0])


def quadratic(z):
    return 0.5 * z @ (A @ z) - B @ z


def gaussian_start(key):
    return START + jnp.sqrt(S0) * jax.random.normal(key, (D,))


def law(scheme, steps, H=HESSIAN, b=B, mobility=MOBILITY, mean=START, start=S0, eta=ETA, temperature=T):
    """Mean, covariance and one-step matrix of (z, xi) by recursion: one step at a time, no matrix function."""
    d = len(b)
    mobility = np.broadcast_to(mobility, d)
    R, eye, zero = np.eye(d) - eta * mobility[:, None] * H, np.eye(d), np.zeros((d, d))
    if scheme == "euler-maruyama":
        amplitude = np.diag(np.sqrt(2 * eta * temperature * mobility))
        M, N = np.block([[R, zero], [zero, zero]]), np.vstack([amplitude, eye])
    else:
        amplitude = np.diag(np.sqrt(eta * temperature / 2 * mobility))
        M, N = np.block([[R, amplitude], [zero, zero]]), np.vstack([amplitude, eye])
    m, C = np.r_[mean, np.zeros(d)], scipy.linalg.block_diag(start * eye, eye)
    drift = np.r_[eta * mobility * b, np.zeros(d)]
    result = {}
    for n in range(max(steps) + 1):
        if n in steps:
            result[n] = m, C
        m, C = M @ m + drift, M @ C @ M.T + N @ N.T
    return [result[n][0][:d] for n in steps], [result[n][1][:d, :d] for n in steps], [result[n][1] for n in steps], M


def largest_z(z, means, covariances):
    """Largest deviation of sample means and covariances of Gaussian samples (particle, time, d) in standard errors, and
    the threshold that independent Gaussian samples exceed with probability below 1e-6."""
    n, scores = len(z), []
    for k, (m, C) in enumerate(zip(means, covariances, strict=True)):
        x = z[:, k] - m
        scores += list(x.mean(0) / np.sqrt(np.diag(C) / n))
        error = np.sqrt((np.outer(np.diag(C), np.diag(C)) + C**2) / n)
        scores += list(((x.T @ x / n - C) / error)[np.triu_indices(len(C))])
    return np.max(np.abs(scores)), scipy.stats.norm.isf(1e-6 / 2 / len(scores))


SCHEMES = ("euler-maruyama", "leimkuhler-matthews")


@pytest.fixture(scope="module")
def ensembles():
    def run(scheme):
        return trajectories(
            potential_fn=quadratic, weight_decay=DECAY, mobility=MOBILITY, initial=gaussian_start,
            dynamics=Langevin(ETA, T, scheme), times=ETA * STEPS, particles=10_000, batch=4000, progress=False,
        )  # fmt: skip

    return {scheme: run(scheme) for scheme in SCHEMES}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_langevin_ensembles_have_the_exact_law_of_their_steps(ensembles, scheme):
    z = ensembles[scheme]["trajectory"]["z"].values
    deviation, threshold = largest_z(z, *law(scheme, STEPS)[:2])
    assert deviation < threshold


def test_the_law_tells_the_two_schemes_and_a_wrong_temperature_apart(ensembles):
    """The test above can fail: samples of one scheme miss the law of the other, or of a temperature 10 % higher."""
    for scheme, other in (SCHEMES, SCHEMES[::-1]):
        z = ensembles[scheme]["trajectory"]["z"].values
        deviation, threshold = largest_z(z, *law(other, STEPS)[:2])
        assert deviation > threshold
        deviation, threshold = largest_z(z, *law(scheme, STEPS, temperature=1.1 * T)[:2])
        assert deviation > threshold


def test_the_recursion_is_the_closed_form_of_the_discretised_process():
    """B6 at every n, its limit B5, and B7: the Leimkuhler-Matthews variance is T / a without bias."""
    a, n = 1.9, np.arange(400)
    one = {"H": np.array([[a]]), "b": np.zeros(1), "mobility": 1.0, "mean": np.zeros(1)}
    variance = np.ravel(law("euler-maruyama", n, **one)[1])
    r, limit = 1 - ETA * a, T / (a * (1 - ETA * a / 2))
    assert np.max(np.abs(variance - (S0 * r ** (2 * n) + limit * (1 - r ** (2 * n))))) < 1e-14
    assert variance[-1] == pytest.approx(limit, rel=1e-13)
    assert np.ravel(law("leimkuhler-matthews", n, **one)[1])[-1] == pytest.approx(T / a, rel=1e-13)


def test_the_tree_has_labelled_particles_and_the_times_that_were_reached(ensembles):
    tree = ensembles["euler-maruyama"]
    assert tree["trajectory"]["z"].dims == ("particle", "time", "z_dim_0")
    assert np.allclose(tree["trajectory"]["time"], ETA * STEPS, rtol=1e-15)
    assert np.array_equal(tree["trajectory_stats"]["num_steps"][5], STEPS)
    z = tree["trajectory"]["z"].values[:20]
    energy = 0.5 * np.einsum("pti,ij,ptj->pt", z, HESSIAN, z) - z @ B
    assert np.allclose(tree["trajectory_stats"]["energy"][:20], energy, rtol=1e-12)
    settings = json.loads(tree.attrs["settings"])
    assert settings["particles"] == 10_000 and settings["batch"] == 4000 and tree.attrs["interrupted"] == 0


# --- deterministic motion ---------------------------------------------------------------------------------------------


def test_gradient_flow_is_the_matrix_exponential():
    """z(t) = z* + exp(-M H t)(z(0) - z*), to a few times the tolerance; an implicit solver too."""
    start = _rng.normal(size=(4, D))
    times = np.array([0.0, 0.03, 0.5, 4.0])
    best = np.linalg.solve(HESSIAN, B)
    exact = [best + (start - best) @ scipy.linalg.expm(-t * MOBILITY[:, None] * HESSIAN).T for t in times]
    for flow, accuracy in ((GradientFlow(1e-10, 1e-12), 1e-8), (GradientFlow(solver=diffrax.Kvaerno5()), 1e-5)):
        tree = trajectories(
            potential_fn=quadratic, weight_decay=DECAY, mobility=MOBILITY, initial=start, dynamics=flow, times=times,
            progress=False,
        )  # fmt: skip
        assert np.max(np.abs(tree["trajectory"]["z"] - np.stack(exact, axis=1))) < accuracy
        assert np.array_equal(tree["trajectory"]["time"], times)
        assert np.array_equal(tree["trajectory"]["z"][:, 0], start)
        steps = tree["trajectory_stats"]["num_steps"]
        assert (steps[:, 0] == 0).all() and (steps.diff("time") > 0).all()


def test_gradient_descent_is_the_power_of_its_step():
    """z_n = z* + (1 - eta M H)^n (z_0 - z*), to 1e-12, with sites of a dictionary and decays of their own."""
    decay = {"a": 0.4, "b": np.array([0.1, 0.9])}
    mobility = {"a": 2.0, "b": 0.5}
    start = {"a": _rng.normal(size=5), "b": _rng.normal(size=(5, 2))}
    tree = trajectories(
        potential_fn=lambda z: quadratic(jnp.r_[z["a"], z["b"]]), weight_decay=decay, mobility=mobility, initial=start,
        dynamics=GradientDescent(0.1), times=[0.3, 5.0], progress=False,
    )  # fmt: skip
    H, m = A + np.diag([0.4, 0.1, 0.9]), np.array([2.0, 0.5, 0.5])
    best, R = np.linalg.solve(H, B), np.eye(D) - 0.1 * m[:, None] * H
    for k, n in enumerate((3, 50)):
        exact = best + (np.c_[start["a"], start["b"]] - best) @ np.linalg.matrix_power(R, n).T
        found = tree["trajectory"].isel(time=k)
        assert np.max(np.abs(np.c_[found["a"], found["b"]] - exact)) < 1e-12


def test_a_site_without_mobility_stays_where_it_is():
    start = np.ones((3, D))
    for dynamics in (Langevin(0.1), GradientFlow()):
        tree = trajectories(
            potential_fn=quadratic, initial=start, mobility=np.array([1.0, 0.0, 1.0]), dynamics=dynamics, times=[1.0],
            progress=False,
        )  # fmt: skip
        assert (tree["trajectory"]["z"][..., 1] == 1).all() and (tree["trajectory"]["z"][..., 0] != 1).all()


# --- X10: Langevin training of a linear model -------------------------------------------------------------------------


class X10:
    """D = 30, P = 5, g = 0.4, T = 0.3, s0 = 0.8: outputs at training and test points."""

    D, P, g, T, s0, eta = 30, 5, 0.4, 0.3, 0.8, 0.04
    steps = np.array([5, 25, 100, 125])
    rng = np.random.default_rng(3)
    Phi, y = rng.normal(size=(8, D)) / np.sqrt(D) * 1.5, rng.normal(size=P)
    train = Phi[:P]
    H = g * np.eye(D) + train.T @ train

    @staticmethod
    def function(M, f):
        values, V = np.linalg.eigh(M)
        return (V * f(values)) @ V.T

    @classmethod
    def G1(cls, t):
        Theta = cls.train @ cls.train.T
        return (
            cls.Phi @ cls.train.T @ cls.function(cls.g * np.eye(cls.P) + Theta, lambda w: -np.expm1(-w * t) / w) @ cls.y
        )

    @classmethod
    def G2(cls, t):
        def h(a):
            return cls.s0 * np.exp(-2 * a * t) - cls.T * np.expm1(-2 * a * t) / a

        Theta, star = cls.train @ cls.train.T, cls.Phi @ cls.train.T
        return (
            h(cls.g) * cls.Phi @ cls.Phi.T
            + star @ cls.function(Theta, lambda w: (h(cls.g + w) - h(cls.g)) / w) @ star.T
        )

    @classmethod
    def G4(cls, t, later):
        def C(w):
            return cls.s0 * np.exp(-w * (t + later)) + cls.T / w * (np.exp(-w * (later - t)) - np.exp(-w * (t + later)))

        return cls.Phi @ cls.function(cls.H, C) @ cls.Phi.T

    @classmethod
    def discrete(cls, eta, steps):
        means, _, joint, M = law(
            "euler-maruyama", steps, cls.H, cls.train.T @ cls.y, 1.0, np.zeros(cls.D), cls.s0, eta, cls.T
        )
        return means, joint, M


def test_formulas_of_langevin_training_are_the_limit_of_small_steps():
    """G1, G2 and G4 against the discretised process: the difference is O(eta) and extrapolates to nothing."""
    errors = []
    for eta in (0.01, 0.005):
        n, later = round(0.6 / eta), round(1.4 / eta)
        means, joint, M = X10.discrete(eta, [n, later])
        two_time = (joint[0] @ np.linalg.matrix_power(M, later - n).T)[: X10.D, : X10.D]
        Phi = X10.Phi
        errors.append(
            [
                Phi @ means[0] - X10.G1(0.6),
                Phi @ joint[0][: X10.D, : X10.D] @ Phi.T - X10.G2(0.6),
                Phi @ two_time @ Phi.T - X10.G4(0.6, 1.4),
            ]
        )
    for coarse, fine in zip(*errors, strict=True):
        assert np.abs(coarse).max() < 0.02
        assert np.abs(2 * fine - coarse).max() < 0.03 * np.abs(coarse).max()


@pytest.mark.slow
def test_langevin_training_has_the_predicted_mean_two_time_covariance_and_fluctuation_dissipation_ratio():
    """10^4 trajectories: mean, covariance, and covariance with the third time against the exact discretised law, false
    alarm below 1e-6; at late times [C(t', t') - C(t, t')] / T int R -> 1 (G4)."""
    x = X10
    tree = trajectories(
        potential_fn=lambda w: 0.5 * jnp.sum((x.train @ w - x.y) ** 2), weight_decay=x.g,
        initial=lambda key: jnp.sqrt(x.s0) * jax.random.normal(key, (x.D,)), particles=10_000, batch=2500,
        statistics=lambda w: {"f": (x.Phi[: x.P] @ w)[:, None], "f_test": (x.Phi[x.P :] @ w)[:, None]},
        dynamics=Langevin(x.eta, x.T), times=x.eta * x.steps, progress=False,
    )  # fmt: skip
    group = tree["trajectory"]
    assert group["f_test"].dims == ("particle", "time", "test_point", "output")
    f = np.concatenate([group["f"].values, group["f_test"].values], axis=2)[..., 0]
    means, joint, M = x.discrete(x.eta, x.steps)
    m = [x.Phi @ w for w in means]
    C = [x.Phi @ S[: x.D, : x.D] @ x.Phi.T for S in joint]
    deviation, threshold = largest_z(f, m, C)
    assert deviation < threshold

    two_time = (joint[2] @ np.linalg.matrix_power(M, x.steps[3] - x.steps[2]).T)[: x.D, : x.D]
    predicted = x.Phi @ two_time @ x.Phi.T
    first, second = f[:, 2] - m[2], f[:, 3] - m[3]
    error = np.sqrt((np.outer(np.diag(C[2]), np.diag(C[3])) + predicted**2) / len(f))
    assert np.max(np.abs(first.T @ second / len(f) - predicted) / error) < scipy.stats.norm.isf(1e-6 / 2 / 64)

    t, later = x.eta * x.steps[2:]
    response = x.function(x.H, lambda w: -np.expm1(-w * (later - t)) / w)  # int_t^t' R, summed over the outputs below
    ratio = np.sum((second - first) * second) / len(f) / (x.T * np.trace(x.Phi @ response @ x.Phi.T))
    assert abs(ratio - 1) < 0.05


# --- models, statistics, reproducibility ------------------------------------------------------------------------------


def scale_mixture():
    tau = numpyro.sample("tau", dist.HalfNormal(2.0))
    x = numpyro.sample("x", dist.Normal(0, 1).expand([2]).to_event(1))
    numpyro.deterministic("product", tau * x)
    numpyro.sample("y", dist.Normal(tau * x, 0.5).to_event(1), obs=jnp.array([1.0, -1.0]))


def test_models_start_from_their_prior_and_move_in_unconstrained_space():
    """tau ~ HalfNormal(2) at time 0 by a Kolmogorov test (level 1e-6); the energy is minus the log joint density."""
    tree = trajectories(
        scale_mixture, dynamics=Langevin(1e-3), times=[0, 0.01], particles=2000, store_positions=True, progress=False,
        statistics=lambda z: {"log_tau": z["tau"]}, dims={"product": ("mode",)},
    )  # fmt: skip
    start = tree["trajectory"].isel(time=0)
    assert start["product"].dims == ("particle", "mode")
    assert scipy.stats.kstest(start["tau"], scipy.stats.halfnorm(scale=2).cdf).pvalue > 1e-6
    assert np.allclose(np.exp(start["log_tau"]), start["tau"])
    tau, x = start["tau"].values, start["x"].values
    y = scipy.stats.norm([1, -1], 0.5).logpdf(tau[:, None] * x).sum(1)
    log_joint = scipy.stats.halfnorm(scale=2).logpdf(tau) + scipy.stats.norm.logpdf(x).sum(1) + y + np.log(tau)
    assert np.allclose(tree["trajectory_stats"]["energy"][:, 0], -log_joint)


def test_statistics_are_evaluated_at_the_asked_times_only():
    calls = []

    def counted(z):
        jax.debug.callback(lambda: calls.append(1))
        return {"square": z**2}

    tree = trajectories(
        potential_fn=lambda z: z**2, initial=np.ones(4), dynamics=Langevin(0.01), times=[0.5, 1.0], statistics=counted,
        progress=False,
    )  # fmt: skip
    jax.effects_barrier()
    assert len(calls) in (2, 4 * 2)  # a callback without batched arguments runs once a batch
    assert list(tree["trajectory"].data_vars) == ["square"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_particles_depend_on_their_index_and_the_seed_but_not_on_batches_or_times(scheme):
    options = {
        "potential_fn": quadratic, "initial": gaussian_start, "dynamics": Langevin(0.05, 1.0, scheme),
        "progress": False,
    }  # fmt: skip
    whole = trajectories(times=[0.2, 1.0], particles=7, **options)["trajectory"]["z"].values
    parts = trajectories(times=[0, 0.5, 1.0], particles=5, batch=2, **options)["trajectory"]["z"].values
    assert np.allclose(whole[:5, 1], parts[:, 2], rtol=0, atol=1e-12)
    other = trajectories(times=[0.2, 1.0], particles=7, seed=1, **options)["trajectory"]["z"].values
    assert np.abs(other - whole).min(axis=(1, 2)).max() > 1e-4


PROGRAM = """
import sys, jax, numpy as np
jax.config.update("jax_enable_x64", True)
from fieldprob.infer.trajectories.dynamics import GradientFlow, Langevin
from fieldprob.infer.trajectories.ensemble import trajectories

def run(dynamics, **options):
    return trajectories(potential_fn=lambda z: (z**2 - 1) @ (z**2 - 1) + 0.3 * z[0], times=[0.2, 1.0], batch=6,
        initial=lambda key: jax.random.normal(key, (3,)), dynamics=dynamics, particles=10, progress=False,
        **options)["trajectory"]

if __name__ == "__main__":
    print(jax.local_device_count())
    found = run(Langevin(0.02))["z"], run(Langevin(0.02), store=False)["z_variance"], run(GradientFlow())["z"]
    np.savez(sys.argv[1], *found)
"""


@pytest.mark.slow
def test_devices_share_the_particles_and_change_none(tmp_path):
    """Four forced host devices in a process of their own, 10 particles in batches of 8: the same particles as here."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(path), str(tmp_path / "found.npz")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "4" and jax.local_device_count() == 1
    here: dict = {"__name__": "here"}
    exec(PROGRAM, here)
    run = here["run"]
    expected = (run(Langevin(0.02))["z"], run(Langevin(0.02), store=False)["z_variance"], run(GradientFlow())["z"])
    with np.load(tmp_path / "found.npz") as file:
        for name, value in zip(file.files, expected, strict=True):
            assert np.allclose(file[name], value, rtol=1e-12, atol=1e-12)


def test_streamed_moments_are_those_of_the_stored_particles():
    """Uneven batches (5 + 5 + 1): mean, variance, their errors and the covariance with a reference time, to 1e-12."""
    options = {
        "potential_fn": quadratic, "initial": gaussian_start, "dynamics": Langevin(0.05), "times": [0, 0.5, 1.5],
        "particles": 11, "batch": 5, "statistics": lambda z: {"f": z[:, None] ** 2}, "progress": False,
    }  # fmt: skip
    x = trajectories(**options)["trajectory"]["f"].values
    tree = trajectories(store=False, reference_time=0.5, **options)
    s, n = tree["trajectory"], len(x)
    assert s["f"].dims == s["f_variance"].dims == ("time", "train_point", "output")
    centred, variance = x - x.mean(0), x.var(0, ddof=1)
    fourth = (centred**4).mean(0)
    expected = {
        "f": x.mean(0),
        "f_error": np.sqrt(variance / n),
        "f_variance": variance,
        "f_variance_error": np.sqrt((fourth - variance**2 * (n - 3) / (n - 1)) / n),
    }
    for name, value in expected.items():
        assert np.allclose(s[name], value, rtol=1e-12), name
    cross = np.einsum("pi,pti->ti", centred[:, 1, :, 0], centred[..., 0]) / (n - 1)
    assert np.allclose(s["f_autocovariance"][1:, :, 0], cross[1:], rtol=1e-12)
    assert np.isnan(s["f_autocovariance"][0]).all() and np.allclose(s["f_autocovariance"][1], s["f_variance"][1])
    assert {"energy", "energy_error"} <= set(tree["trajectory_stats"].data_vars)


def test_the_error_of_the_variance_is_that_of_repeated_ensembles():
    """40 000 particles at time 0 from an exponential law: the estimated error against its exact value, to 25 %."""
    tree = trajectories(
        potential_fn=lambda z: z**2, initial=jax.random.exponential, dynamics=Langevin(0.1), times=[0],
        particles=40_000, batch=20_000, store=False, progress=False,
    )  # fmt: skip
    exact = np.sqrt((9 - 1) / 40_000)  # mu_4 = 9, sigma = 1
    assert float(tree["trajectory"]["z_variance_error"][0]) == pytest.approx(exact, rel=0.25)


@pytest.mark.slow
def test_float32_networks_move_too_and_compare_at_a_time():
    with jax.enable_x64(False):
        task = fp.tasks.linear_teacher(5, 3, test=2, noise_variance=0.1, seed=0)
        tree = trajectories(
            fp.Mlp(4), task, dynamics=GradientDescent(0.01), times=[0, 0.1], particles=200, progress=False
        )
    group = tree["trajectory"]
    assert group["f"].dtype == np.float32 and group["f"].dims == ("particle", "time", "train_point", "output")
    assert group["split"].values.tolist() == ["train"] * 5 + ["test"] * 2 and "weight_0" not in group
    assert np.array_equal(tree["observed_data"]["y"], task.y)
    assert (group["train_loss"][:, 1] < group["train_loss"][:, 0]).all()
    prior = fp.Prediction(theory="prior", mean={"f": np.zeros((5, 1))})
    start = group.to_dataset().sel(time=0, drop=True)
    assert fp.compare(start, prior).verdicts["prior"] == "agrees"


def test_an_interruption_keeps_the_batches_that_are_done(monkeypatch):
    from fieldprob.infer.trajectories import record as trajectory_record

    options = {
        "potential_fn": quadratic, "initial": gaussian_start, "dynamics": Langevin(0.05), "times": [0.1, 0.2],
        "particles": 9, "batch": 3, "progress": False,
    }  # fmt: skip
    add = trajectory_record.Particles.add
    stop_at = 6

    def interrupting(self, first, k, recorded):
        if (first, k) == (stop_at, 1):
            raise KeyboardInterrupt
        add(self, first, k, recorded)

    whole = trajectories(**options)["trajectory"]["z"].values
    monkeypatch.setattr(trajectory_record.Particles, "add", interrupting)
    tree = trajectories(**options)
    assert tree.attrs["interrupted"] == 1 and np.array_equal(tree["trajectory"]["z"], whole[:6])
    stop_at = 0
    with pytest.raises(KeyboardInterrupt):
        trajectories(**options)


# --- errors -----------------------------------------------------------------------------------------------------------

GOOD = {
    "potential_fn": quadratic, "initial": gaussian_start, "dynamics": Langevin(0.1), "times": [0, 1], "particles": 4,
    "progress": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"times": [0, 2, 1]}, ValueError, "times has 2 before 1: give increasing times"),
        ({"times": [-1, 2]}, ValueError, "finite numbers from 0 on"),
        ({"times": []}, ValueError, "times is"),
        ({"times": [0.01, 0.02]}, ValueError, "times 0.01 and 0.02 are the same step of size 0.1"),
        ({"times": [0, 1e12]}, ValueError, r"at most 2\^31"),
        ({"dynamics": "langevin"}, TypeError, "dynamics is 'langevin': give Langevin"),
        ({"potential_fn": None}, ValueError, "give either a prior"),
        ({"initial": None}, ValueError, "initial is None: a potential_fn has no prior"),
        ({"initial": np.ones((5, D))}, ValueError, "particles is 4, but initial holds 5"),
        ({"initial": {"a": np.ones(4), "b": np.ones(3)}}, ValueError, "whose first axis runs over the same particles"),
        ({"initial": np.ones((4, D), int)}, TypeError, "initial has entries of type int"),
        ({"initial": np.full((4, D), np.nan)}, ValueError, "4 of 4 particles start at positions that are NaN"),
        ({"potential_fn": lambda z: jnp.log(z[0] - 1e6)}, ValueError, "4 of 4 particles start where U is not finite"),
        ({"particles": 0}, ValueError, "particles is 0"),
        ({"batch": 0}, ValueError, "batch is 0"),
        ({"seed": -1}, TypeError, "seed is -1"),
        ({"mobility": -1.0}, ValueError, "mobility is -1.0: give finite numbers that are not negative"),
        ({"mobility": {"w": 1.0}}, ValueError, "mobility has entries w"),
        ({"weight_decay": np.ones(2)}, ValueError, "weight_decay"),
        ({"statistics": 3}, TypeError, "statistics is a int"),
        ({"statistics": lambda z: z}, TypeError, "return a dictionary from names to arrays"),
        ({"statistics": lambda z: {"z": z}, "store_positions": True}, ValueError, "statistics returns z, which exist"),
        ({"reference_time": 1.0}, ValueError, "reference_time is for store=False"),
        ({"store": False, "reference_time": 0.5}, ValueError, "reference_time is 0.5: give one of times, 0 to 1"),
        ({"store": False, "particles": 1}, ValueError, "moments over particles"),
    ],
)
def test_bad_arguments_are_named(changes, error, message):
    with pytest.raises(error, match=message):
        trajectories(**(GOOD | changes))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Langevin(0.0), ValueError, "step_size is 0.0"),
        (lambda: Langevin(0.1, 0.0), ValueError, "temperature is 0.0.*use GradientDescent"),
        (lambda: Langevin(0.1, scheme="euler"), ValueError, "scheme is 'euler'"),
        (lambda: GradientDescent(float("inf")), ValueError, "step_size is inf"),
        (lambda: GradientFlow(rtol=-1), ValueError, "rtol is -1"),
        (lambda: GradientFlow(solver=diffrax.Euler()), TypeError, "give an adaptive Diffrax solver"),
    ],
)
def test_bad_dynamics_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_step_that_is_too_large_says_when_and_how_many_and_what_to_do():
    """step_size * curvature = 2.5 far out only: two of four particles overflow."""

    initial = np.array([1e150, -1.0, -2.0, 1e150])
    steep = lambda z: 12.5 * z**2 * (jnp.abs(z) > 1e100) + 0.5 * z**2  # noqa: E731
    with pytest.raises(FloatingPointError, match="2 of 4 .* between time 0 and 90.*step_size below 0.1"):
        trajectories(
            **(GOOD | {"potential_fn": steep, "initial": initial, "times": [0, 90], "dynamics": GradientDescent(0.1)})
        )


def test_a_flow_that_does_not_arrive_says_so():
    stiff = lambda z: 0.5e6 * z[0] ** 2 + 0.5 * z[1] ** 2  # noqa: E731
    options = GOOD | {"potential_fn": stiff, "initial": np.ones((4, 2)), "dynamics": GradientFlow(max_steps=50)}
    with pytest.raises(FloatingPointError, match="4 of 4 particles got stuck .* 50 steps were not enough"):
        trajectories(**options)


def test_models_that_cannot_move_are_refused():
    def coin():
        numpyro.sample("coin", dist.Bernoulli(0.5))

    options = {"dynamics": Langevin(0.1), "times": [1.0], "progress": False}
    with pytest.raises(ValueError, match="site 'coin' is discrete"):
        trajectories(coin, **options)
    with pytest.raises(ValueError, match="no latent variable"):
        trajectories(lambda: numpyro.sample("y", dist.Normal(), obs=0.0), **options)
    with pytest.raises(TypeError, match="prior is a int"):
        trajectories(3, **options)
    with pytest.raises(TypeError, match="task is a NoneType"):
        trajectories(fp.Mlp(3), **options)
    with pytest.raises(ValueError, match="the model has the unconstrained sites"):
        trajectories(scale_mixture, initial={"tau": np.ones(3)}, **options)
