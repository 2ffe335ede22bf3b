"""Gaussian averages of activations against quadrature that shares nothing with the implementation."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from fieldprob import activations

# ---------------------------------------------------------------- independent quadrature (NumPy only, conditional 1-d)

EDGES = np.concatenate([[0.0], np.geomspace(1e-8, 0.02, 10), np.linspace(0.02, 1.0, 29)[1:]])
LEGENDRE = np.polynomial.legendre.leggauss(12)
RANGE = 12.5  # standard deviations


def graded(start, end):
    """Nodes and weights from `start` to `end`, dense at `start`; broadcasts over arrays of end points."""
    x, w = LEGENDRE
    low, width = EDGES[:-1, None], np.diff(EDGES)[:, None]
    t, weight = (low + width * (1 + x) / 2).ravel(), (width * w / 2).ravel()
    start, end = np.asarray(start)[..., None], np.asarray(end)[..., None]
    return start + (end - start) * t, np.abs(end - start) * weight


def normal_nodes(split):
    """A rule for N(0, 1) that is dense on both sides of `split`."""
    split = np.clip(split, -RANGE, RANGE)
    parts = [graded(split, np.full_like(split, end)) for end in (-RANGE, RANGE)]
    z, w = (np.concatenate([part[i] for part in parts], axis=-1) for i in (0, 1))
    return z, w * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)


@cache
def average(f, g, a, c, b):
    """E[f(u) g(v)]: over u, then over v given u, split where u and v change sign."""
    z, w = normal_nodes(np.array(0.0))
    u = np.sqrt(a) * z
    if a == 0:
        return float(f(np.zeros(1))[0] * (w @ g(np.sqrt(b) * z)))
    mean, spread = c / a * u, np.sqrt(max(b - c * c / a, 0.0))
    if abs(c) >= np.sqrt(a * b) * (1 - 1e-15):
        return float(w @ (f(u) * g(np.sign(c) * np.sqrt(b / a) * u)))
    z2, w2 = normal_nodes(-mean / spread)
    return float(w @ (f(u) * np.sum(w2 * g(mean[:, None] + spread * z2), axis=1)))


ROOT_PI = np.sqrt(np.pi)


def gelu_slope(z):
    return special.ndtr(z) + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)


# name -> (activation, phi, phi') with phi and phi' written out in NumPy/SciPy
FUNCTIONS = {
    "linear": (activations.get("linear"), lambda z: z, np.ones_like),
    "erf": (activations.get("erf"), special.erf, lambda z: 2 / ROOT_PI * np.exp(-(z**2))),
    "erf(0.6 z)": (
        activations.Erf(scale=0.6),
        lambda z: special.erf(0.6 * z),
        lambda z: 1.2 / ROOT_PI * np.exp(-0.36 * z**2),
    ),
    "relu": (activations.get("relu"), lambda z: np.maximum(z, 0), lambda z: (z > 0) * 1.0),
    "leaky_relu": (
        activations.LeakyReLU(0.2),
        lambda z: np.where(z > 0, z, 0.2 * z),
        lambda z: np.where(z > 0, 1, 0.2),
    ),
    "abs": (activations.get("abs"), np.abs, np.sign),
    "gelu": (activations.get("gelu"), lambda z: z * special.ndtr(z), gelu_slope),
    "sin": (activations.get("sin"), np.sin, np.cos),
    "cos": (activations.get("cos"), np.cos, lambda z: -np.sin(z)),
    "square": (activations.get("square"), lambda z: z**2, lambda z: 2 * z),
    "cube": (activations.get("cube"), lambda z: z * z * z, lambda z: 3 * z * z),
    "quartic": (activations.get("quartic"), lambda z: (z * z) ** 2, lambda z: 4 * z * z * z),
    "exp": (activations.get("exp"), np.exp, np.exp),
    "sign": (activations.get("sign"), np.sign, None),
    "step": (activations.get("step"), lambda z: np.heaviside(z, 0.5), None),
}
SMOOTH = [name for name, (phi, _, _) in FUNCTIONS.items() if phi.smooth]
DIFFERENTIABLE = [name for name, (_, _, slope) in FUNCTIONS.items() if slope is not None]

GENERIC = [(1.3, -0.55, 0.8), (0.7, 0.2, 2.1), (1.0, 0.999, 1.0), (1.0, -0.9999999, 1.0), (1e-3, 5e-4, 2e-3)]
ALIGNED = [(1.0, 1.0, 1.0), (0.7, 0.7, 0.7), (0.5, 1.0, 2.0), (0.5, -1.0, 2.0), (1.7, -1.7, 1.7)]
LARGE = [(200.0, 199.0, 200.0), (200.0, -200.0, 200.0)]
DEGENERATE = [(0.0, 0.0, 1.5), (0.0, 0.0, 0.0)]
CASES = GENERIC + ALIGNED + LARGE


ALL = CASES + DEGENERATE + [(2.0, 0.0, 0.0)]


def cases_of(name):
    return GENERIC + ALIGNED if name == "exp" else CASES  # exp(sqrt(200) z) lives outside the range of the rule


def columns(cases):
    return tuple(jnp.array(column) for column in zip(*cases, strict=True))


@cache
def computed(name):
    """What an activation says at every case of ALL: averages, and gradients of both in a, c and b (None for jumps)."""
    activation = FUNCTIONS[name][0] if name in FUNCTIONS else activations.get(name)

    def total(average):
        return jax.grad(lambda *x: jnp.sum(average(*x)), argnums=(0, 1, 2))

    def evaluate(*x):
        value, gradient = activation.dual(*x), total(activation.dual)(*x)
        if name in ("sign", "step"):
            return value, gradient, None, None
        return value, gradient, activation.dual_derivative(*x), total(activation.dual_derivative)(*x)

    return jax.tree.map(np.asarray, jax.jit(evaluate)(*columns(ALL)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_closed_forms_agree_with_quadrature_on_and_off_the_diagonal(name):
    _, phi, slope = FUNCTIONS[name]
    value, _, derivative, _ = computed(name)
    for values, fn in [(value, phi)] + ([] if slope is None else [(derivative, slope)]):
        for value, (a, c, b) in zip(values, cases_of(name), strict=False):
            scale = np.sqrt(average(fn, fn, a, a, a) * average(fn, fn, b, b, b))
            assert abs(value - average(fn, fn, a, c, b)) <= 1e-10 * scale, (a, c, b)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_of_the_average_agree_with_quadrature_also_at_coincident_points(name):
    """dC/dc = E[phi' phi'] (Price) and dC/da = (E[u phi'(u) phi(v)] - c E[phi' phi']) / 2a (Stein)."""
    _, phi, slope = FUNCTIONS[name]

    def euler(z):
        return z * slope(z)

    def size(f, g, a, b):
        return np.sqrt(average(f, f, a, a, a) * average(g, g, b, b, b))

    for along_a, along_c, along_b, (a, c, b) in zip(*computed(name)[1], cases_of(name), strict=False):
        derivative, scale = average(slope, slope, a, c, b), size(slope, slope, a, b)
        assert abs(along_c - derivative) <= 1e-10 * scale, (a, c, b)
        # the tolerance is that of the two terms, which may cancel
        expected = (average(euler, phi, a, c, b) - c * derivative) / (2 * a)
        assert abs(along_a - expected) <= 1e-10 * (size(euler, phi, a, b) + abs(c) * scale) / a, (a, c, b)
        expected = (average(phi, euler, a, c, b) - c * derivative) / (2 * b)
        assert abs(along_b - expected) <= 1e-10 * (size(phi, euler, a, b) + abs(c) * scale) / b, (a, c, b)


@pytest.mark.parametrize("name", [*DIFFERENTIABLE, "tanh"])
def test_derivative_average_is_the_covariance_derivative_by_autodiff(name):
    _, (_, along_c, _), derivative, _ = computed(name)
    np.testing.assert_allclose(along_c, derivative, rtol=2e-13, atol=1e-15)


@pytest.mark.parametrize("name", [*FUNCTIONS, "tanh", "random_phase_cosine"])
def test_everything_is_finite_at_zero_variance_and_coincidence(name):
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(computed(name)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_zero_variance_pins_the_pre_activation_at_zero(name):
    phi = FUNCTIONS[name][1]
    for value, (a, c, b) in zip(computed(name)[0], ALL, strict=True):
        if a == 0 or b == 0:
            exact = average(phi, phi, min(a, b), c, max(a, b))
            np.testing.assert_allclose(value, exact, rtol=1e-13, atol=1e-14)


REFERENCE = {  # at a = 1.3, c = -0.55, b = 0.8
    "erf": ("-0.2341370240666", "0.4459963600332"),
    "relu": ("0.04904136430485", "0.1593407846212"),
    "leaky_relu": ("-0.07861352684490", "0.3019781021576"),
    "abs": ("0.7461654572194", "-0.3626368615151"),
    "gelu": ("-0.02928306640667", "0.1505397054009"),
    "sin": ("-0.2023170708590", "0.4042135888536"),
    "square": ("1.645", "-2.2"),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_reference_numbers_are_reproduced_to_all_printed_digits(name):
    activation = FUNCTIONS[name][0]
    values = activation.dual(1.3, -0.55, 0.8), activation.dual_derivative(1.3, -0.55, 0.8)
    for value, printed in zip(values, REFERENCE[name], strict=True):
        digits = len(printed.split(".")[1])
        assert f"{float(value):.{digits}f}" == printed


def test_a_random_phase_turns_cosine_features_into_a_squared_exponential_kernel():
    activation = activations.get("random_phase_cosine")
    phases = 2 * np.pi * jnp.arange(3) / 3  # three phases average a second harmonic exactly
    for a, c, b in GENERIC + ALIGNED:
        waves = [lambda z, p=p: np.sqrt(2) * np.cos(z + p) for p in phases]
        slopes = [lambda z, p=p: -np.sqrt(2) * np.sin(z + p) for p in phases]
        np.testing.assert_allclose(
            activation.dual(a, c, b), np.mean([average(f, f, a, c, b) for f in waves]), atol=1e-12
        )
        np.testing.assert_allclose(
            activation.dual_derivative(a, c, b), np.mean([average(f, f, a, c, b) for f in slopes]), atol=1e-12
        )
    z = jnp.linspace(-2, 2, 5)[:, None]
    np.testing.assert_allclose(activation.phi(z, phases[None]), np.sqrt(2) * np.cos(z + phases), rtol=1e-14)
    with pytest.raises(ValueError, match="phase"):
        activation.phi(z)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "exp"])
def test_phi_is_the_function_whose_averages_are_taken(name):
    activation, phi, _ = FUNCTIONS[name]
    z = np.concatenate([np.linspace(-6, 6, 49), [-30.0, 30.0, 1e-9]])
    np.testing.assert_allclose(activation.phi(jnp.asarray(z)), phi(z), rtol=1e-13, atol=1e-300)


# ---------------------------------------------------------------------------------------------------- exact identities


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "abs"])
def test_rectified_kernels_are_homogeneous_of_degree_one(name):
    activation = FUNCTIONS[name][0]
    a, c, b = columns(GENERIC)
    s, t = 3.0, 1e-4
    scaled, scale = activation.dual(s**2 * a, s * t * c, t**2 * b), s * t * jnp.sqrt(a * b)
    np.testing.assert_allclose(scaled / scale, s * t * activation.dual(a, c, b) / scale, rtol=1e-12, atol=1e-14)
    assert jnp.all(jnp.isfinite(activation.dual(1e200 * a, 1e200 * c, 1e200 * b)))


