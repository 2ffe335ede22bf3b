"""Fixed points, susceptibilities, depth scales and the edge of chaos."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fieldprob import activations, kernels, plots_criticality

# Ordered, chaotic, near the edge, without bias: below the edge, on it, above it.
WEIGHT = np.array([1.2, 2.0, 1.5, 0.7, np.pi / 4, 1.0])
BIAS = np.array([0.05, 0.1, 0.1, 0.0, 0.0, 0.0])


@pytest.fixture(scope="module")
def erf():
    return kernels.criticality("erf", WEIGHT, BIAS)


def test_reference_numbers_of_the_erf_network(erf):
    """Theory 01, A16-A18, every printed digit (chi_q of the first is cut off there, not rounded: ...658651)."""
    assert f"{erf.variance[1]:.13f}" == "1.0462553601214"
    assert f"{erf.correlation_susceptibility[1]:.13f}" == "1.1183167661184"
    assert f"{erf.variance_susceptibility[1]:.10f}" == "0.3616209828"
    assert f"{erf.correlation[1]:.10f}" == "0.6472293691"
    assert f"{erf.variance[0]:.13f}" == "0.4038641242580"
    assert f"{erf.correlation_susceptibility[0]:.13f}" == "0.9447515525551"
    assert f"{erf.variance_susceptibility[0]:.15f}".startswith("0.522618127658")
    assert f"{erf.correlation_depth[0]:.5f}" == "17.59532"


def test_susceptibilities_of_erf_are_the_written_ones(erf):
    """chi_1 = (4w / pi) / sqrt(1 + 4q), chi_q = chi_1 / (1 + 2q)."""
    chi_1 = 4 * WEIGHT / np.pi / np.sqrt(1 + 4 * erf.variance)
    np.testing.assert_allclose(erf.correlation_susceptibility, chi_1, rtol=1e-13)
    np.testing.assert_allclose(erf.variance_susceptibility, chi_1 / (1 + 2 * erf.variance), rtol=1e-13)


def test_fixed_points_are_fixed_and_are_those_of_the_recursion(erf):
    """A hundred layers of the recursion with other code: two inputs of different lengths."""
    for i in (0, 1, 2):
        q, c, p = 0.3, 0.1, 2.0
        for _ in range(1500):
            q, c, p = (
                BIAS[i] + WEIGHT[i] * 2 / np.pi * np.arcsin(2 * m / np.sqrt((1 + 2 * s) * (1 + 2 * t)))
                for m, s, t in ((q, q, q), (c, q, p), (p, p, p))
            )
        np.testing.assert_allclose([q, p], erf.variance[i], rtol=1e-13)
        np.testing.assert_allclose(c / q, erf.correlation[i], rtol=1e-9)


def test_without_bias_the_signal_of_erf_dies_below_the_critical_variance(erf):
    """q* = 0 up to w = pi/4 itself, where the decay is algebraic and an iteration would not end."""
    assert erf.variance[3] == erf.variance[4] == 0
    assert np.isnan(erf.correlation[3:5]).all()
    np.testing.assert_allclose(erf.correlation_susceptibility[3:5], [2.8 / np.pi, 1.0], rtol=1e-14)
    assert np.isinf(erf.variance_depth[4]) and np.isfinite(erf.variance_depth[3])
    assert erf.variance[5] > 0.1 and abs(erf.correlation[5]) < 1e-12  # odd: uncorrelated in the chaotic phase


def test_just_above_the_critical_variance_the_signal_is_small_and_right():
    """w = (pi/4)(1 + e): q* = e/2 + O(e^2), from arcsin(2q / (1 + 2q)) = 2q - 4q^2 + ..."""
    e = np.array([1e-3, 1e-6, 1e-9])
    q = kernels.variance_fixed_point("erf", np.pi / 4 * (1 + e), 0.0)
    np.testing.assert_allclose(q, e / 2, rtol=2e-3)


def test_the_edge_of_chaos_of_erf_is_the_written_line(erf):
    q = jnp.array([0.0, 0.1, 1.0, 3.0])
    w, b = kernels.edge_of_chaos("erf", q)
    np.testing.assert_allclose(w, np.pi / 4 * np.sqrt(1 + 4 * q), rtol=1e-13)
    np.testing.assert_allclose(b, q - w * 2 / np.pi * np.arcsin(2 * q / (1 + 2 * q)), rtol=1e-12, atol=1e-15)
    at = kernels.criticality("erf", w, b)
    np.testing.assert_allclose(at.variance[1:], q[1:], rtol=1e-11)
    np.testing.assert_allclose(at.correlation_susceptibility, 1.0, rtol=1e-12)
    np.testing.assert_allclose(at.correlation[1:], 1.0, atol=1e-6)


@pytest.mark.parametrize("name", ["tanh", "sin"])
def test_networks_on_the_edge_of_chaos_are_critical(name):
    q = jnp.array([0.2, 0.9])
    w, b = kernels.edge_of_chaos(name, q)
    at = kernels.criticality(name, w, b)
    np.testing.assert_allclose(at.variance, q, rtol=1e-9)
    np.testing.assert_allclose(at.correlation_susceptibility, 1.0, rtol=1e-10)


def test_the_critical_variance_of_gelu_is_unstable():
    """chi_q > 1 on the edge: a larger variance grows without bound, a smaller one goes to another fixed point."""
    w, b = kernels.edge_of_chaos("gelu", 0.2)
    on, above, below = (kernels.criticality("gelu", w, b, start=start) for start in (0.2, 0.21, 0.19))
    assert on.variance == 0.2 and on.variance_susceptibility > 1
    np.testing.assert_allclose(on.correlation_susceptibility, 1, rtol=1e-12)
    assert np.isinf(above.variance) and below.variance < 0.19 and below.variance_susceptibility < 1


def test_relu_is_marginal_at_weight_variance_two_and_unbounded_beyond():
    w, b = kernels.edge_of_chaos("relu", jnp.array([0.01, 1.0, 50.0]))
    np.testing.assert_allclose(w, 2.0, rtol=1e-14)
    np.testing.assert_array_equal(b, 0.0)
    at = kernels.criticality("relu", [2.0, 2.0, 2.5, 1.5], [0.0, 0.1, 0.0, 0.1])
    np.testing.assert_allclose(at.variance, [1.0, np.inf, np.inf, 0.1 / (1 - 0.75)], rtol=1e-12)
    np.testing.assert_allclose(at.correlation_susceptibility, [1.0, np.nan, np.nan, 0.75], rtol=1e-14)
    assert at.correlation[0] == 1 and np.isinf(at.correlation_depth[0])
    assert kernels.variance_fixed_point("relu", 2.0, 0.0, start=7.5) == 7.5


def test_hermite_coefficients_give_the_correlation_susceptibility(erf):
    """chi_1 = (w / q) sum_n n alpha_n(q)^2 (Mehler), alpha_n from the generating function of C(q, r q, q)."""
    phi, q = activations.get("tanh"), 0.7
    z, weights = np.polynomial.hermite_e.hermegauss(120)
    weights = weights / weights.sum()
    total, h0, h1 = 0.0, np.ones_like(z), z
    for n in range(1, 60):
        alpha = np.sum(weights * np.tanh(np.sqrt(q) * z) * h1)
        total += n * alpha**2
        h0, h1 = h1, (z * h1 - np.sqrt(n) * h0) / np.sqrt(n + 1)
    np.testing.assert_allclose(phi.dual_derivative(q, q, q), total / q, rtol=1e-9)


def test_fixed_points_are_differentiable_in_variances_and_in_the_activation():
    """Implicit derivatives against finite differences; the second derivative of q* too."""

    def everything(w, b, scale):
        at = kernels.criticality(activations.Erf(scale=scale), w, b)
        return jnp.stack([at.variance, at.correlation, at.variance_susceptibility, at.correlation_depth])

    point, h = (2.0, 0.1, 1.1), 1e-5
    jacobian = jax.jit(jax.jacfwd(everything, argnums=(0, 1, 2)))(*point)
    for i in range(3):
        ends = [everything(*(x + sign * h * (i == j) for j, x in enumerate(point))) for sign in (1, -1)]
        np.testing.assert_allclose(jacobian[i], (ends[0] - ends[1]) / (2 * h), rtol=1e-6)

    def q(w):
        return kernels.variance_fixed_point("erf", w, 0.1)

    finite = (jax.grad(q)(2.0 + h) - jax.grad(q)(2.0 - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(jax.grad(q))(2.0), finite, rtol=1e-7)


def test_the_gradient_of_a_dead_signal_is_the_response_to_a_small_bias():
    """q* = b / (1 - 4w/pi) + O(b^2) below the critical variance."""
    slope = jax.grad(lambda b: kernels.variance_fixed_point("erf", 0.5, b))(0.0)
    np.testing.assert_allclose(slope, 1 / (1 - 2 / np.pi), rtol=1e-12)


@pytest.mark.slow
def test_the_phase_diagram_changes_phase_at_the_edge():
    w, b = np.linspace(0.2, 3.0, 8), np.linspace(0.0, 0.4, 5)
    diagram = kernels.phase_diagram("erf", w, b)
    assert diagram.grid.variance.shape == (8, 5)
    for j in range(5):
        order = np.argsort(diagram.edge_bias_variance)
        edge = np.interp(b[j], diagram.edge_bias_variance[order], diagram.edge_weight_variance[order])
        np.testing.assert_array_equal(diagram.grid.correlation_susceptibility[:, j] > 1, w > edge)
    figure = plots_criticality.phase_diagram(diagram)
    assert len(figure.axes) == 6 and [ax.get_title() for ax in figure.axes[:3]] != [""] * 3
    assert figure.axes[0].get_xlabel() == r"weight variance $\sigma_w^2$"
    assert [text.get_text().split(":")[0] for text in figure.legends[0].get_texts()] == ["edge of chaos", "undefined"]


@pytest.mark.slow
def test_a_variance_that_diverges_is_drawn_on_a_logarithmic_scale():
    grid = np.linspace(0.5, 2.5, 60), np.linspace(0.0, 0.5, 10)
    norms = {
        phi: plots_criticality.phase_diagram(kernels.phase_diagram(phi, *grid)).axes[0].collections[0].norm
        for phi in ("erf", "relu")
    }
    assert [type(norm).__name__ for norm in norms.values()] == ["Normalize", "LogNorm"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("erf", -1.0, 0.1), "weight_variance holds -1.0"),
        (("erf", [1.0, 2.0], [0.1, np.nan]), "bias_variance holds nan"),
        (("sign", 1.0, 0.1), "jumps"),
        (("relo", 1.0, 0.1), "relo"),
    ],
)
def test_bad_input_names_the_argument_and_the_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        kernels.criticality(*arguments)
    with pytest.raises(ValueError, match="start = 0"):
        kernels.criticality("erf", 1.0, 0.1, start=0.0)
