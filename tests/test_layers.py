"""Layers as maps of kernels: against explicit sums over points, positions and offsets, finite random networks, and the
fully connected network that is one of them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest

import fieldprob as fp
from fieldprob.networks import AveragePooling, Convolution, Dense, Flatten, LayerNorm, Residual, Sequential

RNG = np.random.default_rng(4)
X = jnp.asarray(RNG.normal(size=(3, 12)))
TASK = fp.Task(RNG.normal(size=(6, 12)), RNG.normal(size=6), 0.2, RNG.normal(size=(2, 12)), RNG.normal(size=2))

# --- brute force: one number at a time, and the Gaussian averages written again ---------------------------------------


def gaussian_average(phi, a, c, b):
    """E[phi(u) phi(v)] and E[phi'(u) phi'(v)]: Williams (1997); Cho and Saul (2009)."""
    if phi == "erf":
        root = np.sqrt((1 + 2 * a) * (1 + 2 * b))
        return 2 / np.pi * np.arcsin(2 * c / root), 4 / np.pi / np.sqrt(root**2 - 4 * c * c)
    theta = np.arccos(np.clip(c / np.sqrt(a * b), -1, 1))
    C = np.sqrt(a * b) / (2 * np.pi) * (np.sin(theta) + (np.pi - theta) * np.cos(theta))
    return C, (np.pi - theta) / (2 * np.pi)


class Explicit:
    """K[x, a, x', a'] and Theta of everything with everything, by loops."""

    def __init__(self, X, grid):
        self.grid, self.places = grid, list(itertools.product(*map(range, grid)))
        image = np.asarray(X).reshape(len(X), len(self.places), -1)
        self.keys = list(itertools.product(range(len(X)), range(len(self.places))))
        self.K = {(p, q): float(image[p] @ image[q]) / image.shape[-1] for p in self.keys for q in self.keys}
        self.T = dict.fromkeys(self.K, 0.0)

    def activation(self, phi):
        average = {(p, q): gaussian_average(phi, self.K[p, p], c, self.K[q, q]) for (p, q), c in self.K.items()}
        self.K = {k: v[0] for k, v in average.items()}
        self.T = {k: average[k][1] * t for k, t in self.T.items()}

    def convolution(self, sizes, boundary, w, b):
        offsets = list(itertools.product(*(range(-((s - 1) // 2), s // 2 + 1) for s in sizes)))

        def shift(a, offset):
            moved = [i + o for i, o in zip(self.places[a], offset, strict=True)]
            if boundary == "zero" and any(not 0 <= i < n for i, n in zip(moved, self.grid, strict=True)):
                return None
            return self.places.index(tuple(i % n for i, n in zip(moved, self.grid, strict=True)))

        def summed(values, p, q):
            total = 0.0
            for offset in offsets:
                a, c = shift(p[1], offset), shift(q[1], offset)
                if a is not None and c is not None:
                    total += values[(p[0], a), (q[0], c)]
            return total / len(offsets)

        K = {(p, q): b + w * summed(self.K, p, q) for p, q in self.K}
        self.T = {(p, q): K[p, q] + w * summed(self.T, p, q) for p, q in self.K}
        self.K = K

    def norm(self):
        scale = {(p, q): np.sqrt(self.K[p, p] * self.K[q, q]) for p, q in self.K}
        self.K, self.T = ({k: v[k] / scale[k] for k in v} for v in (self.K, self.T))

    def matrix(self, values, rule):
        """Flattened or pooled, between points."""
        points, places = len(self.keys) // len(self.places), range(len(self.places))
        result = np.zeros((points, points))
        for (p, a), (q, c) in self.K:
            if rule == "pool" or a == c:
                result[p, q] += values[(p, a), (q, c)] / len(places) ** (2 if rule == "pool" else 1)
        return result


@pytest.mark.parametrize(
    ("grid", "sizes", "boundary", "readout"),
    [((2, 3), (2, 3), "circular", "flatten"), ((2, 3), (2, 3), "zero", "pool")],
)
def test_kernel_and_tangent_kernel_of_a_convolutional_network_are_explicit_sums(grid, sizes, boundary, readout):
    """Convolution, a residual convolution behind layer normalisation, readout: 1e-12, no code shared."""
    net = Sequential(
        Convolution(5, sizes, boundary, 1.3, 0.2),
        Residual(LayerNorm(), "relu", Convolution(5, sizes, boundary, 0.8, 0.1)),
        "erf",
        Convolution(7, sizes, boundary, 1.7),
        "relu",
        Flatten() if readout == "flatten" else AveragePooling(),
        Dense(None, 0.9, 0.3),
        positions=grid,
    )
    truth = Explicit(X, grid)
    truth.convolution(sizes, boundary, 1.3, 0.2)
    kernels = [truth.matrix(truth.K, "average")]
    K, T = truth.K, truth.T
    truth.norm()
    truth.activation("relu")
    truth.convolution(sizes, boundary, 0.8, 0.1)
    truth.K = {k: K[k] + v for k, v in truth.K.items()}
    truth.T = {k: T[k] + v for k, v in truth.T.items()}
    kernels.append(truth.matrix(truth.K, "average"))
    truth.activation("erf")
    truth.convolution(sizes, boundary, 1.7, 0.0)
    kernels.append(truth.matrix(truth.K, "average"))
    truth.activation("relu")
    kernels.append(0.3 + 0.9 * truth.matrix(truth.K, readout))
    tangent = kernels[-1] + 0.9 * truth.matrix(truth.T, readout)

    ours = jax.jit(lambda X: (net.limit_kernels(X), net.limit_tangent(X), net.limit_variance(X)))(X)
    for K, expected in zip(ours[0], kernels, strict=True):
        np.testing.assert_allclose(K, expected, rtol=1e-12)
        np.testing.assert_array_equal(K, K.T)
    np.testing.assert_allclose(ours[1], tangent, rtol=1e-7)  # arccos in the test loses half the digits
    np.testing.assert_allclose(ours[2], np.diag(kernels[-1]), rtol=1e-12)
    K, T = jax.jit(lambda X1, X2: (net.limit(X1, X2), net.limit_tangent(X1, X2)))(X[:2], X[1:])
    np.testing.assert_allclose(K, kernels[-1][:2, 1:], rtol=1e-12)
    np.testing.assert_allclose(T, tangent[:2, 1:], rtol=1e-7)


# --- finite networks --------------------------------------------------------------------------------------------------


def standard_normals(net, networks, seed, inputs):
    """Values of all sites of many networks. From NumPy: JAX's generators take seconds to compile."""

    def sites():
        with numpyro.handlers.seed(rng_seed=0):
            return net.sample_hidden(inputs) | net.sample_readout()

    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(networks, *site.shape)) for name, site in jax.eval_shape(sites).items()}