@pytest.mark.parametrize("name", ["erf", "sin", "linear", "cube", "tanh", "sign"])
def test_kernels_of_odd_functions_are_odd_in_the_covariance(name):
    activation = activations.get(name)
    a, c, b = columns(GENERIC)
    np.testing.assert_allclose(activation.dual(a, -c, b), -activation.dual(a, c, b), rtol=1e-13)


@pytest.mark.parametrize("name", ["erf", "relu", "gelu", "tanh"])
def test_the_kernel_is_the_power_series_of_hermite_coefficients_in_the_correlation(name):
    phi = {"tanh": np.tanh} | {key: value[1] for key, value in FUNCTIONS.items()}
    a, c, b = 1.3, -0.55, 0.8
    z, w = normal_nodes(np.array(0.0))
    h = [np.ones_like(z), z]
    for n in range(1, 60):
        h.append((z * h[-1] - np.sqrt(n) * h[-2]) / np.sqrt(n + 1))
    alpha, beta = ([w @ (phi[name](np.sqrt(q) * z) * hn) for hn in h] for q in (a, b))
    series = sum(x * y * (c / np.sqrt(a * b)) ** n for n, (x, y) in enumerate(zip(alpha, beta, strict=True)))
    np.testing.assert_allclose(activations.get(name).dual(a, c, b), series, rtol=1e-11)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_kernel_matrices_broadcast_and_are_the_same_under_jit_and_vmap(name):
    activation = FUNCTIONS[name][0]
    X = np.random.default_rng(0).normal(size=(4, 3))
    K = jnp.asarray(X @ X.T / 3)
    q = jnp.diag(K)
    matrix = activation.dual(q[:, None], K, q[None, :])
    assert matrix.shape == (4, 4)
    np.testing.assert_allclose(jax.jit(activation.dual)(q[:, None], K, q[None, :]), matrix, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(jax.vmap(lambda a, k: activation.dual(a, k, q))(q, K), matrix, rtol=1e-12, atol=1e-14)
    assert float(jnp.linalg.eigvalsh((matrix + matrix.T) / 2)[0]) > -1e-12 * float(jnp.trace(matrix))
    assert jnp.all(activation.dual_error(q[:, None], K, q[None, :]) == jnp.zeros((4, 4)))


@pytest.mark.parametrize("name", SMOOTH)
def test_input_derivatives_of_smooth_kernels_agree_with_finite_differences_at_coincident_points(name):
    """The covariance of the gradient of the limiting field, at one and the same point."""
    activation = FUNCTIONS[name][0]

    def kernel(x, y):
        return activation.dual(x @ x, x @ y, y @ y)

    x = jnp.array([0.4, -0.7])
    mixed = jax.jit(jax.jacfwd(jax.grad(kernel, 1), 0))(x, x)
    # grad f is Gaussian with covariance phi'(u) phi'(u) x-independent in w: K_ij = E[w_i w_j phi'(w.x)^2]
    q, slope = float(x @ x), FUNCTIONS[name][2]
    z, w = normal_nodes(np.array(0.0))
    along, across = w @ (z**2 * slope(np.sqrt(q) * z) ** 2), w @ slope(np.sqrt(q) * z) ** 2
    unit = np.asarray(x) / np.sqrt(q)
    expected = along * np.outer(unit, unit) + across * (np.eye(2) - np.outer(unit, unit))
    np.testing.assert_allclose(mixed, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", [*FUNCTIONS, "tanh"])
def test_single_precision_stays_single_and_agrees(name):
    activation = FUNCTIONS[name][0] if name in FUNCTIONS else activations.get(name)
    cases = columns(GENERIC[:3] + ALIGNED)
    single = tuple(x.astype(jnp.float32) for x in cases)
    value, exact = activation.dual(*single), activation.dual(*cases)
    assert value.dtype == jnp.float32
    # sign jumps: its kernel has a square-root singularity at rho = 1 - 1e-3
    np.testing.assert_allclose(value, exact, rtol=1e-4 if name in ("sign", "step") else 1e-5, atol=2e-6)
    gradients = jax.grad(lambda *x: jnp.sum(activation.dual(*x)), argnums=(0, 1, 2))(*single)
    assert all(g.dtype == jnp.float32 and bool(jnp.all(jnp.isfinite(g))) for g in gradients)


def test_large_variances_do_not_overflow():
    for name in ("sin", "cos", "random_phase_cosine", "erf", "gelu", "relu"):
        activation = activations.get(name)
        for sign in (1.0, -1.0):
            value = activation.dual(1e8, sign * 1e8, 1e8)
            assert jnp.isfinite(value) and jnp.isfinite(activation.dual_derivative(1e8, sign * 1e8, 1e8))
    assert float(activations.get("sin").dual(1e8, 1e8, 1e8)) == pytest.approx(0.5)


def test_the_scale_and_the_slope_can_be_learned():
    slope = jax.grad(lambda s: activations.Erf(scale=s).dual(1.0, 0.3, 1.0))(0.8)
    step = 1e-5
    above, below = (activations.Erf(0.8 + sign * step).dual(1.0, 0.3, 1.0) for sign in (1, -1))
    finite = (above - below) / (2 * step)
    np.testing.assert_allclose(slope, finite, rtol=1e-8)


# ----------------------------------------------------------------------------------------------------------- callables

TABLE = columns(GENERIC + ALIGNED)


@pytest.mark.parametrize(
    ("fn", "name"),
    [(lambda z: jnp.sin(z), "sin"), (lambda z: jax.scipy.special.erf(z), "erf"), (lambda z: jax.nn.relu(z), "relu")]
    + [(lambda z: jnp.abs(z), "abs"), (lambda z: jax.nn.gelu(z, approximate=False), "gelu")],
)
def test_a_closed_form_given_as_a_callable_is_reproduced(fn, name):
    by_quadrature, closed = activations.get(fn), activations.get(name)
    assert type(by_quadrature).__name__ == ("Smooth" if closed.smooth else "Kinked")
    np.testing.assert_allclose(by_quadrature.dual(*TABLE), closed.dual(*TABLE), rtol=1e-10, atol=1e-13)
    numerical, exact = (
        jax.jit(jax.grad(lambda *x, f=f: jnp.sum(f.dual(*x)), argnums=(0, 1, 2)))(*TABLE)
        for f in (by_quadrature, closed)
    )
    for g, e in zip(numerical, exact, strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-9, atol=1e-11)


SELU_A, SELU_L = 1.6732632423543772, 1.0507009873554805
CALLABLES = {
    "elu": (jax.nn.elu, lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0)))),
    "selu": (jax.nn.selu, lambda z: SELU_L * np.where(z > 0, z, SELU_A * np.expm1(np.minimum(z, 0)))),
    "jump at 0": (lambda z: jnp.where(z > 0, jnp.cos(z), -1.0), lambda z: np.where(z > 0, np.cos(z), -1.0)),
    "tanh": (jnp.tanh, np.tanh),
    "softplus": (jax.nn.softplus, lambda z: np.logaddexp(z, 0)),
    "silu": (jax.nn.silu, lambda z: z * special.expit(z)),
}


