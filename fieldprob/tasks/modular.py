"""Arithmetic modulo a prime, learned from the table of all pairs or from a part of it."""

from typing import Any

import numpy as np

from fieldprob.tasks.arguments import count, generator
from fieldprob.tasks.base import Task


def modular_addition(modulus: int, train: int | None = None, *, noise_variance: Any = 0.01, seed: Any = 0) -> Task:
    """Pairs (i, j) of integers mod P and the indicator of their sum: P² points, 2P inputs, P outputs.

    Inputs are two-hot, with a one at i and another at P + j; targets are 1 - 1/P for the output (i + j) mod P and -1/P
    for the others, so that |y|² = P(P - 1) over the table. Inputs are not normalised, |x|² = 2: with weights of
    variance one each, the network needs weight_variance = 2P per fan-in.

    Args:
        modulus: P, odd.
        train: pairs to learn from; the other pairs of the table are the test set. Unless given, the whole table in the
            order (0, 0), (0, 1), ..., and no test points. The pairs of a seed are the first of one random order.
        noise_variance: of the likelihood; as in `Task`.
        seed: an int or a JAX key, of that order.

    Raises: TypeError or ValueError: an even modulus, or more pairs than there are.

    Source: Rubin, Seroussi & Ringel, arXiv:2310.03789; theory 04, (2.3).

    >>> modular_addition(7, train=30)
    Task 'addition modulo 7': 30 points, 14 inputs, 7 outputs, 19 test points, noise variance 0.01
    >>> task = modular_addition(5)
    >>> print(task.X[7].astype(int), task.y[7].round(1))    # 1 + 2 = 3
    [0 1 0 0 0 0 0 1 0 0] [-0.2 -0.2 -0.2  0.8 -0.2]
    """
    P = count("modulus", modulus, minimum=3)
    if not P % 2:
        raise ValueError(f"modulus = {P} must be odd: a prime, 7 or 31.")
    points = P**2 if train is None else count("train", train)
    if points > P**2:
        raise ValueError(f"train = {points} is more than the {P**2} pairs of integers mod {P}: pass at most so many.")
    pairs = np.arange(P**2) if train is None else generator(seed).permutation(P**2)
    i, j = np.divmod(pairs, P)
    X = np.concatenate([np.eye(P)[i], np.eye(P)[j]], axis=1)
    y = np.eye(P)[(i + j) % P] - 1 / P
    test = (X[points:], y[points:]) if points < P**2 else (None, None)
    return Task(X[:points], y[:points], noise_variance, *test, name=f"addition modulo {P}")