def random_networks(net, X, networks, seed):
    """Layer kernels (networks, layers, points, points) and empirical tangent kernels (networks, points, points) of many
    networks drawn from the prior: tangent kernels from derivatives with respect to every site but phases."""

    def one(parameters):
        kernels = jnp.stack(net.layer_kernels(net.hidden(parameters, X), X))
        jacobian = jax.jacrev(lambda z: net.outputs(z, net.hidden(z, X)[-1])[:, 0])(parameters)
        J = [j.reshape(len(X), -1) for name, j in jacobian.items() if not name.startswith("phase")]
        return kernels, sum(j @ j.T for j in J)

    z = standard_normals(net, networks, seed, X.shape[1])
    return jax.jit(lambda z: jax.lax.map(one, z, batch_size=256))(z)


def convolutional(N):
    return Sequential(
        Convolution(N, 3, "zero", 1.5, 0.1),
        Residual(LayerNorm(), "erf", Convolution(N, 2, "circular", 0.8, 0.2)),
        "relu",
        Flatten(),
        Dense(None, 1.2, 0.1),
        positions=3,
    )


def pooled(N):
    return Sequential(
        Convolution(N, 2, "circular", 1.5),
        "relu",
        Convolution(N, 3, "zero", 1.3, 0.2),
        LayerNorm(),
        "relu",
        AveragePooling(),
        Dense(None, 0.9),
        positions=3,
    )