@pytest.mark.parametrize("name", CALLABLES)
def test_any_callable_agrees_with_quadrature_within_an_honest_error(name):
    fn, phi = CALLABLES[name]
    activation = activations.get(fn)
    cases = GENERIC + ALIGNED + ([(20.0, 19.0, 20.0)] if name in ("tanh", "elu") else [])
    values, errors = activation.dual(*columns(cases)), activation.dual_error(*columns(cases))
    exact = np.array([average(phi, phi, *case) for case in cases])
    scale = np.array([np.sqrt(average(phi, phi, a, a, a) * average(phi, phi, b, b, b)) for a, _, b in cases])
    assert np.all(np.abs(values - exact) <= 10 * errors + 1e-14 * (1 + scale))
    assert np.all(errors[: len(GENERIC + ALIGNED)] <= 1e-6 * scale[: len(GENERIC + ALIGNED)])
    np.testing.assert_allclose(values[:5], exact[:5], rtol=1e-10, atol=1e-13)


def test_kinks_away_from_zero_are_noticed_and_their_error_is_honest():
    activation = activations.get(jax.nn.hard_tanh)
    assert type(activation).__name__ == "Rough" and not activation.smooth

    def clipped_mean(m, s):  # E[clip(m + s z, -1, 1)]
        def ramp(k):
            t = (m - k) / s
            return (m - k) * special.ndtr(t) + s * np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)

        return -1 + ramp(-1) - ramp(1)

    x, w = np.polynomial.legendre.leggauss(200)
    for a, c, b in [(1.3, -0.55, 0.8), (1.0, 0.9, 1.0), (4.0, 1.0, 2.0)]:
        exact = 0.0
        for low, high in ((-12.0, -1.0), (-1.0, 1.0), (1.0, 12.0)):
            low, high = (end / np.sqrt(a) if abs(end) == 1 else end for end in (low, high))
            z = (low + high + (high - low) * x) / 2
            density = (high - low) / 2 * w * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
            inner = clipped_mean(c / np.sqrt(a) * z, np.sqrt(b - c * c / a))
            exact += density @ (np.clip(np.sqrt(a) * z, -1, 1) * inner)
        error = abs(float(activation.dual(a, c, b)) - exact)
        estimate = float(activation.dual_error(a, c, b))
        assert error <= 10 * estimate and estimate < 1e-3
    # on the diagonal the series is at its slowest, and the estimate must say so
    q = 1.0
    density = np.exp(-0.5) / np.sqrt(2 * np.pi)
    exact = 2 * (special.ndtr(q) - 0.5 - density) + 2 * special.ndtr(-q)
    assert abs(float(activation.dual(q, q, q)) - exact) <= 10 * float(activation.dual_error(q, q, q))


