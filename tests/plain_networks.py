"""Independent brute force: the layer kernels of random networks drawn with all their weights, in plain NumPy."""

import numpy as np
from scipy.special import erf

PHI = {
    "erf": lambda h, phase: erf(h),
    "relu": lambda h, phase: np.maximum(h, 0),
    "linear": lambda h, phase: h,
    "random_phase_cosine": lambda h, phase: np.sqrt(2) * np.cos(h + phase),
}


def layer_kernels(rng, X, widths, phi, weight, bias, nets):
    """(nets, layers, P, P): [kernel_0, ..., kernel_L] of `nets` networks, and their outputs (nets, P).

    `weight`: variances per fan-in of layers 0..L, the last that of the readout; `bias`: variances of layers 0..L.
    """
    g, kernels = np.broadcast_to(X, (nets, *X.shape)), []
    for layer, width in enumerate(widths):
        kernels.append(weight[layer] * g @ g.swapaxes(1, 2) / g.shape[2] + bias[layer])
        h = g @ rng.normal(size=(nets, g.shape[2], width)) * np.sqrt(weight[layer] / g.shape[2])
        h = h + np.sqrt(bias[layer]) * rng.normal(size=(nets, 1, width))
        g = PHI[phi](h, rng.uniform(0, 2 * np.pi, (nets, 1, width)))
    kernels.append(weight[-1] * g @ g.swapaxes(1, 2) / g.shape[2] + bias[-1])
    f = g @ rng.normal(size=(nets, g.shape[2], 1)) * np.sqrt(weight[-1] / g.shape[2])
    f = f + np.sqrt(bias[-1]) * rng.normal(size=(nets, 1, 1))
    return np.stack(kernels, axis=1), f[..., 0]