def residual(N):
    return Sequential(
        Dense(N, 1.2, 0.1),
        Residual("random_phase_cosine", Dense(N, 0.5, 0.1), "erf", Dense(N, 0.7)),
        Residual(LayerNorm(epsilon=0.1), "relu", Dense(N, 1.3, 0.2)),
        "erf",
        Dense(None, 0.8, 0.3),
        scaling=1.0,
    )


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("make", [convolutional, pooled, pytest.param(residual, marks=pytest.mark.slow)])
def test_kernels_and_tangent_kernels_of_random_networks_extrapolate_to_the_limit(make):
    """Twice the mean at width 32 minus the mean at 16, free of the bias of order 1/width: within 6 standard errors (of
    about a per cent; false alarm below 1e-6) and one per cent for what is of higher order."""
    X = jnp.asarray(np.random.default_rng(1).normal(size=(2, 6)))
    networks = 24 * 256  # a multiple of the batch, or it is compiled twice
    small, large = (random_networks(make(N), X, networks, N) for N in (16, 32))
    limit = np.stack(make(8).limit_kernels(X)), make(8).limit_tangent(X)
    for few, many, exact in zip(small, large, limit, strict=True):
        estimate = 2 * many.mean(0) - few.mean(0)
        error = np.sqrt((4 * many.var(0) + few.var(0)) / networks)
        assert np.max(error) < 0.02 * np.max(np.abs(exact))
        assert np.all(np.abs(estimate - exact) < 6 * error + 0.01 * np.abs(exact) + 1e-12)


# --- the faces, against a network written again -----------------------------------------------------------------------

TINY = Sequential(
    Convolution(3, 2, "zero", 1.4, 0.1),
    Residual(LayerNorm(), "erf", Convolution(3, 3, "circular", 0.8, 0.2)),
    "relu",
    AveragePooling(),
    Dense(None, 1.1, 0.2),
    positions=4,
    scaling=1.5,
)


def by_hand(z, x):
    """What the readout of TINY takes in, at one point x (12 inputs), position by position."""
    image = x.reshape(4, 3)
    h = []
    for a in range(4):
        total = jnp.zeros(3)
        for offset, W in enumerate(jnp.moveaxis(z["weight_0"], 1, 0)):  # offsets 0, 1
            total += W @ image[a + offset] if a + offset < 4 else 0.0
        h.append(jnp.sqrt(1.4 / 6) * total + jnp.sqrt(0.1) * z["bias_0"])
    g = [jax.scipy.special.erf((v - v.mean()) / v.std()) for v in h]
    phi = []
    for a in range(4):
        total = jnp.zeros(3)
        for offset, W in zip((-1, 0, 1), jnp.moveaxis(z["weight_1"], 1, 0), strict=True):
            total += W @ g[(a + offset) % 4]
        phi.append(jnp.maximum(h[a] + jnp.sqrt(0.8 / 9) * total + jnp.sqrt(0.2) * z["bias_1"], 0.0))
    return sum(phi) / 4


def test_a_finite_network_is_what_its_formulas_say_position_by_position():
    z = {name: jnp.asarray(value[0]) for name, value in standard_normals(TINY, 1, 0, 12).items()}
    phi = jax.jit(jax.vmap(lambda x: by_hand(z, x)))(X)
    hidden = TINY.hidden(z, X)
    np.testing.assert_allclose(hidden[-1], phi, rtol=1e-12)
    a, b = z["readout"], z["bias_2"]
    f = (phi @ a * np.sqrt(1.1 / 3) + np.sqrt(0.2) * b) / 3**0.25  # chi = 3^(1/2) divides the variance
    np.testing.assert_allclose(TINY.outputs(z, hidden[-1]), f, rtol=1e-12)
    K = (phi @ phi.T * 1.1 / 3 + 0.2) / np.sqrt(3)
    np.testing.assert_allclose(TINY.layer_kernels(hidden, X)[-1], K, rtol=1e-12)