def test_the_tanh_expansion_says_when_a_large_variance_defeats_it():
    activation = activations.get("tanh")
    assert float(activation.dual_error(1.0, 0.5, 1.0)) < 1e-13
    assert float(activation.dual_error(400.0, 400.0, 400.0)) > 1e-4


def test_second_derivatives_of_a_smooth_callable_are_those_of_the_closed_form():
    smooth, closed = activations.Smooth(jnp.sin), activations.get("sin")
    cases = columns([(1.0, 1.0, 1.0), (0.9, -0.3, 1.4), (0.0, 0.0, 1.0)])
    numerical, exact = (jax.jit(jax.vmap(jax.hessian(f.dual, argnums=(0, 1, 2))))(*cases) for f in (smooth, closed))
    np.testing.assert_allclose(jnp.array(numerical), jnp.array(exact), atol=1e-12)


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("name", ["sign", "step"])
def test_the_derivative_average_of_a_jump_is_refused(name):
    for activation in (activations.get(name), activations.get(lambda z: jnp.sign(z) + 0 * z)):
        with pytest.raises(ValueError, match="distribution"):
            activation.dual_derivative(1.0, 0.5, 1.0)


def test_gradients_that_autodiff_would_get_wrong_are_refused():
    jump, kink = activations.Kinked(jnp.sign, continuous=False), activations.Kinked(jax.nn.elu)
    with pytest.raises(ValueError, match="jumps"):
        jax.grad(jump.dual)(1.0, 0.5, 1.0)
    with pytest.raises(ValueError, match="second derivatives"):
        jax.hessian(kink.dual)(1.0, 0.5, 1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: activations.get("rleu"), "leaky_relu"),
        (lambda: activations.get(3), "must be a name"),  # pyright: ignore[reportArgumentType]
        (lambda: activations.get("relu", slope=1.0), "slope"),
        (lambda: activations.get(activations.Erf(), scale=2.0), "scale"),
        (lambda: activations.get(jnp.sum), "elementwise"),
        (lambda: activations.get(jnp.log1p), "not finite"),
        (lambda: activations.get(lambda z: np.tanh(z)), "JAX function"),
        (lambda: activations.Erf(scale=-1.0), "scale = -1.0"),
        (lambda: activations.Erf(scale="wide"), "scale = 'wide'"),
        (lambda: activations.LeakyReLU(slope=np.nan), "slope = nan"),
        (lambda: activations.Monomial(7), "power = 7"),
        (lambda: activations.Smooth(jnp.tanh, terms=1), "terms = 1"),
        (lambda: activations.Kinked("elu"), "fn = 'elu'"),  # pyright: ignore[reportArgumentType]
        (lambda: activations.Erf().dual(jnp.ones(2), jnp.ones(3), 1.0), "broadcast"),
    ],
)
def test_bad_input_names_the_argument_and_the_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_every_name_gives_an_activation_and_activations_pass_through():
    for name in activations.names():
        activation = activations.get(name)
        assert activation.name == name and activations.get(activation) is activation
        assert activation.random_phase == (name == "random_phase_cosine")
    assert isinstance(activations.get(jax.nn.relu), activations.ReLU)


