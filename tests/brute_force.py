"""Independent brute force: importance sampling from the prior with the readout integrated out, in plain JAX.

Shares no code with the package: the forward pass, the Gaussian density and the conditional moments are written again.
Draws are independent, so errors are exact: a second sampler against which MCMC is held.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import multivariate_normal

PHI = {"erf": jax.scipy.special.erf, "relu": lambda z: jnp.where(z > 0, z, 0.0), "tanh": jnp.tanh}


def importance_moments(*, key, X, X_test, y, width, depth, phi, weight, bias, readout, noise, chi, draws, chunk=20_000):
    """Posterior moments of the function and the last kernel of a finite network, with standard errors.

    `weight`, `bias`: variances of every hidden layer (numbers); `noise`: scalar, before division by chi.
    Returns name -> (value, standard error), and the effective sample size.
    """
    P, X_all = len(X), jnp.concatenate([X, X_test])
    kappa = noise / chi

    def one(key):
        h, keys = X_all, jax.random.split(key, 2 * depth)
        for layer in range(depth):
            W = jax.random.normal(keys[2 * layer], (h.shape[1], width)) * jnp.sqrt(weight / h.shape[1])
            b = jax.random.normal(keys[2 * layer + 1], (width,)) * jnp.sqrt(bias)
            h = PHI[phi](h @ W + b)
        K = (readout * h @ h.T / width + bias) / chi
        S = K[:P, :P] + kappa * jnp.eye(P)
        log_weight = multivariate_normal.logpdf(y, jnp.zeros(P), S)
        gain = jnp.linalg.solve(S, K[:P]).T
        return log_weight, gain @ y, jnp.diagonal(K - gain @ K[:P]), K

    batch = jax.jit(jax.vmap(one))
    parts = [
        batch(k)
        for k in jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i), chunk))(jnp.arange(draws // chunk))
    ]
    log_weight, mean, variance, K = (np.concatenate([np.asarray(p[i]) for p in parts]) for i in range(4))
    w = np.exp(log_weight - log_weight.max())
    w /= w.sum()

    def average(x):
        m = np.tensordot(w, x, 1)
        return m, np.sqrt(np.tensordot(w**2, (x - m) ** 2, 1))

    f = average(mean)
    total = average(variance + (mean - f[0]) ** 2)
    squared = average((y - mean[:, :P]) ** 2 @ np.full(P, 1 / P) + variance[:, :P].mean(1))
    moments = {"mean": f, "variance": total, "kernel": average(K), "train_loss": squared}
    return moments, 1 / np.sum(w**2)