SMALL = fp.Task(TASK.X[:3], TASK.y[:3], 0.4, TASK.X_test)


def regression_by_hand(z):
    """Log evidence, mean and variance of the test outputs, given the hidden weights of TINY."""
    X, y, noise = jnp.concatenate([SMALL.X, SMALL.X_test]), SMALL.y[:, 0], 0.4 / np.sqrt(3)
    phi = jax.vmap(lambda x: by_hand(z, x))(X)
    K = (phi @ phi.T * 1.1 / 3 + 0.2) / np.sqrt(3)
    S = K[:3, :3] + noise * jnp.eye(3)
    gain = jnp.linalg.solve(S, K[:3]).T
    log_weight = jax.scipy.stats.multivariate_normal.logpdf(y, jnp.zeros(3), S)
    return log_weight, (gain @ y)[3:], jnp.diag(K - gain @ K[:3])[3:]


def importance_moments(regression, seed, draws=50_000):
    """First and second moments of the test outputs and the evidence, with standard errors."""
    log_weight, mean, variance = jax.jit(jax.vmap(regression))(standard_normals(TINY, draws, seed, 12))
    density = np.exp(log_weight)
    w = density / density.sum()
    values = np.concatenate([mean, variance + mean**2], axis=1)
    average = w @ values
    error = np.sqrt(w**2 @ (values - average) ** 2)
    return np.append(average, density.mean()), np.append(error, density.std() / np.sqrt(draws))


@pytest.mark.slow
def test_weights_and_collapsed_faces_have_the_posterior_of_importance_sampling_by_hand():
    """Importance sampling from the prior: 5e4 draws by hand with the readout integrated out, and as many of each face
    through its NumPyro model. Moments of the test outputs and the evidence: within 6 combined errors (false alarm below
    1e-7), which are below 4 per cent of the prior's standard deviation."""

    def through(face):
        def one(z):
            with numpyro.handlers.trace() as trace, numpyro.handlers.substitute(data=z):
                fp.regression(TINY, SMALL, face=face, precision="full")
            value = {name: site["value"] for name, site in trace.items()}
            variance = value.get("f_test_conditional_variance", jnp.zeros(2))
            return jnp.sum(trace["y"]["fn"].log_prob(trace["y"]["value"])), value["f_test"][:, 0], variance

        return one

    reference, error = importance_moments(regression_by_hand, 1)
    for number, face in enumerate(("weights", "collapsed")):
        ours, spread = importance_moments(through(face), 2 + number)
        combined = np.hypot(error, spread)
        assert np.all(combined[:2] < 0.04 * np.sqrt(np.diag(TINY.limit(SMALL.X_test))))
        assert np.all(np.abs(ours - reference) < 6 * combined), (ours, reference, combined)


@pytest.mark.slow
@pytest.mark.parametrize("face", ["weights", "collapsed"])
def test_sampled_posteriors_of_a_convolutional_network_are_those_of_importance_sampling_by_hand(face):
    """Moments of the test outputs from Markov chains, within 6.5 combined errors (false alarm below 1e-8)."""
    reference, error = importance_moments(regression_by_hand, 1, 400_000)
    samples = fp.sample(TINY, SMALL, face=face, draws=2000, chains=4, warmup=500, seed=3, progress=False)
    f = samples.posterior["f_test"].values[..., 0]
    variance = samples.posterior["f_test_conditional_variance"].values if face == "collapsed" else 0.0
    for x, expected, spread in zip(
        (f, f**2 + variance), (reference[:2], reference[2:4]), (error[:2], error[2:4]), strict=True
    ):
        chains = x.reshape(4 * 20, 100, 2).mean(1)  # blocks of 100 draws, longer than the autocorrelation
        combined = np.hypot(chains.std(0, ddof=1) / np.sqrt(len(chains)), spread)
        assert np.all(combined < 0.05 * np.sqrt(np.diag(TINY.limit(SMALL.X_test))))
        assert np.all(np.abs(x.mean((0, 1)) - expected) < 6.5 * combined), (x.mean((0, 1)), expected, combined)