def test_growth_elsewhere_does_not_hide_a_jump_or_a_kink():
    jump = activations.get(lambda z: jnp.exp(z) + jnp.where(z > 0, 5.0, 0.0))
    assert isinstance(jump, activations.Kinked) and not jump.continuous
    assert isinstance(activations.get(lambda z: jnp.exp(z) + jnp.abs(z)), activations.Kinked)
    assert isinstance(activations.get(lambda z: jnp.tanh(3 * z)), activations.Smooth)  # saturation is not a jump


@pytest.mark.slow
def test_a_steep_callable_gets_more_terms_or_a_warning_or_is_refused():
    x = np.linspace(-9, 9, 40_001)
    w = stats.norm.pdf(x) * (x[1] - x[0])
    steep = activations.get(lambda z: jnp.tanh(5 * z))
    assert isinstance(steep, activations.Smooth) and steep.terms > activations.Smooth(jnp.tanh).terms
    np.testing.assert_allclose(steep.dual_derivative(1.0, 1.0, 1.0), 25 * w @ np.cosh(5 * x) ** -4.0, rtol=1e-3)
    with pytest.warns(UserWarning, match="varies fast"):
        steeper = activations.get(lambda z: jnp.tanh(10 * z))
    slope = 100 * w @ np.cosh(10 * x) ** -4.0
    np.testing.assert_allclose(steeper.dual_derivative(1.0, 1.0, 1.0), slope, rtol=0.05)
    for scale in (100.0, 1e4):
        with pytest.raises(ValueError, match="Rescale"):
            activations.get(lambda z, scale=scale: jnp.tanh(scale * z))
    wave = activations.get(lambda z: jnp.sin(20 * z))
    np.testing.assert_allclose(wave.dual_derivative(1.0, 1.0, 1.0), 200.0, rtol=1e-3)  # 400 E[cos^2(20 z)]


