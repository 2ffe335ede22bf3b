"""Identities and limits that several theories of finite width share (theory 02, section 6; theory 01, section 6)."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import dblquad
from scipy.special import erf

import fieldprob as fp
from fieldprob.theory.layer_rescaling import rescale_layers
from fieldprob.theory.setting import setting

RNG = np.random.default_rng(12)
X, Y, X_TEST = RNG.normal(size=(3, 2)), RNG.normal(size=3), RNG.normal(size=(2, 2))
NOISE = np.array([[0.3, 0.1, 0.0], [0.1, 0.4, 0.0], [0.0, 0.0, 0.2]])
TASK = fp.Task(X, Y, NOISE, X_TEST)

LONG = (pytest.mark.slow, pytest.mark.long)


def orders(theory, *names):
    return {name: partial(theory, order=name) for name in names}


RESCALING = orders(fp.theory.rescaling, "tree", "saddle", "corrected", "quadrature")
ADAPTATION = orders(fp.theory.adaptation, "tree", "one-loop", "self-consistent")
CLOSURE = partial(fp.theory.adaptation, closure="gaussian")

THEORIES = [
    pytest.param("erf", RESCALING["saddle"], id="rescaling"),
    pytest.param("linear", ADAPTATION["tree"], id="linear tree"),
    pytest.param("linear", ADAPTATION["one-loop"], id="linear one-loop"),
    pytest.param("linear", ADAPTATION["self-consistent"], marks=LONG, id="linear self-consistent"),
    pytest.param("linear", CLOSURE, marks=LONG, id="linear closure"),
    pytest.param("linear", fp.theory.exact_linear, marks=LONG, id="exact"),
    pytest.param("erf", RESCALING["tree"], marks=LONG, id="rescaling tree"),
    pytest.param("erf", RESCALING["corrected"], marks=LONG, id="rescaling corrected"),
    pytest.param("erf", RESCALING["quadrature"], marks=LONG, id="rescaling quadrature"),
    pytest.param("erf", fp.theory.perturbative, marks=LONG, id="perturbative"),
    pytest.param("erf", ADAPTATION["tree"], marks=LONG, id="erf tree"),
    pytest.param("erf", ADAPTATION["one-loop"], marks=LONG, id="erf one-loop"),
    pytest.param("erf", ADAPTATION["self-consistent"], marks=LONG, id="erf self-consistent"),
    pytest.param("erf", CLOSURE, marks=LONG, id="erf closure"),
]


def network(width, activation, chi=1.0):
    """At any chi, also above the width; the noise is divided by chi in `task_at`. A linear network can meet the three
    points because it has a bias."""
    bias = (0.4 if activation == "linear" else 0.0, 0.0)
    return fp.Mlp(width, 1, activation, 1.2, bias, 0.9 / chi)


def task_at(chi, task=TASK):
    return task.replace(noise_variance=task.noise_variance / chi)


def numbers(theory):
    """Means, kernel, and covariances if they are predicted: beyond the tree adaptation has none."""
    means = {name: theory.mean[name] for name in ("f", "f_test", "kernel_1")}
    return means | {f"{name}_covariance": value for name, value in theory.covariance.items()}


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("activation", "theory"), THEORIES)
def test_standard_scaling_tends_to_the_limit_as_one_over_width(activation, theory):
    """02 item 2: means, covariances and kernel."""
    limit = numbers(fp.theory.limit(network(10, activation), TASK))
    near, far = (
        [np.max(np.abs(a - limit[k])) for k, a in numbers(theory(network(N, activation), TASK)).items()]
        for N in (4000, 16_000)
    )
    np.testing.assert_allclose(np.divide(near, far), 4.0, rtol=0.02)
    assert np.all(16_000 * np.array(far) > 1e-3)


@pytest.mark.parametrize(
    "theory",
    [
        ADAPTATION["one-loop"],
        RESCALING["saddle"],
        *(
            pytest.param(theory, marks=LONG)
            for theory in (
                fp.theory.exact_linear,
                ADAPTATION["self-consistent"],
                *(RESCALING[order] for order in ("corrected", "quadrature")),
            )
        ),
    ],
)
def test_mean_field_scaling_tends_to_its_own_limit_as_one_over_width(theory):
    """02 item 2 and 01 item 8: at chi = N every theory of a linear network has the mean of (49), which is not that of
    the infinite-width limit. (Tree level has it at every width: `test_mean_field`.)"""
    net = fp.Mlp(10, 1, "linear", 1.2, bias_variance=(0.4, 0.0), readout_variance=0.9, scaling="mean-field")
    far = fp.theory.mean_field(net, TASK)
    errors = [
        float(jnp.max(jnp.abs(theory(network(N, "linear", N), task_at(N)).mean["f_test"] - far.mean["f_test"])))
        for N in (500, 2000)
    ]
    limit = fp.theory.limit(network(10, "linear"), TASK).mean["f_test"]
    assert np.max(np.abs(limit - far.mean["f_test"])) > 0.1
    assert np.isclose(errors[0] / errors[1], 4, rtol=0.05)


@pytest.mark.parametrize(("activation", "theory"), THEORIES)
def test_large_and_small_noise(activation, theory):
    """02 item 7: linear response and the prior; the data."""
    net = network(10, activation)
    K = np.asarray(net.limit(TASK.X))
    large = theory(net, TASK.replace(noise_variance=1e7))
    np.testing.assert_allclose(1e7 * large.mean["f"][:, 0], K @ Y, rtol=1e-5)
    np.testing.assert_allclose(large.covariance.get("f", K), K, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(large.mean["kernel_1"][:3, :3], K, rtol=1e-5, atol=1e-6)
    small = theory(net, TASK.replace(noise_variance=1e-8))
    np.testing.assert_allclose(small.mean["f"][:, 0], Y, atol=1e-5)
    np.testing.assert_allclose(small.variance.get("f", 1e-8), 1e-8, rtol=1e-4)


# --- symmetries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("activation", "theory"), THEORIES)
def test_scale_and_rotation(activation, theory):
    """02 items 8 and 9."""
    base = numbers(theory(network(10, activation, chi=3), task_at(3)))
    scaled = theory(network(10, activation, chi=3 / 4), task_at(3 / 4, TASK.replace(y=2 * Y)))
    for name, value in numbers(scaled).items():
        power = 1 if name in ("f", "f_test") else 2
        np.testing.assert_allclose(value, 2.0**power * base[name], rtol=1e-7, atol=1e-9)
    R = np.linalg.qr(np.random.default_rng(5).normal(size=(2, 2)))[0]
    rotated = theory(network(10, activation, chi=3), task_at(3, TASK.replace(X=X @ R, X_test=X_TEST @ R)))
    for name, value in numbers(rotated).items():
        np.testing.assert_allclose(value, base[name], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("activation", "theory"), [pytest.param(*p.values, marks=LONG, id=p.id) for p in THEORIES])
def test_points_measured_twice_are_points_with_half_the_noise(activation, theory):
    """02 item 9, where the kernel is singular."""
    twice = fp.Task(np.concatenate([X, X]), np.concatenate([Y, Y]), 0.6, X_TEST)
    a, b = (theory(network(10, activation, 3), task_at(3, task)) for task in (twice, TASK.replace(noise_variance=0.3)))
    np.testing.assert_allclose(a.mean["f_test"], b.mean["f_test"], rtol=1e-7)
    for name in set(b.covariance) - {"f"}:
        np.testing.assert_allclose(a.covariance[name], b.covariance[name], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(a.mean["kernel_1"][3:, 3:], b.mean["kernel_1"], rtol=1e-7)


# --- one theory by another --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chi", [1, 10, 400])
def test_tree_levels_of_adaptation_and_rescaling_have_one_mean_and_two_kernels(chi):
    """(29), train and test."""
    net, task = network(10, "linear", chi), task_at(chi)
    adapted, rescaled = ADAPTATION["tree"](net, task), RESCALING["tree"](net, task)
    for name in ("f", "f_test"):
        np.testing.assert_allclose(adapted.mean[name], rescaled.mean[name], rtol=1e-13, atol=1e-14)
    for name in ("f", "f_test"):
        np.testing.assert_allclose(adapted.covariance[name], rescaled.covariance[name], rtol=1e-10, atol=1e-14)
    C = np.asarray(adapted.mean["kernel_1"])
    predictor = C[:, :3] @ np.linalg.solve(C[:3, :3] + NOISE / chi, Y)
    np.testing.assert_allclose(predictor[3:], rescaled.mean["f_test"][:, 0], rtol=1e-10)
    ratio = adapted.mean["kernel_1"] / rescaled.mean["kernel_1"]
    assert np.max(ratio) - np.min(ratio) > 0.05


@pytest.mark.parametrize("activation", ["linear", pytest.param("erf", marks=LONG)])
@pytest.mark.parametrize("chi", [1, 10])
def test_the_loop_is_the_gradient_of_its_evidence(activation, chi):
    """(32) is -noise times the gradient in y of (31), by central differences."""
    net, task, step = network(10, activation, chi), task_at(chi), 1e-4
    log_evidence = [
        [float(ADAPTATION["tree"](net, task.replace(y=Y + h * e)).log_evidence) for h in (step, -step)]
        for e in np.eye(3)
    ]
    gradient = np.array(log_evidence) @ [1, -1] / (2 * step)
    loop = ADAPTATION["one-loop"](net, task).mean["f"][:, 0]
    np.testing.assert_allclose(Y - loop, -NOISE / chi @ gradient, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.long
def test_evidence_of_a_random_scale_gives_its_mean_and_covariance():
    """(35) for a non-linear network, by central differences of the evidence."""
    net, h, e = network(10, "erf"), 1e-3, np.eye(3)

    def log_evidence(shift):
        return float(RESCALING["quadrature"](net, TASK.replace(y=Y + shift)).log_evidence)

    gradient = [(log_evidence(h * v) - log_evidence(-h * v)) / (2 * h) for v in e]
    hessian = [
        [sum(s * t * log_evidence(h * (s * v + t * w)) for s in (1, -1) for t in (1, -1)) / (4 * h**2) for v in e]
        for w in e
    ]
    theory = RESCALING["quadrature"](net, TASK)
    np.testing.assert_allclose(Y - theory.mean["f"][:, 0], -NOISE @ gradient, rtol=1e-5)
    np.testing.assert_allclose(theory.covariance["f"], NOISE + NOISE @ hessian @ NOISE, atol=1e-6)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("order", ["tree", "saddle"])
def test_layers_of_one_layer_are_the_two_layer_network(order):
    """02 item 11: (60) at L = 1 is (18), and (25) without the trace; two routes that share no line."""
    net = network(10, "erf", 3)
    layers = rescale_layers(setting("test", net, task_at(3)), net.effective_noise(task_at(3)), tree=order == "tree")
    theory = RESCALING[order](net, task_at(3))
    assert np.isclose(layers["mean_of"]["rescaling_1"], theory.mean["rescaling_1"], rtol=1e-9)
    np.testing.assert_allclose(layers["mean"][3:, None], theory.mean["f_test"], rtol=1e-9)
    np.testing.assert_allclose(layers["covariance"][3:, 3:], theory.covariance["f_test"], rtol=1e-8)


# --- one point --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.long
def test_one_point_is_a_fourth_cumulant():
    """02 item 5: (51) is the Edgeworth series with kappa_4 = 3 G^2 V / N, V by a sum."""
    net = network(50, "erf")
    q, y = float(net.limit_kernels(TASK.X)[0][0, 0]), 1.4
    z = np.linspace(-9, 9, 2001)
    phi, p = erf(np.sqrt(q) * z), np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) * (z[1] - z[0])
    second, fourth = p @ phi**2, p @ phi**4
    A, cumulant = 0.9 * second + 0.3, 3 * 0.9**2 * (fourth - second**2) / 50
    expected = -(y**2) / (2 * A) - np.log(2 * np.pi * A) / 2
    expected += cumulant / 24 * (y**4 / A**4 - 6 * y**2 / A**3 + 3 / A**2)
    theory = fp.theory.perturbative(net, fp.Task(X[:1], [y], 0.3))
    assert np.isclose(theory.log_evidence, expected, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.long
def test_one_point_is_an_integral_over_its_kernel():
    """01 item 5: two erf neurons, whose kernel at one point is a number, by integration over their pre-activations."""
    net, y = network(2, "erf", chi=2), 1.4
    q = float(net.limit_kernels(TASK.X)[0][0, 0])

    def average(g):
        def integrand(u, v):
            k = 0.45 / 2 * (erf(np.sqrt(q) * u) ** 2 + erf(np.sqrt(q) * v) ** 2)
            return g(k) * np.exp(-(u**2 + v**2) / 2 - y**2 / (2 * (k + 0.15))) / np.sqrt(k + 0.15) / (2 * np.pi) ** 1.5

        return 4 * dblquad(integrand, 0, 9, 0, 9, epsabs=1e-12)[0]

    Z, theory = average(lambda k: 1.0), fp.theory.exact_small(net, fp.Task(X[:1], [y], 0.15))
    mean = y * average(lambda k: k / (k + 0.15)) / Z
    square = average(lambda k: 0.15 * k / (k + 0.15) + (y * k / (k + 0.15)) ** 2) / Z
    assert np.isclose(theory.log_evidence, np.log(Z), atol=1e-4)
    assert np.isclose(theory.mean["f"].item(), mean, atol=1e-4)
    assert np.isclose(theory.variance["f"].item(), square - mean**2, atol=1e-4)
    assert np.isclose(theory.mean["kernel_1"].item(), average(lambda k: k) / Z, atol=1e-4)