# --- relations between networks ---------------------------------------------------------------------------------------


def dense_pair(scaling="standard"):
    variances = {"weight_variance": (1.3, 1.1), "bias_variance": (0.1, 0.0, 0.3), "readout_variance": 0.7}
    mlp = fp.Mlp((7, 5), 2, ("random_phase_cosine", "relu"), scaling=scaling, **variances)
    layers = Dense(7, 1.3, 0.1), "random_phase_cosine", Dense(5, 1.1), "relu", Dense(None, 0.7, 0.3)
    return mlp, Sequential(*layers, scaling=scaling)


def test_a_network_of_dense_layers_is_the_fully_connected_network():
    """The same sites, the same draws for a seed, the same outputs and statistics on every face, the same limit."""
    mlp, net = dense_pair(scaling=1.5)
    assert (net.depth, net.chi, net.effective_noise(TASK)) == (mlp.depth, mlp.chi, mlp.effective_noise(TASK))
    z = {name: jnp.asarray(v[0]) for name, v in standard_normals(net, 1, 0, 12).items()}
    z |= {"function": jnp.asarray(RNG.normal(size=(8, 1)))}

    def everything(n, z):
        values = {"variance": n.limit_variance(X), "cross": n.limit(X[:2], X)}
        for face in net.faces:
            with numpyro.handlers.trace() as trace, numpyro.handlers.substitute(data=z):
                fp.regression(n, TASK, face=face, precision="full")
            values |= {f"{face} {name}": site["value"] for name, site in trace.items()}
            values[f"{face} density"] = trace["y"]["fn"].log_prob(TASK.y)
        limit = fp.theory.limit(n, TASK)
        return values | {"evidence": limit.log_evidence, "limit": limit.mean["f_test"]}

    ours, theirs = (jax.jit(lambda z, n=n: everything(n, z))(z) for n in (net, mlp))
    assert ours.keys() == theirs.keys() and len(ours) > 30
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-11, atol=1e-13, err_msg=name)
    for face in (lambda n: n.weights(X, 2), lambda n: n.collapsed(X).features):
        values = []
        for n in (mlp, net):
            with numpyro.handlers.seed(rng_seed=1):
                values.append(face(n))
        np.testing.assert_array_equal(*values)


def test_tangent_kernel_of_a_network_of_dense_layers_obeys_its_recursion():
    """Theta^{l+1} = K^{l+1} + weight_variance E[phi' phi'] Theta^l, with the averages of the activations."""
    mlp, net = dense_pair(scaling=1.5)
    K = mlp.limit_kernels(X)
    theta = K[0]
    for kernel, following, phi, w in zip(K, K[1:], mlp.activations, (1.1, 0.7 / mlp.chi), strict=False):
        q = jnp.diag(kernel)
        theta = following + w * phi.dual_derivative(q[:, None], kernel, q[None, :]) * theta
    np.testing.assert_allclose(both(net, X)[-1], theta, rtol=1e-13)


def image_network(positions, readout, filter_size, boundary="circular", width=4):
    return Sequential(
        Convolution(width, filter_size, boundary, 1.3, 0.1),
        "erf",
        Convolution(width, filter_size, boundary, 1.1),
        "relu",
        readout,
        Dense(None, 0.9, 0.2),
        positions=positions,
    )


def both(net, X):
    return jax.jit(lambda X: jnp.stack([*net.limit_kernels(X), net.limit_tangent(X)]))(X)


