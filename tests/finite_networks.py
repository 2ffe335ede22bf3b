"""Independent brute force: finite networks in the NTK parametrisation, in plain NumPy; no code of the package."""

import numpy as np
from scipy.special import erf, ndtr

PHI = {
    "erf": (erf, lambda z: 2 / np.sqrt(np.pi) * np.exp(-(z**2))),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(z.dtype)),
    "abs": (np.abs, np.sign),
    "leaky_relu": (lambda z: np.where(z > 0, z, 0.01 * z), lambda z: np.where(z > 0, 1.0, 0.01)),
    "gelu": (lambda z: z * ndtr(z), lambda z: ndtr(z) + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)),
    "sin": (np.sin, np.cos),
    "cos": (np.cos, lambda z: -np.sin(z)),
    "linear": (lambda z: z, np.ones_like),
    "tanh": (np.tanh, lambda z: 1 / np.cosh(z) ** 2),
}


def kernels(rng, X, width, depth, phi, weight, bias, nets):
    """Output covariances given the hidden weights and tangent kernels of `nets` random networks, both (nets, P, P).

    f = W^L phi(h^L) + b^L with W = sqrt(weight / fan-in) omega, b = sqrt(bias) beta; the tangent kernel is the sum over
    layers of (gradient with respect to h^l) (weight phi phi' / fan-in + bias) (gradient)', by back-propagation.
    """
    function, slope = PHI[phi]
    features = np.broadcast_to(X, (nets, *X.shape))
    grams, slopes, omegas = [], [], []
    for fan_in in [X.shape[1]] + [width] * (depth - 1):
        omega = rng.normal(size=(nets, width, fan_in)).astype(X.dtype)
        grams.append(weight * features @ features.swapaxes(1, 2) / fan_in + bias)
        h = features @ omega.swapaxes(1, 2) * np.sqrt(weight / fan_in).astype(X.dtype)
        h = h + np.sqrt(bias).astype(X.dtype) * rng.normal(size=(nets, 1, width)).astype(X.dtype)
        features, omegas = function(h), [*omegas, omega]
        slopes.append(slope(h))
    covariance = weight * features @ features.swapaxes(1, 2) / width + bias
    tangent = covariance
    readout = rng.normal(size=(nets, 1, width)).astype(X.dtype) * np.sqrt(weight / width).astype(X.dtype)
    gradient = readout * slopes[-1]
    for layer in range(depth - 1, -1, -1):
        tangent = tangent + gradient @ gradient.swapaxes(1, 2) * grams[layer]
        if layer:
            gradient = (gradient @ omegas[layer]) * np.sqrt(weight / width).astype(X.dtype) * slopes[layer - 1]
    return covariance, tangent


def correlations(rng, width, depth, phi, weight, bias, variance, correlation, nets):
    """Correlation of the pre-activations of two inputs in layers 0..depth, (nets, depth + 1).

    Given the activations of a layer the pre-activations of the next are independent Gaussians with covariance
    weight phi phi' / width + bias: sampled as such, in the law of networks with all their weights.
    """
    function = PHI[phi][0]
    a = b = np.full(nets, variance)
    c = correlation * a
    path = [c / np.sqrt(a * b)]
    for _ in range(depth):
        u = rng.normal(size=(width, nets))
        v = c / a * np.sqrt(a) * u + np.sqrt(np.maximum(b - c**2 / a, 0)) * rng.normal(size=(width, nets))
        x, y = function(np.sqrt(a) * u), function(v)
        a, c, b = (bias + weight * np.mean(p * q, axis=0) for p, q in ((x, x), (x, y), (y, y)))
        path.append(c / np.sqrt(a * b))
    return np.stack(path, axis=1)