def test_the_error_of_derivative_averages_is_honest():
    tanh = activations.get("tanh")
    x = np.linspace(-9, 9, 40_001)
    w = stats.norm.pdf(x) * (x[1] - x[0])
    for q in (9.0, 25.0, 100.0):
        slope = w @ np.cosh(np.sqrt(q) * x) ** -4.0
        miss = abs(float(tanh.dual_derivative(q, q, q)) - slope)
        assert miss < 3 * float(tanh.dual_derivative_error(q, q, q)) + 1e-3 * slope
    assert float(activations.get("erf").dual_derivative_error(1.0, 0.5, 1.0)) == 0.0


def test_averages_that_diverge_are_refused():
    with pytest.raises(ValueError, match="do not converge"):
        activations.get(lambda z: 1 / z)
    with pytest.raises(ValueError, match="do not converge"):
        activations.get(lambda z: jnp.exp(z**2 / 2))


def test_error_of_a_jump_away_from_zero_is_honest():
    step = activations.get(lambda z: jnp.where(z > 0.3, 1.0, 0.0))
    for a, c, b in ((1.3, -0.55, 0.8), (9.0, 3.0, 4.0)):
        law = stats.multivariate_normal(np.zeros(2), [[a, c], [c, b]])  # pyright: ignore[reportArgumentType]
        exact = law.cdf([-0.3, -0.3])  # P(u > 0.3, v > 0.3) by symmetry
        assert abs(float(step.dual(a, c, b)) - exact) < 3 * float(step.dual_error(a, c, b))