@pytest.mark.parametrize("readout", [Flatten(), AveragePooling()])
def test_a_convolutional_network_of_one_position_is_dense(readout):
    net = image_network((1, 1), readout, 1, "zero")
    dense = Sequential(Dense(4, 1.3, 0.1), "erf", Dense(4, 1.1), "relu", Dense(None, 0.9, 0.2))
    np.testing.assert_allclose(both(net, X), both(dense, X), rtol=1e-13)
    z = [{name: value[0] for name, value in standard_normals(n, 1, 0, 12).items()} for n in (net, dense)]
    outputs = [n.outputs(v, n.hidden(v, X)[-1]) for n, v in zip((net, dense), z, strict=True)]
    np.testing.assert_allclose(*outputs, rtol=1e-13)


def test_a_dense_layer_acts_on_each_position_as_a_filter_of_one():
    kernels = []
    for layer in (Dense(4, 1.1, 0.3), Convolution(4, 1, "zero", 1.1, 0.3)):
        kernels.append(both(Sequential(layer, "erf", layer, "relu", AveragePooling(), Dense(), positions=4), X))
    np.testing.assert_allclose(*kernels, rtol=1e-13)


def test_a_filter_over_the_whole_circle_is_flattening_where_positions_are_equal():
    """Each position sees every other with weights of its own: K_aa = b + (w / A) sum_a C_aa, as behind a flattening."""
    kernels = Sequential(Convolution(4, 6, "circular", 1.3, 0.1), "erf", Flatten(), Dense(), positions=6)
    dense = Sequential(Dense(4, 1.3, 0.1), "erf", Dense())
    np.testing.assert_allclose(both(kernels, X), both(dense, X), rtol=1e-13)


def test_pooled_kernels_do_not_change_when_an_image_is_moved_around_its_circle():
    """And flattened ones change, as do pooled ones where zeros lie outside."""
    moved = jnp.roll(X.reshape(3, 6, 2), 2, axis=1).reshape(3, 12)

    def change(readout, boundary):
        net = image_network(6, readout, 3, boundary)
        K = jax.jit(net.limit)(jnp.concatenate([X, moved]))
        return float(jnp.max(jnp.abs(K[:3, :3] - K[3:, :3])))

    assert change(AveragePooling(), "circular") < 1e-14
    assert change(Flatten(), "circular") > 0.01
    assert change(AveragePooling(), "zero") > 1e-4


def test_a_residual_connection_of_no_weight_is_the_identity():
    plain = Sequential(Dense(4, 1.3, 0.1), "erf", Dense(None, 0.9, 0.2))
    net = Sequential(Dense(4, 1.3, 0.1), Residual("relu", Dense(4, 0.0)), "erf", Dense(None, 0.9, 0.2))
    ours, theirs = both(net, X), both(plain, X)
    np.testing.assert_array_equal(ours[0], ours[1])
    np.testing.assert_allclose(ours[1:], theirs, rtol=1e-15)
    z = {name: value[0] for name, value in standard_normals(net, 1, 0, 12).items()}
    np.testing.assert_allclose(
        net.outputs(z, net.hidden(z, X)[-1]), plain.outputs(z | {"bias_1": z["bias_2"]}, plain.hidden(z, X)[-1])
    )


def test_residual_and_layer_norm_maps_are_those_of_the_issue():
    """K <- K + b + w C(K) and Theta <- Theta + the increment of K + w C'(K) Theta; K_ab / sqrt(K_aa K_bb)."""
    net = Sequential(Dense(4, 1.3, 0.1), Residual("relu", Dense(4, 0.8, 0.3)), LayerNorm(), Dense())
    K0, K1, K2 = net.limit_kernels(X)
    q, relu = jnp.diag(K0), fp.activations.get("relu")
    np.testing.assert_allclose(K1, K0 + 0.3 + 0.8 * relu.dual(q[:, None], K0, q[None, :]), rtol=1e-14)
    theta = K1 + 0.8 * relu.dual_derivative(q[:, None], K0, q[None, :]) * K0  # Theta = K0 after the first layer
    scale = jnp.sqrt(jnp.diag(K1)[:, None] * jnp.diag(K1)[None, :])
    np.testing.assert_allclose(K2, K1 / scale, rtol=1e-14)
    np.testing.assert_allclose(net.limit_tangent(X), (K1 + theta) / scale, rtol=1e-14)


def test_layer_norm_makes_neurons_of_zero_mean_and_unit_variance_and_keeps_zero():
    h = jnp.asarray(RNG.normal(size=(2, 5, 7))) + 3
    space = fp.networks.layers.Space((5,), 7, "pre-activations")
    normal = LayerNorm().forward({}, h, space, 1, [])
    np.testing.assert_allclose(normal.mean(-1), 0, atol=1e-14)
    np.testing.assert_allclose((normal**2).mean(-1), 1, rtol=1e-14)
    gradient = jax.grad(lambda h: jnp.sum(LayerNorm().forward({}, h, space, 1, []) ** 2))(0 * h)
    assert not np.any(gradient) and not np.any(LayerNorm().forward({}, 0 * h, space, 1, []))
    blank = jnp.concatenate([X, 0 * X[:1]])
    K = Sequential(Dense(4), LayerNorm(), "erf", Dense()).limit(blank)
    assert np.all(np.isfinite(K)) and not np.any(K[3])


def test_limit_is_differentiable_in_every_variance_and_the_inputs():
    net = image_network(6, AveragePooling(), 3)
    values, structure = jax.tree.flatten(net)
    evidence = jax.jit(lambda v: fp.theory.limit(jax.tree.unflatten(structure, v), TASK).log_evidence)
    v = jnp.asarray(values)
    gradient = jax.jit(jax.grad(evidence))(v)
    step = 1e-5
    for i in (0, 1, 2, 4, 5):  # 3 is a bias variance of zero
        up, down = evidence(v.at[i].add(step)), evidence(v.at[i].add(-step))
        np.testing.assert_allclose(gradient[i], (up - down) / (2 * step), rtol=1e-6)
    assert np.all(np.isfinite(jax.jit(jax.grad(lambda X: jnp.sum(net.limit(X))))(jnp.concatenate([X[:1], X[:1]]))))


def test_features_are_computed_in_the_precision_of_the_inputs():
    z = {name: value[0] for name, value in standard_normals(TINY, 1, 0, 12).items()}
    single = TINY.hidden(z, X.astype(jnp.float32))
    assert {h.dtype for h in single} == {jnp.dtype(jnp.float32)}
    assert TINY.output_features(single[-1]).dtype == jnp.float32
    np.testing.assert_allclose(single[-1], TINY.hidden(z, X)[-1], atol=1e-5)
    with jax.enable_x64(False):
        K = jax.jit(TINY.limit)(X.astype(jnp.float32))
    assert K.dtype == jnp.float32
    np.testing.assert_allclose(K, jax.jit(TINY.limit)(X), rtol=1e-4)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "positions", "message"),
    [
        ((), None, "the last layer is missing"),
        ((Dense(4), "erf"), None, "end with the readout"),
        ((Dense(4), "erf", Dense(4)), None, "end with the readout"),
        ((Dense(),), None, "no hidden layer"),
        ((Dense(4), "erf", Dense(), "erf", Dense()), None, "layer 2 is .* only the last"),
        (("erf", Dense(4), Dense()), None, "layer 0, Nonlinearity: it follows inputs"),
        ((Dense(4), "erf", "erf", Dense()), None, "layer 2, Nonlinearity: it follows activations"),
        ((LayerNorm(), Dense(4), Dense()), None, "layer 0, LayerNorm: it follows inputs"),
        ((Dense(1), LayerNorm(), Dense()), None, "layer 1, LayerNorm: .* width 1"),
        ((Dense(4), "erf", LayerNorm(), Dense()), None, "layer 2, LayerNorm: it follows activations"),
        ((Dense(4), "erf", Residual("erf", Dense(4)), Dense()), None, "layer 2, Residual: it follows activations"),
        ((Dense(4), Residual("erf", Dense(5)), Dense()), None, "turns 4 neurons into 5 neurons"),
        ((Dense(4), Residual(Dense(4), "erf"), Dense()), None, "its branch ends in"),
        ((Dense(4, 0.0), "erf", Dense()), None, "layer 0: weight_variance is 0"),
        ((Dense(4), "erf", Dense(None, 0.0)), None, "the readout's weight_variance is zero"),
        ((Convolution(4, 3), "erf", Flatten(), Dense()), None, "layer 0, Convolution: .* no positions"),
        ((Dense(4), "erf", Flatten(), Dense()), None, "layer 2, Flatten: there are no positions"),
        ((Flatten(), Dense(4), Dense()), 3, "layer 0, Flatten: it follows the inputs"),
        ((Convolution(4, 3), "erf", Dense()), 3, "the outputs would have positions"),
        ((Convolution(4, 3), Flatten(), "erf", Dense()), 3, "it follows flattened positions"),
        ((Convolution(4, 3), Flatten(), Convolution(4, 3), Dense()), 3, "layer 2, Convolution: .* no positions"),
        ((Convolution(4, 4), "erf", Flatten(), Dense()), 3, r"filter_size is 4 and the positions are \(3,\)"),
        ((Convolution(4, (2, 2)), "erf", Flatten(), Dense()), 3, r"filter_size is \(2, 2\)"),
        ((Dense(4), "erf", Dense()), 0, "positions is 0"),
        ((Dense(4), Flatten, Dense()), 3, "Flatten is a class"),
        ((Dense(4), "swash", Dense()), None, "swash"),
    ],
)
def test_layers_in_an_impossible_order_are_named(layers, positions, message):
    with pytest.raises(ValueError, match=message):
        Sequential(*layers, positions=positions)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dense(0), "width is 0"),
        (lambda: Dense(3, -1.0), "weight_variance is -1.0"),
        (lambda: Dense(3, 1.0, float("nan")), "bias_variance is nan"),
        (lambda: Convolution(3, 0), "filter_size is 0"),
        (lambda: Convolution(3, 3, "wall"), "boundary is 'wall'"),
        (lambda: LayerNorm(-1.0), "epsilon is -1.0"),
        (lambda: Residual(), "Residual has no branch"),
        (lambda: Residual("erf", Dense()), "in a Residual has no width"),
        (lambda: Sequential(Dense(2), "erf", Dense(), scaling="lazy"), "scaling is 'lazy'"),
        (lambda: Sequential(Dense(2), "erf", Dense(), rescale_noise=1), "rescale_noise is 1"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_wrong_inputs_are_named():
    net = image_network(5, Flatten(), 3)
    with pytest.raises(ValueError, match="X1 has 12 inputs, which the 5 positions"):
        net.limit(X)
    with pytest.raises(ValueError, match="X has 12 inputs, which the 5 positions"):
        net.sample_hidden(12)
    with pytest.raises(ValueError, match="X1 has 10 inputs and X2 has 5"):
        net.limit(X[:, :10], X[:, :5])
    with pytest.raises(ValueError, match="X1 has shape"):
        net.limit(X[0])
    net = Sequential(Dense(4), "erf", Dense(4), "step", Dense())
    assert net.limit(X).shape == (3, 3)
    with pytest.raises(ValueError, match="'step' jumps"):
        net.limit_tangent(X)
    with pytest.raises(ValueError, match="no face 'kernels'"):
        fp.regression(net, TASK, face="kernels")


def test_pooling_that_does_not_fit_into_memory_is_refused_before_it_starts():
    many = np.zeros((3000, 400))
    with pytest.raises(MemoryError, match=r"GB are needed for the kernels of all pairs .*net.limit\(X\[:"):
        image_network((20, 20), AveragePooling(), 3).limit(many)
